"""Scores of answers in Chinese, in percent, as the scorer of CMRC 2018 counts them (Cui et al. 2019, arXiv:1810.07366).

Both answers are cut into segments: small letters, without the punctuation in `_PUNCTUATION`, a Chinese character a
segment, and words between them as the tokenizer of the Penn Treebank cuts them. Then, of several gold answers the best:

    F1            2 P R / (P + R), P = L / segments of the prediction, R = L / segments of the gold answer, L the length
                  of the longest run of segments that both have
    exact match   equal without that punctuation, in small letters

A question without a prediction is wrong. DRCD is scored so too.

The official scorer takes the tokenizer of NLTK; the rules here are those of NLTK 3.8. NLTK first cuts text into
sentences by a trained model. That model is not here: a full stop before a space inside an answer stays with its word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from unmask.tasks.examples import QuestionExample

__all__ = ["score_cmrc", "segments_of"]

_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CHINESE = re.compile("[\u4e00-\u9fa5]")
# the rules of the Treebank in their order, without those for punctuation that is gone by then
_TREEBANK = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # quotes that open
        ("([«‘„])", r" \1 "),
        ('^"', " `` "),
        (r"([ (\[{<])(?:\"|'')", r"\1 `` "),
        (r"'(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"' \1"),
        # a full stop ends the text; commas do not stand in numbers
        (r"""([^.])\.([\])}>"'» ]*)\s*$""", r"\1 . \2 "),
        (r",(\D)", r" , \1"),
        (r",$", " , "),
        (r"(\.{2,})", r" \1 "),
        (r"([;@#$%&])", r" \1 "),
        (r"""([^.])\.([\])}>"']*)\s*$""", r"\1 .\2 "),
        (r"([?!])", r" \1 "),
        (r"([^'])' ", r"\1 ' "),
        (r"([\[\](){}<>])", r" \1 "),
        # quotes that close, and what is short for is, am, not and others
        (r"^|$", " "),
        ("(»)", r" \1 "),
        (r"''|\"", " '' "),
        (r"([^' ])('[smd]?) ", r"\1 \2 "),
        (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
        (r"\b(can)(not)\b|\b(d)('ye)\b|\b(gim)(me)\b|\b(gon)(na)\b|\b(got)(ta)\b", None),
        (r"\b(lem)(me)\b|\b(more)('n)\b|\b(wan)(na)(?=\s)", None),
        (r" ('t)(is|was)\b", r" \1 \2 "),
    )
]


def score_cmrc(examples: Sequence[QuestionExample], predictions: Mapping[str, str]) -> dict[str, list[float]]:
    """Return `exact` and `f1` of each question, from 0 to 1.

    Args:
        examples: questions with at least one gold answer each.
        predictions: the answers by the ids of the questions.
    """
    exact, f1 = [], []
    for one in examples:
        predicted = predictions.get(one.id)
        golds = [answer.text for answer in one.answers]
        if predicted is None:
            exact.append(0.0)
            f1.append(0.0)
            continue
        exact.append(float(any(_without_punctuation(gold) == _without_punctuation(predicted) for gold in golds)))
        given = segments_of(predicted)
        f1.append(max((_f1_of(segments_of(gold), given) for gold in golds), default=0.0))
    return {"exact": exact, "f1": f1}


def segments_of(text: str) -> list[str]:
    """Return the segments of an answer."""
    found: list[str] = []
    word: list[str] = []
    for character in text.lower().strip():
        if character in _PUNCTUATION:
            continue
        if _CHINESE.match(character):
            found += _treebank_words("".join(word))
            word = []
            found.append(character)
        else:
            word.append(character)
    return found + _treebank_words("".join(word))


def _f1_of(gold: list[str], predicted: list[str]) -> float:
    shared = _common_run(gold, predicted)
    if shared == 0:
        return 0.0
    precision, recall = 1.0 * shared / len(predicted), 1.0 * shared / len(gold)
    return (2 * precision * recall) / (precision + recall)


def _common_run(first: list[str], second: list[str]) -> int:
    """Return the length of the longest run of segments that both have."""
    most = 0
    before = [0] * (len(second) + 1)
    for one in first:
        row = [0]
        for place, other in enumerate(second):
            row.append(before[place] + 1 if one == other else 0)
        most = max(most, *row)
        before = row
    return most


@lru_cache(maxsize=10_000)
def _treebank_words(text: str) -> list[str]:
    if not text or text.isspace():
        return []
    for pattern, replacement in _TREEBANK:
        if replacement is None:
            text = pattern.sub(lambda found: " " + " ".join(filter(None, found.groups())) + " ", text)
        else:
            text = pattern.sub(replacement, text)
    return text.split()


def _without_punctuation(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _PUNCTUATION)
