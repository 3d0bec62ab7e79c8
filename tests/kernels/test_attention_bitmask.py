"""Dropout of attention drawn before, as a bitmask: the same elements, and with equal tiles the same bits of results."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

pytest.importorskip("triton")

from unmask_kernels import attention, philox
from unmask_kernels.attention import _triton, reference, schedule
from unmask_kernels.attention._triton_dropout import draw
from unmask_kernels.attention.arguments import SHORT_UP_TO, Arguments
from unmask_kernels.capability import INTERPRETING
from unmask_kernels.documents import BOUNDS, TILE_ROWS
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import attention_case, plain_attention
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.inputs import Case, Inputs, run

if INTERPRETING:
    DEVICES = [pytest.param("cpu", marks=pytest.mark.triton)]
else:
    DEVICES = [pytest.param("cuda", marks=[pytest.mark.triton, pytest.mark.gpu])] * torch.cuda.is_available()

on_device = pytest.mark.parametrize("device", DEVICES)
ours = partial(attention, backend="triton")

# with a bitmask up to 128: drawn in the kernel, one tile, by row and by column, an unfinished word, nothing at all
FEW = [129, 0, 7, 65, 1, 0]
MANY = [1, 7, 64, 65, 128, 0, 300, 512, 513, 700, 0]


def arguments_of(inputs: Inputs, **settings: int) -> Arguments:
    """The record of a call inside `schedule(**settings)`."""
    a = inputs.arguments
    with schedule(**settings):
        return Arguments.of(
            a["qkv"], a["documents"], key=a["key"], p=a["p"], causal=a["causal"], window=a["window"], scale=1.0
        )


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
def test_the_bitmasks_hold_the_elements_that_the_reference_keeps(lengths: list[int], p: float, device: str) -> None:
    inputs = attention_case("bitmask", lengths, head_dim=32, p=p).make(torch.float32, device)
    documents, key = inputs.arguments["documents"], inputs.arguments["key"]
    by_row, one = draw(arguments_of(inputs, bitmask_up_to=512))
    rows, two = draw(arguments_of(inputs, bitmask_up_to=512, fused_up_to=SHORT_UP_TO))
    assert by_row is not None and rows is not None and rows.data_ptr() == two[0].data_ptr()
    assert (len(one), len(two)) == (1, 2)
    # whole tiles read them, past the end of the longest document too
    assert {len(bitmask) * 32 % TILE_ROWS for bitmask in (by_row, *one, *two)} == {0}
    start = 0
    for index, length in enumerate(lengths):
        if 0 < length <= 512:
            keep = philox.keep_scores(key, documents.keys[index, None], 2, range(length), length, p)[0]
            of_backward = keep if length <= SHORT_UP_TO else keep.mT
            for bitmask in (by_row, two[0]):
                assert torch.equal(drawn(bitmask, start, length), keep)
            for bitmask in (one[0], two[1]):
                assert torch.equal(drawn(bitmask, start, length), of_backward)
        start += length


@on_device
def test_documents_of_one_tile_have_one_bitmask_for_both_directions(device: str) -> None:
    inputs = attention_case("short", [5, 64, 0], head_dim=32, p=0.1).make(torch.float32, device)
    by_row, kept = draw(arguments_of(inputs))
    assert by_row is not None and len(kept) == 1 and by_row.data_ptr() == kept.data_ptr()


@on_device
@pytest.mark.parametrize(("lengths", "head_dim", "orders"), [([70, 3], 32, 1), ([70, 3], 96, 2), ([3, 64], 96, 1)])
def test_the_forward_saves_what_it_drew_and_the_backward_draws_nothing(
    lengths: list[int], head_dim: int, orders: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = dict(attention_case("saved", lengths, head_dim=head_dim, p=0.1).make(torch.bfloat16, device).arguments)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        out = ours(a.pop("qkv").requires_grad_(), **a)
    assert [tuple(x.shape) for x in saved if x.dtype == torch.int32 and x.dim() == 4] == [(orders, 4, 2, sum(lengths))]
    monkeypatch.setattr(_triton, "draw", None)
    out.sum().backward()


def same_with_a_bitmask(case: Case, dtype: torch.dtype, device: str, fused_up_to: int, up_to: int) -> None:
    inputs = case.make(dtype, device)
    with schedule(fused_up_to=fused_up_to), contracts.poisoned_memory():
        with schedule(bitmask_up_to=0):
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
    with contracts.poisoned_memory():
        compare(run(ours, inputs), plain, truth)


@on_device
def test_a_layer_under_activation_checkpointing_draws_again_and_gets_the_same_gradient(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = dict(attention_case("again", [70, 3], heads=1, head_dim=32, p=0.1).make(torch.bfloat16, device).arguments)
    qkv = a.pop("qkv").requires_grad_()
    drawings: list[Arguments] = []
    monkeypatch.setattr(_triton, "draw", lambda arguments: (drawings.append(arguments), draw(arguments))[1])
    plain, again = (
        torch.autograd.grad(out.sum(), qkv)[0]
        for out in (ours(qkv, **a), checkpoint(ours, qkv, use_reentrant=False, **a))
    )
    assert torch.equal(plain, again) and len(drawings) == 3


def test_nothing_is_drawn_before_where_the_kernels_draw_or_without_dropout() -> None:
    for p, settings in ((0.0, {}), (0.1, {"bitmask_up_to": 0})):
        inputs = attention_case("none", [3], head_dim=32, p=p).make(torch.float32)
        by_row, kept = draw(arguments_of(inputs, **settings))
        assert by_row is None and kept.shape == (0,)
