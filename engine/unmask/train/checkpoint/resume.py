"""Resuming a run: the settings it takes over from a checkpoint, and the checks that its data is the same."""

import logging
from dataclasses import replace
from pathlib import Path

import torch

from unmask.config import BUDGETS, RunConfig, TrainConfig
from unmask.errors import CheckpointError, RunError
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.state import Facts, load_facts
from unmask.train.data import Position
from unmask.train.schedule import StepSchedule, TimedSchedule

__all__ = ["before_decay", "inherit", "log_schedule_change", "require_same_data", "require_steps"]

_log = logging.getLogger(__name__)


def inherit(config: RunConfig, facts: Facts) -> RunConfig:
    """Return `config` with the checkpoint's thread count and activation dtype where it leaves them open.

    The thread count decides the order of sums. A thread count in `config` is used; a warning says what it changes.
    Messages tell what auto chose apart from what the user did.
    """
    train = config.train
    if train.threads not in (None, facts.threads):
        _log.warning(
            f"threads were {facts.threads}, now {train.threads}: same data and masks, but sums may round differently"
        )
    dtype = facts.machine.get("activations")
    if train.dtype == "auto" and dtype in ("float32", "bfloat16"):
        _log.info(f"train.dtype is auto: activations stay in {dtype}, as saved")
        train = replace(train, dtype=dtype)  # type: ignore[arg-type]
    here = torch.get_num_threads()
    if train.threads is None and here != facts.threads:
        _log.info(
            f"train.threads is auto: the run keeps {facts.threads} threads, as saved, where this machine would take "
            f"{here}; with --train.threads {here} sums may round differently"
        )
    return replace(config, train=replace(train, threads=train.threads or facts.threads))


def require_steps(facts: Facts, run: Path, now: RunConfig, num_steps: int) -> None:
    """Raise a `RunError` if a run is configured to end, after `num_steps`, before the step of its checkpoint."""
    if facts.step > num_steps:
        few = (
            f"train.steps is {num_steps}" if now.train.epochs is None else f"{_budget(now.train)} is {num_steps} steps"
        )
        raise RunError(f"run {run}: {few} but {facts.step} steps are done; give at least that many")


def require_same_data(
    facts: Facts, here: Position, *, checkpoint: Path, run: Path, before: RunConfig, now: RunConfig, num_steps: int
) -> None:
    """Check that the run reads on where the checkpoint stopped, in the same data.

    Args:
        facts: facts of the checkpoint.
        here: position of the data after `facts.step` steps under `now`.
        checkpoint: its folder.
        run: directory of the run.
        before: configuration that the checkpoint was saved under.
        now: configuration to go on with.
        num_steps: steps of the run under `now`.
    Raises:
        RunError: the run is configured to end before that step.
        CheckpointError: the position or the data differs.
    """
    saved = _budget(before.train)
    require_steps(facts, run, now, num_steps)
    if (facts.phase, facts.index) != (here.phase, here.index):
        raise CheckpointError(
            f"checkpoint {checkpoint} stands at micro-batch {facts.index} of phase {facts.phase}; with these "
            f"settings step {facts.step} is micro-batch {here.index} of phase {here.phase}; resume with the "
            f"saved {saved}"
        )
    if facts.fingerprint != here.fingerprint:
        masking = now.masking
        if masking.rate_end is not None and masking.rate_steps is None and _budget(now.train) != saved:
            raise CheckpointError(
                f"checkpoint {checkpoint} was saved with a mask rate that goes to masking.rate_end, "
                f"{masking.rate_end}, by the end of {saved}; with {_budget(now.train)} the steps already done "
                f"would have had other masks; resume with the saved {saved}"
            )
        store, there = now.data.store, before.data.store
        if store is not None and there is not None and Path(store).resolve() != Path(there).resolve():
            raise CheckpointError(
                f"checkpoint {checkpoint} was trained on other data: data.store is {store}, and the saved "
                f"configuration has {there}; leave data.store out, give the place where that store is now, or start a "
                "new run"
            )
        raise CheckpointError(
            f"checkpoint {checkpoint} was trained on other data: stream {facts.fingerprint[:16]} was saved, this "
            f"store gives {here.fingerprint[:16]}; put the original store back or start a new run"
        )


def before_decay(
    checkpoints: Checkpoints, newest: Path, facts: Facts, *, before: RunConfig, now: RunConfig
) -> tuple[Path, Facts]:
    """Return the checkpoint that a run goes on from, and its facts: with `wsd` and more steps, that before the decay.

    Up to there the learning rate does not depend on the number of steps, so the run has the bits of one that was as
    long from the beginning. What it learnt in the decay is set aside.

    Args:
        checkpoints: those of the run.
        newest: the newest of them.
        facts: its facts.
        before: configuration that it was saved under.
        now: configuration to go on with.
    """
    steps, more = before.train.steps, now.train.steps
    if now.optimizer.schedule != "wsd" or steps is None or more is None or more <= steps:
        return newest, facts
    stable = StepSchedule(now.optimizer, steps).stable
    if stable is None or facts.step <= stable:
        return newest, facts
    aside = checkpoints.go_back(stable)
    if not aside:
        _log.warning(
            f"the checkpoint before the decay, {checkpoints.path(stable).name}, is gone, so the run goes on from "
            f"{newest.name} and its learning rate rises again"
        )
        return newest, facts
    _log.info(
        f"train.steps {steps} is now {more}: the run goes on from {checkpoints.path(stable).name}, before its decay; "
        f"the checkpoint after it is kept as {aside[0].name}"
    )
    return checkpoints.path(stable), load_facts(checkpoints.path(stable) / "training")


def log_schedule_change(before: RunConfig, now: RunConfig, facts: Facts, *, steps: tuple[int, int]) -> None:
    """Log what a changed budget does to the learning rate after a checkpoint.

    Args:
        before: settings that the checkpoint was saved under.
        now: settings to go on with.
        facts: facts of the checkpoint.
        steps: steps of the run under both.
    """
    budgets = _budget(before.train), _budget(now.train)
    if budgets[0] == budgets[1]:
        return
    was, is_ = (_rate_at(run, facts, num_steps) for run, num_steps in zip((before, now), steps, strict=True))
    _log.info(
        f"{budgets[0]} is now {budgets[1]}: the learning rate decays by the whole run, so it goes on at {is_:.3g} "
        f"where it would have been {was:.3g}"
    )


def _rate_at(run: RunConfig, facts: Facts, num_steps: int) -> float:
    """Return the learning rate of the first step after a checkpoint."""
    if run.train.minutes is None:
        return StepSchedule(run.optimizer, num_steps)(facts.step)
    passed = min(1.0, (facts.seconds or 0.0) / (60.0 * run.train.minutes))
    return TimedSchedule(run.optimizer, lambda: passed)(facts.step)


def _budget(train: TrainConfig) -> str:
    """Return the setting that ends the run, and its value."""
    name = next(name for name in BUDGETS if getattr(train, name) is not None)
    return f"train.{name} {getattr(train, name)}"
