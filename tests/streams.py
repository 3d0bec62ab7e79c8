"""A stream over a small store, its settings given side by side."""

from dataclasses import fields
from typing import Any

from unmask.config import StreamConfig
from unmask.data.stream import Stream, TokenStore

_SETTINGS = {field.name for field in fields(StreamConfig)}


def make_stream(store: TokenStore, **given: Any) -> Stream:
    """Return a stream over `store`; what is given are settings of `StreamConfig` and arguments of `Stream`."""
    settings = {name: value for name, value in given.items() if name in _SETTINGS}
    options = {name: value for name, value in given.items() if name not in _SETTINGS}
    if "ordinary_ids" not in options:
        options["ordinary_ids"] = store.ordinary_ids  # type: ignore[attr-defined]
    return Stream(store, StreamConfig(**settings), **options)
