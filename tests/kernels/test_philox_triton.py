"""The random stream on the device has the bits of the one in PyTorch."""

from __future__ import annotations

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from unmask_kernels import philox  # noqa: E402
from unmask_kernels._triton.random import keep_rows  # noqa: E402
from unmask_kernels.capability import INTERPRETING  # noqa: E402

if INTERPRETING:
    DEVICES = [pytest.param("cpu", marks=pytest.mark.triton)]
else:
    DEVICES = [pytest.param("cuda", marks=[pytest.mark.triton, pytest.mark.gpu])] * torch.cuda.is_available()


@triton.jit
def _mask_kernel(
    out_ptr, key_ptr, keys_ptr, rows, threshold, COLS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * BLOCK
    col = first + tl.arange(0, BLOCK)
    keys = tl.load(keys_ptr + row, mask=row < rows, other=0)
    keep = keep_rows(tl.load(key_ptr), keys, threshold, first, ROWS, BLOCK)
    inside = (row < rows)[:, None] & (col < COLS)[None, :]
    tl.store(out_ptr + row[:, None] * COLS + col[None, :], keep.to(tl.int8), mask=inside)


@triton.jit
def _words_kernel(out_ptr, counters_ptr, key_ptr) -> None:
    i = tl.arange(0, 16)
    c0 = tl.load(counters_ptr + i).to(tl.uint32)
    c1 = tl.load(counters_ptr + 16 + i).to(tl.uint32)
    c2 = tl.load(counters_ptr + 32 + i).to(tl.uint32)
    c3 = tl.load(counters_ptr + 48 + i).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(tl.load(key_ptr), c0, c1, c2, c3)
    tl.store(out_ptr + i, w0.to(tl.int64))
    tl.store(out_ptr + 16 + i, w1.to(tl.int64))
    tl.store(out_ptr + 32 + i, w2.to(tl.int64))
    tl.store(out_ptr + 48 + i, w3.to(tl.int64))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("columns", [8, 40, 312, 768])
def test_drops_the_same_elements_bit_for_bit(columns: int, parts: int, device: str) -> None:
    key = torch.tensor(-0x0123456789ABCDEF, device=device)
    rows = philox.mix64(torch.arange(37, device=device))
    out = torch.zeros(37, columns, dtype=torch.int8, device=device)
    block = max(16, triton.next_power_of_2(columns) // parts)
    grid = (10, triton.cdiv(columns, block))
    _mask_kernel[grid](out, key, rows, 37, philox.threshold(0.37), columns, 4, block)
    assert torch.equal(out.bool(), philox.keep_rows(key, rows, columns, 0.37))


@pytest.mark.parametrize("device", DEVICES)
def test_equals_tl_philox_word_for_word(device: str) -> None:
    counters = philox.mix64(torch.arange(64, device=device)).view(4, 16) & 0xFFFFFFFF
    key = torch.tensor(-0x0FEDCBA987654321, device=device)
    out = torch.zeros(4, 16, dtype=torch.int64, device=device)
    _words_kernel[(1,)](out, counters, key)
    expected = torch.stack(philox.philox_4x32(*counters, key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF))
    assert torch.equal(out, expected)
