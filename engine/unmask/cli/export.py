"""`unmask export RUN_OR_CHECKPOINT OUT`: weights, config.json and tokenizer as a folder that
`from_pretrained` loads.
"""

from dataclasses import MISSING, dataclass
from pathlib import Path

from unmask.cli._arguments import option, read
from unmask.cli._models import find_model, load_model
from unmask.config.settings import Checked
from unmask.errors import CheckpointError, RunError, TokenizerError

__all__ = ["export", "run"]

_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Write a model as a folder that transformers loads."""

    model: Path = option(
        MISSING,
        "Run directory (its newest whole checkpoint), checkpoint, or model folder.",
        positional=True,
        metavar="RUN_OR_CHECKPOINT",
    )
    out: Path = option(MISSING, "Folder to make; must not exist, or be empty.", positional=True, metavar="OUT")


def run(arguments: list[str]) -> None:
    """Export and print what was written."""
    options = read(Options, prog="unmask export", arguments=arguments)
    print(export(options.model, options.out))


def export(model: Path, out: Path) -> str:
    """Write the model at `model` to the new folder `out`, and return a line that says how to load it.

    Raises:
        RunError: `out` is not empty, or `model` is a run without a checkpoint.
        CheckpointError: `model` holds no model; the checkpoint is damaged; or transformers does not compute the model.
        TokenizerError: the tokenizer is missing, or belongs to another model.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out} exists and is not an empty folder; choose another name")
    found = find_model(model)
    if not any((found.path / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise TokenizerError(
            f"{found.path} has no tokenizer.json and no vocab.txt; put the model's tokenizer there first"
        )

    from unmask.interop.config_json import foreign_settings
    from unmask.train.checkpoint.tokenizer_hash import bind

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
    trained = "" if found.steps is None else f", {found.steps:,} steps"
    # Any other class of transformers warns that it leaves weights out or makes new ones.
    loader = "AutoModelForMaskedLM" if loaded.nsp is None else "AutoModelForPreTraining"
    return f"{out}: {found.path}{trained}; transformers.{loader}.from_pretrained({str(out)!r}) loads it"
