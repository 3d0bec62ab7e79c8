"""How sequences are composed: the strategies that `CompositionConfig` names.

documents       whole documents and even pieces of longer ones (the default)
doc_sentences   consecutive sentences of one document (RoBERTa's DOC-SENTENCES)
full_sentences  consecutive sentences across documents (RoBERTa's FULL-SENTENCES)
mix, uni        streams of documents cut every L tokens, over all sources or by source (Zhao 2024)
bm25            as uni, each document followed by the most similar one (Zhao 2024)
best_fit        pieces of documents, packed by best-fit decreasing (Ding 2024)
pairs           [CLS] A [SEP] B [SEP] for next sentence prediction or sentence order
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from unmask.config.schema import CompositionConfig
from unmask.config.settings import between_commas
from unmask.data.compose.bm25 import Bm25
from unmask.data.compose.by_length import compose_best_fit, compose_documents, compose_mix, compose_uni
from unmask.data.compose.pairs import PairBuilder
from unmask.data.compose.sentences import compose_doc_sentences, compose_full_sentences
from unmask.data.compose.sequences import Composer

__all__ = ["PairTask", "composer", "describe_composition", "identity", "sampler"]

PairTask = Literal["nsp", "sop"]
"""What pairs are for: next sentence prediction, or sentence order."""


def composer(composition: CompositionConfig, pair_task: PairTask = "nsp") -> Composer:
    """Return the strategy that a composition names, with its settings."""
    match composition.strategy:
        case "bm25":
            return Bm25(
                walk=composition.bm25_walk,
                buffer=composition.bm25_buffer,
                query_terms=composition.bm25_query_terms,
            )
        case "pairs":
            return PairBuilder(task=pair_task, short_share=composition.short_pairs)
    return {
        "documents": compose_documents,
        "doc_sentences": compose_doc_sentences,
        "full_sentences": compose_full_sentences,
        "mix": compose_mix,
        "uni": compose_uni,
        "best_fit": compose_best_fit,
    }[composition.strategy]


def sampler(composition: CompositionConfig, pair_task: PairTask = "nsp") -> Composer | None:
    """Return a cheap strategy whose sequences have the sizes of this composition's.

    Returns None for `documents`, since the sizes of even pieces follow from the documents' lengths.
    """
    if composition.strategy == "documents":
        return None
    cheap = replace(composition, strategy="uni") if composition.strategy == "bm25" else composition
    return composer(cheap, pair_task)


def identity(composition: CompositionConfig, pair_task: PairTask) -> dict[str, Any]:
    """Return what a composition contributes to the fingerprint of a stream, under the names of format 2."""
    return {
        "strategy": composition.strategy,
        "scope": composition.scope,
        "weights": composition.weights,
        "pair_task": pair_task,
        "short_share": composition.short_pairs,
        "walk": composition.bm25_walk,
        "buffer": composition.bm25_buffer,
        "query_terms": composition.bm25_query_terms,
    }


def describe_composition(composition: CompositionConfig, sources: Sequence[str], pair_task: PairTask) -> str:
    """Say in one line what sequences are made of, and which sources are read more or less often than once."""
    attention = "across them" if composition.joins and composition.scope == "sequence" else "within each document"
    words = [f"sequences composed as {composition.strategy}, attention {attention}"]
    if composition.strategy == "pairs":
        words = [f"sequences composed as pairs for {pair_task}"]
    weights = composition.weights
    dropped = [between_commas(name) for name in sources if weights.get(name) == 0]
    weighted = [f"{between_commas(name)} {w:g} times" for name in sources if (w := weights.get(name, 1)) not in (0, 1)]
    if weighted:
        words.append("an epoch reads " + ", ".join(weighted))
    if dropped:
        words.append(f"{', '.join(dropped)} left out by weight 0")
    return "; ".join(words)
