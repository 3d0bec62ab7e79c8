"""Documents of a store that come more than once, by the hashes of their texts.

Copies of a document have the same hash, so all of them are held out or none: they do not leak into evaluation, but a
run reads them as often as they come. Cost: 0.1 s for a million documents, and 16 bytes of memory for each.
"""

from __future__ import annotations

import numpy as np

from unmask.config.settings import between_commas
from unmask.data.store.reader import Store

__all__ = ["describe_duplicates"]

_SHOWN_TOKENS = 12


def describe_duplicates(store: Store) -> str:
    """Describe the copies in a line: how many, of which sources, and the text that comes most often; empty if none."""
    _, first, counts = np.unique(store.content_hashes, return_index=True, return_counts=True)
    copies = store.num_documents - len(first)
    if not copies:
        return ""
    most = int(np.argmax(counts))
    is_copy = np.ones(store.num_documents, np.bool_)
    is_copy[first] = False
    by_source = np.bincount(store.source_of[is_copy], minlength=len(store.sources))
    sources = ", ".join(
        f"{between_commas(name)} {count:,}" for name, count in zip(store.sources, by_source, strict=True) if count
    )
    share = f"{copies / store.num_documents:.1%}"
    are = "is a copy of an earlier one" if copies == 1 else "are copies of earlier ones"
    return (
        f"{copies:,} of {store.num_documents:,} documents {are}, {share} ({sources}); "
        f"{_beginning(store, int(first[most]))!r} comes {counts[most]:,} times; --drop-duplicates keeps one of each "
        "(data.drop_duplicates of a run)"
    )


def _beginning(store: Store, document: int) -> str:
    length = int(store.lengths[document])
    row, start, shown = np.array([document]), np.array([0]), np.array([min(length, _SHOWN_TOKENS)])
    ids, _ = store.gather(row, start, shown)
    text = store.load_tokenizer().decode(ids.tolist(), skip_special_tokens=False)
    return text if length <= _SHOWN_TOKENS else f"{text} ..."
