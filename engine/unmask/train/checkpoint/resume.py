"""What must hold for a run to go on from a checkpoint, and what of the checkpoint it takes over."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unmask.config import RunConfig, TrainConfig
from unmask.errors import CheckpointError, RunError
from unmask.train.checkpoint.state import Facts
from unmask.train.schedule import LinearSchedule
from unmask.train.sources import Position

__all__ = ["inherit", "require_same_data", "tell_of_schedule"]


def inherit(config: RunConfig, facts: Facts, say: Callable[[str], None]) -> RunConfig:
    """`config` with the thread count and the dtype of activations that the run began with, where it leaves them open.

    The thread count decides the order of sums. A thread count that is asked for is taken, and said to matter.
    """
    train = config.train
    if train.threads not in (None, facts.threads):
        say(f"threads were {facts.threads}, now {train.threads}: same data and masks, but sums may round differently")
    dtype = facts.machine.get("activations")
    if train.dtype == "auto" and dtype in ("float32", "bfloat16"):
        say(f"activations stay in {dtype}, as saved")
        train = replace(train, dtype=dtype)  # type: ignore[arg-type]
    return replace(config, train=replace(train, threads=train.threads or facts.threads))


def require_same_data(
    facts: Facts, here: Position, *, checkpoint: Path, run: Path, before: RunConfig, now: RunConfig
) -> None:
    """Check that after `facts.step` steps of `now` the data stands where `checkpoint`, saved under `before`, stood.

    Raises:
        RunError: the run is configured to end before that step.
        CheckpointError: the place or the data is another one.
    """
    steps, saved = now.train.steps, before.train.steps
    if facts.step > steps:
        raise RunError(f"run {run}: train.steps is {steps} but {facts.step} steps are done; give at least that many")
    if (facts.segment, facts.index) != (here.segment, here.index):
        raise CheckpointError(
            f"checkpoint {checkpoint} stands at micro-batch {facts.index} of segment {facts.segment}; with these "
            f"settings step {facts.step} is micro-batch {here.index} of segment {here.segment}; resume with the "
            f"saved train.steps, {saved}"
        )
    if facts.fingerprint != here.fingerprint:
        if now.data.mask_rate_end is not None and steps != saved:
            raise CheckpointError(
                f"checkpoint {checkpoint} stands on a mask rate that goes to data.mask_rate_end, "
                f"{now.data.mask_rate_end}, over {saved} steps; with train.steps {steps} the steps done would have "
                f"had other masks; resume with the saved train.steps, {saved}"
            )
        raise CheckpointError(
            f"checkpoint {checkpoint} was trained on other data: stream {facts.fingerprint[:16]} was saved, this "
            f"store gives {here.fingerprint[:16]}; put the original store back or start a new run"
        )


def tell_of_schedule(before: TrainConfig, now: TrainConfig, *, step: int, say: Callable[[str], None]) -> None:
    """Say what another number of steps does to the learning rate of a run that goes on after `step` updates."""
    if before.steps == now.steps:
        return
    was, is_ = (
        LinearSchedule(peak=train.learning_rate, warmup_steps=train.warmup_steps, steps=train.steps)(step)
        for train in (before, now)
    )
    say(
        f"train.steps was {before.steps:,}, now {now.steps:,}: the learning rate falls to 0 over all of them, so it "
        f"goes on at {is_:.3g} where it would have been {was:.3g}"
    )
