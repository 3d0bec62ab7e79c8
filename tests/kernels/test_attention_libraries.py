"""attention on other people's kernels: what is asked of them, shown on stand-ins with their published signatures.

The stand-ins compute by a plain formula, so that a wrong argument shows in the numbers as well as in the record.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import attention as public
from unmask_kernels.attention import FAMILY, _flash, _torch, choice, reference
from unmask_kernels.dispatch import Backend
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import attention_case, eager
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import Case, run

LENGTHS = [17, 0, 1, 22]
CASES = [
    attention_case("library", LENGTHS, head_dim=32),
    attention_case("library", LENGTHS, head_dim=32, causal=True),
    attention_case("library", LENGTHS, head_dim=32, window=3),
    attention_case("library", LENGTHS, head_dim=32, causal=True, window=3),
]
RECORD: list[dict[str, Any]] = []


def documents_of(cu: Tensor, causal: bool, left: int | None, right: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Rows of each document, and which columns each row does not see; a side of None or below 0 sees all."""
    for start, end in pairwise(cu.tolist()):
        place = torch.arange(end - start)
        ahead = place - place[:, None]
        hidden = ahead > (0 if causal else end if right is None or right < 0 else right)
        yield slice(start, end), hidden | (ahead < -(end if left is None or left < 0 else left))


def formula(q: Tensor, k: Tensor, v: Tensor, cu: Tensor, scale: float, *mask: Any) -> tuple[Tensor, Tensor]:
    """out (T, H, K) and log-sum-exp, fp32 (H, T)."""
    out, lse = torch.empty(q.shape, dtype=q.dtype), torch.empty(q.shape[1], q.shape[0])
    for rows, hidden in documents_of(cu, *mask):
        a, b, c = (x[rows].float().transpose(0, 1) for x in (q, k, v))
        scores = (a @ b.mT * scale).masked_fill(hidden, float("-inf"))
        lse[:, rows] = scores.logsumexp(-1)
        out[rows] = (scores.softmax(-1) @ c).transpose(0, 1).to(q.dtype)
    return out, lse


def gradients(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, cu: Tensor, scale: float, *mask: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv from what the forward saved; a wrong out or lse makes them wrong."""
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    for rows, hidden in documents_of(cu, *mask):
        a, b, c, do, o = (x[rows].float().transpose(0, 1) for x in (q, k, v, dout, out))
        scores = (a @ b.mT * scale).masked_fill(hidden, float("-inf"))
        p = (scores - lse[:, rows, None]).exp()
        ds = p * (do @ c.mT - (do * o).sum(-1, keepdim=True)) * scale
        for target, value in ((dq, ds @ b), (dk, ds.mT @ a), (dv, p.mT @ do)):
            target[rows] = value.transpose(0, 1).to(q.dtype)
    return dq, dk, dv


# ---- PyTorch: torch.ops.aten._flash_attention_forward and _backward, as native_functions.yaml of 2.13 has them


def aten_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    **rest: Any,
) -> tuple[Tensor, ...]:
    RECORD.append({"max": (max_q, max_k), "p": dropout_p, "debug": return_debug_mask})
    assert scale is not None
    out, lse = formula(q, k, v, cu_q, scale, is_causal, window_size_left, window_size_right)
    return out, lse, *(torch.empty(0) for _ in range(3))


def aten_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    rng_state: Tensor,
    unused: Tensor,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
) -> tuple[Tensor, ...]:
    RECORD.append({"max": (max_q, max_k), "deterministic": torch.are_deterministic_algorithms_enabled()})
    assert scale is not None
    return gradients(dout, q, k, v, out, lse, cu_q, scale, is_causal, window_size_left, window_size_right)


# ---- flash-attn 2: flash_attn.flash_attn_interface, 2.8.4


def two_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
) -> tuple[Tensor, ...]:
    RECORD.append({"max": (max_seqlen_q, max_seqlen_k), "p": dropout_p})
    out, lse = formula(q, k, v, cu_seqlens_q, softmax_scale, causal, window_size_left, window_size_right)
    return out, lse, torch.empty(0), torch.empty(0)


def two_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,
) -> Tensor:
    RECORD.append({"max": (max_seqlen_q, max_seqlen_k), "deterministic": deterministic, "softcap": softcap})
    settings = (cu_seqlens_q, softmax_scale, causal, window_size_left, window_size_right)
    for mine, theirs in zip(gradients(dout, q, k, v, out, softmax_lse, *settings), (dq, dk, dv), strict=True):
        theirs.copy_(mine)
    return torch.empty(0)


# ---- flash-attn 3: flash_attn_interface; only the arguments that a training call has


def three_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    causal: bool = False,
    window_size_left: int = -1,
    window_size_right: int = -1,
) -> tuple[Tensor, ...]:
    RECORD.append({"max": (max_seqlen_q, max_seqlen_k)})
    out, lse = formula(q, k, v, cu_seqlens_q, softmax_scale, causal, window_size_left, window_size_right)
    return out, lse, torch.empty(0), torch.empty(0)


def three_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    *,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
    softmax_scale: float,
    is_causal: bool,
    window_size_left: int,
    window_size_right: int,
    deterministic: bool = False,
) -> Tensor:
    settings = (cu_seqlens_q, softmax_scale, is_causal, window_size_left, window_size_right)
    RECORD.append({"max": (max_seqlen_q, max_seqlen_k), "deterministic": deterministic})
    for mine, theirs in zip(gradients(dout, q, k, v, out, softmax_lse, *settings), (dq, dk, dv), strict=True):
        theirs.copy_(mine)
    return torch.empty(0)


# ---- flash-attn 4: flash_attn.cute.interface, where a side without bound is None and out comes before dout


def four_forward(q: Tensor, k: Tensor, v: Tensor, *, return_lse: bool, **named: Any) -> tuple[Tensor | None, ...]:
    sides = (named["window_size_left"], named["window_size_right"])
    assert all(side is None or side >= 0 for side in sides)
    RECORD.append({"max": (named["max_seqlen_q"], named["max_seqlen_k"])})
    out, lse = formula(q, k, v, named["cu_seqlens_q"], named["softmax_scale"], named["causal"], *sides)
    return out, lse if return_lse else None, None, None


def four_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, dout: Tensor, lse: Tensor, **named: Any
) -> tuple[Tensor, ...]:
    RECORD.append({"max": (named["max_seqlen_q"], named["max_seqlen_k"]), "deterministic": named["deterministic"]})
    sides = (named["window_size_left"], named["window_size_right"])
    settings = (named["cu_seqlens_q"], named["softmax_scale"], named["causal"], *sides)
    return gradients(dout, q, k, v, out, lse, *settings)


MODULES = {
    2: (
        "flash_attn.flash_attn_interface",
        {
            "_wrapped_flash_attn_varlen_forward": two_forward,
            "_wrapped_flash_attn_varlen_backward": two_backward,
        },
    ),
    3: ("flash_attn_interface", {"_flash_attn_forward": three_forward, "_flash_attn_backward": three_backward}),
    4: ("flash_attn.cute.interface", {"_flash_attn_fwd": four_forward, "_flash_attn_bwd": four_backward}),
}


@pytest.fixture(params=["varlen_attn", 2, 3, 4])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a backend that reaches a stand-in on the CPU."""
    RECORD.clear()
    if request.param == "varlen_attn":
        for module in (_torch, choice):
            monkeypatch.setattr(module, "varlen_refuses", lambda call: [])
        with torch.library._scoped_library("aten", "IMPL") as library:
            library.impl("_flash_attention_forward", aten_forward, "CPU")
            library.impl("_flash_attention_backward", aten_backward, "CPU")
            yield "torch"
        return
    name, functions = MODULES[request.param]
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**functions))
    monkeypatch.setattr(_flash, "generation", lambda call: request.param)
    monkeypatch.setitem(FAMILY.backends, "flash", Backend(FAMILY.backends["flash"].module, lambda call: []))
    yield "flash"


def scaled(function: Any) -> Any:
    return lambda qkv, **rest: function(qkv, scale=qkv.shape[-1] ** -0.5, **rest)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_fp64_truth_and_asks_for_deterministic_gradients(case: Case, backend: str) -> None:
    inputs = case.make(torch.bfloat16)
    truth, plain = run(scaled(reference.attention), inputs.double()), run(scaled(eager), inputs)
    compare(run(partial(public, backend=backend), inputs), plain, truth)
    forward, backward = RECORD
    assert forward["max"] == backward["max"] == (22, 22)
    assert forward.get("p", 0.0) == 0.0
    assert backward["deterministic"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_static_bound_is_what_sizes_their_grids(backend: str) -> None:
    inputs = CASES[0].make(torch.bfloat16)
    documents = inputs.arguments["documents"]
    wide = type(documents).build(documents.cu_seqlens, documents.keys, longest=512)
    run(partial(public, backend=backend), inputs.change(documents=wide))
    assert [call["max"] for call in RECORD] == [(512, 512)] * 2


def test_registration_is_sound_and_statistics_are_declared(backend: str) -> None:
    a = CASES[2].make(torch.bfloat16).arguments
    d = a["documents"]
    rest = (d.cu_seqlens, d.keys, d.order, d.tiles, None, 0.0, False, 3, 0.2, d.longest, backend)
    contracts.opcheck(torch.ops.unmask.attention_fwd.default, (a["qkv"], *rest))
    out, statistics = torch.ops.unmask.attention_fwd(a["qkv"], *rest)
    assert (statistics.dtype, tuple(statistics.shape)) == (torch.float32, (2, 40))
    contracts.opcheck(torch.ops.unmask.attention_bwd.default, (out, a["qkv"], out, statistics, *rest))


def test_other_strides_and_no_tokens_at_all(backend: str) -> None:
    function = partial(public, backend=backend)
    inputs = CASES[0].make(torch.bfloat16)
    apart = torch.zeros(40, 3, 2, 64, dtype=torch.bfloat16)[..., :32].copy_(inputs.arguments["qkv"])
    for name, value in run(function, inputs.change(qkv=apart)).items():
        assert torch.equal(value, run(function, inputs)[name])
    RECORD.clear()
    empty = run(function, attention_case("nothing", [0, 0], head_dim=32).make(torch.bfloat16))
    assert {tuple(value.shape) for value in empty.values()} == {(0, 2, 32), (0, 3, 2, 32)}
    assert not RECORD, "a kernel was launched for no tokens"


def test_deterministic_algorithms_stay_as_the_caller_set_them() -> None:
    from unmask_kernels.attention._varlen import _deterministic

    memory: Any = torch.utils.deterministic
    for enabled, warned_only in ((False, False), (True, True), (True, False)):
        torch.use_deterministic_algorithms(enabled, warn_only=warned_only)
        try:
            with _deterministic():
                assert torch.are_deterministic_algorithms_enabled()
                assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.are_deterministic_algorithms_enabled() == enabled
            assert torch.is_deterministic_algorithms_warn_only_enabled() == warned_only
            assert memory.fill_uninitialized_memory
        finally:
            torch.use_deterministic_algorithms(False)
