"""The choice of words in masking's Triton kernel, on priorities that the random stream would not draw in a lifetime."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from unmask_kernels import masking  # noqa: E402
from unmask_kernels.capability import INTERPRETING  # noqa: E402
from unmask_kernels.masking import _triton  # noqa: E402
from unmask_kernels.masking._triton import _choose  # noqa: E402
from unmask_kernels.testing.masking import masking_case  # noqa: E402

if INTERPRETING:
    DEVICES = [pytest.param("cpu", marks=pytest.mark.triton)]
else:
    DEVICES = [pytest.param("cuda", marks=[pytest.mark.triton, pytest.mark.gpu])] * torch.cuda.is_available()

LARGEST = (1 << 32) - 1


@triton.jit
def _choice_kernel(taken_ptr, priority_ptr, size_ptr, count_ptr, BLOCK: tl.constexpr) -> None:
    place = tl.arange(0, BLOCK)
    size = tl.load(size_ptr + place)
    priority = tl.load(priority_ptr + place).to(tl.uint32)
    tl.store(taken_ptr + place, _choose(priority, place, size > 0, size, tl.load(count_ptr)))


def greedy(priorities: list[int], sizes: list[int], left: int) -> list[int]:
    taken = [0] * len(sizes)
    for at in sorted(range(len(sizes)), key=lambda at: (priorities[at], at)):
        if 0 < sizes[at] <= left:
            taken[at] = 1
            left -= sizes[at]
    return taken


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", [[1], [3, 1, 0, 2]], ids=["tokens", "words"])
@pytest.mark.parametrize(
    "priorities",
    [[7], [0], [LARGEST], [LARGEST, 0, 1 << 31, (1 << 31) - 1], [5, 5, 9, 4]],
    ids=["equal", "least", "largest", "signs", "some equal"],
)
@pytest.mark.parametrize("count", [0, 1, 5, 11, 64])
def test_words_go_by_priority_then_place(priorities: list[int], sizes: list[int], count: int, device: str) -> None:
    priorities, sizes = (values * (16 // len(values)) for values in (priorities, sizes))
    taken = torch.empty(16, dtype=torch.int32, device=device)
    tensors = (torch.tensor(priorities), torch.tensor(sizes, dtype=torch.int32), torch.tensor(count, dtype=torch.int32))
    _choice_kernel[(1,)](taken, *(tensor.to(device) for tensor in tensors), BLOCK=16)
    assert taken.tolist() == greedy(priorities, sizes, count)


class TwoAtATime:
    """The kernel, which then counts the slots of the documents before its own two at a time."""

    def __init__(self) -> None:
        self.kernel = _triton._masking_kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda **arguments: self.kernel[grid](**arguments | {"DOCUMENTS": 2})


@pytest.mark.parametrize("device", DEVICES)
def test_slots_lie_behind_those_of_all_documents_before(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the last one also fills more slots behind its own than a block has
    case = masking_case("", [5, 13, 9, 0, 4, 12, 7, 33], spare=150)
    monkeypatch.setattr(_triton, "_masking_kernel", TwoAtATime())
    ours = masking(**case.make(torch.float32, device).arguments, backend="triton")
    for one, other in zip(ours, masking(**case.make(torch.float32).arguments, backend="reference"), strict=True):
        assert torch.equal(one.cpu(), other)
