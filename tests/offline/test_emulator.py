"""Compiled Triton kernels, emulated on the CPU, give the right numbers, without races or accesses out of bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

import unmask_kernels  # noqa: E402
from offline.emulator import emulated  # noqa: E402
from unmask_kernels._triton import launch  # noqa: E402
from unmask_kernels._triton.launch import OPTIONS  # noqa: E402
from unmask_kernels.attention import schedule  # noqa: E402
from unmask_kernels.capability import INTERPRETING  # noqa: E402
from unmask_kernels.testing import contracts  # noqa: E402
from unmask_kernels.testing.attention import attention_case  # noqa: E402
from unmask_kernels.testing.compare import same_bits  # noqa: E402
from unmask_kernels.testing.distill import (  # noqa: E402
    hidden_case,
    prediction_case,
    relation_case,
    run_distill,
    score_case,
)
from unmask_kernels.testing.embedding import embedding_case  # noqa: E402
from unmask_kernels.testing.gelu import gelu_case  # noqa: E402
from unmask_kernels.testing.inputs import Case, run  # noqa: E402
from unmask_kernels.testing.layer_norm import layer_norm_case  # noqa: E402
from unmask_kernels.testing.linear_gelu import linear_gelu_case  # noqa: E402
from unmask_kernels.testing.masking import masking_case  # noqa: E402
from unmask_kernels.testing.mlm_loss import mlm_loss_case  # noqa: E402

pytestmark = pytest.mark.skipif(INTERPRETING, reason="an interpreted kernel cannot be compiled")


def attend(name: str, lengths: list[int], **settings: Any) -> Case:
    return attention_case(name, lengths, heads=1, **settings)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Gram matrices times rows in fp32: the emulator has no products of tf32."""
    module = unmask_kernels.FAMILIES["distill"].module("triton")
    right = module._tile

    def tile(arguments: Any) -> Any:
        made, options = right(arguments)
        return made._replace(split=False), options

    with mock.patch.object(module, "_tile", tile):
        yield


Form = Callable[[], AbstractContextManager[None]]
FEW: dict[str, tuple[Case, int, Form]] = {
    "attention-short": (attend("short", [40, 64, 100], head_dim=32), 90, nullcontext),
    "attention-fused": (attend("fused", [70], p=0.1), 90, nullcontext),
    "distill": (score_case("tiles", [20, 3], heads=1, head_dim=26, teacher_dim=32), 90, nullcontext),
    "layer_norm": (layer_norm_case(7, 40, p=0.3, x_bias=True), 80, nullcontext),
    "masking": (masking_case("words", [60, 0, 1, 2, 17, 128], words=0.6), 90, nullcontext),
}
MANY: dict[str, tuple[Case, Form]] = {
    **{
        f"attention-short-{head_dim}": (attend("short", [40, 64], head_dim=head_dim, p=p), nullcontext)
        for head_dim, p in ((32, 0.0), (64, 0.1), (96, 0.1), (128, 0.0))
    },
    "attention-short-128-tokens": (attend("short", [128, 66]), nullcontext),
    "attention-short-128-tokens-window": (attend("short", [100, 65], window=20), nullcontext),
    "attention-fused": (attend("fused", [300, 140]), nullcontext),
    "attention-fused-dropout": (attend("fused", [200], p=0.1), nullcontext),
    "attention-fused-window": (attend("fused", [300], window=40), nullcontext),
    "attention-fused-narrow": (attend("fused", [300], head_dim=32, causal=True), nullcontext),
    "attention-drawn": (attend("drawn", [200, 40], p=0.1), partial(schedule, bitmask_up_to=0)),
    "attention-two_kernels": (attend("two", [200, 70], p=0.1), partial(schedule, fused_up_to=64)),
    "attention-wide": (attend("wide", [200], head_dim=96), nullcontext),
    "attention-widest": (attend("wide", [200], head_dim=128, causal=True), nullcontext),
    "attention-padded": (attend("padded", [140, 40], head_dim=26, p=0.1), nullcontext),
    "attention-padded-window": (attend("padded", [140, 40], head_dim=26, window=20), nullcontext),
    "attention-padded-wide": (attend("padded", [140, 40], head_dim=80, p=0.1), nullcontext),
    "distill-score": (score_case("gram", [260, 40], heads=1, head_dim=26), without_tf32),
    "distill-score-window": (score_case("window", [70, 9], heads=1, head_dim=26, window=20), nullcontext),
    "distill-relation": (relation_case("rows", [70, 9], heads=1, head_dim=26), nullcontext),
    "distill-hidden": (hidden_case(70, 26, 40), nullcontext),
    "distill-prediction": (prediction_case(3, 300), nullcontext),
    "embedding": (embedding_case([20, 7, 30], 256, p=0.1), nullcontext),
    "gelu": (gelu_case(20, 300), nullcontext),
    "gelu-gated": (gelu_case(20, 300, activation="geglu"), nullcontext),
    "layer_norm-wide": (layer_norm_case(20, 312, p=0.1, x_bias=True), nullcontext),
    "linear_gelu": (linear_gelu_case(150, 96, 600), nullcontext),
    "linear_gelu-gated": (linear_gelu_case(150, 64, 400, activation="geglu"), nullcontext),
    "masking-tokens": (masking_case("tokens", [60, 0, 1, 2, 17, 128], words=None), nullcontext),
    "mlm_loss": (mlm_loss_case("loss", tokens=20, width=16, vocabulary=5000, masked=9), nullcontext),
}


def check(family: str, case: Case, form: Form, dtype: torch.dtype, architecture: int) -> None:
    inputs = case.make(dtype)

    def call(backend: str, **arguments: Any) -> Any:
        function = run_distill if family == "distill" else getattr(unmask_kernels, family)
        result = function(backend=backend, **arguments)
        return getattr(result, "loss_sum", result)

    # a single program, which computes one item after the other
    one_program = mock.patch.object(launch, "MOST_PROGRAMS", 1)
    with form(), one_program, contracts.poisoned_memory(), emulated(architecture) as found:
        ours = run(partial(call, "triton"), inputs)
    assert not found
    if family == "masking":
        return same_bits(ours, run(partial(call, "reference"), inputs), "compiled and reference")
    truth = run(partial(call, "reference"), inputs.double())
    for name, value in ours.items():
        # the bound is wide: the test looks for wrong layouts and lost tiles, not for rounding
        error = (value.double() - truth[name]).norm() / truth[name].norm()
        assert error < 4 * torch.finfo(dtype).eps, f"{name} is off by {error:.3g}"
    return None


@pytest.mark.parametrize("name", FEW)
def test_compiled_kernels_are_right_and_free_of_races(name: str) -> None:
    case, architecture, form = FEW[name]
    check(name.split("-")[0], case, form, torch.bfloat16, architecture)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", MANY)
def test_all_compiled_kernels_are_right_and_free_of_races(name: str, dtype: torch.dtype, architecture: int) -> None:
    case, form = MANY[name]
    check(name.split("-")[0], case, form, dtype, architecture)


@triton.jit
def _turn_kernel(x_ptr, y_ptr, SIZE: tl.constexpr, BARRIER: tl.constexpr) -> None:
    place = tl.arange(0, SIZE)
    tl.store(x_ptr + place, place)
    if BARRIER:
        tl.debug_barrier()
    tl.store(y_ptr + place, tl.load(x_ptr + SIZE - 1 - place))


def turned(size: int, room: int, barrier: bool) -> tuple[Tensor, list[str]]:
    x, y = torch.zeros(room, dtype=torch.int32), torch.zeros(size, dtype=torch.int32)
    with emulated(90) as found:
        _turn_kernel[(1,)](x, y, SIZE=size, BARRIER=barrier, num_warps=4, **OPTIONS)
    return y, [*found]


def test_what_another_warp_wrote_is_only_read_behind_a_barrier() -> None:
    y, found = turned(256, 256, barrier=True)
    assert y.tolist() == [*range(255, -1, -1)] and not found
    _, found = turned(256, 256, barrier=False)
    assert found and all("global memory that another warp wrote is read without a barrier" in each for each in found)


def test_an_access_out_of_bounds_is_refused() -> None:
    with pytest.raises(IndexError, match=r"global memory is accessed out of bounds by st.global"):
        turned(256, 200, barrier=True)
