"""mlm_loss by chunks: what is held at a time, what waits for the backward, and that the pieces are the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unmask_kernels import mlm_loss as public
from unmask_kernels.mlm_loss import FAMILY, _torch, chunks
from unmask_kernels.mlm_loss.arguments import Arguments, BackwardArguments
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.inputs import run
from unmask_kernels.testing.mlm_loss import mlm_loss_case

SMALL = mlm_loss_case("small", tokens=30, width=24, vocabulary=101, masked=9, unused=2)

everywhere = pytest.mark.parametrize("target", backends_here("mlm_loss"))


def loss_on(target: Target) -> Any:
    return lambda **arguments: public(backend=target.backend, **arguments).loss_sum


@everywhere
@pytest.mark.parametrize("bias", [True, False])
def test_chunks_add_up_to_the_whole(bias: bool, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if target.backend == "reference":
        pytest.skip("the reference has no chunks")
    case = mlm_loss_case("chunks", tokens=30, width=24, vocabulary=101, masked=9, unused=2, bias=bias)
    inputs = case.make(torch.float32, target.device)
    whole = run(loss_on(target), inputs)
    monkeypatch.setitem(chunks._CHUNK_BYTES, target.backend, 3 * 128 * 4)
    assert chunks.chunk_sizes(target.backend, target.device, 11, 101, 4).number == 4
    pieces = run(loss_on(target), inputs)
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("slots", [0, 1, 4095, 20_000, 1_000_003])
@pytest.mark.parametrize("vocabulary", [1, 21128, 30522, 50368, 4_000_037])
def test_a_chunk_has_at_most_256_megabytes(vocabulary: int, slots: int, backend: str) -> None:
    number, rows, columns = chunks.chunk_sizes(backend, "cuda", slots, vocabulary, 2)
    assert rows * columns * 2 <= 256 << 20
    assert columns >= vocabulary and columns % 64 == 0
    assert (number - 1) * rows <= slots <= number * rows
    # the last chunk, which waits for the backward, is not empty
    assert slots == 0 or slots - (number - 1) * rows > 0


@pytest.mark.parametrize("name", ["_CACHED", "_WIDENED"])
def test_rows_are_widened_in_blocks_on_every_device(name: str) -> None:
    device = {"_CACHED": "cpu", "_WIDENED": "meta"}[name]
    blocks = list(_torch._row_blocks(torch.empty(1, 1, device=device).expand(5000, 1 << 16)))
    assert (blocks[0].start, blocks[-1].stop >= 5000) == (0, True)
    assert len(blocks) > 1
    assert {block.stop - block.start for block in blocks} == {getattr(_torch, name) >> 16}


@everywhere
def test_never_holds_more_than_its_chunk_of_logits(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if target.backend == "reference":
        pytest.skip("the reference holds all logits")
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(o.untyped_storage().nbytes() for o in (out,) if isinstance(o, Tensor) and o.dim() == 2)
            return out

    case = mlm_loss_case("long", tokens=60, width=8, vocabulary=501, masked=53)
    monkeypatch.setitem(chunks._CHUNK_BYTES, target.backend, limit := 7 * 512 * 4)
    inputs = case.make(torch.float32, target.device)
    with Watch():  # type: ignore[no-untyped-call]
        run(loss_on(target), inputs)
    # the table, padded, is larger than a chunk here
    assert max(sizes) <= max(limit, 512 * 8 * 4)
    assert max(sizes) < 53 * 501 * 4


@everywhere
def test_makes_no_weight_gradient_for_a_frozen_table(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    if target.backend == "reference":
        pytest.skip("autograd decides")
    monkeypatch.setattr(chunks, "_weight_gradient", None)
    arguments = dict(SMALL.make(torch.float32, target.device).arguments)
    hidden = arguments["hidden"].requires_grad_()
    loss = public(backend=target.backend, **arguments).loss_sum
    assert torch.autograd.grad(loss, hidden)[0].any()


@everywhere
def test_a_graph_that_is_kept_gives_its_gradients_again(target: Target) -> None:
    arguments = dict(SMALL.make(torch.float32, target.device).arguments)
    leaves = [arguments[name].requires_grad_() for name in ("hidden", "weight", "bias")]
    loss = public(backend=target.backend, **arguments).loss_sum
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    again = torch.autograd.grad(-2 * loss, leaves)
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(other, -2 * one)


@everywhere
def test_16_bit_gradients_are_scaled_by_what_16_bits_cannot_hold(target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("autograd scales")
    arguments = SMALL.make(torch.bfloat16, target.device).arguments
    module = FAMILY.module(target.backend)
    results = module.forward(Arguments(**arguments, with_gradients=True))
    known = {**arguments, **results._asdict(), "needs_weight": True}
    saved = {name: known[name] for name in BackwardArguments._fields if name != "dloss"}
    plain = module.backward(BackwardArguments(torch.tensor(1.0, device=target.device), **saved)).dhidden.float()
    mixed: list[set[torch.dtype]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.mul.Tensor:
                mixed.append({arg.dtype for arg in args if isinstance(arg, Tensor)})
            return func(*args, **(kwargs or {}))

    scale = torch.tensor(1 / 3, device=target.device)  # to which bf16 adds its 512th part
    with Watch():  # type: ignore[no-untyped-call]
        scaled = module.backward(BackwardArguments(scale, **saved)).dhidden.float()
    # on a CPU the scalar keeps its digits; a GPU rounds it first
    assert mixed and all(len(dtypes) == 1 for dtypes in mixed)
    ratio = (scaled * plain).sum() / plain.square().sum()
    assert abs(float(ratio / scale) - 1) < 2.0**-11


@everywhere
@pytest.mark.parametrize("frozen", [False, True], ids=["no_grad", "frozen"])
def test_makes_no_gradients_in_evaluation(frozen: bool, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("autograd decides")
    made: list[bool] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.unmask.mlm_loss_fwd.default:
                made.append(args[5])
            return func(*args, **(kwargs or {}))

    arguments = dict(SMALL.make(torch.float32, target.device).arguments)
    arguments["weight"].requires_grad_(not frozen)
    with Watch(), torch.set_grad_enabled(frozen):  # type: ignore[no-untyped-call]
        result = public(backend=target.backend, **arguments)
    arguments["weight"].requires_grad_()
    with Watch():  # type: ignore[no-untyped-call]
        expected = public(backend=target.backend, **arguments).loss_sum
    assert made == [False, True]
    torch.testing.assert_close(result.loss_sum, expected.detach())
