"""attention: the public operation, its checks and its registration.

Shapes: qkv (T, 3, H, K); out (T, H, K); cu_seqlens (S + 1,); keys, order (S,); tiles: see `Documents`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from ..documents import Documents
from ..precision import autocast_dtype, without_autocast
from ..registration import operation
from . import reference
from .arguments import Arguments, BackwardArguments, Gradients, Results, bitmask_shape, keep_bytes
from .choice import FAMILY, describe, saves_keep, saves_lse

__all__ = ["attention"]

MAX_DROPOUT_LENGTH = 1 << 16


def attention(
    qkv: Tensor,
    documents: Documents,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    p: float = 0.0,
    key: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Let every token attend to the tokens of its own document.

    Equivalent to  F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=causal, scale=scale)  of each
    document alone, without padding or a mask, and with dropout read from the addressed random stream (see
    `philox`): a packed document gives the output it gives alone.  Vaswani et al. 2017, arXiv:1706.03762; Zhao
    et al. 2024, arXiv:2402.13991; windows: Beltagy et al. 2020, arXiv:2004.05150.

    Args:
        qkv: queries, keys and values, (T, 3, H, K), fp16, bf16, fp32 or fp64; contiguous in the last dimension,
            as one projection `linear(x).view(T, 3, H, K)` gives them.
        documents: boundaries of the documents, on the device of qkv.
        causal: whether a token sees only itself and what comes before it in its document.
        window: how many tokens a token sees on either side of itself, at least 0; with causal, on the left only. It
            sees 2 window + 1 tokens at most, so ModernBERT's `local_attention` of 128 is a window of 64. Default: all.
        scale: factor of the scores. Default: K ** -0.5.
        p: probability of dropping an attention probability, in [0, 1); a plain number.
        key: scalar int64 tensor on the device of qkv, from `philox.dropout_keys`; needed when p > 0.
        backend: "triton", "flash", "torch" or "reference"; by default the best one that can run and is verified.
    Returns:
        (T, H, K) in the dtype of qkv; under `torch.autocast`, qkv is first cast to its dtype. Gradient for qkv.
        Deterministic: the same inputs give the same bits on one backend and machine.
    Raises:
        TypeError, ValueError: a dtype, shape or device does not match.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    _check(qkv, documents, window, p, key)
    _check_scores(causal, scale)
    qkv = qkv.to(autocast_dtype(qkv))
    if scale is None:
        scale = float(qkv.shape[3]) ** -0.5
    arguments = Arguments.of(qkv, documents, key=key, p=p, causal=causal, window=window, scale=scale)
    chosen = FAMILY.choose(backend, describe(arguments))
    if chosen == "reference":
        with without_autocast(qkv.device.type):
            return reference.attention(qkv, documents, causal=causal, window=window, scale=scale, p=p, key=key)
    out: Tensor = _attention(arguments, chosen)
    return out


def _check(qkv: Tensor, documents: Documents, window: int | None, p: float, key: Tensor | None) -> None:
    name = "attention"
    if not isinstance(documents, Documents):
        raise TypeError(
            f"attention: documents must be Documents, got {type(documents).__name__}; "
            "make them with Documents.build(cu_seqlens)"
        )
    checks.rank(name, "qkv", qkv, "(T, 3, H, K)")
    checks.dtype(name, "qkv", qkv, checks.FLOATS)
    if qkv.shape[1] != 3:
        raise ValueError(f"attention: qkv must hold 3 parts in dimension 1 (q, k, v), got shape {tuple(qkv.shape)}")
    if qkv.shape[0] != documents.tokens:
        raise ValueError(
            f"attention: qkv must have one row per token of documents ({documents.tokens}), got {qkv.shape[0]}"
        )
    checks.last_dim_contiguous(name, "qkv", qkv)
    lists = {name: getattr(documents, name) for name in ("cu_seqlens", "keys", "order", "tiles")}
    checks.same_device(name, "qkv", qkv, **lists)
    if window is not None and not (isinstance(window, int) and window >= 0):
        raise ValueError(
            f"attention: window must be a whole number of tokens, or None to see the whole document, got {window!r}"
        )
    checks.probability(name, "p", p)
    checks.random_address(name, p, key)
    if p > 0.0:
        checks.same_device(name, "qkv", qkv, key=key)
        if documents.max_seqlen > MAX_DROPOUT_LENGTH:
            raise ValueError(
                f"attention: with dropout a document may have {MAX_DROPOUT_LENGTH} tokens, the rows a random "
                f"address can name, documents.max_seqlen is {documents.max_seqlen}; pass p=0.0"
            )


def _check_scores(causal: bool, scale: float | None) -> None:
    if not isinstance(causal, bool):
        raise TypeError(f"attention: causal must be True or False, got {causal!r}")
    # comparisons, unlike math.isfinite, can be traced; NaN is in no range
    if scale is not None and not (isinstance(scale, int | float) and -math.inf < scale < math.inf):
        raise ValueError(
            f"attention: scale must be a finite number, got {scale!r}; leave it out, and it is head_dim ** -0.5"
        )


def _forward_fake(arguments: Arguments, backend: str) -> Results:
    qkv = arguments.qkv
    tokens, _, heads, width = qkv.shape
    call = describe(arguments)
    lse = (heads, tokens) if saves_lse(backend, call) else (0,)
    if backend == "triton":
        keep = qkv.new_empty(bitmask_shape(arguments), dtype=torch.int32)
    else:
        saved = (heads, tokens, keep_bytes(arguments)) if saves_keep(backend, call) else (0,)
        keep = qkv.new_empty(saved, dtype=torch.uint8)
    return Results(out=qkv.new_empty((tokens, heads, width)), lse=qkv.new_empty(lse, dtype=torch.float32), keep=keep)


def _backward_fake(arguments: BackwardArguments, backend: str) -> Gradients:
    return Gradients(dqkv=arguments.qkv.new_empty(tuple(arguments.qkv.shape)))


_attention = operation(FAMILY, forward=_forward_fake, backward=_backward_fake)
