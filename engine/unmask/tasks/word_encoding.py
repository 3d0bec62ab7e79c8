"""Words as token ids, and for every word of a sentence the one token that predicts its tag: its first piece.

A sentence that does not fit is read in windows that overlap. A word is predicted in the window where it has most
context, so every word has exactly one prediction, whatever the length of its sentence (`context.py`).

A word that the tokenizer reads as nothing, such as a control character, is [UNK]. A word with more pieces than a window
has room for keeps its first ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unmask.config.settings import check_argument
from unmask.data.tokenizer import Tokenizer
from unmask.limits import SHORTEST
from unmask.tasks.context import best_windows
from unmask.tasks.examples import WordsExample

__all__ = ["EncodedWords", "encode_words"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedWords:
    """One input of the model.

    Attributes:
        example: index of its sentence; windows of a sentence share it.
        ids: token ids with [CLS] and [SEP].
        words: numbers of the words that are predicted here, ascending.
        rows: place in `ids` of the first piece of each of these words.
    """

    example: int
    ids: list[int]
    words: list[int]
    rows: list[int]


def encode_words(
    examples: Sequence[WordsExample], tokenizer: Tokenizer, *, max_length: int = 128
) -> list[EncodedWords]:
    """Return the inputs of sentences, in their order; one that does not fit has several.

    Args:
        examples: sentences.
        tokenizer: of the model.
        max_length: most tokens of an input, [CLS] and [SEP] included.
    Raises:
        SettingError: `max_length` is too small.
    """
    check_argument("words", "max_length", int, max_length, ge=SHORTEST)
    different = list(dict.fromkeys(word for one in examples for word in one.words))
    pieces = dict(zip(different, tokenizer.encode_batch(different), strict=True))
    room = max_length - 2
    found: list[EncodedWords] = []
    too_long: list[str] = []
    for index, one in enumerate(examples):
        words = [(pieces[word] or [tokenizer.unk_id])[:room] for word in one.words]
        if sum(map(len, words)) > room:
            too_long.append(one.where)
        found += _windows(index, words, room, tokenizer)
    if too_long:
        _log.warning(
            f"data: sentences of more than {max_length} tokens, which are read in windows: {len(too_long):,} of "
            f"{len(examples):,}, the first is {too_long[0]}"
        )
    return found


def _windows(example: int, words: list[list[int]], room: int, tokenizer: Tokenizer) -> Iterator[EncodedWords]:
    spans = list(_spans([len(word) for word in words], room))
    best = best_windows(spans, len(words))
    for number, (start, end) in enumerate(spans):
        ids = [tokenizer.cls_id]
        predicted, rows = [], []
        for word in range(start, end):
            if best[word] == number:
                predicted.append(word)
                rows.append(len(ids))
            ids += words[word]
        yield EncodedWords(example, [*ids, tokenizer.sep_id], predicted, rows)


def _spans(lengths: list[int], room: int) -> Iterator[tuple[int, int]]:
    """Yield first word and end of windows of at most `room` tokens; each begins in the middle of the one before."""
    start = 0
    while start < len(lengths):
        end, tokens = start, 0
        while end < len(lengths) and tokens + lengths[end] <= room:
            tokens += lengths[end]
            end += 1
        yield start, end
        if end == len(lengths):
            return
        start = max(start + 1, (start + end) // 2)
