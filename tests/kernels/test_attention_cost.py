"""What attention must compute: the pairs that a mask leaves, counted against the mask itself."""

from __future__ import annotations

import pytest
import torch

from unmask_kernels.attention import cost


@pytest.mark.parametrize("window", [None, 0, 3, 20, 50])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [0, 1, 2, 21])
def test_pairs_are_those_of_the_mask(length: int, causal: bool, window: int | None) -> None:
    place = torch.arange(length)
    ahead = place - place[:, None]
    seen = ahead.abs() <= (length if window is None else window)
    if causal:
        seen &= ahead <= 0
    assert cost.pairs(length, causal=causal, window=window) == int(seen.sum())


def test_work_is_useful_work() -> None:
    lengths = [512, 17, 0]
    useful = 512**2 + 17**2
    assert cost.flops_forward(lengths, 12, 64) == 4 * useful * 12 * 64
    assert cost.flops_backward(lengths, 12, 64) == 10 * useful * 12 * 64
    assert cost.flops_forward([512], 12, 64, window=64) < 0.3 * cost.flops_forward([512], 12, 64)
