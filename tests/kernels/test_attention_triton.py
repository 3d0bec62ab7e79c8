"""The Triton backend of attention: its kernels of the backward, dropout, the work list, and what it refuses."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from unmask_kernels import BackendUnavailable, Documents, attention, philox  # noqa: E402
from unmask_kernels._triton.random import keep_scores  # noqa: E402
from unmask_kernels.attention import _triton, reference, schedule  # noqa: E402
from unmask_kernels.attention.arguments import SHORT_UP_TO  # noqa: E402
from unmask_kernels.capability import INTERPRETING  # noqa: E402
from unmask_kernels.documents import BOUNDS  # noqa: E402
from unmask_kernels.testing import contracts  # noqa: E402
from unmask_kernels.testing.attention import attention_case, plain_attention  # noqa: E402
from unmask_kernels.testing.compare import compare, same_bits  # noqa: E402
from unmask_kernels.testing.inputs import Inputs, run  # noqa: E402

if INTERPRETING:
    DEVICES = [pytest.param("cpu", marks=pytest.mark.triton)]
else:
    DEVICES = [pytest.param("cuda", marks=[pytest.mark.triton, pytest.mark.gpu])] * torch.cuda.is_available()

ALL = BOUNDS[-1]
ours = partial(attention, backend="triton")
on_device = pytest.mark.parametrize("device", DEVICES)


def scaled(function: Any) -> Any:
    """The reference takes every argument; the public function has defaults."""
    return lambda qkv, **rest: function(qkv, scale=qkv.shape[-1] ** -0.5, **rest)


def matches_truth(inputs: Inputs, fused_up_to: int) -> None:
    truth = run(scaled(reference.attention), inputs.double())
    plain = run(scaled(plain_attention), inputs)
    with schedule(fused_up_to=fused_up_to), contracts.poisoned_memory():
        compare(run(ours, inputs), plain, truth)


@pytest.mark.skipif(not INTERPRETING, reason="a GPU has the tiles of its architecture")
@pytest.mark.triton
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("bitmask_up_to", [0, 512], ids=["drawn", "bitmask"])
@pytest.mark.parametrize("mask", [{}, {"window": 20}], ids=["whole", "window"])
@pytest.mark.parametrize(
    ("head_dim", "fused_up_to"),
    [(64, ALL), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((32, ALL), (64, SHORT_UP_TO), (128, ALL)))],
    ids=["64-fused", "32-fused", "64-two-kernels", "128"],
)
def test_the_tiles_of_every_architecture_give_the_numbers(
    head_dim: int,
    fused_up_to: int,
    mask: dict[str, Any],
    bitmask_up_to: int,
    architecture: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_triton, "capability", SimpleNamespace(architecture=lambda qkv: architecture))
    with schedule(bitmask_up_to=bitmask_up_to):
        inputs = attention_case("tiles", [130, 0, 65, 3], heads=1, head_dim=head_dim, p=0.1, **mask)
        matches_truth(inputs.make(torch.bfloat16, "cpu"), fused_up_to)


@on_device
@pytest.mark.parametrize("fused_up_to", [SHORT_UP_TO, ALL], ids=["two-kernels", "fused"])
@pytest.mark.parametrize(
    ("dtype", "head_dim", "mask", "p"),
    [
        (torch.float32, 32, {}, 0.1),
        (torch.bfloat16, 64, {"window": 20}, 0.0),
        (torch.float16, 32, {"causal": True}, 0.1),
        (torch.bfloat16, 64, {}, 0.0),
        # a multiple of every tile and one more: the farthest column is the last of a tile, or the first of the next
        (torch.float32, 32, {"window": 33}, 0.0),
        (torch.float32, 32, {"causal": True, "window": 70}, 0.0),
    ],
    ids=str,
)
def test_the_fused_backward_and_two_kernels_match_fp64_truth(
    dtype: torch.dtype, head_dim: int, mask: dict[str, Any], p: float, fused_up_to: int, device: str
) -> None:
    case = attention_case("backwards", [145, 70, 5], heads=1, head_dim=head_dim, p=p, **mask)
    matches_truth(case.make(dtype, device), fused_up_to)


@on_device
@pytest.mark.parametrize("p", [0.0, 0.1])
def test_the_fused_backward_differs_from_two_kernels_in_the_order_of_one_sum(p: float, device: str) -> None:
    inputs = attention_case("backwards", [145], heads=1, head_dim=32, p=p).make(torch.float32, device)
    results = []
    for fused_up_to in (SHORT_UP_TO, ALL):
        with schedule(fused_up_to=fused_up_to):
            results.append(run(ours, inputs)["dqkv"])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    same_bits({"dk, dv": results[0][:, 1:]}, {"dk, dv": results[1][:, 1:]}, "fused and in two kernels")


@on_device
@pytest.mark.parametrize(
    ("head_dim", "window", "p"),
    [(32, None, 0.0), (32, None, 0.1), (26, 20, 0.1), pytest.param(80, None, 0.1, marks=pytest.mark.slow)],
)
def test_documents_of_every_kind_give_the_bits_they_give_alone(
    head_dim: int, window: int | None, p: float, device: str
) -> None:
    lengths = [30, 150, 0, 100, 64]
    case = attention_case("kinds", lengths, heads=1, head_dim=head_dim, window=window, p=p)
    packed = case.make(torch.bfloat16, device)
    documents = packed.arguments["documents"]

    def alone(tokens: slice, index: int) -> Inputs:
        length = tokens.stop - tokens.start
        boundary = torch.tensor([0, length], dtype=torch.int32, device=device)
        one = Documents.build(boundary, documents.keys[index, None], tokens=length, max_seqlen=length)
        return packed.change(qkv=packed.arguments["qkv"][tokens], documents=one)

    # with dropout a document for each backward: two kernels, fused, and a single tile; without, both tiles, and fused
    with schedule(fused_up_to=128 if p > 0.0 else 256):
        contracts.packed_as_alone(ours, packed, alone, lengths, ("y", "dqkv"))
        contracts.deterministic(ours, packed)


@on_device
@pytest.mark.parametrize(
    ("head_dim", "dtype", "mask", "p", "fused_up_to"),
    [
        (26, torch.bfloat16, {}, 0.1, ALL),
        (26, torch.float32, {"window": 20}, 0.1, SHORT_UP_TO),
        (48, torch.float16, {"window": 20}, 0.1, ALL),
        (80, torch.bfloat16, {"causal": True}, 0.1, SHORT_UP_TO),
        # no load of two elements
        (25, torch.bfloat16, {}, 0.0, ALL),
    ],
    ids=str,
)
def test_head_dims_that_a_tile_pads_match_fp64_truth(
    head_dim: int, dtype: torch.dtype, mask: dict[str, Any], p: float, fused_up_to: int, device: str
) -> None:
    inputs = attention_case("padded", [133, 70, 5], head_dim=head_dim, p=p, **mask).make(dtype, device)
    matches_truth(inputs, fused_up_to)


@on_device
@pytest.mark.parametrize("head_dim", [26, pytest.param(80, marks=pytest.mark.slow)])
def test_a_padded_head_reads_nothing_of_the_next_one(head_dim: int, device: str) -> None:
    inputs = attention_case("neighbours", [70, 5], heads=3, head_dim=head_dim, p=0.1).make(torch.bfloat16, device)
    poisoned = inputs.arguments["qkv"].clone()
    poisoned[:, :, 1] = float("nan")
    clean, found = run(ours, inputs), run(ours, inputs.change(qkv=poisoned))
    assert found["y"][:, 1].isnan().all() and found["dqkv"][:, :, 1].isnan().all()
    for head in (0, 2):
        assert torch.equal(found["y"][:, head], clean["y"][:, head])
        assert torch.equal(found["dqkv"][:, :, head], clean["dqkv"][:, :, head])


@on_device
def test_unused_slots_and_a_loose_bound_change_no_bit(device: str) -> None:
    case = attention_case("slots", [70, 9], heads=1, head_dim=32, p=0.1)
    inputs = case.make(torch.bfloat16, device)
    documents = inputs.arguments["documents"]
    boundaries = torch.cat((documents.cu_seqlens, documents.cu_seqlens[-1:].expand(40)))
    keys = torch.cat((documents.keys, documents.keys.new_zeros(40)))
    loose = inputs.change(documents=Documents.build(boundaries, keys, tokens=79, max_seqlen=5000))
    same_bits(run(ours, loose), run(ours, inputs), "with and without unused slots")


@on_device
@pytest.mark.parametrize("fused_up_to", [SHORT_UP_TO, ALL], ids=["two-kernels", "fused"])
def test_scores_far_below_zero_stay_finite(fused_up_to: int, device: str) -> None:
    # exp2 of minus such a log-sum-exp overflows: the elements past the end of the document must not see it
    inputs = attention_case("far", [70, 3], heads=1, head_dim=32).make(torch.float32, device)
    inputs.arguments["qkv"][:, :2] = torch.tensor([5.0, -6.0], device=device)[:, None, None]
    with schedule(fused_up_to=fused_up_to), contracts.poisoned_memory():
        found = run(ours, inputs)
    # a log-sum-exp of -245 has 5 digits after the point in fp32
    for name, expected in run(scaled(reference.attention), inputs).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-4)


@triton.jit
def _mask_kernel(
    out_ptr, key_ptr, keys_ptr, head, row, column, threshold, ROWS: tl.constexpr, COLUMNS: tl.constexpr
) -> None:
    keep = keep_scores(tl.load(key_ptr), tl.load(keys_ptr), head, row, column, threshold, ROWS, COLUMNS)
    at = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(out_ptr + at, keep.to(tl.int8))


@on_device
@pytest.mark.parametrize(("row", "column"), [(0, 0), (37, 64), (65504, 40)])
def test_drops_the_same_probabilities_bit_for_bit(row: int, column: int, device: str) -> None:
    key = torch.tensor(-0x0123456789ABCDEF, device=device)
    keys = torch.tensor([-5], device=device)
    out = torch.zeros(32, 64, dtype=torch.int8, device=device)
    _mask_kernel[(1,)](out, key, keys, 3, row, column, philox.threshold(0.37), 32, 64)
    expected = philox.keep_scores(key, keys, 4, range(row, row + 32), column + 64, 0.37)[0, 3, :, column:]
    assert torch.equal(out.bool(), expected)


@on_device
def test_refuses_a_scale_that_is_not_above_zero(device: str) -> None:
    inputs = attention_case("scale", [5], head_dim=32).make(torch.float32, device)
    with pytest.raises(ValueError, match=r"attention: backend 'triton' needs a scale above 0, got -0.5"):
        ours(scale=-0.5, **inputs.arguments)


@on_device
@pytest.mark.parametrize(
    ("head_dim", "dtype", "reason"),
    [
        (136, torch.float32, "head dim must be at most 128, got 136; leave it out, and one that can is chosen"),
        (32, torch.float64, "activations must be fp16, bf16 or fp32, got float64"),
    ],
)
def test_refuses_head_dims_and_dtypes_with_a_reason(
    head_dim: int, dtype: torch.dtype, reason: str, device: str
) -> None:
    inputs = attention_case("refused", [5], head_dim=head_dim).make(dtype, device)
    with pytest.raises(BackendUnavailable, match=reason):
        run(ours, inputs)
    run(attention, inputs)


@on_device
def test_the_backward_keeps_the_schedule_of_its_forward(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = attention_case("kept", [70], heads=1, head_dim=32).make(torch.float32, device)
    launched: list[str] = []
    for name in ("_launch_fused", "_launch_tiles"):
        launch = getattr(_triton, name)
        monkeypatch.setattr(_triton, name, lambda *given, n=name, f=launch: (launched.append(n), f(*given)))
    arguments = dict(inputs.arguments)
    qkv = arguments.pop("qkv").requires_grad_()
    with schedule(fused_up_to=SHORT_UP_TO):
        out = ours(qkv, **arguments)
    out.sum().backward()
    assert launched == ["_launch_tiles", "_launch_tiles"]


def test_a_schedule_names_bounds_of_the_work_list_only() -> None:
    with schedule(fused_up_to=256), schedule(bitmask_up_to=128), schedule(fused_up_to=ALL, bitmask_up_to=0):
        pass
    message = r"attention: fused_up_to must be one of \(64, .*, got 100"
    with pytest.raises(ValueError, match=message), schedule(fused_up_to=100):
        pass
    # a bitmask grows with the square of the length; and up to 64 tokens the forward draws in the kernel anyway
    for wrong in (64, 100, ALL):
        message = rf"attention: bitmask_up_to must be 0 or one of \(128, .*512\), got {wrong}"
        with pytest.raises(ValueError, match=message), schedule(bitmask_up_to=wrong):
            pass
