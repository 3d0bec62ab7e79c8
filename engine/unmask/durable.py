"""Writes that survive a power cut: flushed to the disk before anything relies on them."""

import os
from pathlib import Path

__all__ = ["replace_text", "sync"]


def replace_text(path: Path, text: str) -> None:
    """Make `text` the content of `path`, whole or not at all; on an OSError the old content stays."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
