"""Named inputs: a `Case` makes the arguments of one call, in any dtype on any device.

Every call of `make` gives the same values: they are drawn in fp32 on the CPU from a fixed seed, and rounded to the
dtype under test. For the truth the rounded values are widened to fp64, so the three runs of a comparison (ours, plain,
truth) see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels.documents import Documents

__all__ = ["SEED", "Case", "Inputs", "lengths_to_documents", "run"]

SEED = 0x5EED
"""Of the values of every case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The arguments of one call.

    Attributes:
        arguments: values by name: tensors, `Documents`, numbers, None, or a dtype, which asks for the result's dtype.
        differentiable: names of the tensors whose gradients are compared.
        parameters: names of the tensors that stay fp32 in every activation dtype.
    """

    arguments: Mapping[str, Any]
    differentiable: tuple[str, ...]
    parameters: tuple[str, ...] = ()

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Inputs:
        """Return a copy on `device`: activations rounded to `dtype`, parameters in fp32 (in fp64 for fp64)."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32

        def move(name: str, value: Any) -> Any:
            if isinstance(value, Documents):
                return value.to(device)
            if isinstance(value, torch.dtype):
                return dtype  # the result's
            if not isinstance(value, Tensor):
                return value
            if not value.is_floating_point():
                return value.to(device)
            return value.to(device, wide if name in self.parameters else dtype)

        return replace(self, arguments={name: move(name, value) for name, value in self.arguments.items()})

    def double(self) -> Inputs:
        """Return the same values in fp64, on the same device, for the truth."""
        device = next(v.device for v in self.arguments.values() if isinstance(v, Tensor))
        return self.to(torch.float64, device)

    def change(self, **arguments: Any) -> Inputs:
        """Return the same call with some arguments replaced."""
        return replace(self, arguments={**self.arguments, **arguments})


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A named call of one family.

    Attributes:
        name: the id of tests, and what `str(case)` returns.
        build: draws the arguments in fp32 on the CPU.
        parameters: see `Inputs`.
        differentiable: whether every floating-point tensor is, or none; or the names of those that are.
    """

    name: str
    build: Callable[[torch.Generator], dict[str, Any]]
    parameters: tuple[str, ...] = ()
    differentiable: bool | tuple[str, ...] = True

    def make(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Inputs:
        """Return the inputs in `dtype` on `device`; every call gives the same values."""
        arguments = self.build(torch.Generator().manual_seed(SEED))
        floats = tuple(name for name, x in arguments.items() if isinstance(x, Tensor) and x.is_floating_point())
        if not isinstance(self.differentiable, bool):
            floats = tuple(name for name in self.differentiable if name in floats)
        elif not self.differentiable:
            floats = ()
        return Inputs(arguments=arguments, differentiable=floats, parameters=self.parameters).to(dtype, device)

    def __str__(self) -> str:
        return self.name


def run(
    function: Callable[..., Any], inputs: Inputs, *, incoming: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    """Call a function and differentiate it.

    Args:
        function: takes the arguments by name; returns a tensor or a tuple of tensors.
        inputs: the call.
        incoming: gives the gradient of an output. Default: normal values drawn in fp32 from a fixed seed and rounded to
            bf16, so they are the same in every activation dtype.
    Returns:
        The output under "y", or several under "y0", "y1", ...; the gradient of each differentiable tensor under "d" and
        its name, such as "dx".
    Raises:
        AssertionError: the function wrote a gradient into `.grad` itself.
    """
    arguments = dict(inputs.arguments)
    leaves = {}
    for name in inputs.differentiable:
        if isinstance(arguments[name], Tensor):
            leaves[name] = arguments[name] = arguments[name].detach().requires_grad_()
    outputs = function(**arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    results = {"y" if len(outputs) == 1 else f"y{i}": output.detach() for i, output in enumerate(outputs)}
    if not leaves:
        return results
    generator = torch.Generator().manual_seed(1)

    def normal(output: Tensor) -> Tensor:
        return torch.randn(output.shape, generator=generator).bfloat16().to(output.device, output.dtype)

    given = [(incoming or normal)(output) for output in outputs]
    # an output may depend on no differentiable argument: it requires no gradient
    asked = [place for place, output in enumerate(outputs) if output.requires_grad]
    gradients = torch.autograd.grad(
        [outputs[place] for place in asked], list(leaves.values()), [given[place] for place in asked]
    )
    written = [name for name, leaf in leaves.items() if leaf.grad is not None]
    if written:
        raise AssertionError(f"gradients of {written} were written into .grad instead of returned through autograd")
    results.update({f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)})
    return results


def lengths_to_documents(lengths: list[int], *, seed: int = 7) -> Documents:
    """Return packed documents of these lengths, with document keys spread over 64 bits."""
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    keys = philox.mix64(torch.arange(len(lengths)) + seed)
    return Documents.build(cu_seqlens, keys)
