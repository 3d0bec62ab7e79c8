"""`unmask predict MODEL INPUT [--out FILE]`: what a fine-tuned model predicts, as JSON lines."""

import sys
from dataclasses import MISSING, dataclass
from pathlib import Path

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked

__all__ = ["Options", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Write what a fine-tuned model predicts for the examples of a file: a JSON object for each, one a line.

    A file with labels is scored, too.
    """

    model: Path = option(
        MISSING,
        "Run of unmask finetune (its best checkpoint), folder of a model with an output layer, or ORG/NAME of the "
        "Hugging Face Hub.",
        positional=True,
        metavar="MODEL",
    )
    input: Path = option(MISSING, "File with examples.", positional=True, metavar="INPUT")
    out: Path | None = option(None, "File to make. None: standard output.", metavar="FILE", usual=True)
    layout: str | None = option(
        None, "Benchmark whose file this is, such as sst2. None: as in training.", metavar="NAME"
    )
    text: str | None = option(None, "Column with the text. None: as in training.", metavar="COLUMN")
    pair: str | None = option(None, "Column with the second text of a pair. None: as in training.", metavar="COLUMN")
    label: str | None = option(None, "Column with the label. None: as in training.", metavar="COLUMN")
    submission: bool = option(
        False, "Whether to write the file that the benchmark's server takes, in the place of JSON lines."
    )


def run(arguments: list[str]) -> None:
    """Write the predictions."""
    options = read(Options, prog="unmask predict", arguments=arguments)
    from unmask.commands.predict import json_lines, predict

    found = predict(
        options.model,
        options.input,
        options.out,
        layout=options.layout,
        text=options.text,
        pair=options.pair,
        label=options.label,
        submission=options.submission,
    )
    if options.out is None:
        sys.stdout.writelines(json_lines(found.predictions))
    else:
        print(f"{options.out}: {len(found.predictions):,} predictions")
