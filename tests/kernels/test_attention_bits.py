"""Dropout of attention drawn beforehand, as bits: the same elements, and with equal tiles the same bits of results."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from unmask_kernels import attention, philox
from unmask_kernels.attention import _triton, reference
from unmask_kernels.attention._triton import SHORT_UP_TO, dropout_bits, owner_up_to
from unmask_kernels.attention._triton_dropout import draw_by_row, draw_for_backward
from unmask_kernels.attention.arguments import Arguments
from unmask_kernels.capability import INTERPRETING
from unmask_kernels.documents import BOUNDS, TILE_ROWS
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import attention_case, plain_attention
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.inputs import Case, run

if INTERPRETING:
    DEVICES = [pytest.param("cpu", marks=pytest.mark.triton)]
else:
    DEVICES = [pytest.param("cuda", marks=[pytest.mark.triton, pytest.mark.gpu])] * torch.cuda.is_available()

on_device = pytest.mark.parametrize("device", DEVICES)
ours = partial(attention, backend="triton")

# with words up to 128: drawn in the kernel, one tile, words by row and by column, an unfinished word, nothing at all
FEW = [129, 0, 7, 65, 1, 0]
MANY = [1, 7, 64, 65, 128, 0, 300, 512, 513, 700, 0]


def drawn(words: Tensor, start: int, length: int) -> Tensor:
    """The bits of one document, bool (H, members, others), from words (W, H, T)."""
    some = words[: -(-length // 32), :, start : start + length].long()
    bits = (some[..., None] >> torch.arange(32, device=words.device)) & 1  # (W, H, members, 32)
    return bits.permute(1, 2, 0, 3).flatten(2)[..., :length].bool()


@on_device
@pytest.mark.parametrize(
    ("lengths", "p"),
    [
        ([1, 33, 0, 65], 0.5),
        pytest.param(MANY, 0.1, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
    ids=["few", "many"],
)
def test_the_words_hold_the_elements_that_the_reference_keeps(lengths: list[int], p: float, device: str) -> None:
    a = attention_case("words", lengths, head_dim=32, p=p).make(torch.float32, device).arguments
    documents, key = a["documents"], a["key"]
    arguments = Arguments.of(documents, key=key, p=p, causal=False, window=None, scale=1.0)
    with dropout_bits():
        forward = draw_by_row(a["qkv"], arguments)
        by_row, by_column = draw_for_backward(a["qkv"], arguments, SHORT_UP_TO, owned=512)
        rows, columns = draw_for_backward(a["qkv"], arguments, SHORT_UP_TO, owned=SHORT_UP_TO)
    assert forward is not None and by_row is not None and rows is not None and columns is not None
    assert by_row is by_column and rows is not columns
    # whole tiles read them, past the end of the longest document too
    assert {len(words) * 32 % TILE_ROWS for words in (forward, by_row, rows, columns)} == {0}
    start = 0
    for index, length in enumerate(lengths):
        if 0 < length <= 512:
            keep = philox.keep_scores(key, documents.keys[index, None], 2, range(length), length, p)[0]
            short = length <= SHORT_UP_TO
            assert torch.equal(drawn(forward, start, length), keep)
            assert torch.equal(drawn(by_row, start, length), keep if short else keep.mT)
            assert torch.equal(drawn(rows, start, length), keep)
            assert short or torch.equal(drawn(columns, start, length), keep.mT)
        start += length


def both_forms(case: Case, dtype: torch.dtype, device: str, owned: int, up_to: int) -> None:
    inputs = case.make(dtype, device)
    with owner_up_to(owned), contracts.poisoned_memory():
        in_the_kernel = run(ours, inputs)
        with dropout_bits(up_to):
            same_bits(run(ours, inputs), in_the_kernel, "drawn beforehand and in the kernel")


@pytest.fixture
def _equal_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms get the tiles of the one that draws in the kernel: other tiles add up in another order."""
    tile = _triton.tile
    monkeypatch.setattr(_triton, "tile", lambda kernel, qkv, arguments, words: tile(kernel, qkv, arguments, None))


@on_device
@pytest.mark.usefixtures("_equal_tiles")
@pytest.mark.parametrize(
    ("dtype", "head_dim", "mask", "p", "owned"),
    [
        (torch.float32, 32, {}, 0.1, 128),
        (torch.bfloat16, 64, {"causal": True}, 0.5, SHORT_UP_TO),
        (torch.bfloat16, 32, {"window": 20}, 0.1, BOUNDS[-1]),
        (torch.float32, 96, {"causal": True, "window": 70}, 0.5, 128),
    ],
    ids=str,
)
def test_both_forms_give_the_same_bits(
    dtype: torch.dtype, head_dim: int, mask: dict[str, Any], p: float, owned: int, device: str
) -> None:
    both_forms(attention_case("few", FEW, heads=1, head_dim=head_dim, p=p, **mask), dtype, device, owned, 128)


@on_device
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_equal_tiles")
@pytest.mark.parametrize("owned", [SHORT_UP_TO, 256, 512, BOUNDS[-1]])
@pytest.mark.parametrize("mask", [{}, {"causal": True}, {"window": 100}], ids=str)
@pytest.mark.parametrize(("dtype", "p"), [(torch.bfloat16, 0.1), (torch.float32, 0.5)], ids=str)
def test_both_forms_give_the_same_bits_at_every_length(
    dtype: torch.dtype, p: float, mask: dict[str, Any], owned: int, device: str
) -> None:
    both_forms(attention_case("many", MANY, heads=1, p=p, **mask), dtype, device, owned, 512)


@on_device
def test_its_own_tiles_match_fp64_truth(device: str) -> None:
    inputs = attention_case("truth", FEW, heads=1, p=0.1).make(torch.bfloat16, device)
    scale = 64**-0.5
    truth = run(partial(reference.attention, scale=scale), inputs.double())
    plain = run(partial(plain_attention, scale=scale), inputs)
    with dropout_bits(), contracts.poisoned_memory():
        compare(run(ours, inputs), plain, truth)


def test_words_are_for_documents_up_to_a_bound_of_the_work_list_that_is_not_the_last() -> None:
    # up to 64 tokens the forward draws in the kernel anyway
    for wrong in (0, 64, 100, BOUNDS[-1]):
        message = rf"attention: dropout_bits must be up to one of \(128, .*512\), got {wrong}"
        with pytest.raises(ValueError, match=message), dropout_bits(wrong):
            pass


def test_nothing_is_drawn_outside_the_block_or_without_dropout() -> None:
    a = attention_case("none", [3], head_dim=32, p=0.1).make(torch.float32).arguments
    settings = {"key": a["key"], "causal": False, "window": None, "scale": 1.0}
    with dropout_bits():
        assert draw_by_row(a["qkv"], Arguments.of(a["documents"], p=0.0, **settings)) is None
    with_dropout = Arguments.of(a["documents"], p=0.1, **settings)
    assert draw_by_row(a["qkv"], with_dropout) is None
    assert draw_for_backward(a["qkv"], with_dropout, SHORT_UP_TO, owned=512) == (None, None)
