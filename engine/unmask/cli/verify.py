"""`unmask verify [RUN] [--config RECIPE|FILE.yaml]`: the kernels on the GPU at hand, for the shapes of a run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.cli._arguments import option, read
from unmask.cli._progress import ProgressReport
from unmask.config.settings import Checked
from unmask.errors import UnmaskError
from unmask.terminal import messages_through

if TYPE_CHECKING:
    from unmask_kernels.verify import VerificationProgress

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Run the kernels on the GPU at hand and compare them with their definitions.

    Each call of the run is checked forward and backward. What passes is recorded for this machine and chosen there from
    then on. A new driver, PyTorch, Triton or version of unmask asks again.
    """

    run: Path | None = option(
        None,
        "Run directory whose shapes are verified; a recipe or a YAML file does too. None: BERT-base.",
        positional=True,
        metavar="RUN",
    )
    config: str | None = option(None, "Recipe or YAML file whose shapes are verified.", metavar="RECIPE|FILE.yaml")
    operations: list[str] = option(list, "Operations to verify, such as attention. None: all.", metavar="OPERATION")
    seconds: float = option(120.0, "Time limit; what has not been run then is not recorded.", ge=1)
    json: bool = option(False, "Print all that was found as JSON.")


def run(arguments: list[str]) -> None:
    """Print the table. The exit status is 1 if a kernel has failed, and 2 if none was run."""
    options = read(Options, prog="unmask verify", arguments=arguments)
    if options.run is not None and options.config is not None:
        raise UnmaskError(
            f"verify: {options.run} and --config {options.config} are given together, but each names shapes; leave one "
            "of them out"
        )
    from unmask.commands.verify import verify

    given = options.config if options.run is None else str(options.run)
    with ProgressReport() as report, messages_through(report.show):
        found = verify(
            given,
            seconds=options.seconds,
            operations=options.operations or None,
            progress=lambda progress: _tell(report, progress),
        )
    if options.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        for line in found.lines():
            print(line)
        if found.record is not None:
            print(f"recorded in {found.record}")
    if found.failed:
        raise SystemExit(1)
    if found.outcomes and not found.passed:
        raise SystemExit(2)


def _tell(report: ProgressReport, progress: "VerificationProgress") -> None:
    left = progress.limit - progress.seconds
    numbers = f"call {progress.done + 1} of {progress.total}, {progress.doing}, {left:.0f} s left"
    report.update("verify", numbers, done=progress.done, total=progress.total, ending="")
