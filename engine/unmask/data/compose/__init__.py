"""Composition: how the documents of a block become sequences, by a strategy that the configuration names."""

from unmask.data.compose.composition import Composition, Strategy, composer, sampler
from unmask.data.compose.sequences import Block, Composer, Sequences, Text

__all__ = ["Block", "Composer", "Composition", "Sequences", "Strategy", "Text", "composer", "sampler"]
