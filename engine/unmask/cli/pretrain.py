"""`unmask pretrain [RECIPE|CONFIG.yaml] [--any.field value] [--resume RUN]`.

Precedence: defaults < recipe or YAML < command line. With `--resume` the saved configuration stands, and only settings that change
neither the model nor its data may be given.
"""

import dataclasses
from pathlib import Path
from typing import Any

from unmask.config import RunConfig, load_config
from unmask.errors import ConfigError, RunError

__all__ = ["RESUMABLE", "run"]

RESUMABLE = (
    "data.store",
    "data.workers",
    "train.log_every",
    "train.evaluate_every",
    "train.evaluate_tokens",
    "train.save_every",
    "train.keep_checkpoints",
    "train.threads",
    "train.tensorboard",
)
"""What `--resume` may change. The number of threads changes the last bits of the numbers, never the data."""


def run(arguments: list[str]) -> None:
    """Train, or go on with a run; prints where the result is."""
    config, resume = parse(arguments)
    from unmask.train.trainer import pretrain

    folder = pretrain(config, resume=resume)
    print(f'{folder}\ntry: unmask fill-mask {folder} "text with a [MASK]"')


def parse(arguments: list[str]) -> tuple[RunConfig, Path | None]:
    """The configuration that the arguments ask for, checked, and the run to resume."""
    rest, resume = _take_resume(arguments)
    source = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if resume is None:
        base = _unchecked(source)
        return load_config(source, _changes(base, _read(rest, base))), None
    if source is not None:
        raise ConfigError(f"config: --resume {resume} keeps the saved configuration; leave {source!r} out")
    saved = resume / "config.yaml"
    if not saved.is_file():
        raise RunError(
            f"{resume} is not a run directory (it has no config.yaml); give the folder that --run named"
        )
    base = _unchecked(saved)
    changes = _changes(base, _read(rest, base))
    refused = sorted(set(changes) - set(RESUMABLE))
    if refused:
        raise ConfigError(
            f"config: {', '.join(refused)} cannot change when a run is resumed, only {', '.join(RESUMABLE)} can; "
            "start a new run for the rest"
        )
    return load_config(saved, {**changes, "run": str(resume)}), resume


def _take_resume(arguments: list[str]) -> tuple[list[str], Path | None]:
    rest: list[str] = []
    resume: Path | None = None
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--resume":
            rest.append(word)
            continue
        given = value if equals else next(words, "")
        if not given or given.startswith("--"):
            raise ConfigError("config: --resume needs the directory of a run")
        resume = Path(given)
    return rest, resume


def _unchecked(source: str | Path | None) -> RunConfig:
    # ranges and agreements are checked after the command line is in: it may mend what the file says
    from unmask._mappings import build
    from unmask.recipes import read_recipe

    return build(RunConfig, read_recipe("tiny" if source is None else source), name="config")


def _read(arguments: list[str], base: RunConfig) -> RunConfig:
    if not arguments:
        return base
    import tyro

    from unmask.recipes import names

    described = (
        "Pre-train an encoder. A recipe or a YAML file may come first: "
        f"unmask pretrain [RECIPE|CONFIG.yaml] [OPTIONS]; recipes: {', '.join(names())} (default: tiny). "
        "unmask pretrain --resume RUN goes on with a run that stopped."
    )
    return tyro.cli(RunConfig, prog="unmask pretrain", description=described, args=arguments, default=base)


def _changes(base: Any, given: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of the settings in which two configurations differ."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(base):
        old, new = getattr(base, field.name), getattr(given, field.name)
        if dataclasses.is_dataclass(old):
            changes |= _changes(old, new, f"{prefix}{field.name}.")
        elif old != new:
            groups = isinstance(new, list) and new and dataclasses.is_dataclass(new[0])
            changes[f"{prefix}{field.name}"] = [dataclasses.asdict(item) for item in new] if groups else new
    return changes
