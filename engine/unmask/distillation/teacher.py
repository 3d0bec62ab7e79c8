"""The teacher: a model that exists, in evaluation mode and without gradients, so dropout never acts in it.

The objectives of one micro-batch share its forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.config import EncoderConfig
from unmask.config.head import HeadTask
from unmask.data.tokenizer import Tokenizer
from unmask.data.tokenizer.folder import case_is_open
from unmask.errors import CheckpointError, TokenizerError
from unmask.interop import hf
from unmask.interop.config_json import read_config
from unmask.interop.find_model import ModelFolder, find_model
from unmask.interop.task_folder import read_head
from unmask.model.encoder import Encoder
from unmask.model.taps import Taps
from unmask.model.task_model import TaskModel
from unmask.paths import as_typed

__all__ = ["Teacher", "TeacherFolder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherFolder:
    """The folder of a teacher, whose weights are not read yet.

    Attributes:
        given: as the settings name it.
        folder: where its files are.
        sizes: of its encoder.
        tokenizer: that it was trained with.
    """

    given: str
    folder: ModelFolder
    sizes: EncoderConfig
    tokenizer: Tokenizer

    @classmethod
    def open(cls, given: str) -> TeacherFolder:
        """Open the model that the settings name.

        Raises:
            CheckpointError, RunError, HubError: it cannot be read, or is a model that this engine does not compute.
            TokenizerError: it has no tokenizer.
        """
        folder = find_model(given)
        if not any((folder.path / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            raise TokenizerError(
                f"distillation.teacher: {given} has no tokenizer (tokenizer.json or vocab.txt), so nothing says what "
                "its ids mean; copy the tokenizer that the model was trained with into the folder"
            )
        return cls(given=given, folder=folder, sizes=read_config(folder.path), tokenizer=Tokenizer.load(folder.path))

    def require_tokenizer(self, tokenizer: Tokenizer, place: str | Path, *, way: str) -> None:
        """Check that the student reads the ids that the teacher reads.

        Args:
            tokenizer: that of the student.
            place: what it belongs to.
            way: how to get the teacher's, for the error.
        Raises:
            TokenizerError: it is another one.
        """
        own = self.tokenizer
        if case_is_open(self.folder.path):
            # a bare vocabulary reads case as the tokenizer of the student does
            own = Tokenizer.load(self.folder.path, lowercase=tokenizer.lowercase)
        if own.hash != tokenizer.hash:
            raise TokenizerError(
                f"distillation.teacher: the tokenizer of {place} is not that of {self.given}, so the two would read "
                f"other words in the same ids; use the teacher's: {way}"
            )

    def encoder(self, *, dtype: torch.dtype, device: torch.device) -> Teacher:
        """Read the encoder.

        Raises:
            CheckpointError: a file is missing or damaged, or the weights do not fit.
        """
        found = hf.read_encoder(self.folder.path, pooler=False, tells=False)
        encoder = Encoder(found.config, compute_dtype=dtype, pooler=False)
        found.copy_into(encoder)
        return Teacher.of(encoder, device)

    def task_model(self, task: HeadTask, *, dtype: torch.dtype, device: torch.device) -> Teacher:
        """Read the encoder and its output layer for a task.

        Raises:
            CheckpointError: it has no output layer for this task, a file is damaged, or the weights do not fit.
        """
        head = read_head(self.folder.path)
        if head is None or head.task != task:
            has = "no output layer" if head is None else f"an output layer for {head.task}"
            raise CheckpointError(
                f"distillation.teacher: {self.given} has {has}, and this student learns {task}; fine-tune it first, "
                f"with `unmask finetune {task} {as_typed(self.given)} --data.train FILE`, and give that run"
            )
        return Teacher.of(TaskModel.from_pretrained(self.folder, compute_dtype=dtype), device)


@dataclass(kw_only=True, slots=True)
class Teacher:
    """A frozen model.

    Attributes:
        model: an `Encoder`, or a `TaskModel` with the output layer of a task.
        encoder: its encoder; its taps say which states it hands out.
    """

    model: Encoder | TaskModel
    encoder: Encoder
    _batch: PackedBatch | None = None
    _hidden: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def of(cls, model: Encoder | TaskModel, device: torch.device) -> Teacher:
        """Freeze a model and move it to a device."""
        frozen = model.requires_grad_(False).eval().to(device)
        return cls(model=frozen, encoder=frozen.encoder if isinstance(frozen, TaskModel) else frozen)

    def states(self, batch: PackedBatch) -> Taps:
        """Return the states of a batch that the taps of the encoder keep."""
        if self._batch is not batch:
            with torch.no_grad():
                self._hidden = self.encoder(batch.ids, batch.documents, batch.segments)
            self._batch = batch
        assert self.encoder.taps is not None
        return self.encoder.taps

    def logits(self, batch: PackedBatch) -> Tensor:
        """Return the outputs of its output layer for a batch, (R, K) in fp32; see `TaskModel.rows`."""
        assert isinstance(self.model, TaskModel)
        with torch.no_grad():
            rows = self.model.rows(batch)
            return self.model.logits(self.model(batch, rows=rows), batch, rows).float()
