"""`unmask tune [RECIPE|FILE.yaml] [--group.field value ...]`: measure the choices that only this machine can make."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unmask.cli._arguments import option, read
from unmask.cli._progress import ProgressReport
from unmask.cli._settings import own_and_settings, read_settings_of
from unmask.config.settings import Checked
from unmask.terminal import messages_through

if TYPE_CHECKING:
    from unmask_kernels.tune.session import TuningProgress

__all__ = ["Options", "run"]

_RECIPE = "bert-base"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Measure the choices that only this machine can make, for runs of a configuration: tiles, block sizes, which of
    two kernels runs. Each candidate is first compared with the reference.

    What is clearly faster is kept in the user's cache, and runs on this machine use it by themselves. Interrupted, the
    command keeps what it has, and goes on when it is called again. It takes the settings of a run, as `unmask pretrain`
    does: --model.num_layers 6.
    """

    recipe: str | None = option(
        None,
        f"Recipe or YAML file with the sizes of the model, the lengths and the micro-batches. None: {_RECIPE}.",
        positional=True,
        metavar="RECIPE|FILE.yaml",
    )
    minutes: float | None = option(
        None, "Minutes after which no further choice is measured. None: 2 on a GPU, 5 on a CPU.", gt=0, le=1000
    )
    again: bool = option(False, "Measure also what is recorded already.")


def run(arguments: list[str]) -> None:
    """Print the table."""
    own, settings = own_and_settings(arguments)
    given = read_settings_of("tune", "", settings)
    # a word behind the value of a setting
    own += [] if given.source is None else [given.source]
    options = read(Options, prog="unmask tune", arguments=own)
    from unmask.commands.tune import hold_contests, tuning_of
    from unmask.config import load_config
    from unmask_kernels.tune.report import conclusion, table

    config = load_config(options.recipe or _RECIPE, given.changes)
    command = " ".join(["unmask tune", *arguments])
    report = ProgressReport()
    session = tuning_of(
        config, minutes=options.minutes, again=options.again, tell=lambda progress: _tell(report, progress)
    )
    try:
        with report, messages_through(report.show):
            hold_contests(session, config)
    except KeyboardInterrupt:
        report.show(f"what is measured so far is kept; run `{command}` again to go on")
        raise
    finally:
        # an interruption, too, shows what was measured
        for line in (*table(session.findings), *conclusion(session, command)):
            print(line)


def _tell(report: ProgressReport, progress: "TuningProgress") -> None:
    name, shape = progress.contest.key
    numbers = f"choice {progress.number + 1} of {progress.contests}, {name} for {shape}"
    report.update("tune", numbers, done=progress.number, total=progress.contests, ending="")
