"""`documents`: a sequence is a document, or one of the even pieces of a document longer than L - 2 tokens.

Cutting evenly: a piece of one token, all that is left of a document, would be a question without a context.
Every token comes once an epoch. Cost: about 0.1 us a document.
"""

import numpy as np

from unmask.data.compose.table import Block, SequenceTable

__all__ = ["compose_documents"]


def compose_documents(block: Block) -> SequenceTable:
    """Cut each document into as few pieces as fit, of equal length within one token."""
    parts = -(-block.lengths // (block.max_length - 2))
    owners = np.repeat(np.arange(len(block)), parts)
    part = np.arange(owners.size) - (np.cumsum(parts) - parts)[owners]
    starts = part * block.lengths[owners] // parts[owners]
    lengths = (part + 1) * block.lengths[owners] // parts[owners] - starts
    return SequenceTable(
        owners=owners,
        starts=starts,
        lengths=lengths,
        keys=block.keys(owners, part),
        firsts=np.arange(owners.size + 1),
    )
