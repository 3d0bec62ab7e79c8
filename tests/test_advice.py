"""What the errors advise can be typed: each option, command, extra and setting that errors.md names exists."""

import argparse
import difflib
import re
import tomllib
from pathlib import Path

import pytest

from unmask.cli import COMMANDS
from unmask.cli._settings import settings_parser
from unmask.cli.completion import whole_parser
from unmask.config.mappings import ITEMS, groups_of, settings_of, starred
from unmask.tasks.config import FinetuneConfig

ROOT = Path(__file__).resolve().parent.parent
WHOLE = re.sub(r"\\(.)", r"\1", (ROOT / "docs" / "errors.md").read_text("utf-8"))
# without the commands of other programs
PAGE = re.sub(r"`(hf|shtab) [^`]*`", "", WHOLE)
ROWS = [row for row in PAGE.splitlines() if row.startswith("| ") and not row.startswith("| it says")]
# no part of one of which a run fills in the end
OPTION = r"(?<![\w-])--[a-z][\w.-]*[a-z0-9_](?![\w-])(?![\w.-]*\*)"
PLACEHOLDERS = {"--group.field"}
# names of files
FILES = (".safetensors", ".py", ".json", ".bin", ".txt", ".yaml", ".png")


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Options of a command, and of the commands below it."""
    found: set[str] = set()
    for action in parser._actions:
        found |= {*action.option_strings, *([action.turned_off] if hasattr(action, "turned_off") else [])}
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options_of, action.choices.values()))
    return found


def options_of_commands() -> dict[str, set[str]]:
    whole = whole_parser()
    [subparsers] = [action for action in whole._actions if hasattr(action, "choices") and action.choices]
    assert subparsers.choices is not None
    found = {name: options_of(parser) for name, parser in dict(subparsers.choices).items()}  # type: ignore[arg-type]
    settings = {option for action in settings_parser("pretrain", "")._actions for option in action.option_strings}
    return {name: options | (settings if name == "analyse" else set()) for name, options in found.items()}


def is_option(option: str, options: dict[str, set[str]]) -> bool:
    known = set[str]().union(*options.values())
    return option in known or starred(option.removeprefix("--")) in ITEMS or option in PLACEHOLDERS


def test_each_option_that_a_message_names_exists() -> None:
    options = options_of_commands()
    for row in ROWS:
        for option in re.findall(OPTION, row):
            assert is_option(option, options), f"{option} in {row}"


def test_each_command_that_a_message_names_takes_its_options() -> None:
    options = options_of_commands()
    named = 0
    for row in ROWS:
        for command, rest in re.findall(
            r"`?\bunmask (prepare|similar-words|analyse|pretrain|distill|config|plot|evaluate|"
            r"fill-mask|score|export|verify|doctor|completion)\b([^`;|]*)",
            row,
        ):
            named += 1
            assert command in COMMANDS
            for option in re.findall(OPTION, rest.partition(", ")[0]):
                assert option in options[command], f"unmask {command} has no {option}, in {row}"
    assert named > 50


def test_each_extra_that_a_message_names_is_one() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = re.findall(r"unmask\[([\w,-]+)\]", PAGE)
    assert len(named) > 5
    assert {name for one in named for name in one.split(",")} <= set(extras)


def test_each_setting_that_a_message_names_is_one() -> None:
    groups = "|".join(groups_of())
    for row in ROWS:
        for name in re.findall(
            rf"(?<![\w./`-])((?:{groups})\.[a-z_0-9.]+[a-z_0-9])(?![\w/(])", row.rpartition(" | ")[0]
        ):
            known = (
                name in settings_of()
                or name in settings_of(FinetuneConfig)
                or starred(name) in ITEMS
                or name.endswith(FILES)
            )
            assert known, f"{name} in {row}; near: {difflib.get_close_matches(name, settings_of())}"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_parser_here(command: str) -> None:
    assert command in options_of_commands()
