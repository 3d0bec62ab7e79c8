"""`export`: weights, config.json and tokenizer of a model as a folder that `from_pretrained` loads."""

from dataclasses import dataclass
from pathlib import Path

from unmask.commands.load_model import load_model
from unmask.errors import CheckpointError, RunError, TokenizerError
from unmask.interop.config_json import foreign_settings
from unmask.interop.find_model import find_model
from unmask.train.checkpoint.tokenizer_hash import bind

__all__ = ["Exported", "export"]

_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A folder that `export` wrote.

    Attributes:
        folder: the folder.
        model: folder of the model that was read, such as the newest checkpoint of a run.
        step: steps of its training; None if they are not known.
        loader: class of `transformers` that loads the folder without a warning.
    """

    folder: Path
    model: Path
    step: int | None
    loader: str

    def line(self) -> str:
        """Return a line that says what was written and how to load it."""
        trained = "" if self.step is None else f", {self.step:,} steps"
        call = f"transformers.{self.loader}.from_pretrained({str(self.folder)!r})"
        return f"{self.folder}: {self.model}{trained}; {call} loads it"


def export(model: str | Path, out: str | Path) -> Exported:
    """Write a model and its tokenizer to the new folder `out`.

    Example:
        >>> import unmask
        >>> exported = unmask.export("runs/mine", "exported")
        >>> exported.loader
        'AutoModelForMaskedLM'
        >>> encoder = unmask.Encoder.from_pretrained("exported")

    Args:
        model: a run, whose newest whole checkpoint is read; a checkpoint; or a model folder.
        out: the folder to make. It must not exist, or be empty.
    Raises:
        RunError: `out` is not empty, or `model` is a run without a checkpoint.
        CheckpointError: `model` holds no model; the checkpoint is damaged; or transformers does not compute the model.
        TokenizerError: the tokenizer is missing, or belongs to another model.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not an empty folder; choose another name")
    found = find_model(model)
    if not any((found.path / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise TokenizerError(
            f"{found.path} has no tokenizer.json and no vocab.txt; put the model's tokenizer there first"
        )
    # The model is read and written again, not copied, so that it passes our checks of names and shapes.
    loaded, tokenizer = load_model(found)
    if foreign := foreign_settings(loaded.config):
        raise CheckpointError(
            f"{found.path}: transformers cannot compute this model, which has {' and '.join(foreign)}; read it with "
            f"unmask.PretrainingModel.from_pretrained({str(found.path)!r})"
        )
    there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        loaded.save_pretrained(out, pad_id=tokenizer.pad_id)
        # The tokenizer is written again too: the files of another program may name a class that transformers rebuilds.
        tokenizer.save(out)
        bind(out, tokenizer)
    except BaseException:
        # Half a model is useless, and the same command must work again.
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
        if not there:
            out.rmdir()
        raise
    # Any other class of transformers warns that it leaves weights out or makes new ones.
    loader = "AutoModelForMaskedLM" if loaded.nsp is None else "AutoModelForPreTraining"
    return Exported(folder=out, model=found.path, step=found.steps, loader=loader)
