"""Finding the folder of a tokenizer: in a store, in a run, at the Hugging Face Hub, or where it was given."""

import os
from pathlib import Path

from unmask.errors import TokenizerError
from unmask.folders import kind_of
from unmask.interop.find_model import find_model
from unmask.interop.hub import NotAtHubError, hub_model, snapshot

__all__ = ["find_tokenizer", "no_tokenizer"]


def find_tokenizer(given: str | Path) -> Path:
    """Return the folder or file to read.

    It is the tokenizer of a store or of a run's newest whole checkpoint, that of a model of the Hub in the cache, or
    else `given`. A path that exists is never looked up at the Hub.

    Raises:
        RunError: the run has no checkpoint yet.
        CheckpointError: every checkpoint of the run is damaged.
        TokenizerError: there is no such folder or file here, and no such model at the Hub.
        HubError: the Hub does not give the model.
    """
    path = Path(given)
    model = None if os.path.lexists(path) else hub_model(given)
    if model is not None:
        try:
            return snapshot(model, files="tokenizer")
        except NotAtHubError as problem:
            if model.surely:
                raise
            raise TokenizerError(f"{_no_folder(path)}; {problem}") from None
    kind = kind_of(path)
    if kind == "token store":
        return path / "tokenizer"
    return find_model(path).path if kind in ("run", "fine-tuning run") else path


def no_tokenizer(folder: Path) -> str:
    """Return the error for a folder without the files of a tokenizer that is read here: what it holds instead."""
    if not folder.is_dir():
        return _no_folder(folder)
    others = ("spiece.model", "vocab.json", "merges.txt", "tokenizer.model")
    if other := next((name for name in others if (folder / name).exists()), None):
        way = f", but {other}, of a tokenizer other than WordPiece; leave the tokenizer out to train one"
    else:
        files = [path for file in ("tokenizer.json", "vocab.txt") for path in folder.glob(f"*/{file}")]
        # the layout of the cache of the Hub
        files += folder.glob("snapshots/*/tokenizer.json")
        inside = f" ({min(files).parent})" if files else ""
        way = f"; give a folder that has one of them{inside}, or leave the tokenizer out to train one"
    return f"tokenizer: {folder} has neither tokenizer.json nor vocab.txt{way}"


def _no_folder(path: Path) -> str:
    return (
        f"tokenizer: {path} is no folder with tokenizer.json or vocab.txt; give a folder that has one of them, or "
        "leave the tokenizer out to train one"
    )
