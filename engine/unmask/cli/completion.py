"""`unmask completion SHELL`: a script with which a shell completes commands, options and file names."""

import argparse
import importlib
from dataclasses import MISSING, dataclass
from typing import Literal

from unmask.cli import COMMANDS
from unmask.cli._arguments import complete_files, option, parser_of, read
from unmask.cli._settings import settings_parser
from unmask.config.load import recipe_names
from unmask.config.settings import Checked
from unmask.tasks.load import TASKS, task_recipe_names

__all__ = ["Options", "run", "whole_parser"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Print a script with which a shell completes commands, options and file names.

    For example, in bash: `eval "$(unmask completion bash)"`, in a line of ~/.bashrc. In zsh, write it to a file
    `_unmask` in a folder of $fpath.
    """

    shell: Literal["bash", "zsh", "tcsh"] = option(
        MISSING,
        "bash, zsh or tcsh.",
        metavar="SHELL",
        positional=True,
        hint="shtab 1.13 knows others, as in `shtab --shell fish unmask.cli.completion.whole_parser`",
    )


def run(arguments: list[str]) -> None:
    """Print the script."""
    options = read(Options, prog="unmask completion", arguments=arguments)
    import shtab

    print(shtab.complete(whole_parser(), options.shell))


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser for all commands."""
    whole = argparse.ArgumentParser(prog="unmask")
    commands = whole.add_subparsers()
    for command, about in COMMANDS.items():
        if command == "distill":
            from unmask.cli.distill import parsers

            kinds = commands.add_parser(command, help=about).add_subparsers()
            for kind, parser in parsers().items():
                _offer_values(parser)
                kinds.add_parser(kind, help=parser.description, parents=[parser], add_help=False)
            continue
        if command in ("pretrain", "config"):
            parser = settings_parser(
                command, about, may_resume=command == "pretrain", may_leave_out=command == "config"
            )
        elif command == "finetune":
            from unmask.cli.finetune import finetune_parser

            parser = finetune_parser()
            parser.add_argument("task", nargs="?", choices=[*TASKS, *task_recipe_names()])
            complete_files(parser.add_argument("model", nargs="?"))
        else:
            module = importlib.import_module(f"unmask.cli.{command.replace('-', '_')}")
            parser = parser_of(module.Options, prog=f"unmask {command}")
        if command in ("pretrain", "config"):
            parser.add_argument("recipe", nargs="?", choices=recipe_names())
        _offer_values(parser)
        commands.add_parser(command, help=about, parents=[parser], add_help=False)
    return whole


def _offer_values(parser: argparse.ArgumentParser) -> None:
    """Have completion offer the values of options; argparse would refuse others with a sentence of its own."""
    for action in parser._actions:
        action.choices = action.choices or getattr(action, "values", None)
