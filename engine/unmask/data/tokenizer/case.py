"""Whether a tokenizer drops case: what its files say, what the option says, or what a bare vocabulary shows.

A `vocab.txt` is bare if no file beside it decides about case: no `tokenizer.json`, and no `do_lower_case` in
`tokenizer_config.json`. The option `lowercase` then decides. Without it, the entries that hold capitals do, as a share
of the entries with letters that have case:

    below 1%       case is dropped, as `transformers` does it with any bare vocabulary
    5% or more     case is kept: most of these entries would never be found in lower-cased text
    between        an error that names the option, for an entry may be there by accident or by intent

BERT's uncased vocabularies have no such entry, its cased ones have one in three. Special tokens such as [PAD],
[unused7] and <S> do not count.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from unmask.errors import TokenizerError

__all__ = ["case_of_vocabulary", "require_case", "warn_of_capitals"]

_log = logging.getLogger(__name__)

_UNCASED_BELOW = 0.01
_CASED_FROM = 0.05
_NO_WORD = re.compile(r"\[.+\]|<.+>")


def case_of_vocabulary(vocabulary: Iterable[str], path: Path) -> bool:
    """Return whether text has to be lower-cased for a bare vocabulary, the file `path`.

    Raises:
        TokenizerError: too few of its entries hold capitals to call it cased, and too many to call it uncased.
    """
    words, capitals = _words(vocabulary)
    if len(capitals) < _UNCASED_BELOW * len(words) or not capitals:
        return True
    counted = f"{len(capitals):,} of its {len(words):,} entries with letters"
    if len(capitals) >= _CASED_FROM * len(words):
        _log.info(
            f"tokenizer: {path} has capitals in {counted}, so case is kept; if that is wrong, give --lowercase "
            '(lowercase in Python), or write {"do_lower_case": true} into tokenizer_config.json beside it'
        )
        return False
    raise TokenizerError(
        f"tokenizer: {path} has capitals in {counted}, such as {capitals[0]!r}, too few to tell whether it keeps case; "
        "give --lowercase or --no-lowercase (data.lowercase in a run, lowercase in Python), or write "
        '{"do_lower_case": true} or false into tokenizer_config.json beside it'
    )


def warn_of_capitals(vocabulary: Iterable[str], path: Path) -> None:
    """Warn of the entries of a bare vocabulary, the file `path`, that lower-cased text cannot hold."""
    words, capitals = _words(vocabulary)
    if capitals:
        _log.warning(
            f"tokenizer: {path} has capitals in {len(capitals):,} of its {len(words):,} entries with letters, such as "
            f"{capitals[0]!r}, which cannot occur in lower-cased text; to keep case, give --no-lowercase "
            "(data.lowercase of a run, lowercase in Python)"
        )


def _words(vocabulary: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the entries with letters that have case, and those of them that hold capitals."""
    words = [token for token in vocabulary if token.lower() != token.upper() and not _NO_WORD.fullmatch(token)]
    return words, [token for token in words if token.lower() != token]


def require_case(lowercase: bool, found: bool, said: str) -> None:
    """Refuse the option `lowercase` if it contradicts what decides.

    Args:
        lowercase: the option.
        found: whether the tokenizer drops case.
        said: what decides, a clause such as "the given tokenizer drops case".
    """
    if lowercase != found:
        other = "drops" if lowercase else "keeps"
        raise TokenizerError(
            f"tokenizer: lowercase is {lowercase}, but {said}; leave lowercase out, or give a tokenizer that {other} "
            "case"
        )
