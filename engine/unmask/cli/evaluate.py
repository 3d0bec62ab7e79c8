"""`unmask evaluate RUN_OR_FOLDER [--store STORE]`: the loss of a model on text, as a run measures it."""

import json
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unmask.cli._arguments import option, read
from unmask.cli._progress import ProgressReport
from unmask.config.settings import Checked
from unmask.terminal import messages_through

if TYPE_CHECKING:
    from unmask.commands.evaluate import EvaluationProgress

__all__ = ["run"]

# a shorter evaluation shows no line
_FIRST_LINE_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Score a model on text that it was not trained on."""

    model: Path = option(
        MISSING,
        "Run directory, checkpoint, folder that transformers loads, or ORG/NAME of the Hugging Face Hub.",
        positional=True,
        metavar="RUN_OR_FOLDER",
    )
    store: Path | None = option(
        None,
        "Token store to read, made with the model's tokenizer. None: that of the run.",
        short="--data.store",
        metavar="STORE",
    )
    split: Literal["held_out", "train", "all"] = option(
        "held_out", "Documents to read: the held-out ones, those to train on, or all."
    )
    tokens: int | None = option(
        None,
        "Token capacity to read; 0 reads all. None: train.evaluate_tokens of the run, the recipe or the file.",
        ge=0,
    )
    recipe: str | None = option(
        None,
        "For a folder that is no run: recipe or YAML file with the length, composition and masking to use. None: tiny.",
    )
    json: bool = option(False, "Print the numbers as one JSON object.")


def run(arguments: list[str]) -> None:
    """Print the scores."""
    options = read(Options, prog="unmask evaluate", arguments=arguments)
    from unmask.commands.evaluate import evaluate

    with ProgressReport(first_seconds=_FIRST_LINE_SECONDS) as report, messages_through(report.show):
        found = evaluate(
            options.model,
            options.store,
            split=options.split,
            tokens=options.tokens,
            recipe=options.recipe,
            progress=lambda progress: _tell(report, progress),
        )
    print(json.dumps(found.numbers()) if options.json else found.lines())


def _tell(report: ProgressReport, progress: "EvaluationProgress") -> None:
    from unmask.train.logging.progress import clock_time

    speed = progress.tokens_per_second
    end = clock_time((progress.expected - progress.tokens) / speed)
    numbers = f"{speed:,.0f} tokens/s  until {end}  {progress.tokens:,} of about {progress.expected:,} tokens"
    report.update("score", numbers, done=progress.tokens, total=progress.expected)
