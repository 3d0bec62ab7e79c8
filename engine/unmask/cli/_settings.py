"""The settings of a run as options of a command: `--train.steps 200`, and a recipe or a YAML file before them."""

import argparse
import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unmask.cli._arguments import Parser, add_option, complete_files, value_of
from unmask.config.backends import BACKENDS
from unmask.config.load import read_settings, recipe_names
from unmask.config.mappings import (
    ITEMS,
    current_name,
    defaults,
    groups_of,
    nearest_setting,
    old_names,
    settings_beside,
    settings_of,
    starred,
    unit_of,
)
from unmask.errors import ConfigError, UnmaskError
from unmask.paths import expanded

__all__ = [
    "Given",
    "changes_of",
    "own_and_settings",
    "read_settings_of",
    "settings_parser",
    "with_underscores",
]

# torchrun takes --run for one of its own options, also behind the module that it starts (argparse of Python 3.11)
_SAME = {"run": ("--run_dir",)}


class Given(NamedTuple):
    """What a command line asks for.

    Attributes:
        source: recipe or YAML file; None if none is given.
        changes: the settings that are given, by their dotted names.
        resume: the run to resume, or None.
        only_changed: whether to leave out the settings that have their defaults.
    """

    source: str | None
    changes: dict[str, Any]
    resume: Path | None
    only_changed: bool = False


def read_settings_of(
    command: str,
    description: str,
    arguments: list[str],
    *,
    may_resume: bool = False,
    may_leave_out: bool = False,
) -> Given:
    """Read the words of a command that takes settings. Print the help and exit if they ask for it.

    Raises:
        ConfigError: a setting is unknown, with the nearest name; a value is missing; or two words stand for a recipe.
    """
    first = arguments[0] if arguments and not arguments[0].startswith("-") else None
    base = read_settings(first).settings if first is not None and {"-h", "--help"} & set(arguments) else {}
    parser = settings_parser(
        command, description, may_resume=may_resume, may_leave_out=may_leave_out, values={**defaults(), **base}
    )
    values, words = parser.known([with_underscores(word) for word in arguments])
    resume, only_changed = values.pop("resume", None), values.pop("changed", False)
    if len(words) > 1:
        raise ConfigError(
            f"config: {words[1]!r} stands beside {words[0]}; give one recipe or YAML file, and settings as "
            "--group.field value"
        )
    if resume not in (None, "auto") and words:
        raise ConfigError(f"config: --resume {resume} keeps the saved configuration; leave {words[0]!r} out")
    changes = changes_of(values)
    run = None if resume is None else Path(expanded(resume))
    return Given(words[0] if words else None, changes, run, only_changed)


def changes_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of settings that words of a command line stand for."""
    known = settings_of() | ITEMS
    return {name: _value(known[starred(current_name(name))][1], text, name) for name, text in values.items()}


def own_and_settings(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the words of a command's own options, and those of settings, `--group.field value ...` and `--seed`."""
    own: list[str] = []
    settings: list[str] = []
    words = own
    for word in arguments:
        name = word.partition("=")[0]
        if word.startswith("-"):
            words = settings if name == "--seed" or "." in name else own
        words.append(word)
    return own, settings


def settings_parser(
    command: str,
    description: str,
    *,
    may_resume: bool = False,
    may_leave_out: bool = False,
    values: dict[str, Any] | None = None,
) -> Parser:
    """Return the parser of a command that takes settings; its help shows `values` as the defaults."""
    shown = values or dict(defaults())
    parser = _SettingsParser(
        prog=f"unmask {command}",
        usage=f"unmask {command} [RECIPE|FILE.yaml] [--group.field value ...]"
        + ("\n       unmask pretrain --resume RUN|auto [--group.field value ...]" if may_resume else ""),
        description=f"{description}\n\nRecipes: {', '.join(recipe_names())} (default: tiny).",
    )
    if may_resume:
        complete_files(
            parser.add_argument(
                "--resume",
                metavar="RUN|auto",
                help="Go on with a run that stopped, from its newest whole checkpoint. auto: with the run of --run if "
                "it is there; else start it.",
            )
        )
    if may_leave_out:
        parser.add_argument(
            "--changed", action="store_true", help="Print only the settings that differ from the defaults."
        )
    sections: dict[str, argparse._ArgumentGroup] = {}
    for name, (field, hint) in settings_of().items():
        group = name.rpartition(".")[0]
        if group not in sections:
            about = inspect.getdoc(groups_of()[group]) if group else ""
            sections[group] = parser.add_argument_group(group or "run", (about or "").split("\n\n")[0])
        backends = BACKENDS.get(name.removeprefix("kernels.")) if group == "kernels" else None
        choices = f" Backends: {', '.join(backends)}." if backends else ""
        flags = [f"--{name}", *_SAME.get(name, ())]
        add_option(sections[group], flags, name, hint, field, default=shown[name], more=choices)
    hidden = parser.add_argument_group()
    for old, new in old_names().items():
        field, hint = settings_of()[new]
        add_option(hidden, [f"--{old}"], old, hint, field, default=None, hidden=True)
    return parser


class _SettingsParser(Parser):
    """Takes also the settings of an item of a list, `--train.phases.0.max_length 64`, which no table can list."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for word in args or ():
            name = word.partition("=")[0].removeprefix("--")
            if (
                word.startswith("--")
                and starred(current_name(name)) in ITEMS
                and f"--{name}" not in self._option_string_actions
            ):
                self.add_argument(f"--{name}", dest=name, help=argparse.SUPPRESS)
        return super().parse_known_args(args, namespace)

    def advice_for(self, word: str) -> str:
        plain = [name for name in self._option_string_actions if name.startswith("--") and "." not in name]
        if difflib.get_close_matches(word, plain, n=1, cutoff=0.8):
            return super().advice_for(word)
        name = word.lstrip("-")
        found = nearest_setting(name)
        if found in groups_of():
            # a group is no option
            found = next(one for one in settings_of() if one.startswith(f"{found}."))
        if found is not None:
            return f"did you mean --{found}{unit_of(name, found)}?"
        return f"{settings_beside(name)}; run `{self.prog} --help` for the options"


def with_underscores(word: str) -> str:
    """Return `--train.log_every` for `--train.log-every`."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def _value(hint: Any, given: Any, name: str) -> Any:
    if name == "train.phases":
        from unmask.config.yaml_text import parse_yaml

        found = parse_yaml(f"phases: {' '.join(given)}", source="--train.phases")
        if list(found) != ["phases"]:
            raise ConfigError("config: --train.phases must be one list, got more; write it in quotes on one line")
        return found["phases"]
    try:
        return value_of(hint, given)
    except UnmaskError as error:
        raise ConfigError(f"config: {name}: {error}") from None
