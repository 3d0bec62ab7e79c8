"""The way back from a loss spike: to the newest whole checkpoint before it, without the data of the spike.

`spikes` says what a spike is. Rank 0 reads the log and decides, and all ranks go back together.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.config import TrainConfig
from unmask.config.settings import counted
from unmask.errors import RunError
from unmask.interop.checkpoint_folder import damage_of
from unmask.paths import as_typed
from unmask.train.checkpoint.background import BackgroundSaves
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.logging.log import read_log
from unmask.train.parallel import Ranks
from unmask.train.spikes import LeftOut, Spike, SpikeGuard, add_spike, read_spikes

__all__ = ["SpikeReturn"]

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class SpikeReturn:
    """Finds spikes in the rows of the log, and prepares the way back from one.

    Attributes:
        settings: settings of the run, with `spike_guard`.
        folder: directory of the run.
        checkpoints: its checkpoints.
        saves: what writes them.
        ranks: the processes that train together.
        guard: looks at the rows, on rank 0.
        told: whether a spike was told of from which the run could not go back.
    """

    settings: TrainConfig
    folder: Path
    checkpoints: Checkpoints
    saves: BackgroundSaves
    ranks: Ranks
    guard: SpikeGuard | None = field(init=False, default=None)
    told: bool = False

    def begin(self) -> None:
        """Read the log so far: at the start of a run, and when it has gone back."""
        factor = self.settings.spike_guard
        if factor is not None and self.ranks.is_first:
            self.guard = SpikeGuard(factor, self.settings.spike_rows, read_log(self.folder))

    def look(self, row: dict[str, Any]) -> Spike | None:
        """Return the spike that a row ends, on all ranks alike, if there is a checkpoint from before it."""
        if self.settings.spike_guard is None:
            return None
        spike = None if self.guard is None else self.guard.look(row)
        if spike is not None:
            # the checkpoint before may be on its way to the disk
            self.saves.wait()
        if spike is not None and self._whole_before(spike) is None:
            if not self.told:
                _log.warning(
                    f"train.spike_guard: {spike}; there is no checkpoint from before, so the run goes on with it"
                )
            self.told, spike = True, None
        found, before, last, limit, has_loss, loss = self.ranks.totals(
            [0.0] * 6
            if spike is None
            else [1.0, spike.before, spike.last, spike.limit, float(spike.loss is not None), spike.loss or 0.0]
        )
        if not found:
            return None
        return Spike(before=int(before), last=int(last), limit=limit, loss=loss if has_loss else None)

    def choose(self, spike: Spike, left_out: list[LeftOut]) -> int:
        """Return the step to go back to, on all ranks. Rank 0 notes the spike and removes newer checkpoints.

        Raises:
            RunError: the run has gone back as often as it may.
        """

        def prepare() -> int:
            limit = self.settings.spike_limit
            if len(read_spikes(self.folder)) >= limit:
                raise RunError(
                    f"run {self.folder}: {spike}, after {counted(limit, 'spike')} whose data is left out "
                    f"(train.spike_limit); start a new run with a lower optimizer.learning_rate, or go on with `unmask "
                    f"pretrain --resume {as_typed(self.folder)} --train.spike_limit {2 * limit}`"
                )
            back = self._whole_before(spike)
            assert back is not None
            for step in self.checkpoints.steps():
                if step > back:
                    self.checkpoints.remove(step)
            add_spike(self.folder, spike, back_to=back, left_out=left_out)
            return back

        return self.ranks.first(prepare)

    def _whole_before(self, spike: Spike) -> int | None:
        """Return the step of the newest whole checkpoint from before a spike; None if there is none."""
        steps = (step for step in reversed(self.checkpoints.steps()) if step <= spike.before)
        return next((step for step in steps if damage_of(self.checkpoints.path(step)) is None), None)
