"""The interpreter refuses a kernel that races or leaves its tensors, even if its results are right."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from offline.memory_guard import guard_memory  # noqa: E402
from unmask_kernels.capability import INTERPRETING  # noqa: E402

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not INTERPRETING, reason="a GPU has tools of its own, such as compute-sanitizer"),
]

if INTERPRETING:
    guard_memory()


@triton.jit
def _copy_kernel(out_ptr, x_ptr, first, last, stored, BLOCK: tl.constexpr) -> None:
    i = tl.arange(0, BLOCK) + first
    x = tl.load(x_ptr + i, mask=i < last, other=0.0)
    tl.store(out_ptr + i, x, mask=i < stored)


def copy(x: torch.Tensor, out: torch.Tensor, first: int = 0, last: int = 13, stored: int = 13) -> torch.Tensor:
    _copy_kernel[(1,)](out, x, first, last, stored, BLOCK=16)
    return out


def test_what_a_mask_leaves_out_is_neither_read_nor_written() -> None:
    x = torch.arange(13.0)
    assert torch.equal(copy(x, torch.zeros(13)), x)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"last": 14}, "reads 1 of 14 addresses outside the tensors of the launch"),
        ({"last": 16}, "reads 3 of 16 addresses"),
        ({"first": -1}, "reads 1 of 14 addresses"),
        ({"stored": 14}, "writes 1 of 14 addresses"),
    ],
)
def test_an_address_beside_a_tensor_is_refused(bounds: dict[str, int], said: str) -> None:
    # views, so the memory beside them belongs to the process too
    room = torch.zeros(3, 100)
    with pytest.raises(triton.runtime.errors.InterpreterError, match=said):
        copy(room[0, 20:33], room[2, 20:33], **bounds)


def test_views_with_strides_span_their_last_element() -> None:
    x = torch.arange(26.0).view(13, 2)[:, 1]  # 25 elements
    assert torch.equal(copy(x, torch.zeros(13)), torch.arange(1.0, 14.0))
    with pytest.raises(triton.runtime.errors.InterpreterError, match="reads"):
        copy(x[:6], torch.zeros(13))


@triton.jit
def _places_kernel(out_ptr, read_ptr, STEP: tl.constexpr, AHEAD: tl.constexpr) -> None:
    program = tl.program_id(0) + 2 * tl.program_id(1)
    tl.store(out_ptr + STEP * program + tl.arange(0, 4), program)
    tl.store(read_ptr + program, tl.load(out_ptr + STEP * program + AHEAD))


def test_an_element_belongs_to_one_program_of_a_launch() -> None:
    out, read = torch.zeros(16, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
    for _ in range(2):  # a later launch may write the same elements
        _places_kernel[(2, 2)](out, read, STEP=4, AHEAD=3)
    assert out.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    with pytest.raises(triton.runtime.errors.InterpreterError, match=r"writes \d of 4 addresses that another program"):
        _places_kernel[(2, 2)](out, read, STEP=3, AHEAD=1)
    with pytest.raises(
        triton.runtime.errors.InterpreterError, match="reads 1 of 1 addresses that another program wrote"
    ):
        _places_kernel[(2, 2)](out, read, STEP=4, AHEAD=4)


def test_views_that_overlap_are_one_memory() -> None:
    room = torch.zeros(20, dtype=torch.int32)
    with pytest.raises(triton.runtime.errors.InterpreterError, match="addresses that another program wrote"):
        _places_kernel[(2, 2)](room[:16], room[2:], STEP=4, AHEAD=3)
