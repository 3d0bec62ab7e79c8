"""`unmask fill-mask RUN_OR_FOLDER "text with [MASK]"`: the model's predictions and their probabilities.

The first line gives the size of the model and its training, so that nobody takes a small model for a large one.
"""

import json
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.cli._arguments import option, read
from unmask.commands.load_model import config_of, load_model
from unmask.config.settings import Checked
from unmask.errors import UnmaskError
from unmask.interop.find_model import ModelFolder, find_model

if TYPE_CHECKING:
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import PretrainingModel

__all__ = ["MASK", "Prediction", "predict", "run"]

MASK = "[MASK]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Show what a model predicts for each [MASK]."""

    model: Path = option(
        MISSING,
        "Run directory, checkpoint, or folder that transformers loads.",
        positional=True,
        metavar="RUN_OR_FOLDER",
    )
    texts: tuple[str, ...] = option((), "Texts, each with at least one [MASK].", positional=True, metavar="TEXT")
    top: int = option(5, "Predictions to show for each [MASK].", ge=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A token for one [MASK], and its probability in [0, 1]."""

    token: str
    probability: float


def run(arguments: list[str]) -> None:
    """Print the best predictions for every [MASK] of every text."""
    options = read(Options, prog="unmask fill-mask", arguments=arguments)
    if not options.texts:
        raise UnmaskError(f'fill-mask: needs a text, such as "Returns a new {MASK}."')
    for text in options.texts:
        if MASK not in text and any(word in text.lower() for word in (MASK.lower(), "<mask>")):
            raise UnmaskError(f"fill-mask: {text!r} has no {MASK}; write it so, in capitals and square brackets")
        if MASK not in text:
            raise UnmaskError(f"fill-mask: {text!r} has no {MASK}; put one where a word is to be predicted")
    found = find_model(options.model)
    config = config_of(found)
    if config is not None and config.objective.mlm == 0:
        raise UnmaskError(
            f"fill-mask: {found.path} was trained without objective.mlm and never learnt to fill a {MASK}; take a run "
            "with it"
        )
    model, tokenizer = load_model(found)
    print(describe_model(model, tokenizer, found))
    if config is not None and config.masking.strategy == "mac":
        print(f"its training (masking.strategy 'mac') never showed it {MASK}, so what it says of one means little")
    for text in options.texts:
        print(f"\n{text}")
        for number, predictions in enumerate(predict(model, tokenizer, text, top=options.top), start=1):
            if text.count(MASK) > 1:
                print(f"  {MASK} {number}")
            for prediction in predictions:
                # the tokens of source code hold line breaks
                token = prediction.token if prediction.token.strip() else json.dumps(prediction.token)
                print(f"  {prediction.probability:6.1%}  {token}")


def describe_model(model: "PretrainingModel", tokenizer: "Tokenizer", found: ModelFolder) -> str:
    """Return a line with the model's folder, its sizes, and its training steps if they are known."""
    config = model.encoder.config
    trained = "training unknown" if found.steps is None else f"trained for {found.steps:,} steps"
    return (
        f"{found.path}: {config.num_layers} layers, {config.hidden_size} wide, "
        f"{tokenizer.vocab_size:,} tokens, {trained}"
    )


def predict(model: "PretrainingModel", tokenizer: "Tokenizer", text: str, *, top: int = 5) -> list[list[Prediction]]:
    """Return the `top` most probable tokens for every [MASK] of a text, best first.

    Rows that only pad the token table are left out: they are never predicted and not part of the softmax.

    Raises:
        UnmaskError: the text is longer than the model's position table, or a score is not finite.
    """
    import torch

    from unmask.batch import pack

    between = tokenizer.encode_batch(text.split(MASK))
    ids = [tokenizer.cls_id, *between[0]]
    for piece in between[1:]:
        ids += [tokenizer.mask_id, *piece]
    ids.append(tokenizer.sep_id)
    limit = model.encoder.config.max_positions
    if len(ids) > limit:
        raise UnmaskError(f"fill-mask: the text has {len(ids)} tokens, the model reads {limit}; shorten it")
    masked = torch.tensor([row for row, token in enumerate(ids) if token == tokenizer.mask_id])
    model.eval()
    with torch.inference_mode():
        hidden = model(pack([ids]))
        logits = model.mlm_logits(hidden[masked]).float()
        used = torch.from_numpy(tokenizer.used_ids)
        if not logits[:, used].isfinite().all():
            raise UnmaskError(
                "fill-mask: the model gives scores that are not finite, so its weights are damaged or its training "
                "diverged; take another checkpoint"
            )
        probabilities = logits[:, used].softmax(-1)
        best = probabilities.topk(min(top, len(used)))
    return [
        [
            Prediction(token=tokenizer.token(token), probability=value)
            for token, value in zip(row_ids, row_values, strict=True)
        ]
        for row_ids, row_values in zip(used[best.indices].tolist(), best.values.tolist(), strict=True)
    ]
