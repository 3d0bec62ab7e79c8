"""Windows of question answering: [CLS] question [SEP] part of the context [SEP], with the answer's span for training.

The tokenizer gives the place of every token in the text that the file holds, so a span of tokens is a part of that
text, and nothing is spelt again. The span of an answer is the tokens that share a character with it.

    context   The fee is 12 EUR.     tokens  the fee is 12 eur .     places  (0, 3) (4, 7) (8, 10) (11, 13) ...
    answer    "12 EUR", from 11      span    12 eur                  text    context[11:17]

Windows of `max_length` tokens begin every `stride` tokens (Devlin et al. 2019, in their code). A window that does not
hold the whole answer has the span (0, 0), which is [CLS], and so has one of a question without an answer.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmask.config.settings import check_argument
from unmask.data.tokenizer import Tokenizer
from unmask.limits import SHORTEST_PAIR
from unmask.tasks.context import best_windows
from unmask.tasks.examples import Answer, QuestionExample

__all__ = ["QuestionWindow", "answer_tokens", "make_windows", "span_text"]

_log = logging.getLogger(__name__)
_NO_SPAN = (0, 0)


@dataclass(frozen=True, slots=True)
class QuestionWindow:
    """One input of the model, of N tokens, C of them of the context.

    Attributes:
        example: index of its question; windows of a question share it.
        ids: token ids, N of them.
        segments: 0 up to the first [SEP], then 1.
        first: place in `ids` of the first token of the context.
        places: first character of each context token in the context and the one after its last, (C, 2) int64.
        decides: whether this window decides about a context token, (C,) bool: no other has more context for it.
        span: places in `ids` of the first and last token of the answer, for training; (0, 0) for none here.
    """

    example: int
    ids: list[int]
    segments: list[int]
    first: int
    places: NDArray[np.int64]
    decides: NDArray[np.bool_]
    span: tuple[int, int]


def make_windows(
    examples: Sequence[QuestionExample],
    tokenizer: Tokenizer,
    *,
    max_length: int = 384,
    stride: int = 128,
    max_question: int = 64,
) -> list[QuestionWindow]:
    """Return the windows of questions, in their order.

    The first answer that is in the context gives the spans. Warns of questions that are cut or empty.

    Args:
        examples: questions with their contexts.
        tokenizer: of the model.
        max_length: most tokens of a window, [CLS] and [SEP] included.
        stride: tokens from the beginning of a window to that of the next.
        max_question: most tokens of a question; the rest is cut.
    Raises:
        SettingError: a size is out of its range, or `max_length` has no room for a context.
        TypeError: the tokenizer does not give the places of its tokens.
    """
    check_argument("qa", "max_length", int, max_length, ge=SHORTEST_PAIR)
    check_argument("qa", "max_question", int, max_question, ge=1, le=max_length - SHORTEST_PAIR + 1)
    check_argument("qa", "stride", int, stride, ge=1)
    if not hasattr(tokenizer, "encode_with_places"):
        raise TypeError(
            "qa: tokenizer must give the place of each token in its text, which a "
            f"{type(tokenizer).__name__} does not; load it with unmask.Tokenizer.load(FOLDER)"
        )
    questions = tokenizer.encode_batch([one.question for one in examples])
    # paragraphs have several questions
    different = list(dict.fromkeys(one.context for one in examples))
    contexts = dict(zip(different, tokenizer.encode_with_places(different), strict=True))
    found: list[QuestionWindow] = []
    cut: list[str] = []
    empty: list[str] = []
    for index, (one, question) in enumerate(zip(examples, questions, strict=True)):
        context = contexts[one.context]
        if not question or not context.ids:
            empty.append(one.where)
        if len(question) > max_question:
            cut.append(one.where)
        front = [tokenizer.cls_id, *question[:max_question], tokenizer.sep_id]
        answer = next((answer for answer in one.answers if answer.start >= 0), None)
        span = None if answer is None or one.impossible else answer_tokens(context.places, answer)
        found += _windows(index, front, context.ids, context.places, span, tokenizer.sep_id, max_length, stride)
    if cut:
        _log.warning(
            f"data: questions of more than {max_question} tokens, which lose their end: {len(cut):,} of "
            f"{len(examples):,}, the first is {cut[0]}"
        )
    if empty:
        _log.warning(
            f"data: questions with an empty text or context: {len(empty):,} of {len(examples):,}, the first is "
            f"{empty[0]}; nothing answers them but chance"
        )
    return found


def answer_tokens(places: NDArray[np.int64], answer: Answer) -> tuple[int, int] | None:
    """Return the first and the last token that share a character with an answer; None if no token does.

    Args:
        places: of the tokens of the context, (N, 2).
        answer: with its place in the context.
    """
    inside = np.flatnonzero((places[:, 1] > answer.start) & (places[:, 0] < answer.end))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def span_text(context: str, places: NDArray[np.int64], first: int, last: int) -> str:
    """Return the part of a context from the first to the last token of a span.

    Marks that the tokenizer drops, such as accents after the last letter, stay with their letter.
    """
    start, end = int(places[first, 0]), int(places[last, 1])
    while end < len(context) and unicodedata.category(context[end]) == "Mn":
        end += 1
    return context[start:end]


def _windows(
    example: int,
    front: list[int],
    ids: list[int],
    places: NDArray[np.int64],
    span: tuple[int, int] | None,
    sep_id: int,
    max_length: int,
    stride: int,
) -> list[QuestionWindow]:
    room = max_length - len(front) - 1
    spans = [(0, min(len(ids), room))]
    while spans[-1][1] < len(ids):
        start = spans[-1][0] + min(stride, room)
        spans.append((start, min(len(ids), start + room)))
    best = best_windows(spans, len(ids))
    first = len(front)
    windows = []
    for number, (start, end) in enumerate(spans):
        holds = span is not None and start <= span[0] and span[1] < end
        windows.append(
            QuestionWindow(
                example=example,
                ids=[*front, *ids[start:end], sep_id],
                segments=[0] * first + [1] * (end - start + 1),
                first=first,
                places=places[start:end],
                decides=best[start:end] == number,
                span=(first + span[0] - start, first + span[1] - start) if holds and span else _NO_SPAN,
            )
        )
    return windows
