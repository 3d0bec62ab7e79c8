"""Where modules are imported from: the user's own in the current folder, everything else anywhere but there.

A file types.py or struct.py in the current folder is the user's and no module of Python. So the current folder comes
last on the path, in this process and in those that it starts, and `module:function` of the user is found there all the
same, as uvicorn and gunicorn find theirs. Only what Python has loaded by then is imported here, since `python -m` and
an empty entry of PYTHONPATH put the current folder first.
"""

import importlib
import os
import sys
from types import ModuleType

__all__ = ["import_path", "import_user_module"]


def import_path() -> list[str]:
    """`sys.path` with the current folder, whatever it is called there, at the end."""
    here = {"", ".", _current_folder()}
    first = [entry for entry in sys.path if entry not in here]
    return first + [entry for entry in sys.path if entry in here]


def import_user_module(name: str) -> ModuleType:
    """Import a module of the user, from the current folder where the path has none of that name."""
    here = _current_folder()
    if here and not {"", here} & set(sys.path):
        # it stays, for the module may import another one there when it is used
        sys.path.append(here)
        importlib.invalidate_caches()
    return importlib.import_module(name)


def _current_folder() -> str:
    try:
        # pathlib would bring modules before the path is in order
        return os.getcwd()  # noqa: PTH109
    except OSError:
        # it was removed
        return ""
