"""The token store: tokens of a corpus in Arrow files with a manifest, written once, mapped into memory to read."""

from unmask.data.store.reader import Store
from unmask.data.store.remote import StoreCache
from unmask.data.store.writer import StoredDocument, write_store

__all__ = ["Store", "StoreCache", "StoredDocument", "write_store"]
