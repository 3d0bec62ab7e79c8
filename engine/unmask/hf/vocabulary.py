"""What masking asks of a tokenizer of `transformers`: special and ordinary ids, and which tokens begin a word.

    tokenizer                          a token begins a word unless
    WordPiece                          it begins with `##`; a Chinese character is a word of its own
    WordLevel                          (each token is a word)
    byte-level BPE, SentencePiece      it lacks the mark of a blank before it, `Ġ` or `▁`
    others                             its spelling does not say: examples then need `offset_mapping` or `word_ids`

The first token after a special token begins a word in each case.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask.data.tokenizer.tokenizer import UNUSED

__all__ = ["MaskedVocabulary"]

# a blank, a line break and a tab in byte-level BPE; a blank in SentencePiece
_BLANKS = (("Ġ", "Ċ", "ĉ"), ("▁",))


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedVocabulary:
    """The V ids of a tokenizer, as masking sees them.

    Attributes:
        size: V, the highest id plus 1.
        special: ids that are never masked, (s,).
        ordinary: ids that a random replacement is drawn from, (O,).
        mask_id: id of [MASK], or None.
        pad_id: id of the padding token, 0 if there is none.
        begins_word: whether each token begins a word, (V,), or None if its spelling does not say.
        max_length: maximum length of a text of its model, or None.
    """

    size: int
    special: NDArray[np.int64]
    ordinary: NDArray[np.int64]
    mask_id: int | None
    pad_id: int
    begins_word: NDArray[np.bool_] | None
    max_length: int | None

    @classmethod
    def of(cls, tokenizer: Any) -> MaskedVocabulary:
        """Read a tokenizer of `transformers`."""
        ids: dict[str, int] = tokenizer.get_vocab()
        added = {index: token.special for index, token in tokenizer.added_tokens_decoder.items()}
        special = {*tokenizer.all_special_ids, *(index for index, is_special in added.items() if is_special)}
        unused = [index for token, index in ids.items() if UNUSED.fullmatch(token)]
        size = max([*ids.values(), *special]) + 1
        length = tokenizer.model_max_length
        return cls(
            size=size,
            special=np.array(sorted(special), dtype=np.int64),
            ordinary=np.setdiff1d(list(ids.values()), [*special, *unused]).astype(np.int64),
            mask_id=tokenizer.mask_token_id,
            pad_id=0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            begins_word=_begins_word(tokenizer, ids, size, set(added)),
            # transformers has 1e30 for no limit
            max_length=length if isinstance(length, int) and length < 1 << 31 else None,
        )

    def require(self, documents: Sequence[NDArray[np.int64]], who: str) -> None:
        """Raise a ValueError if an id is none of the tokenizer's; `who` begins the message."""
        for number, ids in enumerate(documents):
            if ids.min() < 0 or ids.max() >= self.size:
                wrong = ids[(ids < 0) | (ids >= self.size)][0]
                raise ValueError(
                    f"{who}: input_ids must be ids of the tokenizer, in [0, {self.size}), example {number} has "
                    f"{wrong}; tokenize the texts with the tokenizer that the collator got"
                )

    def is_special(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether each id is never masked, (N,) -> (N,)."""
        return np.isin(ids, self.special)


def _begins_word(tokenizer: Any, ids: dict[str, int], size: int, added: set[int]) -> NDArray[np.bool_] | None:
    """Return whether each token begins a word by its spelling, (V,); an added token is a word."""
    kind, prefix, suffix = _model(tokenizer)
    words = {token: index for token, index in ids.items() if index not in added}
    begins = np.ones(size, dtype=bool)
    if kind == "WordLevel":
        return begins
    if prefix and not suffix:
        begins[[index for token, index in words.items() if token.startswith(prefix) and token != prefix]] = False
        return begins
    for blanks in _BLANKS:
        if any(token.startswith(blanks) for token in words) and not suffix:
            begins[[index for token, index in words.items() if not token.startswith(blanks)]] = False
            return begins
    return None


def _model(tokenizer: Any) -> tuple[str, str, str]:
    """Return the kind of a tokenizer, and how it marks a piece that continues a word, and one that ends it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        # a tokenizer in Python, such as those of Japanese BERT
        return "", "##" if any(token.startswith("##") for token in tokenizer.get_vocab()) else "", ""
    model = json.loads(backend.to_str())["model"]
    return model["type"], model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
