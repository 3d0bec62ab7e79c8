"""Texts and pairs as token ids between [CLS] and [SEP], cut to the length that the model reads.

    single text   [CLS] text [SEP]                   segments 0
    pair          [CLS] text [SEP] pair [SEP]        segments 0, then 1 from the first token of `pair`

What does not fit is cut in one of three ways:

    head        tokens go from the end; of a pair from the end of the longer text, of `pair` where both are equally
                long (Devlin et al. 2019, as in their code)
    head_tail   the first quarter of the room and the last three quarters (Sun et al. 2019, arXiv:1905.05583)
    windows     the text comes several times, each time another part of it; the mean of the predictions counts. Of a
                pair `pair` is read in parts, and each part stands behind the text, which has at most half the room
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from unmask.config.settings import check_argument
from unmask.data.tokenizer import Tokenizer
from unmask.limits import SHORTEST_PAIR
from unmask.tasks.examples import TextExample

__all__ = ["EncodedText", "LongTexts", "encode_texts"]

LongTexts = Literal["head", "head_tail", "windows"]

_log = logging.getLogger(__name__)
_HEAD_SHARE = 4


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One input of the model.

    Attributes:
        example: index of its example; windows of a text share it.
        ids: token ids with [CLS] and [SEP].
        segments: 0 or 1 for each of them.
    """

    example: int
    ids: list[int]
    segments: list[int]


def encode_texts(
    examples: Sequence[TextExample], tokenizer: Tokenizer, *, max_length: int = 128, long_texts: LongTexts = "head"
) -> list[EncodedText]:
    """Return the inputs of examples, in their order; with `windows` an example may have several.

    Warns of empty texts and of texts that are cut, with the place of the first.

    Args:
        examples: texts or pairs.
        tokenizer: of the model.
        max_length: most tokens of an input, [CLS] and [SEP] included.
        long_texts: what happens to a text that does not fit.
    Raises:
        SettingError: `max_length` or `long_texts` is out of its range.
    """
    check_argument("texts", "max_length", int, max_length, ge=SHORTEST_PAIR)
    check_argument("texts", "long_texts", LongTexts, long_texts)
    firsts = tokenizer.encode_batch([one.text for one in examples])
    paired = [index for index, one in enumerate(examples) if one.pair is not None]
    seconds = dict(zip(paired, tokenizer.encode_batch([examples[index].pair or "" for index in paired]), strict=True))
    found: list[EncodedText] = []
    empty: list[str] = []
    too_long: list[str] = []
    for index, (one, first) in enumerate(zip(examples, firsts, strict=True)):
        second = seconds.get(index)
        room = max_length - (2 if second is None else 3)
        if not first or second == []:
            empty.append(one.where)
        if len(first) + len(second or ()) > room:
            too_long.append(one.where)
        for parts in _fitted(first, second, room, long_texts):
            found.append(_framed(index, parts, tokenizer))
    _tell(len(examples), empty, too_long, max_length, long_texts)
    return found


def _fitted(first: list[int], second: list[int] | None, room: int, long_texts: LongTexts) -> Iterator[list[list[int]]]:
    """Yield the text, or the text and its pair, so that both have room."""
    texts = [first] if second is None else [first, second]
    if sum(map(len, texts)) <= room:
        yield texts
    elif long_texts == "windows":
        before = texts[:-1]
        if before:
            before = [before[0][: max(room // 2, room - len(texts[1]))]]
        width = room - sum(map(len, before))
        for start in _starts(len(texts[-1]), width):
            yield [*before, texts[-1][start : start + width]]
    else:
        lengths = [room] if second is None else _pair_lengths(len(first), len(second), room)
        yield [_cut(text, length, long_texts) for text, length in zip(texts, lengths, strict=True)]


def _pair_lengths(first: int, second: int, room: int) -> list[int]:
    """Return how long both texts are once tokens were dropped one by one from the longer, from the second of equals."""
    half = room // 2
    if second <= half:
        return [room - second, second]
    return [first, room - first] if first <= room - half else [room - half, half]


def _cut(text: list[int], length: int, long_texts: LongTexts) -> list[int]:
    if len(text) <= length or long_texts == "head":
        return text[:length]
    head = length // _HEAD_SHARE
    return text[:head] + text[len(text) - (length - head) :]


def _starts(length: int, width: int) -> list[int]:
    """Return where windows begin that overlap by half; the last one ends with the text."""
    starts = list(range(0, length - width, max(1, width // 2)))
    return [*starts, length - width]


def _framed(example: int, texts: list[list[int]], tokenizer: Tokenizer) -> EncodedText:
    ids, segments = [tokenizer.cls_id], [0]
    for segment, text in enumerate(texts):
        ids += [*text, tokenizer.sep_id]
        segments += [segment] * (len(text) + 1)
    return EncodedText(example, ids, segments)


def _tell(examples: int, empty: list[str], too_long: list[str], max_length: int, long_texts: LongTexts) -> None:
    if empty:
        _log.warning(
            f"data: examples with an empty text: {len(empty):,} of {examples:,}, the first is {empty[0]}; the model "
            "sees [CLS] and [SEP] alone there"
        )
    if too_long:
        lost = {
            "head": "lose their end",
            "head_tail": "lose their middle",
            "windows": "are read in windows",
        }[long_texts]
        _log.warning(
            f"data: examples of more than {max_length} tokens, which {lost}: {len(too_long):,} of {examples:,}, the "
            f"first is {too_long[0]}"
        )
