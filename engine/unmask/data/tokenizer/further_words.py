"""Further entries for a vocabulary: words of a field that it would cut into many pieces.

The new entries come after all others, so every id that the tokenizer gave before keeps its meaning, and a model can
take the vocabulary over (`init.vocabulary: extend`). A word is written as text has it. It is normalised first (lower
case, accents), and then it must be one word for the tokenizer: an entry "e-mail" would never be found, because
punctuation is cut off before the vocabulary is asked. BERT's rules make a word of each Chinese character, so single
characters can be entries, and words of several cannot. A word that begins with `##` is a piece that continues others,
as in `vocab.txt`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["read_words", "with_words"]

_log = logging.getLogger(__name__)

_NAMED = 3


def read_words(path: str | Path) -> list[str]:
    """Return the words of a text file, one a line; blank lines do not count.

    Raises:
        TokenizerError: the file cannot be read, is not UTF-8, or holds no word.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise TokenizerError(
            f"tokenizer: {path} cannot be read ({error.strerror}); give a text file with one word on each line"
        ) from None
    except UnicodeDecodeError as error:
        raise TokenizerError(f"tokenizer: {path} is not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    words = [line.strip() for line in text.splitlines() if line.strip()]
    if not words:
        raise TokenizerError(f"tokenizer: {path} holds no word; write one word on each line, or leave the file out")
    return words


def with_words(
    backend: tokenizers.Tokenizer, description: Mapping[str, Any], words: Iterable[str]
) -> tokenizers.Tokenizer:
    """Return a tokenizer with these words after its other entries; those that it has already change nothing.

    Logs how many words are new, and warns if none is.

    Args:
        backend: the tokenizer.
        description: its JSON.
        words: as text has them.

    Raises:
        TokenizerError: a word is more than one word for the tokenizer, or is longer than the words that it looks up.
    """
    from tokenizers import Tokenizer as Backend

    vocabulary: dict[str, int] = dict(backend.get_vocab())
    prefix = str(description["model"].get("continuing_subword_prefix", ""))
    longest = description["model"].get("max_input_chars_per_word")
    refused, parts = [], dict[str, None]()
    first = following = max(vocabulary.values()) + 1
    given = list(dict.fromkeys(words))
    for word in given:
        continues = bool(prefix) and word.startswith(prefix) and word != prefix
        pieces = _looked_up(backend, word.removeprefix(prefix) if continues else word)
        if len(pieces) != 1 or (longest is not None and len(pieces[0]) > longest):
            refused.append(word)
            parts.update(dict.fromkeys(piece for piece in pieces if len(pieces) > 1 and piece not in vocabulary))
            continue
        entry = f"{prefix}{pieces[0]}" if continues else pieces[0]
        if entry not in vocabulary:
            vocabulary[entry] = following
            following += 1
    if refused:
        new = [part for part in parts if part not in vocabulary and (longest is None or len(part) <= longest)]
        way = "take them out of the list; their parts are entries already, or too long too"
        if new:
            way = f"take them out of the list, and write their parts on lines of their own: {_some(new)}"
        raise TokenizerError(
            f"tokenizer: {_some(refused)} cannot be entries of the vocabulary, because the tokenizer cuts them into "
            "several words before it looks one up (BERT's rules make a word of each Chinese character), or because "
            f"they are too long for it; {way}"
        )
    added = following - first
    counts = f"{added:,} of {len(given):,} words are new entries, {len(given) - added:,} were entries already"
    if added:
        _log.info(f"tokenizer: {counts}")
    else:
        _log.warning(f"tokenizer: {counts}; the vocabulary stays as it is, so leave the list of words out")
    return Backend.from_str(json.dumps({**description, "model": {**description["model"], "vocab": vocabulary}}))


def _some(words: list[str]) -> str:
    return ", ".join(map(repr, words[:_NAMED])) + (f" and {len(words) - _NAMED:,} more" * (len(words) > _NAMED))


def _looked_up(backend: tokenizers.Tokenizer, word: str) -> list[str]:
    """Return the words of a text that the vocabulary is asked for."""
    text = word if backend.normalizer is None else backend.normalizer.normalize_str(word)
    if backend.pre_tokenizer is None:
        return [text]
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
