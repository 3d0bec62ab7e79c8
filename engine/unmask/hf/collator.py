"""PackedCollator: examples of a tokenizer as one flat row without padding, masked by this project's rules.

A document is masked as by `unmask pretrain` (`unmask.data.masking`), with a key that is made from its tokens and the
epoch:

    key = piece_keys(epoch, 0, 64-bit hash of the document's ids, 0)

So masks depend on (seed, epoch, document) alone: not on the order of the examples, nor on the state of a generator, nor
on the number of workers. A run that is resumed within an epoch makes the masks that it would have made.

Cost, one core: about 0.5 us a token, half of it for reading the lists of the examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unmask.batch import IGNORED, assemble, padding_documents
from unmask.config.schema import MaskingConfig
from unmask.data.flat import flat_inputs
from unmask.data.masking import Masker
from unmask.data.randomness import piece_keys
from unmask.hf.epochs import SharedEpoch
from unmask.hf.vocabulary import MaskedVocabulary

__all__ = ["PackedCollator"]

_WHO = "PackedCollator"


class PackedCollator:
    """A `data_collator` of the Trainer, or `collate_fn` of a DataLoader, that packs examples and masks them.

    Its batches have the arguments of `unmask.data.flat`, for a model of `transformers` with attention for packed rows.
    Of an example it reads

        input_ids               token ids with their [CLS] and [SEP], without padding
        token_type_ids          default: 0
        special_tokens_mask     tokens that are not masked either, beside all special tokens
        word_ids                number of each token's word, or None: where words begin, for words of your own
        offset_mapping          the same for a tokenizer whose tokens do not show where words begin
        labels, label           without masking: of each token, or of the example

    Other columns are left out of the batch.

    Args:
        tokenizer: a tokenizer of `transformers`.
        tokens: T, tokens of a batch at most. Default: no limit. A `TokenBatchSampler` makes batches that fit.
        masking: `token`, `whole_word`, `ngram` or `span`, as in `MaskingConfig`. None: nothing is masked, and labels
            are those of the examples.
        rate: share of the tokens to predict.
        split: shares of these tokens that become [MASK], become a random token, and stay.
        seed: of the masks.
        max_length: tokens of an example at most. Default: `tokenizer.model_max_length`.
        pad: whether each batch is padded to T tokens, by documents of padding, so that its shape stays.
        position_ids_start: position of the first token of a document; 2 for models like RoBERTa.
    Raises:
        ValueError: a tokenizer without [MASK], or arguments out of range.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        tokens: int | None = None,
        masking: Literal["token", "whole_word", "ngram", "span"] | None = "token",
        rate: float = 0.15,
        split: tuple[float, float, float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        max_length: int | None = None,
        pad: bool = False,
        position_ids_start: int = 0,
    ) -> None:
        if pad and tokens is None:
            raise ValueError(f"{_WHO}: tokens must be given with pad=True, got None; give the tokens of a batch")
        self._vocabulary = MaskedVocabulary.of(tokenizer)
        self._tokens = tokens
        self._pad = pad
        self._max_length = self._vocabulary.max_length if max_length is None else max_length
        self._position_ids_start = position_ids_start
        self._epoch = SharedEpoch()
        self._masker: Masker | None = None
        if masking is not None:
            self._masker = _masker(self._vocabulary, masking, rate, split, seed)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the masks, for all copies of this collator in worker processes."""
        self._epoch.set(epoch)

    def __call__(self, examples: Sequence[Mapping[str, Any]], return_tensors: str = "pt") -> dict[str, Any]:
        """Make a batch of examples.

        Raises:
            ValueError: no examples; one lacks a column, is padded, empty or too long; or they have more tokens than a
                batch.
        """
        if return_tensors != "pt":
            raise ValueError(f"{_WHO}: return_tensors must be 'pt', got {return_tensors!r}; leave it out")
        if not len(examples):
            raise ValueError(f"{_WHO}: examples must hold at least one, got none; leave empty batches out")
        documents = [_ids(number, example) for number, example in enumerate(examples)]
        lengths = np.array([len(ids) for ids in documents])
        self._check_lengths(lengths)
        ids = np.concatenate(documents)
        self._vocabulary.require(documents, _WHO)
        row: dict[str, Any] = {}
        if self._masker is not None:
            row["ids"], row["masked"], row["labels"] = self._masked(examples, documents, ids, lengths)
        total = len(ids)
        tokens = self._tokens if self._pad and self._tokens is not None else total
        max_seqlen = int(lengths.max())
        batch = assemble(
            **{"ids": ids, **row},
            lengths=lengths,
            keys=np.zeros(lengths.size, dtype=np.int64),
            tokens=tokens,
            sequences=lengths.size + padding_documents(tokens, total, max_seqlen),
            max_seqlen=max_seqlen,
            pad_id=self._vocabulary.pad_id,
            segments=_of_tokens("token_type_ids", examples, lengths),
        )
        inputs = flat_inputs(batch)
        if self._position_ids_start:
            inputs["position_ids"] += self._position_ids_start
        if self._masker is None and (name := _label_column(examples)):
            inputs["labels"] = _labels(name, examples, lengths, tokens)
        return inputs

    def _check_lengths(self, lengths: NDArray[np.int64]) -> None:
        number = int(lengths.argmax())
        if self._max_length is not None and lengths[number] > self._max_length:
            raise ValueError(
                f"{_WHO}: examples must have at most max_length ({self._max_length}) tokens, example {number} has "
                f"{lengths[number]}; cut them when they are tokenized: truncation=True, "
                f"max_length={self._max_length}, or give the collator a larger max_length, for a model with more "
                "positions"
            )
        if self._tokens is not None and lengths.sum() > self._tokens:
            raise ValueError(
                f"{_WHO}: a batch must have at most tokens ({self._tokens}), got {lengths.sum()} in {lengths.size} "
                "examples; use batch_sampler=unmask.hf.TokenBatchSampler(lengths, tokens), or fewer examples in a "
                "batch, or raise tokens"
            )

    def _masked(
        self,
        examples: Sequence[Mapping[str, Any]],
        documents: list[NDArray[np.int64]],
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the ids after masking, the rows to predict, and their original ids."""
        assert self._masker is not None
        if name := _label_column(examples):
            raise ValueError(
                f"{_WHO}: examples must have no {name} with masking, which makes labels of its own; remove the column "
                f"{name}, or give the collator masking=None"
            )
        protected = self._vocabulary.is_special(ids)
        marked = _of_tokens("special_tokens_mask", examples, lengths)
        if marked is not None:
            protected |= marked.astype(bool)
        words = None if self._masker.strategy == "token" else self._word_starts(examples, lengths, ids, protected)
        hashes = [int.from_bytes(hashlib.blake2b(one.tobytes(), digest_size=8).digest(), "little") for one in documents]
        keys = piece_keys(self._epoch.get(), 0, np.array(hashes, dtype=np.uint64), 0)
        # any special id keeps the masker from a token
        read = np.where(protected, self._vocabulary.special[0], ids)
        masked = self._masker(read, lengths, keys, words)
        return np.where(protected, ids, masked.ids), masked.rows, masked.labels

    def _word_starts(
        self,
        examples: Sequence[Mapping[str, Any]],
        lengths: NDArray[np.int64],
        ids: NDArray[np.int64],
        protected: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Return where words begin, (N,)."""
        known = self._vocabulary.begins_word
        if any("word_ids" in example for example in examples):
            numbers = [[-1 if word is None else word for word in example.get("word_ids", [])] for example in examples]
            given = _joined("word_ids", numbers, lengths)
            begins = np.diff(given, prepend=-2) != 0
        elif known is not None:
            begins = known[ids]
        elif "offset_mapping" in examples[0]:
            places = [np.asarray(example["offset_mapping"]).reshape(-1, 2) for example in examples]
            first = _joined("offset_mapping", [one[:, 0] for one in places], lengths)
            last = _joined("offset_mapping", [one[:, 1] for one in places], lengths)
            begins = np.append(True, first[1:] != last[:-1])
        else:
            raise ValueError(
                f"{_WHO}: the tokens of this tokenizer do not show where words begin, so examples need offset_mapping "
                f"for masking {self._masker.strategy if self._masker else ''!r}, got {', '.join(examples[0])}; "
                "tokenize with return_offsets_mapping=True, or choose masking='token'"
            )
        # what follows a special token begins a word
        return begins | np.append(True, protected[:-1]) | protected


def _masker(
    vocabulary: MaskedVocabulary, strategy: str, rate: float, split: tuple[float, float, float], seed: int
) -> Masker:
    if strategy == "mac":
        raise ValueError(
            f"{_WHO}: masking 'mac' needs a table of similar words, which this collator does not read; choose 'ngram', "
            "or unmask.PackedDataset with masking.similar_words"
        )
    if vocabulary.mask_id is None:
        raise ValueError(
            f"{_WHO}: the tokenizer must have a mask token to mask, it has none; add one with "
            'tokenizer.add_special_tokens({"mask_token": "[MASK]"}) and give the model a row for it, or set '
            "masking=None"
        )
    return Masker(
        MaskingConfig(strategy=strategy, rate=rate, split=split),  # type: ignore[arg-type]
        seed=seed,
        special_ids=vocabulary.special,
        ordinary_ids=vocabulary.ordinary,
        mask_id=vocabulary.mask_id,
        vocab_size=vocabulary.size,
    )


def _ids(number: int, example: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the token ids of an example, (n,)."""
    if not isinstance(example, Mapping) or "input_ids" not in example:
        there = ", ".join(map(str, example)) if isinstance(example, Mapping) else type(example).__name__
        raise ValueError(
            f"{_WHO}: examples must have input_ids, example {number} has {there or 'no columns'}; tokenize the texts: "
            'dataset.map(lambda row: tokenizer(row["text"])); the Trainer removes columns that the model\'s forward '
            "does not name unless remove_unused_columns=False"
        )
    ids = np.asarray(example["input_ids"])
    if ids.ndim != 1 or not ids.size:
        raise ValueError(
            f"{_WHO}: input_ids must be a list of at least one token, example {number} has shape {ids.shape}; tokenize "
            "without return_tensors, and leave empty texts out"
        )
    padding = int((np.asarray(example.get("attention_mask", 1)) == 0).sum())
    if padding:
        raise ValueError(
            f"{_WHO}: examples must not be padded, the attention_mask of example {number} has {padding} zeros; "
            "tokenize with padding=False"
        )
    if ids.dtype.kind not in "iu":
        raise ValueError(
            f"{_WHO}: input_ids must be integers, example {number} has {ids.dtype}; pass the tokenizer's input_ids"
        )
    return ids.astype(np.int64)


def _of_tokens(
    name: str, examples: Sequence[Mapping[str, Any]], lengths: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Return a column that has a number for each token, (N,); None if the examples do not have it."""
    if not any(name in example for example in examples):
        return None
    return _joined(name, [example.get(name, []) for example in examples], lengths)


def _joined(name: str, values: Sequence[Any], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    for number, (one, length) in enumerate(zip(values, lengths, strict=True)):
        if len(one) != length:
            raise ValueError(
                f"{_WHO}: {name} must have {length} entries, the tokens of example {number}, got {len(one)}; tokenize "
                "the text again, with truncation=True there if it is too long"
            )
    return np.concatenate([np.asarray(one, dtype=np.int64) for one in values])


def _label_column(examples: Sequence[Mapping[str, Any]]) -> str | None:
    names = [name for name in ("labels", "label") if any(name in example for example in examples)]
    for number, example in enumerate(examples):
        if names and names[0] not in example:
            raise ValueError(
                f"{_WHO}: all examples must have {names[0]} or none, example {number} has {', '.join(example)}; "
                f"give it {names[0]} too"
            )
    return names[0] if names else None


def _labels(name: str, examples: Sequence[Mapping[str, Any]], lengths: NDArray[np.int64], tokens: int) -> Tensor:
    """Return labels of tokens, (1, T), or of examples, (D,)."""
    values = [example[name] for example in examples]
    if np.ndim(values[0]) == 0:
        return torch.tensor([value.item() if isinstance(value, Tensor) else value for value in values])
    labels = torch.full((1, tokens), IGNORED)
    labels[0, : int(lengths.sum())] = torch.from_numpy(_joined(name, values, lengths))
    return labels
