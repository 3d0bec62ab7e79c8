"""The checkpoints that a run writes while it trains: what is in one, and the thread that writes it.

    step-N/              what `transformers` loads: the weights, or their moving average, and the tokenizer
    step-N/training/     what a run resumes from: all tensors of the state, and `Facts`

A save copies the state, and a thread writes the copy while training goes on (`checkpoint.background`). What the thread
fails at is raised at the next step. Rank 0 writes. With a model in shards, all ranks give their parts.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from unmask.batch import Cursor
from unmask.config import RunConfig
from unmask.train.checkpoint.background import BackgroundSaves
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.state import Facts, export_of, save_state, state_bytes
from unmask.train.checkpoint.tokenizer_hash import bind
from unmask.train.data import Position, RunData
from unmask.train.logging.provenance import machine
from unmask.train.run_folder import RunFolder, note_start
from unmask.train.training_state import TrainingState
from unmask_kernels.tuned import in_effect, to_text

__all__ = ["Saver"]

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class Saver:
    """Writes the checkpoints of a run.

    Attributes:
        config: configuration of the run.
        folder: directory of the run.
        checkpoints: its checkpoints.
        data: the phases of the run and their micro-batches.
        state: what is saved.
        background: writes one state while training goes on.
    """

    config: RunConfig
    folder: Path
    checkpoints: Checkpoints
    data: RunData
    state: TrainingState
    background: BackgroundSaves = field(default_factory=BackgroundSaves)

    def save(self, *, interval: Callable[[], list[float]], seconds: float | None, beside: int | None) -> None:
        """Begin to write the state after the last step. Ranks that hold no part of it do nothing.

        Args:
            interval: returns the sums of the unfinished log interval. It waits for the device, so only the rank that
                writes calls it.
            seconds: time of training so far, if the clock ends the run.
            beside: step of another checkpoint that stays.
        Raises:
            CheckpointError: the save before failed.
        """
        state = self.state
        if not (state.ranks.is_first or state.is_sharded):
            return
        tensors: Iterable[tuple[str, Tensor]] = state.tensors()
        if not state.ranks.is_first:
            deque(tensors, maxlen=0)
            return
        self._require_directory()
        facts = self._facts(interval(), seconds)
        needed = state_bytes(state.blank, averaged=state.average is not None)

        def write(copied: dict[str, Tensor]) -> None:
            files = partial(self._write_files, copied, facts)
            self.checkpoints.save(facts.step, files, bytes_needed=needed, beside=beside)

        self.background.begin(tensors, write, state.optimizer)

    def _facts(self, interval: list[float], seconds: float | None) -> Facts:
        state = self.state
        here = self.data.position(state.done)
        cursor = self._cursor(here)
        return Facts(
            step=state.done,
            phase=here.phase,
            index=here.index,
            cursor=None if cursor is None else (*cursor,),
            fingerprint=here.fingerprint,
            tokens=state.tokens,
            skipped=int(state.skipped.item()),
            threads=torch.get_num_threads(),
            machine=machine(state.device, state.model.encoder.compute_dtype),
            interval=interval,
            seconds=seconds,
            tuned=to_text(in_effect()) or None,
            ranks=None if state.ranks.size == 1 else state.ranks.size,
            loss_scale=None if state.loss_scale is None else state.loss_scale.state(),
        )

    def _cursor(self, here: Position) -> Cursor | None:
        """Return the cursor of the last micro-batch of a step, which may be another rank's."""
        if self.state.ranks.size == 1 or here.index == 0:
            return self.state.cursor
        return self.data.stream(self.data.phases[here.phase]).locate(here.index - 1)

    def _write_files(self, state: dict[str, Tensor], facts: Facts, folder: Path) -> None:
        """Write the files of a checkpoint from a copy of the state, while training goes on."""
        tokenizer = self.data.tokenizer
        export_of(state, self.state.blank).save_pretrained(folder, pad_id=tokenizer.pad_id, for_transformers=False)
        tokenizer.save(folder, max_length=self.config.model.max_positions)
        bind(folder, tokenizer)
        save_state(folder / "training", state, facts)

    def _require_directory(self) -> None:
        """Make the run directory again if it was moved or removed, so that its next checkpoint can be resumed."""
        if (self.folder / "config.yaml").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        RunFolder(path=self.folder, config=self.config).save_config()
        note_start(self.folder)
        _log.warning(
            f"the run directory {self.folder} was moved or removed while it trained, so it is made anew for the "
            "checkpoints from here on; to keep one run, move them into checkpoints/ of the other"
        )
