"""Loading what `find_model` finds: a model with its tokenizer, and the configuration of its run."""

import logging
from typing import TYPE_CHECKING

from unmask.errors import ConfigError, RunError, UnmaskError

if TYPE_CHECKING:
    from unmask.config import RunConfig
    from unmask.data.tokenizer import Tokenizer
    from unmask.interop.find_model import ModelFolder
    from unmask.model import PretrainingModel

__all__ = ["config_of", "load_masked_model", "load_model"]

_log = logging.getLogger(__name__)


def load_model(found: "ModelFolder") -> "tuple[PretrainingModel, Tokenizer]":
    """Load the model of a folder and its tokenizer.

    Raises:
        CheckpointError: see `PretrainingModel.from_pretrained`.
        TokenizerError: there is no tokenizer, or the model was trained with another one.
    """
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import PretrainingModel
    from unmask.train.checkpoint.tokenizer_hash import require_bound

    model = PretrainingModel.from_pretrained(found)
    tokenizer = Tokenizer.load(found.path)
    require_bound(found.path, tokenizer, model.encoder.config.token_rows)
    return model, tokenizer


def load_masked_model(found: "ModelFolder", command: str) -> "tuple[PretrainingModel, Tokenizer]":
    """Load a model that fills in [MASK], and its tokenizer.

    Args:
        found: the model.
        command: that needs it, for messages.
    Raises:
        UnmaskError: the model was trained without the masked-LM objective.
        CheckpointError, TokenizerError: see `load_model`.
    """
    config = config_of(found)
    if config is not None and config.objective.mlm == 0:
        raise UnmaskError(
            f"{command}: {found.path} was trained without objective.mlm and never learnt to fill a [MASK]; take a run "
            "with it"
        )
    loaded = load_model(found)
    if config is not None and config.masking.strategy == "mac":
        _log.warning(
            f"{command}: the training of {found.path} (masking.strategy 'mac') never showed it [MASK], so what it says "
            "of one means little"
        )
    return loaded


def config_of(found: "ModelFolder") -> "RunConfig | None":
    """Return the configuration of a checkpoint's run; None for other folders, or if it cannot be read."""
    if found.run is None:
        return None
    from unmask.train.run_folder import saved_config

    try:
        return saved_config(found.run)
    except (ConfigError, RunError):
        # a fine-tuning run has other settings
        return None
