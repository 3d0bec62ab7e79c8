"""The token store: tokens of a corpus in Arrow files with a manifest, written once, mapped into memory to read."""

from unmask.data.store.reader import Store

__all__ = ["Store"]
