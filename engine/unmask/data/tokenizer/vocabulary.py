"""A WordPiece vocabulary from text: the same text always gives the same one.

Training merges the most frequent pair of pieces until the vocabulary is full, as the library `tokenizers` does it. But
the library numbers the characters that continue words in the order of a hash map, which differs from run to run, and
then merges pairs of equal counts in another order. So the alphabet is counted first here, and numbered by frequency.

A word of more than `LONGEST_WORD` characters becomes [UNK] with any vocabulary. Merging its pieces takes time quadratic
in its length (a line of base64, a genome, a text without spaces), so training leaves it out and counts it.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING

from unmask.data.tokenizer.bert import LONGEST_WORD
from unmask.data.tokenizer.indentation import CHUNKS, indentation_pre_tokenizer
from unmask.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["sample_by_hash", "train_vocabulary"]

_log = logging.getLogger(__name__)

# the library gets a text in parts that end where a word ends: it takes 300 bytes of memory for each word of a part
_PART = re.compile(rf"(?s).{{1,16384}}[^\s{re.escape(string.punctuation)}]*+")
_LONG = re.compile(rf"(?<!\S)\S{{{LONGEST_WORD + 1},}}")
# a run makes this many of its own text
_OF_SMALL_MODELS = 8192


def train_vocabulary(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str],
    lowercase: bool,
    strip_accents: bool | None = None,
    keep_indentation: bool = False,
    long_words: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Learn a WordPiece vocabulary; ids are special tokens, then `##` characters, characters, merges.

    Single characters take at most half of it, the most frequent first. Those that occur at least 10 times may take up
    to seven eighths, since each of thousands of Chinese characters is a word. Time is linear in the text.
    Logs that the vocabulary is smaller than `vocab_size`, with the reason.

    Args:
        texts: documents in a fixed order, as `sample_by_hash` gives them.
        vocab_size: number of tokens.
        special_tokens: the first tokens, in this order.
        lowercase: whether to drop case.
        strip_accents: whether to drop accents. Default: as `lowercase`.
        keep_indentation: whether a line break with the indentation after it is a word (`indentation.py`).
        long_words: called with the number of words that were left out for their length.

    Returns:
        Token to id.

    Raises:
        TokenizerError: there is no text; no word is short enough; or `vocab_size` has no room beside special tokens
            and characters.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    normalizer = normalizers.BertNormalizer(
        clean_text=not keep_indentation, lowercase=lowercase, strip_accents=strip_accents
    )
    pre_tokenizer = indentation_pre_tokenizer() if keep_indentation else pre_tokenizers.BertPreTokenizer()
    normalized = []
    left_out = 0
    for part in (part for text in texts for part in _PART.findall(normalizer.normalize_str(text))):
        short, long = _without_long_words(part, pre_tokenizer)
        normalized.append(short)
        left_out += long
    if long_words is not None:
        long_words(left_out)
    chunks = CHUNKS.findall if keep_indentation else str.split
    words = Counter(word for text in normalized for word in chunks(text))
    alphabet, continuing = _count_characters(words, pre_tokenizer)
    if not alphabet and left_out:
        raise TokenizerError(
            f"tokenizer: each of the {left_out:,} words of this text is longer than {LONGEST_WORD} characters and can "
            "only become [UNK]; separate its words by spaces, or give a tokenizer"
        )
    if not alphabet:
        raise TokenizerError("tokenizer: there is no text to train on, every document is empty; give text")

    def characters(size: int) -> tuple[list[str], list[str]]:
        kept = _frequent_characters(alphabet, continuing, size)
        return kept, [f"##{character}" for character in kept if character in continuing]

    def fits(size: int) -> bool:
        return len(special_tokens) + sum(map(len, characters(size))) < size

    if not fits(vocab_size):
        # a larger vocabulary keeps more characters
        smallest = next(size for size in count(vocab_size + 1) if fits(size))
        raise TokenizerError(
            f"tokenizer: vocab_size must be at least {smallest} for the special tokens and characters of this text, "
            f"got {vocab_size}"
        )
    kept, seeds = characters(vocab_size)
    backend = Tokenizer(models.WordPiece(unk_token=special_tokens[0]))
    backend.pre_tokenizer = pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*special_tokens, *seeds],
        initial_alphabet=kept,
        limit_alphabet=len(kept),
        show_progress=False,
    )
    backend.train_from_iterator(normalized, trainer)
    tokens = sorted(backend.get_vocab().items(), key=lambda pair: pair[1])
    if len(tokens) < vocab_size:
        left = len(alphabet) - len(kept)
        enough = vocab_size
        while len(characters(enough)[0]) < len(alphabet):
            enough += max(1, enough // 20)
        why = (
            f"each word of its {len(kept):,} most frequent characters is an entry already, and {left:,} rarer ones "
            f"have no room, since characters take at most half of a vocabulary; vocab_size {enough:,} takes all of them"
            if left
            else "each word of it is an entry already, and nothing is left to join; more text gives more entries"
        )
        fewer = "; a small model needs fewer, give --vocab-size 8192" if len(tokens) > _OF_SMALL_MODELS else ""
        _log.info(f"the vocabulary of this text has {len(tokens):,} entries instead of {vocab_size:,}: {why}{fewer}")
    return {token: index for index, (token, _) in enumerate(tokens)}


def sample_by_hash(texts: Iterable[str], characters: int) -> list[str]:
    """Return the texts with the smallest hashes, as many as have at most `characters` together, sorted by hash.

    The choice depends on the set of texts, not on their order, and no more than the sample is in memory. If any text
    has characters, at least one is returned.
    """
    heap: list[tuple[int, str]] = []
    total = 0
    for text in texts:
        if not text:
            continue
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
        heapq.heappush(heap, (-int.from_bytes(digest, "big"), text))
        total += len(text)
        while total > characters and len(heap) > 1:
            total -= len(heapq.heappop(heap)[1])
    return [text for _, text in sorted(heap, reverse=True)]


def _without_long_words(text: str, pre_tokenizer: tokenizers.pre_tokenizers.PreTokenizer) -> tuple[str, int]:
    left_out = 0

    def shortened(chunk: re.Match[str]) -> str:
        nonlocal left_out
        words = [word for word, _ in pre_tokenizer.pre_tokenize_str(chunk[0])]
        short = [word for word in words if len(word) <= LONGEST_WORD]
        left_out += len(words) - len(short)
        return chunk[0] if len(short) == len(words) else " ".join(short)

    return _LONG.sub(shortened, text), left_out


def _frequent_characters(alphabet: Sequence[tuple[str, int]], continuing: set[str], vocab_size: int) -> list[str]:
    kept: list[str] = []
    used = 0
    for character, times in alphabet:
        used += 2 if character in continuing else 1
        if used > (vocab_size * 7 // 8 if times >= 10 else vocab_size // 2):
            break
        kept.append(character)
    return kept


def _count_characters(
    words: Counter[str], pre_tokenizer: tokenizers.pre_tokenizers.PreTokenizer
) -> tuple[list[tuple[str, int]], set[str]]:
    """Return (character, count), most frequent first, and the characters that continue a word somewhere."""
    counts: Counter[str] = Counter()
    continuing: set[str] = set()
    for chunk, times in words.items():
        for character in chunk:
            counts[character] += times
        pieces = (chunk,) if chunk.isalpha() else (word for word, _ in pre_tokenizer.pre_tokenize_str(chunk))
        for word in pieces:
            continuing.update(word[1:])
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])), continuing
