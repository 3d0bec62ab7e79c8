"""How sequences are composed: the settings, and the strategies that they name.

documents       whole documents and even pieces of longer ones (the default)
doc_sentences   consecutive sentences of one document (RoBERTa's DOC-SENTENCES)
full_sentences  consecutive sentences across documents (RoBERTa's FULL-SENTENCES)
mix, uni        streams of documents cut every L tokens, over all sources or by source (Zhao 2024)
bm25            as uni, each document followed by the most similar one (Zhao 2024)
best_fit        pieces of documents, packed by best-fit decreasing (Ding 2024)
pairs           [CLS] A [SEP] B [SEP] for next sentence prediction or sentence order
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Literal

from unmask.data.compose.bm25 import Bm25
from unmask.data.compose.by_length import compose_best_fit, compose_documents, compose_mix, compose_uni
from unmask.data.compose.pairs import PairBuilder
from unmask.data.compose.sentences import compose_doc_sentences, compose_full_sentences
from unmask.data.compose.sequences import Composer
from unmask.errors import ConfigError
from unmask.limits import JOINING

__all__ = ["Composition", "Strategy", "composer", "sampler"]

# a weight is the nearest fraction with at most this denominator, so that 0.1 is 1/10 exactly
_DENOMINATOR = 1 << 16

Strategy = Literal["documents", "doc_sentences", "full_sentences", "mix", "uni", "bm25", "best_fit", "pairs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """Settings of composition. Their names and values are part of the stream's identity.

    Attributes:
        strategy: how the documents of a block become sequences.
        scope: whether a token attends to its own piece (`document`) or to the whole sequence.
        weights: how often an epoch reads each source, by the source's name; 1 where none is given.
        pair_task: what pairs are for: next sentence prediction, or sentence order.
        short_share: share of the documents whose pairs have a random, shorter length.
        walk: the query of bm25: the document just added (`path`), or always the first one of the sequence (`star`).
        buffer: documents that bm25 chooses from.
        query_terms: words of a document in a query of bm25, at most.
    """

    strategy: Strategy = "documents"
    scope: Literal["document", "sequence"] = "document"
    weights: Mapping[str, float] = field(default_factory=dict)
    pair_task: Literal["nsp", "sop"] = "nsp"
    short_share: float = 0.1
    walk: Literal["path", "star"] = "path"
    buffer: int = 2048
    query_terms: int = 300

    @property
    def joins(self) -> bool:
        """Whether a sequence may hold pieces of several documents."""
        return self.strategy in JOINING

    @property
    def expensive(self) -> bool:
        """Whether composing takes so long that one process does it ahead for all workers."""
        return self.strategy == "bm25"

    def held_out(self) -> "Composition":
        """Return the composition of evaluation: every document by itself, or pairs, whatever training composes."""
        return replace(
            self,
            strategy="pairs" if self.strategy == "pairs" else "documents",
            scope="document",
            weights={name: 0.0 for name, weight in self.weights.items() if weight == 0},
        )

    def source_weights(self, sources: Sequence[str]) -> list[Fraction]:
        """Return the weight of each source, in the order of `sources`.

        Raises:
            ConfigError: a weight below 0, or of a source that is not there.
        """
        for name, weight in self.weights.items():
            if name not in sources:
                close = difflib.get_close_matches(name, sources, n=1, cutoff=0.5)
                hint = f"; did you mean {close[0]}?" if close else f"; the store has {', '.join(sources)}"
                raise ConfigError(f"stream: data.weights names {name!r}, which is no source of the store{hint}")
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"stream: data.weights.{name} must be a number of at least 0, got {weight}")
        return [Fraction(self.weights.get(name, 1)).limit_denominator(_DENOMINATOR) for name in sources]

    def describe(self, sources: Sequence[str]) -> str:
        """Say in one line what sequences are made of, and which sources are read more or less often than once."""
        attention = "across them" if self.joins and self.scope == "sequence" else "within each document"
        words = [f"sequences composed as {self.strategy}, attention {attention}"]
        if self.strategy == "pairs":
            words = [f"sequences composed as pairs for {self.pair_task}"]
        dropped = [name for name in sources if self.weights.get(name) == 0]
        weighted = [f"{name} {w:g} times" for name in sources if (w := self.weights.get(name, 1)) not in (0, 1)]
        if weighted:
            words.append("an epoch reads " + ", ".join(weighted))
        if dropped:
            words.append(f"{', '.join(dropped)} left out by weight 0")
        return "; ".join(words)


def composer(composition: Composition) -> Composer:
    """Return the strategy that a composition names, with its settings."""
    match composition.strategy:
        case "bm25":
            return Bm25(walk=composition.walk, buffer=composition.buffer, query_terms=composition.query_terms)
        case "pairs":
            return PairBuilder(task=composition.pair_task, short_share=composition.short_share)
    return {
        "documents": compose_documents,
        "doc_sentences": compose_doc_sentences,
        "full_sentences": compose_full_sentences,
        "mix": compose_mix,
        "uni": compose_uni,
        "best_fit": compose_best_fit,
    }[composition.strategy]


def sampler(composition: Composition) -> Composer | None:
    """Return a cheap strategy whose sequences have the sizes of this composition's.

    Returns None for `documents`, since the sizes of even pieces follow from the documents' lengths.
    """
    if composition.strategy == "documents":
        return None
    return composer(replace(composition, strategy="uni") if composition.strategy == "bm25" else composition)
