"""How a window's documents become sequences: one strategy a file, chosen by name in the configuration."""

from unmask.data.compose.composition import Composition, Strategy
from unmask.data.compose.concatenated import compose_mix, compose_uni
from unmask.data.compose.documents import compose_documents
from unmask.data.compose.table import Composer, SequenceTable, Text, Window

__all__ = ["Composer", "Composition", "SequenceTable", "Strategy", "Text", "Window", "composer", "sampler"]


def composer(composition: Composition) -> Composer:
    """The strategy that a composition names, with its settings."""
    strategies: dict[Strategy, Composer] = {
        "documents": compose_documents,
        "mix": compose_mix,
        "uni": compose_uni,
    }
    return strategies[composition.strategy]


def sampler(composition: Composition) -> Composer | None:
    """A strategy whose sequences have the sizes of this one's at little cost; None for even pieces of documents, whose
    sizes follow from the lengths.
    """
    return None if composition.strategy == "documents" else composer(composition)
