"""`unmask fill-mask RUN_OR_FOLDER "text with [MASK]"`: the model's predictions and their probabilities.

The first line gives the size of the model and its training, so that nobody takes a small model for a large one.
"""

import json
from dataclasses import MISSING, dataclass
from pathlib import Path

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked
from unmask.errors import UnmaskError

__all__ = ["run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Show what a model predicts for each [MASK]."""

    model: Path = option(
        MISSING,
        "Run directory, checkpoint, folder that transformers loads, or ORG/NAME of the Hugging Face Hub.",
        positional=True,
        metavar="RUN_OR_FOLDER",
    )
    texts: tuple[str, ...] = option((), "Texts, each with at least one [MASK].", positional=True, metavar="TEXT")
    top: int = option(5, "Predictions to show for each [MASK].", ge=1)


def run(arguments: list[str]) -> None:
    """Print the best predictions for every [MASK] of every text."""
    options = read(Options, prog="unmask fill-mask", arguments=arguments)
    if not options.texts:
        raise UnmaskError('fill-mask: needs a text, such as "Returns a new [MASK]."')

    from unmask.commands.fill_mask import MASK, MaskFiller, require_mask

    for text in options.texts:
        require_mask(text)
    filler = MaskFiller(options.model)
    print(filler.line())
    for text in options.texts:
        print(f"\n{text}")
        for number, predictions in enumerate(filler.fill(text, top=options.top), start=1):
            if text.count(MASK) > 1:
                print(f"  {MASK} {number}")
            for prediction in predictions:
                # the tokens of source code hold line breaks
                token = prediction.token if prediction.token.strip() else json.dumps(prediction.token)
                print(f"  {prediction.probability:6.1%}  {token}")
