"""Finding the folder of a tokenizer: in a store, in a run, or where it was given."""

from pathlib import Path

from unmask.folders import kind_of
from unmask.interop.find_model import find_model

__all__ = ["find_tokenizer"]


def find_tokenizer(given: str | Path) -> Path:
    """Return the folder or file to read: the tokenizer of a store or of a run's newest whole checkpoint, else `given`.

    Raises:
        RunError: the run has no checkpoint yet.
        CheckpointError: every checkpoint of the run is damaged.
    """
    path = Path(given)
    kind = kind_of(path)
    if kind == "token store":
        return path / "tokenizer"
    return find_model(path).path if kind == "run" else path
