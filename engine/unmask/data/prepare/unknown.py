"""Unknown tokens: how many there are, which words they stand for, and what is likely wrong.

A model learns nothing of [UNK]. Above 1% of all tokens, `prepare` warns with the most frequent unknown words; above 10%
it refuses, unless told otherwise. It looks at a sample before it encodes, and at all tokens before it publishes the
store: so a refusal comes early, and one that comes late loses no work.

Counting may stop after any document and go on from what was saved. At most 20,000 different words are kept; the rarer
half of them is forgotten when they are more.
"""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from unmask.data.tokenizer.bert import LONGEST_WORD
from unmask.errors import TokenizerError

if TYPE_CHECKING:
    from unmask.data.tokenizer import Tokenizer

__all__ = ["Origin", "UnknownTokens", "require_known"]

_log = logging.getLogger(__name__)

_WARNED_ABOVE = 0.01
_REFUSED_ABOVE = 0.1
_NAMED = 10
_MOST_WORDS = 20_000
_SHOWN_CHARACTERS = 24
# a cause is named if it explains at least this share of the unknown words
_EXPLAINS = 0.5
# another way out is mentioned if it helps this share of them
_MENTIONED = 0.05
_FEW_ENTRIES = 0.01

Origin = Literal["given", "bare vocabulary", "trained", "store"]
"""Where the tokenizer of a store comes from, which decides about the way out; a bare vocabulary takes `lowercase`."""


class UnknownTokens:
    """Counts the tokens of encoded text, the unknown ones, and the words that these stand for.

    Args:
        kept: the `state()` to go on from.

    Attributes:
        tokens: tokens.
        unknown: unknown tokens among them.
        words: how often each unknown word occurs.
    """

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        kept = kept or {}
        self.tokens = int(kept.get("tokens", 0))
        self.unknown = int(kept.get("unknown", 0))
        self.words = Counter[str](kept.get("words", {}))

    def note(self, tokens: int, words: Mapping[str, int]) -> None:
        """Count the tokens of one document and its unknown words."""
        self.tokens += tokens
        if words:
            self.unknown += sum(words.values())
            self.words.update(words)
            if len(self.words) > _MOST_WORDS:
                self.words = Counter(dict(self.words.most_common(_MOST_WORDS // 2)))

    def state(self) -> dict[str, Any]:
        """Return all counts, for JSON."""
        return {"tokens": self.tokens, "unknown": self.unknown, "words": dict(self.words)}

    @classmethod
    def merged(cls, states: Iterable[Mapping[str, Any]]) -> UnknownTokens:
        """Return the sum of several counts, given by their `state()`."""
        whole = cls()
        for state in states:
            part = cls(state)
            whole.note(part.tokens, part.words)
            # the words that the part forgot
            whole.unknown += part.unknown - part.words.total()
        return whole


def require_known(
    counts: UnknownTokens,
    tokenizer: Tokenizer,
    origin: Origin,
    *,
    allow: bool,
    sampled: bool = False,
    try_nfkc: Callable[[], tuple[float, float]] | None = None,
) -> None:
    """Warn of many unknown tokens, and refuse very many.

    Args:
        counts: what was encoded.
        tokenizer: what encoded it.
        origin: where it comes from.
        allow: whether to warn only.
        sampled: whether the counts are those of a sample; a share between 1% and 10% is then told later, exactly.
        try_nfkc: returns the share of unknown tokens of a sample of the text as it is, and in normal form NFKC. None if
            the text is not at hand: NFKC is then no way out.

    Raises:
        TokenizerError: more than 10% of the tokens are unknown.
    """
    share = counts.unknown / max(1, counts.tokens)
    refused = share > _REFUSED_ABOVE and not allow
    if share <= _WARNED_ABOVE or (sampled and not refused):
        return
    where = " in a sample of the text" if sampled else ""
    words = ", ".join(f"{_shown(word)} ({times:,})" for word, times in counts.words.most_common(_NAMED))
    finding = (
        f"{share:.1%} of the tokens{where} are unknown ({counts.unknown:,} of {counts.tokens:,}), of which a model "
        f"learns nothing; most frequent words: {words}"
    )
    unknown = _Words(words=counts.words, tokenizer=tokenizer)
    cause, way = _advice(unknown, origin)
    if unknown.share(unknown.known_if_normalised()) >= _MENTIONED:
        way += _nfkc(origin, try_nfkc)
    if refused:
        raise TokenizerError(
            f"tokenizer: {finding}; {cause}; {way}; or set allow_unknown (--allow-unknown, data.allow_unknown in a "
            "run) to take the text as it is"
        )
    _log.warning(f"tokenizer: {finding}; {cause}; {way}")


def _nfkc(origin: Origin, try_nfkc: Callable[[], tuple[float, float]] | None) -> str:
    """Return the advice to normalise; empty if it makes as many known characters unknown."""
    advice = (
        "; prepare the text with --normalisation NFKC, which writes full-width characters and the like in their usual "
        "form"
    )
    if origin == "trained":
        return f"{advice}, before the vocabulary is trained"
    if try_nfkc is None:
        return ""
    plain, normalised = try_nfkc()
    if normalised > plain * (1.0 - _MENTIONED):
        return ""
    return f"{advice}: in a sample, the unknown tokens become {normalised:.1%} instead of {plain:.1%}"


class _Advice(NamedTuple):
    """The likely cause of unknown words, and the way out."""

    cause: str
    way: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Words:
    """Unknown words, with the questions that tell why they are unknown."""

    words: Counter[str]
    tokenizer: Tokenizer

    def explained(self, found: Iterable[str]) -> bool:
        """Return whether these words make up most of all."""
        return self.share(found) >= _EXPLAINS

    def share(self, found: Iterable[str]) -> float:
        """Return the share of these words, by their occurrences."""
        return sum(self.words[word] for word in found) / max(1, self.words.total())

    def known_if_normalised(self) -> list[str]:
        """Return the words that are known in normal form NFKC: full-width letters, ligatures, fractions and others."""
        forms = {word: unicodedata.normalize("NFKC", word) for word in self.words}
        changed = [word for word, form in forms.items() if form != word]
        encoded = self.tokenizer.encode_batch([forms[word] for word in changed])
        return [word for word, ids in zip(changed, encoded, strict=True) if self.tokenizer.unk_id not in ids]

    def long(self) -> list[str]:
        return [word for word in self.words if len(word) > LONGEST_WORD]

    def known_in_other_case(self) -> list[str]:
        """Return the words that are known if the tokenizer treats case the other way."""
        words = list(self.words)
        if self.tokenizer.lowercase:
            encoded = self.tokenizer.keeping_case().encode_batch(words)
        else:
            encoded = self.tokenizer.encode_batch([word.lower() for word in words])
        return [word for word, ids in zip(words, encoded, strict=True) if self.tokenizer.unk_id not in ids]

    def script(self) -> str:
        """Return the script of most letters of the words if the vocabulary hardly has it, else nothing."""
        letters: Counter[str] = Counter()
        for word, times in self.words.items():
            letters.update(dict.fromkeys(_scripts(word), times))
        for script, times in letters.most_common(1):
            tokens = self.tokenizer.tokens
            having = sum(script in _scripts(token) for token in tokens)
            if times >= _EXPLAINS * self.words.total() and having < _FEW_ENTRIES * len(tokens):
                return script if script == "CJK" else script.capitalize()
        return ""


def _advice(words: _Words, origin: Origin) -> _Advice:
    tokenizer = words.tokenizer
    if words.explained(words.long()):
        return _Advice(
            f"most of them are longer than {LONGEST_WORD} characters, which no vocabulary holds",
            "put spaces between the words, or give a tokenizer that cuts such text, such as a WordLevel model with a "
            "rule of its own",
        )
    if origin == "trained":
        return _Advice(
            f"the vocabulary of {tokenizer.vocab_size:,} entries has no room for these characters",
            "give a larger --vocab-size (data.vocab_size in a run)",
        )
    instead = "leave --tokenizer out to train one"
    if origin == "store":
        instead = "leave the store out of the inputs to train a tokenizer"
    if words.explained(words.known_in_other_case()):
        found = "as the text spells them, but case is dropped"
        option = "--no-lowercase"
        if not tokenizer.lowercase:
            found, option = "in small letters, but case is kept", "--lowercase"
        way = f"copy its vocab.txt to a folder of its own and give that with {option}, or {instead}"
        if origin == "bare vocabulary":
            way = f"give {option} (data.lowercase in a run)"
        return _Advice(f"the vocabulary has most of them {found}", way)
    if script := words.script():
        return _Advice(
            f"the vocabulary has next to no {script} letters", f"give a tokenizer for this script, or {instead}"
        )
    way = f"give a tokenizer made for such text, or {instead}"
    if origin != "store" and words.explained(word for word, _ in words.words.most_common(_NAMED)):
        way += "; or make entries of these words: write them to a file, one on each line, and give it as --add-words"
    return _Advice("the vocabulary was made for other text", way)


def _scripts(word: str) -> set[str]:
    """Return the scripts of the letters of a word, such as LATIN; the first words of their Unicode names."""
    return {unicodedata.name(letter, "UNNAMED").partition(" ")[0] for letter in word if letter.isalpha()}


def _shown(word: str) -> str:
    """Return a word for a message, not too long, in quotes unless it is letters and digits."""
    short = word if len(word) <= _SHOWN_CHARACTERS else f"{word[:_SHOWN_CHARACTERS]}..."
    if word.isalnum():
        return short
    return json.dumps(short, ensure_ascii=not short.isprintable())
