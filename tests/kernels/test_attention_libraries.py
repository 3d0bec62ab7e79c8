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
from unmask_kernels.attention.arguments import Arguments
from unmask_kernels.dispatch import Backend
from unmask_kernels.testing import contracts
from unmask_kernels.testing.attention import attention_case, plain_attention
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import Case, lengths_to_documents, run

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


# names of the arguments that a call of ours may use, as published: PyTorch 2.13, flash-attention of August 2026
LISTS = "cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k"
ATEN = f"{LISTS} dropout_p causal"
ATEN_NAMED = "softmax_scale window_size_left window_size_right seqused_k alibi_slopes block_table num_splits"
TWO = f"{LISTS} dropout_p softmax_scale causal window_size_left window_size_right softcap alibi_slopes"
THREE = "softmax_scale causal window_size_left window_size_right attention_chunk softcap"
SIGNATURES = {
    "_flash_attention_forward": f"q k v {ATEN} return_debug_mask {ATEN_NAMED}",
    "_flash_attention_backward": f"dout q k v out lse {ATEN} rng_state unused {ATEN_NAMED}",
    "_wrapped_flash_attn_varlen_forward": f"q k v {TWO} return_softmax block_table leftpad_k seqused_k",
    "_wrapped_flash_attn_varlen_backward": f"dout q k v out lse dq dk dv {TWO} deterministic rng_state",
    "_flash_attn_forward": f"q k v k_new v_new qv out_ {LISTS} seqused_q seqused_k page_table {THREE}",
    "_flash_attn_backward": (
        "dout q k v out lse cu_seqlens_q cu_seqlens_k sequed_q sequed_k max_seqlen_q max_seqlen_k dq dk dv "
        "softmax_scale is_causal window_size_left window_size_right softcap deterministic sm_margin"
    ),
    "_flash_attn_fwd": (
        f"q k v qv {LISTS} seqused_q min_seqlen_k page_table softmax_scale causal softcap window_size_left "
        "window_size_right learnable_sink return_lse"
    ),
    "_flash_attn_bwd": (
        "q k v out dout lse softmax_scale causal softcap window_size_left window_size_right m_block_size "
        f"{LISTS} deterministic dq dk dv"
    ),
}
MODULES = {
    2: "flash_attn.flash_attn_interface",
    3: "flash_attn_interface",
    4: "flash_attn.cute.interface",
}
OF_MODULE = {
    2: ("_wrapped_flash_attn_varlen_forward", "_wrapped_flash_attn_varlen_backward"),
    3: ("_flash_attn_forward", "_flash_attn_backward"),
    4: ("_flash_attn_fwd", "_flash_attn_bwd"),
}


def stand_in(function: str) -> Any:
    """Records a call by the published names of its arguments, and computes what it asks for."""
    names = SIGNATURES[function].split()
    in_place = {"dq", "dk", "dv"} <= set(names) and function != "_flash_attn_bwd"

    def call(*positional: Any, **named: Any) -> Any:
        named = {{"scale": "softmax_scale"}.get(name, name): value for name, value in named.items()}
        assert not set(named) - set(names), "an argument of that name does not exist"
        a = {**dict(zip(names, positional, strict=False)), **named}
        # as each of them demands
        assert all(a[name].stride(-1) == 1 for name in ("q", "k", "v", "dout", "out") if name in a)
        RECORD.append({**a, "global": torch.are_deterministic_algorithms_enabled()})
        causal = a["is_causal"] if "is_causal" in a else a["causal"]
        settings = (a["cu_seqlens_q"], a["softmax_scale"], causal, a["window_size_left"], a["window_size_right"])
        if "dout" not in names:
            out, lse = formula(a["q"], a["k"], a["v"], *settings)
            return out, lse, *(torch.empty(0) for _ in range(3 if function.startswith("_flash_attention") else 2))
        found = gradients(*(a[name] for name in ("dout", "q", "k", "v", "out", "lse")), *settings)
        for name, value in zip(("dq", "dk", "dv"), found, strict=True) if in_place else ():
            a[name].copy_(value)
        return torch.empty(0) if in_place else found

    return call


@pytest.fixture(params=["varlen_attn", 2, 3, 4])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a backend that reaches a stand-in on the CPU."""
    RECORD.clear()
    if request.param == "varlen_attn":
        for module in (_torch, choice):
            monkeypatch.setattr(module, "varlen_refuses", lambda call: [])
        with torch.library._scoped_library("aten", "IMPL") as library:
            for name in ("_flash_attention_forward", "_flash_attention_backward"):
                library.impl(name, stand_in(name), "CPU")
            yield "torch"
        return
    functions = {name: stand_in(name) for name in OF_MODULE[request.param]}
    stand_ins: Any = SimpleNamespace(**functions)
    monkeypatch.setitem(sys.modules, MODULES[request.param], stand_ins)
    monkeypatch.setattr(_flash, "flash_attn_version", lambda call: request.param)
    monkeypatch.setitem(FAMILY.backends, "flash", Backend(lambda call: []))
    yield "flash"


def scaled(function: Any) -> Any:
    return lambda qkv, **rest: function(qkv, scale=qkv.shape[-1] ** -0.5, **rest)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_fp64_truth_and_asks_for_deterministic_gradients(case: Case, backend: str) -> None:
    inputs = case.make(torch.bfloat16)
    truth, plain = run(scaled(reference.attention), inputs.double()), run(scaled(plain_attention), inputs)
    compare(run(partial(public, backend=backend), inputs), plain, truth)
    forward, backward = RECORD
    for call in (forward, backward):
        assert call["max_seqlen_q"] == call["max_seqlen_k"] == 22
        assert call.get("dropout_p", 0.0) == call.get("softcap", 0.0) == 0.0
        assert call["cu_seqlens_q"] is call["cu_seqlens_k"] or backend == "torch"
        left = -1 if inputs.arguments["window"] is None else inputs.arguments["window"]
        sides = [
            -1 if call[f"window_size_{side}"] is None else call[f"window_size_{side}"] for side in ("left", "right")
        ]
        assert sides == [left, 0 if inputs.arguments["causal"] else left]
    assert backward.get("deterministic", backward["global"])
    assert forward.get("return_lse", True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_static_bound_is_what_sizes_their_grids(backend: str) -> None:
    inputs = CASES[0].make(torch.bfloat16)
    documents = inputs.arguments["documents"]
    wide = type(documents).build(documents.cu_seqlens, documents.keys, max_seqlen=512)
    run(partial(public, backend=backend), inputs.change(documents=wide))
    assert [(call["max_seqlen_q"], call["max_seqlen_k"]) for call in RECORD] == [(512, 512)] * 2


def test_flash_attn_4_is_given_none_where_nothing_bounds_a_row() -> None:
    settings: dict[str, Any] = {"key": None, "p": 0.0, "window": None, "scale": 1.0}
    causal = Arguments.of(torch.empty(9, 3, 1, 8), lengths_to_documents([9]), causal=True, **settings)
    assert [*_flash._window(causal, 4).values()] == [None, 0]
    assert [*_flash._window(causal._replace(window=5, causal=False), 4).values()] == [5, 5]
    assert [*_flash._window(causal, 2).values()] == [-1, 0]


def test_registration_is_sound_and_its_lse_is_declared(backend: str) -> None:
    a = CASES[2].make(torch.bfloat16).arguments
    d = a["documents"]
    rest = (d.cu_seqlens, d.keys, d.order, d.tiles, None, 0.0, False, 3, 0.2, d.max_seqlen, 512, 0, backend)
    contracts.opcheck(torch.ops.unmask.attention_fwd.default, (a["qkv"], *rest))
    out, lse, keep = torch.ops.unmask.attention_fwd(a["qkv"], *rest)
    assert (lse.dtype, tuple(lse.shape)) == (torch.float32, (2, 40))
    contracts.opcheck(torch.ops.unmask.attention_bwd.default, (out, a["qkv"], out, lse, keep, *rest))


def test_other_strides_and_no_tokens_at_all(backend: str) -> None:
    function = partial(public, backend=backend)
    inputs = CASES[0].make(torch.bfloat16)
    apart = torch.zeros(40, 3, 2, 64, dtype=torch.bfloat16)[..., :32].copy_(inputs.arguments["qkv"])
    for name, value in run(function, inputs.change(qkv=apart)).items():
        assert torch.equal(value, run(function, inputs)[name])
    leaf = inputs.arguments["qkv"].requires_grad_()
    torch.autograd.grad(function(**inputs.change(qkv=leaf).arguments).sum(), leaf)  # an expanded gradient comes in
    RECORD.clear()
    empty = run(function, attention_case("nothing", [0, 0], head_dim=32).make(torch.bfloat16))
    assert {tuple(value.shape) for value in empty.values()} == {(0, 2, 32), (0, 3, 2, 32)}
    assert not RECORD, "a kernel was launched for no tokens"


def test_deterministic_algorithms_stay_as_the_caller_set_them() -> None:
    from unmask_kernels.attention._torch import _deterministic

    memory: Any = torch.utils.deterministic
    for enabled, warned_only in ((False, False), (True, True), (True, False)):
        torch.use_deterministic_algorithms(enabled, warn_only=warned_only)
        try:
            with _deterministic():
                # filling memory is for tests: only somebody who asked for all of it pays for it
                assert memory.fill_uninitialized_memory == (enabled and not warned_only)
                assert torch.are_deterministic_algorithms_enabled()
                assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.are_deterministic_algorithms_enabled() == enabled
            assert torch.is_deterministic_algorithms_warn_only_enabled() == warned_only
            assert memory.fill_uninitialized_memory
        finally:
            torch.use_deterministic_algorithms(False)
