"""Dropout of attention drawn before, as a bitmask: the same elements, and with equal tiles the same bits of results."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from unmask_kernels import attention, philox
from unmask_kernels.attention import _triton, reference, schedule
from unmask_kernels.attention._triton_dropout import draw_for_backward, draw_for_forward
from unmask_kernels.attention.arguments import SHORT_UP_TO, Arguments, BackwardArguments
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

# with a bitmask up to 128: drawn in the kernel, one tile, by row and by column, an unfinished word, nothing at all
FEW = [129, 0, 7, 65, 1, 0]
MANY = [1, 7, 64, 65, 128, 0, 300, 512, 513, 700, 0]


def of_backward(arguments: Arguments) -> BackwardArguments:
    qkv = arguments.qkv
    return BackwardArguments(dout=qkv[:, 0], out=qkv[:, 0], lse=qkv, keep=qkv, **arguments._asdict())


def drawn(bitmask: Tensor, start: int, length: int) -> Tensor:
    """The bits of one document, bool (H, members, others), from a bitmask (W, H, T)."""
    some = bitmask[: -(-length // 32), :, start : start + length].long()
    bits = (some[..., None] >> torch.arange(32, device=bitmask.device)) & 1  # (W, H, members, 32)
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
def test_the_bitmask_holds_the_elements_that_the_reference_keeps(lengths: list[int], p: float, device: str) -> None:
    a = attention_case("bitmask", lengths, head_dim=32, p=p).make(torch.float32, device).arguments
    documents, key = a["documents"], a["key"]
    with schedule(bitmask_up_to=512):
        arguments = Arguments.of(a["qkv"], documents, key=key, p=p, causal=False, window=None, scale=1.0)
    forward = draw_for_forward(arguments)
    by_row, by_column = draw_for_backward(of_backward(arguments), fused_up_to=512)
    rows, columns = draw_for_backward(of_backward(arguments), fused_up_to=SHORT_UP_TO)
    assert forward is not None and by_row is not None and rows is not None and columns is not None
    assert by_row is by_column and rows is not columns
    # whole tiles read them, past the end of the longest document too
    assert {len(bitmask) * 32 % TILE_ROWS for bitmask in (forward, by_row, rows, columns)} == {0}
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


def same_with_a_bitmask(case: Case, dtype: torch.dtype, device: str, fused_up_to: int, up_to: int) -> None:
    inputs = case.make(dtype, device)
    with schedule(fused_up_to=fused_up_to), contracts.poisoned_memory():
        in_the_kernel = run(ours, inputs)
        with schedule(bitmask_up_to=up_to):
            same_bits(run(ours, inputs), in_the_kernel, "drawn before and in the kernel")


@pytest.fixture
def _equal_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bitmask gets the tiles of drawing in the kernel: other tiles add up in another order."""
    tile = _triton._tile
    monkeypatch.setattr(_triton, "_tile", lambda kernel, arguments, bitmask: tile(kernel, arguments, None))


@on_device
@pytest.mark.usefixtures("_equal_tiles")
@pytest.mark.parametrize(
    ("dtype", "head_dim", "mask", "p", "fused_up_to"),
    [
        (torch.float32, 32, {}, 0.1, 128),
        (torch.bfloat16, 64, {"causal": True}, 0.5, SHORT_UP_TO),
        (torch.bfloat16, 32, {"window": 20}, 0.1, BOUNDS[-1]),
        (torch.float32, 96, {"causal": True, "window": 70}, 0.5, 128),
    ],
    ids=str,
)
def test_a_bitmask_gives_the_bits_of_drawing_in_the_kernel(
    dtype: torch.dtype, head_dim: int, mask: dict[str, Any], p: float, fused_up_to: int, device: str
) -> None:
    same_with_a_bitmask(
        attention_case("few", FEW, heads=1, head_dim=head_dim, p=p, **mask), dtype, device, fused_up_to, 128
    )


@on_device
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_equal_tiles")
@pytest.mark.parametrize("fused_up_to", [SHORT_UP_TO, 256, 512, BOUNDS[-1]])
@pytest.mark.parametrize("mask", [{}, {"causal": True}, {"window": 100}], ids=str)
@pytest.mark.parametrize(("dtype", "p"), [(torch.bfloat16, 0.1), (torch.float32, 0.5)], ids=str)
def test_a_bitmask_gives_the_bits_of_drawing_in_the_kernel_at_every_length(
    dtype: torch.dtype, p: float, mask: dict[str, Any], fused_up_to: int, device: str
) -> None:
    same_with_a_bitmask(attention_case("many", MANY, heads=1, p=p, **mask), dtype, device, fused_up_to, 512)


@on_device
def test_its_own_tiles_match_fp64_truth(device: str) -> None:
    inputs = attention_case("truth", FEW, heads=1, p=0.1).make(torch.bfloat16, device)
    scale = 64**-0.5
    truth = run(partial(reference.attention, scale=scale), inputs.double())
    plain = run(partial(plain_attention, scale=scale), inputs)
    with schedule(bitmask_up_to=512), contracts.poisoned_memory():
        compare(run(ours, inputs), plain, truth)


def test_nothing_is_drawn_outside_the_block_or_without_dropout() -> None:
    a = attention_case("none", [3], head_dim=32, p=0.1).make(torch.float32).arguments
    settings = {"key": a["key"], "causal": False, "window": None, "scale": 1.0}
    with schedule(bitmask_up_to=512):
        assert draw_for_forward(Arguments.of(a["qkv"], a["documents"], p=0.0, **settings)) is None
    with_dropout = Arguments.of(a["qkv"], a["documents"], p=0.1, **settings)
    assert draw_for_forward(with_dropout) is None
    assert draw_for_backward(of_backward(with_dropout), fused_up_to=512) == (None, None)
