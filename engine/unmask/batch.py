"""PackedBatch: a micro-batch of whole documents in one flat row, which the data make and the model reads.

    ids        [CLS] t t t [SEP] [CLS] t t [SEP] ... [PAD] [PAD]      (T,)
    documents  |---- doc 0 ----| |--- doc 1 ---| ... |-- inert -|     S slots
    masked     rows of `ids` that are predicted                       (M,), labels -100 in unused slots

The capacities T, S and M are fixed for a run, while the contents change from batch to batch. Unused tokens are [PAD] in
inert documents, which no loss reads. So shapes never change, and no kernel needs a rule for a tail.

`pack` makes a batch from lists of token ids; `assemble` makes one from arrays, for the data loader.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.one_row import DocumentRow, from_row, to_row
from unmask_kernels import Documents

__all__ = ["IGNORED", "Cursor", "PackedBatch", "assemble", "pack"]

IGNORED = -100
"""Label of a slot that no loss reads, the default `ignore_index` of PyTorch's cross-entropy."""


class Cursor(NamedTuple):
    """Where a micro-batch lies in the stream: the k-th one of a shuffle block of an epoch."""

    epoch: int
    block: int
    k: int


@dataclass(frozen=True, kw_only=True, slots=True, init=False, eq=False, repr=False)
class PackedBatch(Mapping[str, Any]):
    """A micro-batch of T tokens in S document slots with M slots for masked tokens.

    To PyTorch it is a pytree. To loaders of other libraries it is a mapping, in which each tensor has a first dimension
    of 1 (see `one_row`). `PackedBatch(mapping)` is the batch again, so a model that a trainer calls as
    `model(**batch)` begins with `batch = PackedBatch(inputs)`.

    Attributes:
        ids: token ids as the model reads them, already corrupted where masked, int64 (T,).
        documents: boundaries, positions and keys of the documents, S slots.
        segments: 0 or 1 for each token (BERT's token types), int64 (T,).
        word_starts: True where a token begins a word, bool (T,), or None.
        masked: rows of `ids` to predict, int64 (M,); unused slots are 0. None if the batch is not masked yet.
        labels: original ids at `masked`, int64 (M,); unused slots are -100.
        pair_labels: label of each document for pair objectives, int64 (S,); unused slots are -100. Or None.
        targets: what a task predicts of each real document, with a first dimension of `real_documents`. Or None.
        real_tokens: number of tokens that are not padding.
        real_documents: number of documents that are not padding; they come first.
        cursor: where the batch lies in the stream, or None.
    """

    ids: Tensor
    documents: Documents
    segments: Tensor
    word_starts: Tensor | None = None
    masked: Tensor | None = None
    labels: Tensor | None = None
    pair_labels: Tensor | None = None
    targets: Tensor | None = None
    real_tokens: int
    real_documents: int
    cursor: Cursor | None = None

    # comparing tensors gives tensors: two batches are equal when they are the same object
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @overload
    def __init__(self, values: Mapping[str, Any], /) -> None: ...

    @overload
    def __init__(
        self,
        *,
        ids: Tensor,
        documents: Documents,
        segments: Tensor,
        word_starts: Tensor | None = None,
        masked: Tensor | None = None,
        labels: Tensor | None = None,
        pair_labels: Tensor | None = None,
        targets: Tensor | None = None,
        real_tokens: int,
        real_documents: int,
        cursor: Cursor | None = None,
    ) -> None: ...

    def __init__(self, *mappings: Mapping[str, Any], **given: Any) -> None:
        for values in mappings:
            given = {name: from_row(value) for name, value in values.items()}
            if "documents" not in given or "max_seqlen" not in given:
                raise TypeError(
                    "PackedBatch: a mapping must have the entries of a batch, documents and max_seqlen among them; "
                    "pass what a trainer made of a batch, or make one with pack(...)"
                )
            given["documents"] = DocumentRow(given["documents"]).documents(given.pop("max_seqlen"))
            if "cursor" in given:
                given["cursor"] = Cursor(**given["cursor"])
        for name in _NEEDED:
            if name not in given:
                raise TypeError(f"PackedBatch: {name} must be given; pack(...) makes a batch of lists of ids")
        for name in given:
            if name not in _PARTS:
                raise TypeError(
                    f"PackedBatch: {name} is no part of a batch; leave it out, a batch has {', '.join(_PARTS)}"
                )
        for name in _PARTS:
            object.__setattr__(self, name, given.get(name))

    def __getitem__(self, name: str) -> Any:
        if name == "documents":
            return DocumentRow.of(self.documents)
        if name == "cursor" and self.cursor is not None:
            # the Trainer of transformers cannot put a named tuple together again
            return self.cursor._asdict()
        value = self.documents.max_seqlen if name == "max_seqlen" else getattr(self, name, None)
        if value is None or name not in iter(self):
            raise KeyError(name)
        return to_row(value)

    def __iter__(self) -> Iterator[str]:
        # Documents come first: they refuse batches that were joined.
        yield from ("documents", "max_seqlen")
        yield from (name for name in _PARTS if name != "documents" and getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        masked = "" if not isinstance(self.masked, Tensor) else f", {len(self.masked)} slots for masked tokens"
        return f"PackedBatch({self.real_tokens} real tokens in {self.documents}{masked})"

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> PackedBatch:
        """Copy the batch to another device.

        With `non_blocking`, a copy to a GPU goes through page-locked memory. From other memory, the copy and the host
        would wait until the GPU has done all its work so far.
        """
        stays = self.ids.device.type != "cpu" or torch.device(device).type != "cuda"
        source = self if stays or not non_blocking else self.pin_memory()
        return source._with_each(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """Copy the batch to page-locked memory, from which a GPU copies while the host goes on."""
        return self._with_each(lambda x: x.pin_memory())

    def _with_each(self, change: Callable[[Any], Any]) -> PackedBatch:
        values = {name: getattr(self, name) for name in _PARTS}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor | Documents)}
        return replace(self, **{name: change(value) for name, value in tensors.items()})


_PARTS = tuple(field.name for field in fields(PackedBatch))
_NEEDED = tuple(field.name for field in fields(PackedBatch) if field.default is MISSING)
torch.export.register_dataclass(PackedBatch)


def pack(
    documents: Sequence[Sequence[int]],
    segments: Sequence[Sequence[int]] | None = None,
    *,
    keys: Sequence[int] | None = None,
    tokens: int | None = None,
    max_seqlen: int | None = None,
    pad_id: int = 0,
) -> PackedBatch:
    """Pack lists of token ids into one flat batch without padding.

    Args:
        documents: token ids of each document, with their [CLS] and [SEP].
        segments: 0 or 1 for each token, same lengths as `documents`. Default: all 0.
        keys: 64-bit key of each document, by which dropout draws. Default: drawn from PyTorch's generator, so that
            dropout differs from batch to batch and repeats under `torch.manual_seed`.
        tokens: capacity T; the rest is padded with inert documents. Default: just enough.
        max_seqlen: a bound on the length of a document. Default: that of the longest document.
        pad_id: id of the padding token.
    Raises:
        TypeError: the documents are texts, or one list of ids.
        ValueError: no documents, lengths that disagree, or more tokens than the capacity.
    """
    _require_lists(documents)
    if not len(documents):
        raise ValueError("pack: documents must hold at least one list of token ids, got none")
    lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
    if segments is not None:
        _check_segments(lengths, segments)
    if keys is None:
        keys = torch.randint(-(1 << 62), 1 << 62, (len(documents),)).tolist()
    if len(keys) != len(documents):
        raise ValueError(f"pack: keys must hold one key per document ({len(documents)}), got {len(keys)}")
    total = int(lengths.sum())
    if tokens is None:
        tokens = total
    if max_seqlen is None:
        max_seqlen = max(1, int(lengths.max()))
    return assemble(
        _flat(documents),
        lengths,
        keys=np.array(keys, dtype=np.int64),
        tokens=tokens,
        sequences=len(documents) + padding_documents(tokens, total, max_seqlen),
        max_seqlen=max_seqlen,
        pad_id=pad_id,
        segments=None if segments is None else _flat(segments),
    )


def padding_documents(tokens: int, real_tokens: int, max_seqlen: int) -> int:
    """Count the document slots that the padding of a micro-batch takes."""
    return -(-max(0, tokens - real_tokens) // max_seqlen)


def assemble(
    ids: NDArray[np.integer],
    lengths: NDArray[np.integer],
    *,
    keys: NDArray[np.int64],
    tokens: int,
    sequences: int,
    max_seqlen: int,
    pad_id: int = 0,
    segments: NDArray[np.integer] | None = None,
    word_starts: NDArray[np.bool_] | None = None,
    pair_labels: NDArray[np.integer] | None = None,
    targets: NDArray[np.generic] | None = None,
    masked: NDArray[np.integer] | None = None,
    labels: NDArray[np.integer] | None = None,
    masked_capacity: int | None = None,
    cursor: Cursor | None = None,
) -> PackedBatch:
    """Put documents, one after the other in flat arrays, into a batch of fixed capacities.

    Args:
        ids: token ids of all D documents, (N,) with N <= T.
        lengths: tokens of each document, (D,), sum N.
        keys: of the documents, int64 (D,).
        tokens, sequences, masked_capacity: capacities T, S and M. M defaults to the number of masked rows.
        max_seqlen: a bound on the length of a document.
        pad_id: id of the padding token.
        segments, word_starts: of each token, (N,).
        pair_labels: label of each document, (D,).
        targets: what a task predicts of each document, (D, ...); it is no slot, so it keeps its shape and dtype.
        masked, labels: rows of `ids` to predict and their original ids, (m,) with m <= M.
        cursor: where the batch lies in the stream.
    Raises:
        ValueError: the contents exceed a capacity.
    """
    total = int(lengths.sum())
    if len(ids) != total:
        raise ValueError(f"assemble: lengths must sum to the number of ids ({len(ids)}), sum to {total}")
    _fits("tokens", total, tokens)
    padding = padding_documents(tokens, total, max_seqlen)
    _fits("sequences", len(lengths) + padding, sequences)
    inert = np.minimum(total + max_seqlen * np.arange(1, padding + 1), tokens)
    offsets = np.concatenate([[0], np.cumsum(lengths), inert])
    masked_slots: Tensor | None = None
    label_slots: Tensor | None = None
    if masked is not None and labels is not None:
        capacity = len(masked) if masked_capacity is None else masked_capacity
        _fits("masked", len(masked), capacity, "masked_capacity")
        masked_slots = _padded(masked, capacity, 0)
        label_slots = _padded(labels, capacity, IGNORED)
    return PackedBatch(
        ids=_padded(ids, tokens, pad_id),
        documents=Documents.build(
            _padded(offsets, sequences + 1, tokens).int(),
            _padded(keys, sequences, 0),
            tokens=tokens,
            max_seqlen=max_seqlen,
        ),
        segments=_padded(np.zeros(0) if segments is None else segments, tokens, 0),
        word_starts=None if word_starts is None else _padded(word_starts, tokens, 0).bool(),
        masked=masked_slots,
        labels=label_slots,
        pair_labels=None if pair_labels is None else _padded(pair_labels, sequences, IGNORED),
        targets=None if targets is None else torch.from_numpy(targets),
        real_tokens=total,
        real_documents=len(lengths),
        cursor=cursor,
    )


def _padded(values: NDArray[np.generic], capacity: int, fill: int) -> Tensor:
    out = np.full(capacity, fill, dtype=np.int64)
    out[: len(values)] = values
    return torch.from_numpy(out)


def _flat(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    arrays = [np.asarray(one) for one in lists]
    for one in arrays:
        if one.size and one.dtype.kind not in "iu":
            raise TypeError(f"pack: ids must be integers, got {one.dtype}; pass the ids that the tokenizer makes")
    return np.concatenate([one.astype(np.int64) for one in arrays])


def _require_lists(documents: object) -> None:
    """Raise a TypeError unless the first of the documents is a list of ids. Others are read when they are packed."""
    way = "unmask.pack(tokenizer(texts, truncation=True)['input_ids']) with a tokenizer of transformers"
    if isinstance(documents, str):
        raise TypeError(f"pack: documents must be lists of token ids, got a text; call {way}, where texts is a list")
    if isinstance(documents, Mapping):
        raise TypeError(
            f"pack: documents must be lists of token ids, got a {type(documents).__name__}; pass its 'input_ids', made "
            "without return_tensors and padding"
        )
    if not isinstance(documents, Collection):
        raise TypeError(
            f"pack: documents must be lists of token ids, got {type(documents).__name__}; pass list(...) of it"
        )
    first = next(iter(documents), ())
    if isinstance(first, str):
        raise TypeError(f"pack: documents[0] must be a list of token ids, got the text {first[:40]!r}; call {way}")
    if not hasattr(first, "__len__") or (isinstance(first, np.ndarray | Tensor) and not first.ndim):
        raise TypeError(
            f"pack: documents[0] must be a list of token ids, got {type(first).__name__}; pass a list of documents, "
            "and [ids] for one"
        )


def _fits(name: str, needed: int, capacity: int, argument: str = "") -> None:
    if needed > capacity:
        raise ValueError(f"assemble: {name} has capacity {capacity} but {needed} are needed; raise {argument or name}")


def _check_segments(lengths: NDArray[np.int64], segments: Sequence[Sequence[int]]) -> None:
    if len(segments) != len(lengths):
        raise ValueError(f"pack: segments must have one list per document ({len(lengths)}), got {len(segments)}")
    for index, (length, one) in enumerate(zip(lengths, segments, strict=True)):
        if len(one) != length:
            raise ValueError(
                f"pack: segments[{index}] must have {length} entries, the tokens of its document, got {len(one)}"
            )
