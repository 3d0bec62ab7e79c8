"""A launch replaces the functions of `triton.language` once, and not again for each function that a kernel calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from offline.interpreter import repair_interpreter  # noqa: E402
from unmask_kernels.capability import INTERPRETING  # noqa: E402

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not INTERPRETING, reason="a GPU runs compiled kernels"),
]

if INTERPRETING:
    repair_interpreter()


@triton.jit
def _doubled(x):
    return x + x


@triton.jit
def _plain_kernel(out_ptr, x_ptr, BLOCK: tl.constexpr) -> None:
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, 8 * tl.load(x_ptr + i))


@triton.jit
def _calling_kernel(out_ptr, x_ptr, BLOCK: tl.constexpr) -> None:
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    for _ in tl.static_range(BLOCK):
        # a function of this module, and one of Triton's own
        x += 0 * tl.sum(_doubled(x), axis=0)
    tl.store(out_ptr + i, _doubled(_doubled(_doubled(x))))


@pytest.fixture
def patches(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The parts of the language, each time that their functions are replaced."""
    from triton.runtime import interpreter

    patch: Callable[..., None] = interpreter._patch_builtin
    noted: list[object] = []

    def note(part: object, *rest: Any) -> None:
        noted.append(part)
        patch(part, *rest)

    monkeypatch.setattr(interpreter, "_patch_builtin", note)
    return noted


def test_calls_inside_a_launch_replace_nothing_again(patches: list[object]) -> None:
    x = torch.arange(16.0)
    counts = []
    # the first launch that reduces replaces the functions of triton.language.core, too
    for kernel in (_calling_kernel, _plain_kernel, _calling_kernel):
        out = torch.zeros(16)
        kernel[(1,)](out, x, BLOCK=16)
        assert torch.equal(out, 8 * x)
        counts.append(len(patches))
        patches.clear()
    assert counts[2] == counts[1] > 0


def test_after_a_launch_the_language_is_that_of_the_compiler_again() -> None:
    _calling_kernel[(1,)](torch.zeros(16), torch.arange(16.0), BLOCK=16)
    assert tl.core.is_builtin(tl.load)
