"""Where relative paths of a run's configuration begin: the folder that the run was started in.

The configuration keeps `data.store: store` as it was given, and `.started_in` holds the way from the run directory to
that folder: a run resumes from any folder, and a project that was moved or copied as a whole still finds its store.
What is not there is looked for in the current folder, and so is all of a run of earlier versions, which noted nothing.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unmask.config import RunConfig
from unmask.errors import RunError
from unmask.paths import expanded, printable

__all__ = ["absolute_changes", "located", "note_start"]

_FILE = ".started_in"
_HUB = "hf://"
# settings that are one path, and may be given anew
_PATHS = ("store", "tokenizer", "similar_words")


def note_start(run: Path) -> None:
    """Note in the run directory `run` that the run starts in the current folder."""
    try:
        here = Path.cwd()
    except OSError:
        # removed; no relative path leads anywhere from there
        return
    (run / _FILE).write_bytes(os.fsencode(os.path.relpath(here, run.resolve())))


def located(config: RunConfig, run: Path) -> RunConfig:
    """`config`, saved in `run`, with its relative paths as they are reached from the current folder.

    Raises:
        RunError: one of them is neither where the run was started nor here.
    """
    start = _elsewhere(run)
    if start is None:
        return config
    found: dict[str, Any] = {"input": [_located_input(given, start) for given in config.data.input]}
    for name in _PATHS:
        given = getattr(config.data, name)
        if given is None or Path(given).is_absolute():
            continue
        if (start / given).exists():
            found[name] = str(start / given)
        elif not Path(given).exists():
            raise RunError(
                f"run {run}: data.{name} is {printable(given)}, which is neither in {start}, where the run was "
                f"started, nor here; put it back, or give its place now as --data.{name}"
            )
    return replace(config, data=replace(config.data, **found))


def absolute_changes(run: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` to the configuration saved in `run`, with paths that are meant from here written out where the run was
    started elsewhere.
    """
    from unmask.config.mappings import nest

    nested = nest(changes)
    data = nested.get("data")
    if isinstance(data, Mapping) and _elsewhere(run) is not None:
        written = {
            name: str(Path(expanded(data[name])).resolve()) for name in _PATHS if isinstance(data.get(name), str)
        }
        nested["data"] = {**data, **written}
    return nested


def _elsewhere(run: Path) -> Path | None:
    """The folder that the run was started in; None where it is this one, or nothing tells."""
    try:
        start = (run.resolve() / os.fsdecode((run / _FILE).read_bytes())).resolve()
        return None if start.samefile(Path.cwd()) else start
    except OSError:
        return None


def _located_input(given: str, start: Path) -> str:
    name, equals, path = given.partition("=")
    if (start / given).exists() or not equals:
        name, equals, path = "", "", given
    if path.startswith(_HUB) or Path(path).is_absolute() or not (start / path).exists():
        return given
    return f"{name}{equals}{start / path}"
