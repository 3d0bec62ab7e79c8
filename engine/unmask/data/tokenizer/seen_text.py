"""What of a text a tokenizer makes something of, so that nothing before it takes that away or cuts it apart.

characters   cleaning removes control and format characters, which BERT's tokenizer drops too. Another normalizer
             may put a token in the place of one (a zero-width non-joiner becomes [ZWNJ]), or let it through to a
             vocabulary that has it; a rule that cuts words may name one, an added token hold one. Such characters
             are kept.
cuts         text is encoded sentence by sentence where the tokens are those of the whole: with rules that look at
             a word at most, and added tokens inside which no sentence starts ("[USER]"). Another one ("St. Xavier")
             or a rule that replaces may reach across.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from unmask.data.text.cleaning import BREAKS, REMOVABLE
from unmask.data.text.sentences import BEFORE_A_START

if TYPE_CHECKING:
    import tokenizers

__all__ = ["may_be_cut", "seen_characters"]

# rules of `tokenizers` that look at a word at most
_LOCAL_NORMALIZERS = {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}
_CUT_AT_SPACE = {"BertPreTokenizer", "WhitespaceSplit", "Whitespace"}
_CUT_WITHIN = {"Punctuation", "Digits"}


def may_be_cut(backend: tokenizers.Tokenizer, description: Mapping[str, Any], roles: Collection[str]) -> bool:
    """Whether text may be cut where white space ends a word (or a mark, for BERT's own rules) and encoded in parts.

    Args:
        backend: the tokenizer.
        description: the same as JSON.
        roles: tokens that are text.
    """
    prefix = description["model"]["continuing_subword_prefix"]
    steps = [step["type"] for step in _steps(description["pre_tokenizer"], "pretokenizers")]
    added = [token for token in description["added_tokens"] if token["content"] not in roles]
    # an added token may also start a sentence where rules that cut at white space alone would not
    if added and (steps != ["BertPreTokenizer"] or any(_reaches_across(backend, token, prefix) for token in added)):
        return False
    return (
        all(step["type"] in _LOCAL_NORMALIZERS for step in _steps(description["normalizer"], "normalizers"))
        and bool(_CUT_AT_SPACE.intersection(steps[:1]))
        and _CUT_AT_SPACE.union(_CUT_WITHIN).issuperset(steps)
    )


def seen_characters(backend: tokenizers.Tokenizer, description: Mapping[str, Any], roles: Collection[str]) -> str:
    """The characters that cleaning would take away and this tokenizer makes something of, in order.

    Args:
        backend: the tokenizer.
        description: the same as JSON.
        roles: tokens that are text.
    """
    candidates = {*REMOVABLE, *BREAKS}
    steps = [*_steps(description["normalizer"], "normalizers"), *_steps(description["pre_tokenizer"], "pretokenizers")]
    written = [token["content"] for token in description["added_tokens"] if token["content"] not in roles]
    written += [text for step in steps if "pattern" in step for text in step["pattern"].values()]
    written += [step["delimiter"] for step in steps if "delimiter" in step]
    seen = candidates & set("".join(written))
    passed = set()
    without = _normalized(backend, "ab")
    for character in candidates - seen:
        found = _normalized(backend, f"a{character}b")
        start = _shared(found, without)
        end = _shared(found[start:][::-1], without[start:][::-1])
        between = found[start : len(found) - end]
        if between == character:
            passed.add(character)
        elif between.strip() or (between and character in REMOVABLE):
            # white space in the place of a line break is what cleaning puts there as well
            seen.add(character)
    if passed:
        seen |= passed & set("".join(description["model"]["vocab"]))
    return "".join(sorted(seen))


def _reaches_across(backend: tokenizers.Tokenizer, token: Mapping[str, Any], prefix: str) -> bool:
    """Whether a sentence may start inside an added token, or at one that starts no word."""
    content = token["content"]
    written = [content, _normalized(backend, content)] if token["normalized"] else [content]
    # whether a token is a single word is seen at the character behind it
    inside = written if token["single_word"] else [one[:-1] for one in written]
    return any(map(BEFORE_A_START.search, inside)) or bool(prefix and content.startswith(prefix))


def _normalized(backend: tokenizers.Tokenizer, text: str) -> str:
    return text if backend.normalizer is None else str(backend.normalizer.normalize_str(text))


def _shared(one: str, other: str) -> int:
    """How many characters two strings have in common at their beginning."""
    same = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(same, min(len(one), len(other)))


def _steps(rule: Mapping[str, Any] | None, name: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a rule, a sequence taken apart."""
    if rule is None:
        return
    if rule["type"] == "Sequence":
        for step in rule[name]:
            yield from _steps(step, name)
        return
    yield rule
