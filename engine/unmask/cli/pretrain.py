"""`unmask pretrain [RECIPE|CONFIG.yaml] [--any.field value] [--resume RUN]`.

Precedence: defaults < recipe or YAML < command line. With `--resume`, the saved configuration takes the place of the
recipe, and only a few settings may change.
"""

import dataclasses
import itertools
import re
import typing
from pathlib import Path
from typing import Any

from unmask.cli._arguments import join_repeated, read
from unmask.config import RunConfig, load_config
from unmask.config.load import read_recipe, recipe_names
from unmask.config.mappings import build, current_name, settings_of
from unmask.errors import ConfigError
from unmask.paths import expanded

__all__ = ["parse", "run"]


def run(arguments: list[str]) -> None:
    """Start a run or resume one."""
    config, resume = parse(arguments)
    from unmask.train.pretrain import pretrain

    pretrain(config, resume=resume)


def parse(arguments: list[str]) -> tuple[RunConfig, Path | None]:
    """Return the checked configuration that the arguments ask for, and the run to resume, or None."""
    rest, resume = _take_resume(arguments)
    source = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if resume is None:
        base = _unchecked(source)
        return load_config(source, _changes(base, _read(rest, base, first=source))), None
    if source is not None:
        raise ConfigError(f"config: --resume {resume} keeps the saved configuration; leave {source!r} out")
    from unmask.train.run_folder import saved_config

    base = saved_config(resume)
    return saved_config(resume, _changes(base, _read(rest, base, first=f"--resume {resume}"))), resume


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
        resume = Path(expanded(given))
    return rest, resume


def _unchecked(source: str | Path | None) -> RunConfig:
    # Ranges and agreements are checked later, because the command line may mend them.
    return build(RunConfig, read_recipe("tiny" if source is None else source), name="config")


def _read(arguments: list[str], base: RunConfig, *, first: str | None) -> RunConfig:
    """Return `base` with the options laid over it. `first` is the word before the options, for errors."""
    if not arguments:
        return base

    def stray(words: list[str]) -> None:
        for before, word in itertools.pairwise(["", *words]):
            if before.startswith("--") or not (word in recipe_names() or word.endswith((".yaml", ".yml"))):
                continue
            if first is not None:
                raise ConfigError(f"config: {word!r} stands beside {first}; leave one of them out")
            raise ConfigError(
                f"config: {word!r} stands after an option; put a recipe or a YAML file first: "
                f"unmask pretrain {word} [OPTIONS]"
            )

    recipes = ", ".join(recipe_names())
    described = (
        f"Pre-train an encoder. A recipe or a YAML file may come first; recipes: {recipes} (default: tiny). "
        "unmask pretrain --resume RUN goes on with a run that stopped."
    )
    joined = join_repeated(join_repeated(arguments, "--data.input"), "--data.weights")
    words = _whole_numbers([_current_option(word) for word in joined])
    prog = "unmask pretrain [RECIPE|CONFIG.yaml]"
    return read(RunConfig, prog=prog, description=described, arguments=words, default=base, stray=stray)


def _current_option(word: str) -> str:
    """Return the current name of a renamed option: `--data.max_length` for `--data.longest`, `=value` kept."""
    if not word.startswith("--"):
        return word
    option, equals, value = word.partition("=")
    return f"--{current_name(option.removeprefix('--'))}{equals}{value}"


def _whole_numbers(arguments: list[str]) -> list[str]:
    """Return the words with `1e6`, which YAML allows, as `1000000` for settings that are whole numbers."""
    whole = {f"__{name}" for name, hint in settings_of(RunConfig) if int in (hint, *typing.get_args(hint))}
    words: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        if not equals:
            option, value = (words[-1] if words else ""), word
        if option.replace("-", "_") in whole and re.fullmatch(r"[0-9]+(\.[0-9]*)?[eE]\+?[0-9]+", value):
            number = float(value)
            if number.is_integer():
                word = f"{option}={int(number)}" if equals else str(int(number))
        words.append(word)
    return words


def _changes(base: Any, given: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted names and the values of the settings in which two configurations differ."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(base):
        old, new = getattr(base, field.name), getattr(given, field.name)
        if dataclasses.is_dataclass(old):
            changes |= _changes(old, new, f"{prefix}{field.name}.")
        elif old != new:
            groups = isinstance(new, list) and new and dataclasses.is_dataclass(new[0])
            changes[f"{prefix}{field.name}"] = [dataclasses.asdict(item) for item in new] if groups else new
    return changes
