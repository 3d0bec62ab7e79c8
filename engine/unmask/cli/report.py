"""`unmask report RUN [-o FILE.html]`: one HTML page about a run."""

from dataclasses import MISSING, dataclass
from pathlib import Path

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Write one HTML page about a run: curves, evaluations, data, masks, predictions, speed, settings, provenance.

    The page stands alone: it has no script and loads nothing, so it can be sent or archived as it is.
    """

    run: Path = option(MISSING, "Run directory, of unmask pretrain or unmask finetune.", positional=True, metavar="RUN")
    out: Path | None = option(
        None, "File to write. None: report.html in the run directory.", short="-o", metavar="FILE"
    )


def run(arguments: list[str]) -> None:
    """Write the page and print where it is."""
    options = read(Options, prog="unmask report", arguments=arguments)
    from unmask.commands.report import report

    print(report(options.run, out=options.out))
