"""Where modules are imported from: the current folder comes last.

A file types.py or struct.py in the current folder belongs to the user and is no module of Python. So the current folder
is the last entry of the path, in this process and in those that it starts. `module:function` of the user is still found
there, as uvicorn and gunicorn find theirs. `python -m` and an empty entry of PYTHONPATH put the current folder first,
so this file imports only what Python has loaded before.
"""

import importlib
import os
import sys
from types import ModuleType

__all__ = ["import_path", "import_user_module"]


def import_path() -> list[str]:
    """Return `sys.path` with the current folder, under any of its names, at the end."""
    here = {"", ".", _current_folder()}
    first = [entry for entry in sys.path if entry not in here]
    return first + [entry for entry in sys.path if entry in here]


def import_user_module(name: str) -> ModuleType:
    """Import a module of the user, from the current folder if the path has none of that name."""
    here = _current_folder()
    if here and not {"", here} & set(sys.path):
        # it stays on the path: the module may import another one from there later
        sys.path.append(here)
        importlib.invalidate_caches()
    return importlib.import_module(name)


def _current_folder() -> str:
    try:
        # pathlib would import modules before the path is in order
        return os.getcwd()  # noqa: PTH109
    except OSError:
        # the folder was removed
        return ""
