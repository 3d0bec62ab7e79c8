"""The model that a fine-tuning run starts from: the encoder of a run, a checkpoint or a folder, with an output layer.

The output layer is new, unless the folder has one for this task with the labels of the training file. The pooler comes
from the folder too; without one there, it is new.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from unmask.config import EncoderConfig
from unmask.config.head import HeadConfig
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError, ConfigError, TokenizerError
from unmask.interop import hf
from unmask.interop.config_json import read_config
from unmask.interop.find_model import ModelFolder, find_model
from unmask.interop.task_folder import read_head, read_task_model
from unmask.model.encoder import with_dropout
from unmask.model.task_model import TaskModel
from unmask.tasks.config import FinetuneConfig
from unmask.train.checkpoint.tokenizer_hash import require_bound
from unmask.train.trained_length import trained_length

__all__ = ["InitialModel"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialModel:
    """A model to start from.

    Attributes:
        given: as the settings name it.
        folder: where its files are.
        sizes: of its encoder.
        head: its output layer; None if it has none for this task, or a new one is asked for.
        tokenizer: its tokenizer.
    """

    given: str
    folder: ModelFolder
    sizes: EncoderConfig
    head: HeadConfig | None
    tokenizer: Tokenizer

    @classmethod
    def open(cls, config: FinetuneConfig) -> InitialModel:
        """Open the model that the settings name.

        Raises:
            CheckpointError, RunError: it cannot be read, is damaged, or is a model that this engine does not compute.
            TokenizerError: it has no tokenizer, or not that of its model.
            ConfigError: the settings ask for more than it has.
        """
        folder = find_model(config.model)
        sizes = read_config(folder.path)
        if not any((folder.path / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            raise TokenizerError(
                f"finetune: {config.model} has no tokenizer (tokenizer.json or vocab.txt), so nothing says what its "
                "ids mean; copy the tokenizer that the model was trained with into the folder"
            )
        tokenizer = Tokenizer.load(folder.path)
        require_bound(folder.path, tokenizer, sizes.token_rows)
        head = None if config.head.new else read_head(folder.path)
        if head is not None and head.task != config.task:
            head = None
        found = cls(given=config.model, folder=folder, sizes=sizes, head=head, tokenizer=tokenizer)
        found._require_room(config)
        return found

    def _require_room(self, config: FinetuneConfig) -> None:
        length, positions = config.input.max_length, self.sizes.max_positions
        if length > positions:
            raise ConfigError(
                f"config: input.max_length is {length} but {self.given} has {positions} positions; give "
                f"--input.max_length {positions}"
            )
        if config.head.frozen_layers > self.sizes.num_layers:
            raise ConfigError(
                f"config: head.frozen_layers is {config.head.frozen_layers} but {self.given} has "
                f"{self.sizes.num_layers} layers; give at most that many"
            )
        if config.data.pair is not None and self.sizes.num_segments < 2:
            raise ConfigError(
                f"config: data.pair is given but {self.given} has one segment, and a pair has two; take a model with "
                "type_vocab_size 2, or leave data.pair out"
            )
        trained = trained_length(self.folder)
        if trained is not None and trained < length:
            _log.warning(
                f"init: {self.given} was trained on sequences of at most {trained} tokens and input.max_length is "
                f"{length}; the positions from {trained} on start untrained"
            )

    def require_labels(self, labels: tuple[str, ...]) -> None:
        """Check that an output layer that is taken over has the labels of the training file.

        Raises:
            CheckpointError: it has others.
        """
        if self.head is None or self.head.labels == labels:
            return
        raise CheckpointError(
            f"finetune: {self.given} has an output layer for {', '.join(self.head.labels)}, and the training file has "
            f"the labels {', '.join(labels)}; give --head.new to start with a new layer"
        )

    def build(self, head: HeadConfig, *, config: FinetuneConfig, dtype: torch.dtype) -> TaskModel:
        """Return the model with this output layer, on the CPU, and log what of it is new.

        Raises:
            CheckpointError: the weights cannot be read or do not fit.
        """
        sizes = with_dropout(self.sizes, config.head.encoder_dropout)
        model = TaskModel(sizes, head, compute_dtype=dtype, seed=config.seed)
        if self.head is not None:
            read_task_model(self.folder.path).weights.copy_into(model)
            _log.info(f"init: encoder and output layer of {self.given}; the optimizer starts anew")
            return model
        weights = hf.read_encoder(self.folder.path, pooler=head.pools, tells=False)
        weights.copy_into(model.encoder)
        new = ["the pooler"] if "pooler" in weights.difference.new else []
        _log.info(f"init: encoder of {self.given}; new weights in {' and '.join([*new, 'the output layer'])}")
        return model
