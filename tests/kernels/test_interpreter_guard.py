"""Under the interpreter a kernel that leaves the tensors of its launch is refused, however right its results are."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from unmask_kernels.capability import INTERPRETING  # noqa: E402

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not INTERPRETING, reason="a GPU has tools of its own, such as compute-sanitizer"),
]


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
    # as views, so that what lies beside them is memory of the process too
    room = torch.zeros(3, 100)
    with pytest.raises(triton.runtime.errors.InterpreterError, match=said):
        copy(room[0, 20:33], room[2, 20:33], **bounds)


def test_views_with_strides_span_their_last_element() -> None:
    x = torch.arange(26.0).view(13, 2)[:, 1]  # 25 elements
    assert torch.equal(copy(x, torch.zeros(13)), torch.arange(1.0, 14.0))
    with pytest.raises(triton.runtime.errors.InterpreterError, match="reads"):
        copy(x[:6], torch.zeros(13))
