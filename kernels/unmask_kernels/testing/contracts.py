"""Contracts every family keeps besides its numbers, each a function that raises AssertionError with what
broke.

targets           backends and devices to test on this machine; use `backends_here(family)` to parametrise
opcheck           the registered operation agrees with its schema and its fake
full_graph        traces without a graph break, with static and with dynamic lengths, and gives the same bits
gradient_set      exactly the gradients that were asked for, and the same values as when all were
deterministic     two runs give the same bits
strides           views with other strides give the values of contiguous tensors
refuses           a wrong argument raises the house error
packed_as_alone   a document in a packed row gives what it gives alone
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from unmask_kernels import FAMILIES
from unmask_kernels.attention import flash_versions
from unmask_kernels.capability import HAS_TRITON, INTERPRETING

from .compare import same_bits
from .inputs import Inputs, run

if TYPE_CHECKING:
    from _pytest.mark.structures import ParameterSet

__all__ = [
    "Target",
    "backends_here",
    "deterministic",
    "full_graph",
    "gradient_set",
    "opcheck",
    "packed_as_alone",
    "poisoned_memory",
    "refuses",
    "strides",
    "targets",
]


class Target(NamedTuple):
    """A backend to test and the device to test it on."""

    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.device}"


def targets(family: str) -> list[Target]:
    """What can be tested in this process: all plain backends on every device, hand-written ones where they
    run.

    With TRITON_INTERPRET=1 it is Triton on the CPU and nothing else: `tests/offline/interpreter.py` starts
    such a process beside the ordinary one.
    """
    backends = FAMILIES[family].backends
    if INTERPRETING:
        return [Target("triton", "cpu")] if "triton" in backends else []
    found = [Target(name, "cpu") for name in backends if name not in ("triton", "cuda", "flash")]
    if torch.cuda.is_available():
        installed = {"triton": HAS_TRITON, "flash": bool(flash_versions.INSTALLED)}
        found += [Target(name, "cuda") for name in backends if installed.get(name, True)]
    return found


def backends_here(family: str) -> list[ParameterSet]:
    """`targets(family)` for `pytest.mark.parametrize("target", ...)`, with the marks `gpu` and `triton`."""
    import pytest

    return [
        pytest.param(
            target,
            id=str(target),
            marks=[pytest.mark.gpu] * (target.device == "cuda") + [pytest.mark.triton] * (target.backend == "triton"),
        )
        for target in targets(family)
    ]


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Uninitialised memory is NaN inside the block, so that an element nobody wrote shows."""
    before = torch.are_deterministic_algorithms_enabled()
    # cuBLAS reads it once, at the first product of the process: setting it here would be too late.
    if torch.cuda.is_available() and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        raise AssertionError(
            "poisoned_memory: CUBLAS_WORKSPACE_CONFIG must be :4096:8 before the process starts; "
            "tests/conftest.py sets it"
        )
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def opcheck(operation: Any, arguments: Sequence[Any]) -> None:
    """`torch.library.opcheck` of a registered operation on arguments that do not require gradients."""
    torch.library.opcheck(operation, tuple(arguments))


def full_graph(
    function: Callable[..., Any], inputs: Inputs, other_length: Inputs, *, compiler: str = "aot_eager"
) -> None:
    """Compiles without a graph break and equals eager bit for bit; the second length is compiled as a dynamic
    one.

    Args:
        function: the public function with its backend bound.
        inputs: a call.
        other_length: the same call with another number of tokens.
        compiler: backend of `torch.compile`; the fast default traces forward and backward but generates no
            code.
    """
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    for call in (inputs, other_length):
        same_bits(run(compiled, call), run(function, call), "compiled and eager")


def gradient_set(function: Callable[..., Any], inputs: Inputs) -> None:
    """Each differentiable argument alone gets its gradient, with the bits it has when all are asked for."""
    everything = run(function, inputs)
    for name in inputs.differentiable:
        alone = run(function, replace(inputs, differentiable=(name,)))
        same_bits(alone, {key: everything[key] for key in alone}, f"gradient of {name} alone and with others")
    frozen = function(**{name: _detached(value) for name, value in inputs.arguments.items()})
    for output in frozen if isinstance(frozen, tuple) else (frozen,):
        if output.requires_grad:
            raise AssertionError("the output requires a gradient although no argument does")


def deterministic(function: Callable[..., Any], inputs: Inputs, *, runs: int = 2) -> None:
    """Runs on the same inputs give the same bits."""
    first = run(function, inputs)
    for _ in range(runs - 1):
        same_bits(first, run(function, inputs), "two runs on the same inputs")


def strides(function: Callable[..., Any], inputs: Inputs) -> None:
    """Tensors of two or more dimensions as views with swapped strides; the incoming gradient expanded."""
    swapped = {
        name: value.mT.contiguous().mT if isinstance(value, Tensor) and value.dim() >= 2 else value
        for name, value in inputs.arguments.items()
    }
    _close(run(function, inputs.change(**swapped)), run(function, inputs), "other strides and contiguous")
    leaf = inputs.arguments[inputs.differentiable[0]].detach().requires_grad_()
    output = function(**{**inputs.arguments, inputs.differentiable[0]: leaf})
    output = output[0] if isinstance(output, tuple) else output
    ones = torch.ones((), dtype=output.dtype, device=output.device)
    expanded = torch.autograd.grad(output, leaf, ones.expand(output.shape), retain_graph=True)
    dense = torch.autograd.grad(output, leaf, torch.ones_like(output))
    _close({"gradient": expanded[0]}, {"gradient": dense[0]}, "an expanded and a dense incoming gradient")


def refuses(
    function: Callable[..., Any],
    inputs: Inputs,
    change: Mapping[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """The call with `change` applied raises exactly `error`, with `message` in its text."""
    try:
        function(**inputs.change(**change).arguments)
    except error as raised:
        if type(raised) is not error or message not in str(raised):
            raise AssertionError(f"wanted {error.__name__} with {message!r}, got {raised!r}") from raised
        return
    raise AssertionError(f"accepted {[*change]}, wanted {error.__name__} with {message!r}")


def packed_as_alone(
    function: Callable[..., Any],
    packed: Inputs,
    alone: Callable[[slice, int], Inputs],
    lengths: Sequence[int],
    per_token: Sequence[str],
    *,
    tolerance: float = 0.0,
) -> None:
    """Outputs and gradients of each document, packed and alone.

    Args:
        function: the public function with its backend bound.
        packed: one call on all documents.
        alone: makes the call on one document from its slice of the tokens and its index.
        lengths: lengths of the documents, in order; empty ones are skipped.
        per_token: names of the results to compare, those whose first dimension counts tokens.
        tolerance: largest absolute difference allowed; 0 asks for equal bits.
    """
    together = _run_with_ramp(function, packed)
    start = 0
    for index, length in enumerate(lengths):
        tokens = slice(start, start + length)
        start += length
        if length == 0:
            continue
        single = _run_with_ramp(function, alone(tokens, index))
        for name in per_token:
            ours, theirs = together[name][tokens], single[name]
            if tolerance == 0.0:
                same_bits({name: ours}, {name: theirs}, f"document {index} packed and alone")
            elif not (difference := float((ours.double() - theirs.double()).abs().max())) <= tolerance:
                raise AssertionError(
                    f"document {index} packed and alone: {name} differs by {difference:.3g}, allowed {tolerance:.3g}"
                )


def _close(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> None:
    """Equal up to the order of a sum, which PyTorch's reductions choose by strides: 16 eps of the largest value."""
    for name, value in theirs.items():
        difference = (ours[name].double() - value.double()).abs().flatten()
        allowed = 16 * torch.finfo(value.dtype).eps * float(value.double().abs().flatten().amax())
        if not float(difference.amax()) <= allowed:
            raise AssertionError(f"{what}: {name} differs by {float(difference.amax()):.3g}, allowed {allowed:.3g}")


def _run_with_ramp(function: Callable[..., Any], inputs: Inputs) -> dict[str, Tensor]:
    """Like `run`, but the incoming gradient is the same for every token: a ramp over the columns."""
    arguments = dict(inputs.arguments)
    leaves = {name: arguments[name].detach().requires_grad_() for name in inputs.differentiable}
    output = function(**{**arguments, **leaves})
    ramp = torch.linspace(-1, 1, output.shape[-1], device=output.device).to(output.dtype).expand(output.shape)
    gradients = torch.autograd.grad(output, list(leaves.values()), ramp)
    results = {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {"y": output.detach(), **results}


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
