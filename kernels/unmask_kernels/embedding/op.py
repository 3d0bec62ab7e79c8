"""embedding: the public operation, its checks, its backends and its registration.

Shapes: ids, segments (T,); word (V, D); position (P, D); segment (N, D); weight, bias (D,); y (T, D); mean, rstd (T,).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask_kernels import checks
from unmask_kernels.capability import architecture, triton_reasons
from unmask_kernels.dispatch import Backend, Family
from unmask_kernels.documents import Documents
from unmask_kernels.precision import accumulation_dtype, without_autocast
from unmask_kernels.registration import register, save, saved

from . import parts, reference
from .arguments import Arguments

__all__ = ["FAMILY", "EmbeddingCall", "embedding"]

MAX_TRITON_WIDTH = 4096  # wider rows spill registers
MAX_TRITON_SEGMENTS = 4
_INTEGERS = (torch.int64, torch.int32)


def embedding(
    ids: Tensor,
    documents: Documents,
    segments: Tensor | None,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-12,
    p: float = 0.0,
    key: Tensor | None = None,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Look up tokens, places and segments, add, normalise and drop: the first layer of BERT.

    Equivalent to  F.dropout(F.layer_norm(word[ids] + position[documents.positions] + segment[segments], (D,), weight,
    bias, eps), p).to(dtype)  with dropout read from the addressed random stream (see `philox`).  Devlin et al. 2019,
    arXiv:1810.04805.

    Args:
        ids: token ids, int64 or int32 (T,), in [0, V); T may be 0.
        documents: boundaries of the documents; places restart at 0 in each, and none is longer than P.
        segments: int64 or int32 (T,), in [0, N), or None for segment 0 everywhere.
        word, position, segment: tables (V, D), (P, D), (N, D), fp32 (any float dtype is accepted and widened).
        weight, bias: of the norm, (D,), fp32 (any float dtype is accepted and widened).
        eps: added to the variance, > 0. BERT's default.
        p: probability of dropping an element of the normalised rows, in [0, 1); a plain number.
        key: scalar int64 tensor on the device of ids, from `philox.dropout_keys`; needed when p > 0.
        dtype: of the result, fp16, bf16, fp32 or fp64; default that of word. Autocast does not change it.
        backend: "triton", "torch" or "reference"; by default the best one that can run.
    Returns:
        (T, D) in `dtype`. Dense gradients for the three tables, weight and bias, each in its own dtype; once
        differentiable (the reference: any number of times). Deterministic: the same inputs give the same bits on one
        backend and machine, without atomic additions.
    Raises:
        TypeError, ValueError: a dtype, shape or device does not match; on CPU tensors, and with UNMASK_DEBUG=1 on a
            GPU, also an id or a segment out of range.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    dtype = word.dtype if dtype is None else dtype
    _check(ids, documents, segments, word, position, segment, weight, bias, eps, p, key, dtype)
    if p == 0.0:
        key = None
    call = EmbeddingCall(ids.device.type, architecture(ids), dtype, word.shape[1], segment.shape[0])
    chosen = FAMILY.choose(backend, call)
    if chosen == "reference":
        with without_autocast(ids.device.type):
            return reference.embedding(
                ids, documents, segments, word, position, segment, weight, bias, eps=eps, p=p, key=key, dtype=dtype
            )
    wide = accumulation_dtype(dtype)
    tables = (word.to(wide), position.to(wide), segment.to(wide), weight.to(wide), bias.to(wide))
    arguments = Arguments(
        documents.positions, segments, documents.row_keys, documents.cu_seqlens, documents.order, key, eps, p, dtype
    )
    y: Tensor = _Embedding.apply(ids, *tables, arguments, chosen)  # type: ignore[no-untyped-call]
    return y


class EmbeddingCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    dtype: torch.dtype
    width: int
    segments: int


def _triton_refuses(call: EmbeddingCall) -> list[str]:
    reasons = triton_reasons(call.device)
    if call.dtype == torch.float64:
        reasons.append("dtype must be fp16, bf16 or fp32, got float64")
    if call.width > MAX_TRITON_WIDTH:
        reasons.append(f"rows up to {MAX_TRITON_WIDTH} wide stay in registers, got {call.width}; use backend 'torch'")
    if call.segments > MAX_TRITON_SEGMENTS:
        reasons.append(f"up to {MAX_TRITON_SEGMENTS} segments, got {call.segments}")
    return reasons


FAMILY = Family(
    "embedding",
    {
        # `verified` gets an architecture once the GPU tests have passed there.
        "triton": Backend("unmask_kernels.embedding._triton", _triton_refuses, verified=()),
        "torch": Backend("unmask_kernels.embedding._torch"),
        "reference": Backend("unmask_kernels.embedding.reference"),
    },
    example=lambda device, architecture, dtype: EmbeddingCall(device, architecture, dtype, width=768, segments=2),
)


def _check(
    ids: Tensor,
    documents: Documents,
    segments: Tensor | None,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    p: float,
    key: Tensor | None,
    dtype: torch.dtype,
) -> None:
    name = "embedding"
    checks.shape(name, "ids", ids, (documents.tokens,), "the tokens of documents")
    checks.dtype(name, "ids", ids, _INTEGERS)
    checks.rank(name, "word", word, "(V, D)")
    width = word.shape[1]
    if segments is not None:
        checks.shape(name, "segments", segments, (documents.tokens,), "one per token")
        checks.dtype(name, "segments", segments, _INTEGERS)
    for table_name, table in (("position", position), ("segment", segment)):
        checks.rank(name, table_name, table, "(rows, D)")
        checks.shape(name, table_name, table, (table.shape[0], width), "as wide as word")
    for vector_name, vector in (("weight", weight), ("bias", bias)):
        checks.shape(name, vector_name, vector, (width,), "one entry per column of word")
    tables = {"word": word, "position": position, "segment": segment, "weight": weight, "bias": bias}
    for table_name, table in tables.items():
        checks.dtype(name, table_name, table, checks.FLOATS)
        if table.shape[0] == 0:
            raise ValueError(f"embedding: {table_name} must have at least one row, got shape {tuple(table.shape)}")
    if dtype not in checks.FLOATS:
        raise TypeError(f"embedding: dtype must be float16, bfloat16, float32 or float64, got {dtype}")
    checks.same_device(name, "ids", ids, segments=segments, cu_seqlens=documents.cu_seqlens, **tables)
    if documents.max_seqlen > position.shape[0]:
        raise ValueError(
            f"embedding: documents.max_seqlen is {documents.max_seqlen} but position has {position.shape[0]} rows; cut "
            "documents into pieces, or make a larger table of positions"
        )
    if eps <= 0.0:
        raise ValueError(f"embedding: eps must be above 0, got {eps}; BERT uses 1e-12")
    checks.probability(name, "p", p)
    if p > 0.0:
        checks.random_address(name, p, key)
        checks.same_device(name, "ids", ids, key=key)
    checks.contents(
        name, "ids", ids, word.shape[0], "the rows of word; use the tokenizer that the model was trained with"
    )
    if segments is not None:
        checks.contents(name, "segments", segments, segment.shape[0], "the rows of segment")


# The backward gathers and adds again instead of saving the sum. What dropout keeps is saved, by the torch backend in a
# byte an element, by Triton in a bit; without dropout it is empty.
def _forward_fake(
    ids: Tensor,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    bias: Tensor,
    arguments: Arguments,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens, width = ids.shape[0], word.shape[1]
    kept, dtype = width, torch.bool
    if backend == "triton":
        kept, dtype = parts.keep_shape(width, arguments.dtype.itemsize)
    return (
        word.new_empty((tokens, width), dtype=arguments.dtype),
        word.new_empty((tokens,)),
        word.new_empty((tokens,)),
        word.new_empty((tokens, kept) if arguments.p > 0.0 else (0,), dtype=dtype),
    )


def _backward_fake(
    dy: Tensor,
    ids: Tensor,
    word: Tensor,
    position: Tensor,
    segment: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    keep: Tensor,
    arguments: Arguments,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dword, dposition, dsegment, dweight, dbias = (
        table.new_empty(tuple(table.shape)) for table in (word, position, segment, weight, weight)
    )
    return dword, dposition, dsegment, dweight, dbias


register(FAMILY, forward=_forward_fake, backward=_backward_fake)


class _Embedding(torch.autograd.Function):
    """Forward and backward operations tied together; once differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        ids: Tensor,
        word: Tensor,
        position: Tensor,
        segment: Tensor,
        weight: Tensor,
        bias: Tensor,
        arguments: Arguments,
        backend: str,
    ) -> Tensor:
        rows = (ids, word, position, segment, weight)
        y: Tensor
        y, *statistics = torch.ops.unmask.embedding_fwd(*rows, bias, *arguments, backend)
        save(ctx, *rows, *statistics, *arguments, backend)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *torch.ops.unmask.embedding_bwd(dy, *saved(ctx)), None, None)
