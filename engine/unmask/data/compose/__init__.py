"""Composition: how the documents of a block become sequences, by a strategy that the configuration names."""

from unmask.data.compose.composition import PairTask, composer, describe_composition, identity, sampler
from unmask.data.compose.sequences import Block, Composer, Sequences, Text

__all__ = [
    "Block",
    "Composer",
    "PairTask",
    "Sequences",
    "Text",
    "composer",
    "describe_composition",
    "identity",
    "sampler",
]
