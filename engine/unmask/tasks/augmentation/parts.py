"""The finished parts of an augmentation, in a folder beside the file that is made, so that a killed command goes on.

augmented.tsv.partial/
lock                held by the process that works
settings.json       all that decides the result
part-00000.json     what the first texts gave, written whole or not at all
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from unmask.errors import RunError
from unmask.paths import as_typed, replace_text

__all__ = ["Parts"]


class Parts:
    """A context with the finished parts.

    Args:
        out: the file to make.
        settings: all that decides the result, for JSON.
    Raises:
        RunError: another process makes the file, or what was begun has other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.partial")
        self._settings = dict(settings)
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Parts:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RunError(
                f"augment: another process works in {self.folder}; wait for it, or give another --out"
            ) from None
        known = self.folder / "settings.json"
        if not known.exists():
            replace_text(known, json.dumps(self._settings, indent=1))
        begun = json.loads(known.read_text("utf-8"))
        other = [name for name, value in self._settings.items() if begun.get(name) != value]
        if other:
            self._lock.close()
            raise RunError(
                f"augment: {self.folder} was begun with other values of {', '.join(other)}; give the same ones to go "
                f"on, or remove it to start afresh: rm -r {as_typed(self.folder)}"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            shutil.rmtree(self.folder)
        if self._lock is not None:
            self._lock.close()

    def read(self, number: int) -> Any:
        """Return a part; None if it is not finished."""
        path = self.folder / f"part-{number:05}.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def write(self, number: int, content: Any) -> None:
        """Keep a part."""
        replace_text(self.folder / f"part-{number:05}.json", json.dumps(content))
