"""`unmask export RUN_OR_CHECKPOINT OUT`: weights, config.json and tokenizer as a folder that
`from_pretrained` loads.
"""

from dataclasses import MISSING, dataclass
from pathlib import Path

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked

__all__ = ["run"]


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
    from unmask.commands.export import export

    print(export(options.model, options.out).line())
