"""Resuming a run: the settings it takes over from a checkpoint, and the checks that its data is the same."""

import logging
from dataclasses import replace
from pathlib import Path

from unmask.config import RunConfig, TrainConfig
from unmask.errors import CheckpointError, RunError
from unmask.train.checkpoint.state import Facts
from unmask.train.data import Position
from unmask.train.schedule import LinearSchedule

__all__ = ["inherit", "log_schedule_change", "require_same_data"]

_log = logging.getLogger(__name__)


def inherit(config: RunConfig, facts: Facts) -> RunConfig:
    """Return `config` with the checkpoint's thread count and activation dtype where it leaves them open.

    The thread count decides the order of sums. A thread count in `config` is used; a warning says what it changes.
    """
    train = config.train
    if train.threads not in (None, facts.threads):
        _log.warning(
            f"threads were {facts.threads}, now {train.threads}: same data and masks, but sums may round differently"
        )
    dtype = facts.machine.get("activations")
    if train.dtype == "auto" and dtype in ("float32", "bfloat16"):
        _log.info(f"activations stay in {dtype}, as saved")
        train = replace(train, dtype=dtype)  # type: ignore[arg-type]
    return replace(config, train=replace(train, threads=train.threads or facts.threads))


def require_same_data(
    facts: Facts, here: Position, *, checkpoint: Path, run: Path, before: RunConfig, now: RunConfig
) -> None:
    """Check that the run reads on where the checkpoint stopped, in the same data.

    Args:
        facts: facts of the checkpoint.
        here: position of the data after `facts.step` steps under `now`.
        checkpoint: its folder.
        run: directory of the run.
        before: configuration that the checkpoint was saved under.
        now: configuration to go on with.
    Raises:
        RunError: the run is configured to end before that step.
        CheckpointError: the position or the data differs.
    """
    steps, saved = now.train.steps, before.train.steps
    if facts.step > steps:
        raise RunError(f"run {run}: train.steps is {steps} but {facts.step} steps are done; give at least that many")
    if (facts.phase, facts.index) != (here.phase, here.index):
        raise CheckpointError(
            f"checkpoint {checkpoint} stands at micro-batch {facts.index} of phase {facts.phase}; with these "
            f"settings step {facts.step} is micro-batch {here.index} of phase {here.phase}; resume with the "
            f"saved train.steps, {saved}"
        )
    if facts.fingerprint != here.fingerprint:
        if now.data.mask_rate_end is not None and steps != saved:
            raise CheckpointError(
                f"checkpoint {checkpoint} was saved with a mask rate that goes to data.mask_rate_end, "
                f"{now.data.mask_rate_end}, over {saved} steps; with train.steps {steps} the steps already done would "
                f"have had other masks; resume with the saved train.steps, {saved}"
            )
        raise CheckpointError(
            f"checkpoint {checkpoint} was trained on other data: stream {facts.fingerprint[:16]} was saved, this "
            f"store gives {here.fingerprint[:16]}; put the original store back or start a new run"
        )


def log_schedule_change(before: TrainConfig, now: TrainConfig, *, step: int) -> None:
    """Log what a changed `train.steps` does to the learning rate after `step` updates."""
    if before.steps == now.steps:
        return
    was, is_ = (
        LinearSchedule(peak=train.learning_rate, warmup_steps=train.warmup_steps, steps=train.steps)(step)
        for train in (before, now)
    )
    _log.info(
        f"train.steps was {before.steps:,}, now {now.steps:,}: the learning rate falls to 0 over all of them, so it "
        f"goes on at {is_:.3g} where it would have been {was:.3g}"
    )
