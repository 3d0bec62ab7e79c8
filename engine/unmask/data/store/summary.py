"""The summary of a store: what `prepare` counts, keeps in the manifest and prints.

Counting may stop after any document and go on from what was saved, so a store that was continued has the summary of one
that was made without a break.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unmask.config.settings import between_commas, counted
from unmask.data.store.reader import Store
from unmask.data.text.cleaning import KINDS
from unmask.data.tokenizer.bert import LONGEST_WORD

__all__ = ["SummaryCounts", "describe", "headline"]

# a larger share of unknown tokens in a source is reported; Chinese text in BERT's vocabulary has about 3%
_MUCH_UNKNOWN = 0.1
# a larger share of all tokens stands in the line about a store
_SOME_UNKNOWN = 0.01


class SummaryCounts:
    """Counts documents without a token, unknown tokens and removed characters by source, and lengths.

    Args:
        kept: the `state()` to go on from.
    """

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        kept = kept or {}
        self.read = int(kept.get("read", 0))
        self.characters = int(kept.get("characters", 0))
        self.long_words = int(kept.get("long_words", 0))
        self._empty = Counter[str](kept.get("empty", {}))
        self._unknown = Counter[str](kept.get("unknown", {}))
        self._removed = {kind: Counter[str](kept.get("removed", {}).get(kind, {})) for kind in KINDS}
        self._lengths = Counter({int(power): count for power, count in kept.get("lengths", {}).items()})

    def note(self, source: str, characters: int, tokens: int, unknown: int, removed: Sequence[int]) -> None:
        """Count one document: its characters, tokens, unknown tokens, and removed characters by `KINDS`."""
        self.read += 1
        self.characters += characters
        if tokens:
            self._lengths[max(4, (tokens - 1).bit_length())] += 1
            self._unknown[source] += unknown
        else:
            self._empty[source] += 1
        for kind, count in zip(KINDS, removed, strict=True):
            if count:
                self._removed[kind][source] += int(count)

    def state(self) -> dict[str, Any]:
        """Return all counts, for JSON."""
        return {
            "read": self.read,
            "characters": self.characters,
            "long_words": self.long_words,
            "empty": dict(self._empty),
            "unknown": dict(self._unknown),
            "removed": {kind: dict(counts) for kind, counts in self._removed.items()},
            "lengths": {str(power): count for power, count in self._lengths.items()},
        }

    @classmethod
    def merged(cls, states: Iterable[Mapping[str, Any]]) -> SummaryCounts:
        """Return the sum of several tallies, given by their `state()`."""
        whole = cls()
        for part in map(cls, states):
            whole.read += part.read
            whole.characters += part.characters
            whole.long_words += part.long_words
            whole._empty += part._empty
            # adding counters would drop a source without unknown tokens
            whole._unknown.update(part._unknown)
            whole._lengths += part._lengths
            for kind in KINDS:
                whole._removed[kind] += part._removed[kind]
        return whole

    def summary(self, sources: Sequence[str]) -> dict[str, Any]:
        """Return the summary for the manifest; `sources` are the names of the inputs' sources."""
        powers = range(4, max(self._lengths, default=3) + 1)
        labels = {power: f"{(1 << power - 1) + 1 if power > 4 else 1}-{1 << power}" for power in powers}
        return {
            "empty_documents": self._empty.total(),
            "empty_sources": [name for name in dict.fromkeys(sources) if name not in self._unknown],
            "unknown_tokens": dict(self._unknown),
            "removed_characters": {kind: dict(counts) for kind, counts in self._removed.items() if counts},
            **({"long_words": self.long_words} if self.long_words else {}),
            "lengths": {label: self._lengths[power] for power, label in labels.items()},
        }


def headline(store: Store) -> str:
    """Describe a store in one line: documents, tokens, vocabulary, segmenter, and unknown tokens if they are many."""
    counts = (
        f"{counted(store.num_documents, 'document')}, {store.num_tokens:,} tokens without [CLS] and [SEP], vocabulary "
        f"{store.vocab_size:,}"
    )
    words = f", words of Chinese by {store.segmenter}" if store.segmenter else ""
    unknown = sum(store.manifest["summary"].get("unknown_tokens", {}).values()) / max(1, store.num_tokens)
    return f"{store.location}: {counts}{words}" + (f", {unknown:.1%} unknown" if unknown > _SOME_UNKNOWN else "")


def describe(store: Store) -> str:
    """Describe a store in a few lines: documents, tokens, lengths, unknown tokens and removed characters by source."""
    summary = store.manifest["summary"]
    lines = [headline(store)]
    if summary.get("empty_documents"):
        empty = summary["empty_documents"]
        lines.append(f"{counted(empty, 'document')} without a token {'was' if empty == 1 else 'were'} left out")
    if summary.get("dropped_duplicates"):
        copies = summary["dropped_duplicates"]
        lines.append(
            "1 copy of an earlier document was dropped"
            if copies == 1
            else f"{copies:,} copies of earlier documents were dropped"
        )
    lines.extend(
        f"source {name} has no document with a token and is left out" for name in summary.get("empty_sources", ())
    )
    strange = []
    for source in store.manifest["sources"]:
        name, tokens = source["name"], source["tokens"]
        unknown = summary.get("unknown_tokens", {}).get(name, 0)
        share = unknown / max(1, tokens)
        lines.append(f"  {name}: {counted(source['documents'], 'document')}, {tokens:,} tokens, {share:.3%} unknown")
        if unknown > _MUCH_UNKNOWN * tokens:
            strange.append(between_commas(name))
    if strange:
        lines.append(
            f"more than {_MUCH_UNKNOWN:.0%} of {', '.join(strange)} is [UNK], of which a model learns nothing; give a "
            "tokenizer made for such text, or none to train one"
        )
    for kind, by_source in summary.get("removed_characters", {}).items():
        removed = ", ".join(f"{between_commas(name)} {count:,}" for name, count in by_source.items())
        lines.append(f"{kind} characters removed: {removed}")
    if summary.get("long_words"):
        lines.append(
            f"{summary['long_words']:,} words of more than {LONGEST_WORD} characters can only become [UNK] and were "
            "left out of training the vocabulary"
        )
    if lengths := summary.get("lengths"):
        lines.append("tokens per document:")
        rows = itertools.dropwhile(lambda row: not row[1], lengths.items())
        lines.extend(f"  {label:>17} {count:>12,}" for label, count in rows)
    return "\n".join(lines)
