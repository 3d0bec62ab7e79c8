"""`unmask analyse RUN_OR_STORE [-o FOLDER]`: lengths, packing, masking, burstiness and, for a model, distraction.

A run is analysed as it trains: with its composition, scope and masking, and the attention of its newest checkpoint. A
store is analysed as `unmask pretrain` would train on it with the recipe or YAML file and the settings that are given.
"""

import logging
from dataclasses import MISSING, dataclass
from pathlib import Path

from unmask.cli._arguments import option, read
from unmask.cli._settings import own_and_settings, read_settings_of
from unmask.config.settings import Checked
from unmask.errors import RunError
from unmask.terminal import messages_through

__all__ = ["run"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Describe a corpus as it is composed and masked, and where the attention of a model goes.

    A store takes the settings of a run, as `unmask pretrain` does: --recipe macbert --masking.similar_words TABLE. They
    must agree with each other, as for a run. `unmask config` prints them all.
    """

    path: Path = option(
        MISSING, "Run directory, one of its checkpoints, or a store.", positional=True, metavar="RUN_OR_STORE"
    )
    out: Path | None = option(
        None,
        "Folder for tables and plots. None: analysis in the run directory, or <store>-analysis beside a store.",
        short="-o",
        metavar="FOLDER",
    )
    recipe: str | None = option(
        None, "For a store: recipe or YAML file with the lengths, composition and masking to use. None: tiny."
    )
    micro_batches: int = option(64, "Number of micro-batches to analyse.", ge=1)


def run(arguments: list[str]) -> None:
    """Print the tables, and write tables and plots to files."""
    own, settings = own_and_settings(arguments)
    given = read_settings_of("analyse", "", settings)
    # a word behind the value of a setting
    own += [] if given.source is None else [given.source]
    options = read(Options, prog="unmask analyse", arguments=own)
    from unmask.commands.analyse import analyse, beside

    out = options.out or beside(options.path)
    if out.exists() and not out.is_dir():
        raise RunError(f"analyse: {out} is a file, where a folder is to be; give another one with --out")
    with messages_through(print):
        report = analyse(
            options.path, recipe=options.recipe, settings=given.changes, micro_batches=options.micro_batches
        )
    print(report.tables())
    if (out / "analysis.json").exists():
        _log.warning(f"analyse: the earlier analysis in {out} is replaced; --out FOLDER keeps it")
    for file in report.write(out):
        print(file)
