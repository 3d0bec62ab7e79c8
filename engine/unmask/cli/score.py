"""`unmask score TASK GOLD PREDICTIONS`: the scores of predictions, as the official scorers count them."""

import json
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Score predictions against gold labels, tags or answers."""

    task: str = option(
        MISSING,
        "classification, multi_label, regression, entities or qa; or a benchmark, such as sst2, squad2 or cmrc2018.",
        positional=True,
        metavar="TASK",
    )
    gold: str = option(MISSING, "File with the right labels, tags or answers.", positional=True, metavar="GOLD")
    predictions: str = option(
        MISSING,
        "What `unmask predict` wrote, or a file in the form of the benchmark.",
        positional=True,
        metavar="PREDICTIONS",
    )
    label: str | None = option(
        None,
        "Column of the labels or tags in a gold file of your own, by name or number. None: label, or the last column.",
        short="--data.label",
        metavar="COLUMN",
    )
    id: str | None = option(
        None,
        "Column of the examples' own names in a gold file of your own. None: their numbers from 0.",
        short="--data.id",
        metavar="COLUMN",
    )
    separator: str | None = option(None, "Between the columns of the gold file. None: tabs, commas or spaces.")
    rules: Literal["default", "squad", "squad2", "cmrc", "cjrc"] = option(
        "default", "How answers are compared; by default as the benchmark does, and for qa as SQuAD does."
    )
    null_odds: Path | None = option(
        None, "How likely each question has no answer, by its id: gives the best threshold.", metavar="FILE"
    )
    encoding: str = option("utf-8", "Encoding of the gold file.")
    resamples: int = option(1000, "Resamples of the bootstrap for the intervals; 0 gives none.", ge=0)
    json: bool = option(False, "Print the numbers as one JSON object.")


def run(arguments: list[str]) -> None:
    """Print the scores."""
    options = read(Options, prog="unmask score", arguments=arguments)
    from unmask.commands.score import score

    found = score(
        options.task,
        options.gold,
        options.predictions,
        label=options.label,
        id=options.id,
        separator=options.separator,
        rules=None if options.rules == "default" else options.rules,
        null_odds=options.null_odds,
        encoding=options.encoding,
        resamples=options.resamples,
    )
    print(json.dumps(found.numbers(), ensure_ascii=False) if options.json else found.lines())
