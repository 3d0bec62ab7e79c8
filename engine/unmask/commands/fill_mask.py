"""`fill_mask`: the tokens that a model predicts for each [MASK] of a text, and their probabilities."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from unmask.batch import pack
from unmask.commands.load_model import load_masked_model
from unmask.config.settings import check_argument
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError
from unmask.interop.find_model import find_model
from unmask.model import PretrainingModel
from unmask.train.trained_length import trained_length

__all__ = ["MASK", "MaskFiller", "Prediction", "fill_mask", "fill_text", "require_mask"]

MASK = "[MASK]"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A token for one [MASK], and its probability in [0, 1]."""

    token: str
    probability: float


def fill_mask(model: str | Path, text: str, *, top: int = 5) -> list[list[Prediction]]:
    """Return the `top` most probable tokens for every [MASK] of a text, best first.

    The model is read from the disk. For many texts, make one `MaskFiller` and call its `fill`.

    Example:
        >>> import unmask
        >>> first, second = unmask.fill_mask("runs/mine", "the [MASK] sat on the [MASK]", top=3)
        >>> len(first)
        3
        >>> best = first[0].token, first[0].probability

    Args:
        model: a run, whose newest whole checkpoint is read; a checkpoint; a model folder; or `ORG/NAME` of the Hub.
        text: with at least one [MASK].
        top: number of tokens for each [MASK].
    Raises:
        UnmaskError: the text has no [MASK] or is too long; or the model was not trained to fill one, or its scores are
            not finite.
        RunError: `model` is a run without a checkpoint.
        CheckpointError: `model` holds no model, or a damaged checkpoint.
        TokenizerError: the tokenizer is missing, or belongs to another model.
    """
    check_argument("fill-mask", "top", int, top, ge=1)
    require_mask(text)
    return MaskFiller(model).fill(text, top=top)


class MaskFiller:
    """A model that fills in [MASK], read from the disk once for any number of texts.

    Args:
        model: a run, a checkpoint, a model folder or a model of the Hub, as for `fill_mask`.
    Attributes:
        name: of the model: its folder, or its name at the Hugging Face Hub.
        folder: folder of the model.
        step: steps of its training; None if they are not known.
        model, tokenizer: what was read.
        trained_length: tokens of the longest sequences of its training; None if they are not known.
    """

    def __init__(self, model: str | Path) -> None:
        found = find_model(model)
        self.name, self.folder, self.step = found.name, found.path, found.steps
        self.model, self.tokenizer = load_masked_model(found, "fill-mask")
        self.trained_length = trained_length(found)

    def fill(self, text: str, *, top: int = 5) -> list[list[Prediction]]:
        """Return the `top` most probable tokens for every [MASK] of a text, best first.

        Raises:
            UnmaskError: the text has no [MASK] or is too long, or a score is not finite.
        """
        check_argument("fill-mask", "top", int, top, ge=1)
        require_mask(text)
        tokens = len(_ids_of(text, self.tokenizer))
        if self.trained_length is not None and self.trained_length < tokens <= self.model.config.max_positions:
            _log.warning(
                f"fill-mask: the text has {tokens} tokens and {self.name} was trained on at most "
                f"{self.trained_length}; the positions from {self.trained_length} on are untrained, so shorten it"
            )
        return fill_text(self.model, self.tokenizer, text, top=top)

    def line(self) -> str:
        """Return a line with the model's folder, its sizes, and its training steps if they are known."""
        config = self.model.encoder.config
        trained = "training unknown" if self.step is None else f"trained for {self.step:,} steps"
        return (
            f"{self.name}: {config.num_layers} layers, {config.hidden_size} wide, "
            f"{self.tokenizer.vocab_size:,} tokens, {trained}"
        )


def require_mask(text: str) -> None:
    """Raise an `UnmaskError` if a text has no [MASK]."""
    check_argument("fill-mask", "text", str, text)
    if MASK not in text and any(word in text.lower() for word in (MASK.lower(), "<mask>")):
        raise UnmaskError(f"fill-mask: {text!r} has no {MASK}; write it so, in capitals and square brackets")
    if MASK not in text:
        raise UnmaskError(f"fill-mask: {text!r} has no {MASK}; put one where a word is to be predicted")


def fill_text(model: PretrainingModel, tokenizer: Tokenizer, text: str, *, top: int = 5) -> list[list[Prediction]]:
    """Return the `top` most probable tokens for every [MASK] of a text, best first.

    Rows that only pad the token table are left out: they are never predicted and not part of the softmax.

    Raises:
        UnmaskError: the text is longer than the model's position table, or a score is not finite.
    """
    ids = _ids_of(text, tokenizer)
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


def _ids_of(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a text with [MASK], between [CLS] and [SEP]."""
    between = tokenizer.encode_batch(text.split(MASK))
    ids = [tokenizer.cls_id, *between[0]]
    for piece in between[1:]:
        ids += [tokenizer.mask_id, *piece]
    return [*ids, tokenizer.sep_id]
