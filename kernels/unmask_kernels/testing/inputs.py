"""Named inputs: a `Case` makes the arguments of one call in any dtype on any device, the same values every
time.

Values are drawn once in fp32 on the CPU, rounded to the dtype under test and only then widened for the truth,
so that all three runs of a comparison (ours, plain, truth) see the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unmask_kernels import philox
from unmask_kernels.documents import Documents

__all__ = ["Case", "Inputs", "lengths_to_documents", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The arguments of one call.

    Attributes:
        arguments: by name; tensors, `Documents`, numbers, the dtype of the result or None.
        differentiable: names of the tensors whose gradients are compared.
        parameters: names of the tensors that stay fp32 whatever the activation dtype is.
    """

    arguments: Mapping[str, Any]
    differentiable: tuple[str, ...]
    parameters: tuple[str, ...] = ()

    def to(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Inputs:
        """Activations rounded to `dtype`, parameters in fp32 (fp64 for fp64); everything on `device`."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32

        def move(name: str, value: Any) -> Any:
            if isinstance(value, Documents):
                return value.to(device)
            if isinstance(value, torch.dtype):
                return dtype  # asked of the result
            if not isinstance(value, Tensor):
                return value
            if not value.is_floating_point():
                return value.to(device)
            return value.to(device, wide if name in self.parameters else dtype)

        return replace(self, arguments={name: move(name, value) for name, value in self.arguments.items()})

    def double(self) -> Inputs:
        """The same values in fp64 where they are, for the truth."""
        device = next(v.device for v in self.arguments.values() if isinstance(v, Tensor))
        return self.to(torch.float64, device)

    def change(self, **arguments: Any) -> Inputs:
        """The same call with some arguments replaced."""
        return replace(self, arguments={**self.arguments, **arguments})


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A named call of one family; `str(case)` is its name, for test ids."""

    name: str
    build: Callable[[torch.Generator], Inputs]

    def make(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> Inputs:
        """The inputs in `dtype` on `device`; the same values on every call."""
        generator = torch.Generator().manual_seed(0x5EED)
        return self.build(generator).to(dtype, device)

    def __str__(self) -> str:
        return self.name


def run(function: Callable[..., Any], inputs: Inputs, *, seed: int = 1) -> dict[str, Tensor]:
    """Call `function` and differentiate it: outputs under "y" (or "y0", "y1", ...), gradients under "d" +
    name.

    The incoming gradient is drawn from `seed` in fp32 and rounded to bf16 first, so it is the same number in
    every activation dtype.
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
    generator = torch.Generator().manual_seed(seed)
    incoming = [
        torch.randn(output.shape, generator=generator).bfloat16().to(output.device, output.dtype) for output in outputs
    ]
    # an output may depend on some of the arguments only
    joined = [(output, given) for output, given in zip(outputs, incoming, strict=True) if output.requires_grad]
    gradients = torch.autograd.grad(
        [output for output, _ in joined], list(leaves.values()), [given for _, given in joined]
    )
    written = [name for name, leaf in leaves.items() if leaf.grad is not None]
    if written:
        raise AssertionError(f"gradients of {written} were written into .grad instead of returned through autograd")
    results.update({f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)})
    return results


def lengths_to_documents(lengths: list[int], *, seed: int = 7) -> Documents:
    """Packed documents of these lengths with scattered 64-bit keys."""
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    keys = philox.mix64(torch.arange(len(lengths)) + seed)
    return Documents.build(cu_seqlens, keys)
