"""How a block's documents become sequences: one strategy a file, chosen by name in the configuration."""

from dataclasses import replace

from unmask.data.compose.best_fit import compose_best_fit
from unmask.data.compose.bm25 import Bm25
from unmask.data.compose.composition import Composition
from unmask.data.compose.concatenated import compose_mix, compose_uni
from unmask.data.compose.documents import compose_documents
from unmask.data.compose.pairs import PairBuilder
from unmask.data.compose.sentences import compose_doc_sentences, compose_full_sentences
from unmask.data.compose.table import Block, Composer, SequenceTable, Text

__all__ = ["Block", "Composer", "Composition", "SequenceTable", "Text", "composer", "sampler"]


def composer(composition: Composition) -> Composer:
    """The strategy that a composition names, with its settings."""
    strategies: dict[str, Composer] = {
        "documents": compose_documents,
        "doc_sentences": compose_doc_sentences,
        "full_sentences": compose_full_sentences,
        "mix": compose_mix,
        "uni": compose_uni,
        "bm25": Bm25(composition),
        "best_fit": compose_best_fit,
        "pairs": PairBuilder(composition),
    }
    return strategies[composition.strategy]


def sampler(composition: Composition) -> Composer | None:
    """A strategy whose sequences have the sizes of this one's at little cost; None for even pieces of documents, whose
    sizes follow from the lengths.
    """
    if composition.strategy == "documents":
        return None
    return composer(replace(composition, strategy="uni") if composition.strategy == "bm25" else composition)
