"""What every family must do besides giving the right numbers. A check raises AssertionError that says what failed.

`targets` says which backends this machine can test on which devices, and `backends_here` parametrizes a test with them.
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
from unmask_kernels.attention.choice import FLASH_ATTN_INSTALLED
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
    """A backend to test, such as "triton", and the device to test it on, "cpu" or "cuda"."""

    backend: str
    device: str

    def __str__(self) -> str:
        return f"{self.backend}-{self.device}"


def targets(family: str) -> list[Target]:
    """Return what this process can test: plain backends on every device, hand-written ones on a GPU.

    With TRITON_INTERPRET=1 that is Triton on the CPU alone: `tests/offline/interpreter.py` starts such a process.
    """
    backends = FAMILIES[family].backends
    if INTERPRETING:
        return [Target("triton", "cpu")] if "triton" in backends else []
    found = [Target(name, "cpu") for name in backends if name not in ("triton", "cuda", "flash")]
    if torch.cuda.is_available():
        installed = {"triton": HAS_TRITON, "flash": bool(FLASH_ATTN_INSTALLED)}
        found += [Target(name, "cuda") for name in backends if installed.get(name, True)]
    return found


def backends_here(family: str) -> list[ParameterSet]:
    """Return `targets(family)` for `pytest.mark.parametrize("target", ...)`, with the marks `gpu` and `triton`."""
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
    """Fill new memory with NaN inside the block, which shows in every element that a kernel fails to write."""
    before = torch.are_deterministic_algorithms_enabled()
    # cuBLAS reads the variable once, at the first product of the process: here it is too late to set it
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
    """Run `torch.library.opcheck` on a registered operation; the arguments must not require gradients."""
    torch.library.opcheck(operation, tuple(arguments))


def full_graph(
    function: Callable[..., Any], inputs: Inputs, other_length: Inputs, *, compiler: str = "aot_eager"
) -> None:
    """Check that a function compiles as one graph and then gives the bits of eager mode.

    Args:
        function: the public function with its backend bound.
        inputs: a call.
        other_length: the same call with another number of tokens, for which PyTorch compiles dynamic lengths.
        compiler: backend of `torch.compile`; the default, which is fast, traces forward and backward and generates no
            code.
    """
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    for call in (inputs, other_length):
        same_bits(run(compiled, call), run(function, call), "compiled and eager")


def gradient_set(function: Callable[..., Any], inputs: Inputs) -> None:
    """Check that each differentiable argument alone gets its gradient, with the bits of a call that asks for all."""
    everything = run(function, inputs)
    for name in inputs.differentiable:
        alone = run(function, replace(inputs, differentiable=(name,)))
        same_bits(alone, {key: everything[key] for key in alone}, f"gradient of {name} alone and with others")
    frozen = function(**inputs.arguments)
    for output in frozen if isinstance(frozen, tuple) else (frozen,):
        if output.requires_grad:
            raise AssertionError("the output requires a gradient although no argument does")


def deterministic(function: Callable[..., Any], inputs: Inputs, *, runs: int = 2) -> None:
    """Check that runs on the same inputs give the same bits."""
    first = run(function, inputs)
    for _ in range(runs - 1):
        same_bits(first, run(function, inputs), "two runs on the same inputs")


def strides(function: Callable[..., Any], inputs: Inputs) -> None:
    """Check views whose last two strides are swapped, and an incoming gradient that is expanded from one element."""
    swapped = {
        name: value.mT.contiguous().mT if isinstance(value, Tensor) and value.dim() >= 2 else value
        for name, value in inputs.arguments.items()
    }
    _close(run(function, inputs.change(**swapped)), run(function, inputs), "other strides and contiguous")
    first = replace(inputs, differentiable=inputs.differentiable[:1])
    expanded = run(function, first, incoming=lambda y: y.new_ones(()).expand(y.shape))
    _close(expanded, run(function, first, incoming=torch.ones_like), "an expanded and a dense incoming gradient")


def refuses(
    function: Callable[..., Any],
    inputs: Inputs,
    change: Mapping[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """Check that the call with `change` applied raises exactly `error`, with `message` in its text."""
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
    """Check that outputs and gradients of each document are the same packed and alone.

    Args:
        function: the public function with its backend bound.
        packed: one call on all documents.
        alone: makes the call on one document, given its slice of the tokens and its index.
        lengths: lengths of the documents, in order; empty ones are skipped.
        per_token: names of the results to compare; their first dimension is tokens.
        tolerance: largest absolute difference that is allowed; 0 asks for equal bits.
    """
    together = run(function, packed, incoming=_ramp)
    start = 0
    for index, length in enumerate(lengths):
        tokens = slice(start, start + length)
        start += length
        if length == 0:
            continue
        single = run(function, alone(tokens, index), incoming=_ramp)
        for name in per_token:
            ours, theirs = together[name][tokens], single[name]
            if tolerance == 0.0:
                same_bits({name: ours}, {name: theirs}, f"document {index} packed and alone")
            elif not (difference := float((ours.double() - theirs.double()).abs().max())) <= tolerance:
                raise AssertionError(
                    f"document {index} packed and alone: {name} differs by {difference:.3g}, allowed {tolerance:.3g}"
                )


def _close(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> None:
    """Allow 16 eps of the largest value: PyTorch's reductions choose the order of a sum by the strides."""
    for name, value in theirs.items():
        difference = (ours[name].double() - value.double()).abs().flatten()
        allowed = 16 * torch.finfo(value.dtype).eps * float(value.double().abs().flatten().amax())
        if not float(difference.amax()) <= allowed:
            raise AssertionError(f"{what}: {name} differs by {float(difference.amax()):.3g}, allowed {allowed:.3g}")


def _ramp(output: Tensor) -> Tensor:
    """The same incoming gradient for every token; 1 for a scalar."""
    if output.dim() == 0:
        return torch.ones_like(output)
    return torch.linspace(-1, 1, output.shape[-1], device=output.device).to(output.dtype).expand(output.shape)
