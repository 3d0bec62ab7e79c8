"""The hash of the sources in `csrc/`, by which an extension is told from the sources that it was built from.

`setup.py` runs this file before anything is installed, so it imports nothing of the package.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["hash_of_sources"]


def hash_of_sources(folder: Path) -> str:
    """Return a hash of the names and contents of all C++ files below `folder`, 16 hexadecimal digits."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".h", ".cuh", ".cpp", ".cu"):
            found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]
