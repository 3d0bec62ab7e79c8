"""embedding: the public operation, its checks and its registration."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import checks
from ..documents import Documents
from ..precision import accumulation_dtype, without_autocast
from ..registration import operation
from . import reference
from .arguments import Arguments, BackwardArguments, Gradients, Results
from .choice import FAMILY, describe
from .row_layout import bitmask_layout

__all__ = ["embedding"]


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
    """Look up words, positions and segments, add, normalise and drop: the first layer of BERT.

    Equivalent to  F.dropout(F.layer_norm(word[ids] + position[documents.positions] + segment[segments], (D,), weight,
    bias, eps), p).to(dtype)  with dropout read from the addressed random stream (see `philox`).  Devlin et al. 2019,
    arXiv:1810.04805.

    Args:
        ids: token ids, int64 or int32 (T,), in [0, V); T may be 0.
        documents: boundaries of the documents; positions restart at 0 in each, and none is longer than P.
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
    lists = (documents.positions, documents.row_keys, documents.cu_seqlens, documents.order)
    arguments = Arguments(ids, segments, *lists, word, position, segment, weight, bias, key, eps, p, dtype)
    _check(documents, arguments)
    arguments = _cast(arguments)
    chosen = FAMILY.choose(backend, describe(arguments))
    if chosen == "reference":
        with without_autocast(ids.device.type):
            return reference.embedding(
                ids, documents, segments, word, position, segment, weight, bias, eps=eps, p=p, key=key, dtype=dtype
            )
    y: Tensor = _embedding(arguments, chosen)
    return y


def _check(documents: Documents, arguments: Arguments) -> None:
    name = "embedding"
    ids, segments, _, _, _, _, word, position, segment, weight, bias, key, eps, p, dtype = arguments
    checks.shape(name, "ids", ids, (documents.tokens,), "the tokens of documents")
    checks.dtype(name, "ids", ids, checks.INTEGERS)
    checks.rank(name, "word", word, "(V, D)")
    width = word.shape[1]
    checks.shape(name, "segments", segments, (documents.tokens,), "one per token")
    checks.dtype(name, "segments", segments, checks.INTEGERS)
    for table_name, table in (("position", position), ("segment", segment)):
        checks.rank(name, table_name, table, "(rows, D)")
        checks.shape(name, table_name, table, (table.shape[0], width), "as wide as word")
    checks.shape(name, "weight", weight, (width,), "one entry per column of word")
    checks.shape(name, "bias", bias, (width,), "one entry per column of word")
    parameters = {"word": word, "position": position, "segment": segment, "weight": weight, "bias": bias}
    for table_name, table in parameters.items():
        checks.dtype(name, table_name, table, checks.FLOATS)
        if table.shape[0] == 0:
            raise ValueError(f"embedding: {table_name} must have at least one row, got shape {tuple(table.shape)}")
    if dtype not in checks.FLOATS:
        raise TypeError(f"embedding: dtype must be float16, bfloat16, float32 or float64, got {dtype}")
    checks.same_device(name, "ids", ids, segments=segments, cu_seqlens=documents.cu_seqlens, **parameters)
    if documents.max_seqlen > position.shape[0]:
        raise ValueError(
            f"embedding: documents.max_seqlen is {documents.max_seqlen} but position has {position.shape[0]} rows; cut "
            "documents into pieces, or make a larger table of positions"
        )
    if eps <= 0.0:
        raise ValueError(f"embedding: eps must be above 0, got {eps}; BERT uses 1e-12")
    checks.probability(name, "p", p)
    checks.random_address(name, p, key)
    if p > 0.0:
        checks.same_device(name, "ids", ids, key=key)
    why = "the rows of word; use the tokenizer that the model was trained with"
    checks.contents(name, "ids", ids, word.shape[0], why)
    checks.contents(name, "segments", segments, segment.shape[0], "the rows of segment")


def _cast(arguments: Arguments) -> Arguments:
    """The call with wide tables, and without a key where nothing is dropped."""
    wide = accumulation_dtype(arguments.dtype)
    return arguments._replace(
        word=arguments.word.to(wide),
        position=arguments.position.to(wide),
        segment=arguments.segment.to(wide),
        weight=arguments.weight.to(wide),
        bias=arguments.bias.to(wide),
        key=arguments.key if arguments.p > 0.0 else None,
    )


def _forward_fake(arguments: Arguments, backend: str) -> Results:
    word, dtype = arguments.word, arguments.dtype
    tokens, width = arguments.ids.shape[0], word.shape[1]
    columns, keep_dtype = width, torch.bool
    if backend == "triton":
        bitmask = bitmask_layout(width, dtype.itemsize)
        columns, keep_dtype = bitmask.integers, bitmask.dtype
    return Results(
        y=word.new_empty((tokens, width), dtype=dtype),
        mean=word.new_empty((tokens,)),
        rstd=word.new_empty((tokens,)),
        keep=word.new_empty((tokens, columns) if arguments.p > 0.0 else (0,), dtype=keep_dtype),
    )


def _backward_fake(arguments: BackwardArguments, backend: str) -> Gradients:
    parameters = (arguments.word, arguments.position, arguments.segment, arguments.weight, arguments.weight)
    return Gradients(*(parameter.new_empty(tuple(parameter.shape)) for parameter in parameters))


_embedding = operation(FAMILY, forward=_forward_fake, backward=_backward_fake)
