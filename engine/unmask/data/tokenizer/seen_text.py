"""What a tokenizer reads of a text, so that no step before it removes or cuts that.

characters   Cleaning removes control and format characters, as BERT's tokenizer does. Another normalizer may replace
             one by a token (a zero-width non-joiner becomes [ZWNJ]), or leave it for a vocabulary that has it; a rule
             that cuts words may name one; an added token may contain one. Cleaning keeps such characters.
cuts         Text is encoded sentence by sentence if the tokens are those of the whole text. That holds for rules that
             look at one word at most, and for added tokens in which no sentence starts ("[USER]"). Another token
             ("St. Xavier"), or a rule that replaces text, may reach across the end of a sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from unmask.data.text.cleaning import BREAKS, REMOVABLE
from unmask.data.text.sentences import BEFORE_A_START

if TYPE_CHECKING:
    import tokenizers

__all__ = ["may_be_cut", "seen_characters"]

# rules of `tokenizers` that look at one word at most
_LOCAL_NORMALIZERS = {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}
_CUT_AT_SPACE = {"BertPreTokenizer", "WhitespaceSplit", "Whitespace"}
_CUT_WITHIN = {"Punctuation", "Digits"}


def may_be_cut(backend: tokenizers.Tokenizer, description: Mapping[str, Any], roles: Collection[str]) -> bool:
    """Return whether the parts of a text may be encoded alone, if it is cut at words.

    White space ends a word; with BERT's own rules a punctuation mark does too. `description` is the JSON of the
    tokenizer, `roles` are the tokens of the five roles, which are plain text in a corpus.
    """
    prefix = description["model"].get("continuing_subword_prefix", "")
    steps = [step["type"] for step in _steps(description["pre_tokenizer"], "pretokenizers")]
    added = [token for token in description["added_tokens"] if token["content"] not in roles]
    # an added token may start a sentence at a place where rules that cut at white space alone would not
    if added and (steps != ["BertPreTokenizer"] or any(_reaches_across(backend, token, prefix) for token in added)):
        return False
    return (
        all(step["type"] in _LOCAL_NORMALIZERS for step in _steps(description["normalizer"], "normalizers"))
        and bool(_CUT_AT_SPACE.intersection(steps[:1]))
        and _CUT_AT_SPACE.union(_CUT_WITHIN).issuperset(steps)
    )


def seen_characters(backend: tokenizers.Tokenizer, description: Mapping[str, Any], roles: Collection[str]) -> str:
    """Return the characters that cleaning removes but this tokenizer reads, sorted; arguments as of `may_be_cut`."""
    candidates = {*REMOVABLE, *BREAKS}
    steps = [*_steps(description["normalizer"], "normalizers"), *_steps(description["pre_tokenizer"], "pretokenizers")]
    written = [token["content"] for token in description["added_tokens"] if token["content"] not in roles]
    written += [text for step in steps if "pattern" in step for text in step["pattern"].values()]
    written += [step["delimiter"] for step in steps if "delimiter" in step]
    seen = candidates & set("".join(written))
    passed: set[str] = set()
    without = _normalized(backend, "ab")
    for character in candidates - seen:
        found = _normalized(backend, f"a{character}b")
        start = _shared(found, without)
        end = _shared(found[start:][::-1], without[start:][::-1])
        between = found[start : len(found) - end]
        if between == character:
            passed.add(character)
        elif between.strip() or (between and character in REMOVABLE):
            # cleaning, too, puts white space in the place of a line break
            seen.add(character)
    seen |= passed & set("".join(description["model"]["vocab"]))
    return "".join(sorted(seen))


def _reaches_across(backend: tokenizers.Tokenizer, token: Mapping[str, Any], prefix: str) -> bool:
    """Return whether a sentence may start inside an added token, or at one that starts no word."""
    content = token["content"]
    written = [content, _normalized(backend, content)] if token["normalized"] else [content]
    # the rule `single_word` looks at the character after the token
    inside = written if token["single_word"] else [one[:-1] for one in written]
    return any(map(BEFORE_A_START.search, inside)) or bool(prefix and content.startswith(prefix))


def _normalized(backend: tokenizers.Tokenizer, text: str) -> str:
    return text if backend.normalizer is None else str(backend.normalizer.normalize_str(text))


def _shared(one: str, other: str) -> int:
    """Return how many characters two strings share at their beginning."""
    same = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(same, min(len(one), len(other)))


def _steps(rule: Mapping[str, Any] | None, name: str) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a rule; a `Sequence` has several."""
    if rule is not None and rule["type"] == "Sequence":
        for step in rule[name]:
            yield from _steps(step, name)
    elif rule is not None:
        yield rule
