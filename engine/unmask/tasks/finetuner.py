"""The loop of fine-tuning, from the position of a run to its end.

    for step in range(done, steps):
        report = step(the next `batch_size` inputs of the epoch's order)
        log, evaluate on the dev file and save when due; keep the best; stop when asked

Order and dropout are functions of seed, epoch and input, and a checkpoint holds the rest. So a resumed run computes the
bits of a run that was never stopped, with the same thread count, build and machine.

    checkpoints/    the two newest states; a run resumes from the newest one that is whole
    best/           the model with the best score of the dev file, which `unmask predict` and `unmask export` read
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from unmask.config import OptimizerConfig
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError, ConfigError, RunError
from unmask.interop.task_folder import save_task_model
from unmask.model.task_model import TaskModel
from unmask.objectives import Objective
from unmask.paths import as_typed
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.inputs import ModelInputs, order_of_epoch
from unmask.tasks.optimizer import set_rates, task_adamw
from unmask.tasks.outputs import outputs_of
from unmask.tasks.task import Task
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.state import Facts, load_tensors, save_state, state_bytes, state_of
from unmask.train.checkpoint.tokenizer_hash import bind
from unmask.train.logging.log import RunLog, destinations_of, read_evaluations
from unmask.train.logging.metrics import Meter, peak_memory_bytes
from unmask.train.logging.progress import Display
from unmask.train.logging.provenance import differences, machine
from unmask.train.schedule import StepSchedule
from unmask.train.signals import StopRequest
from unmask.train.step import TrainingStep
from unmask.train.threads import CrowdWatch
from unmask_kernels.tuned import in_effect, to_text

__all__ = ["Finetuner", "LabelledFile"]

_log = logging.getLogger(__name__)

# settings of the files that hold for other files of the task too
_READ_AGAIN = ("layout", "text", "pair", "label", "id", "encoding", "delimiter")
# as in pre-training: a run recovers from a few skipped updates, so many in a row mean divergence
_GIVE_UP_AFTER = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledFile:
    """The examples of a file and what the model reads of them."""

    examples: list[Any]
    inputs: ModelInputs


@dataclass(kw_only=True, slots=True)
class Finetuner:
    """The loop and its parts. `restore` continues from a checkpoint, `run` trains to the end.

    Attributes:
        config: settings of the run.
        folder: directory of the run.
        task: what the outputs mean.
        model: the encoder with its output layer, on the device to train on.
        tokenizer: that of the model.
        train: inputs of the training file, with targets.
        dev: the dev file; None if there is none.
        display: the progress that a person sees.
        objectives: (objective, weight) pairs: the loss of the task, or what is learnt from a teacher.
        done: updates so far.
        tokens: tokens so far.
        stopped_early: whether the score has not become better for `train.patience` evaluations.
    """

    config: FinetuneConfig
    folder: Path
    task: Task
    model: TaskModel
    tokenizer: Tokenizer
    train: ModelInputs
    dev: LabelledFile | None
    display: Display
    objectives: Sequence[tuple[Objective, float]]
    done: int = 0
    tokens: int = 0
    skipped_in_a_row: int = 0
    stopped_early: bool = False
    checkpoints: Checkpoints = field(init=False)
    best: Checkpoints = field(init=False)
    device: torch.device = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    schedule: Callable[[int], float] = field(init=False)
    step: TrainingStep = field(init=False)
    meter: Meter = field(init=False)
    crowd: CrowdWatch = field(init=False)

    def __post_init__(self) -> None:
        optimizer = self.config.optimizer
        if self.metric not in self.task.score_names:
            raise ConfigError(
                f"config: train.metric is {self.metric}, which {self.config.task} does not have; there are "
                f"{', '.join(self.task.score_names)}"
            )
        self.checkpoints = Checkpoints(folder=self.folder / "checkpoints", keep=2)
        self.best = Checkpoints(folder=self.folder / "best", keep=1)
        self.device = next(self.model.parameters()).device
        self.optimizer = task_adamw(self.model, optimizer)
        steps = self.steps
        warmup = round(optimizer.warmup_share * steps)
        rates = OptimizerConfig(learning_rate=optimizer.learning_rate, warmup_steps=warmup)
        self.schedule = StepSchedule(rates, steps)
        if self.config.distillation.stage == "intermediate":
            # constant, as in the code published with TinyBERT
            self.schedule = lambda step: optimizer.learning_rate
        self.step = TrainingStep(
            model=self.model,
            objectives=self.objectives,
            optimizer=self.optimizer,
            clip_norm=optimizer.clip_norm,
        )
        self.meter = Meter([objective.name for objective, _ in self.objectives])
        self.crowd = CrowdWatch()

    @property
    def steps_per_epoch(self) -> int:
        """Steps that read the training file once."""
        return -(-len(self.train) // self.config.train.batch_size)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return max(1, round(self.config.train.epochs * self.steps_per_epoch))

    @property
    def metric(self) -> str:
        """The score by which the best checkpoint is chosen."""
        return self.config.train.metric or self.task.metric

    def run(self) -> bool:
        """Train to the end, or until a signal asks to stop, and return whether the end was reached."""
        train = self.config.train
        self.model.train()
        for step in self.best.steps():
            if step > self.done:
                # of a process that was killed between the best model and its checkpoint
                self.best.remove(step)
        log = RunLog(self.folder, done=self.done, to=destinations_of(train), settings=asdict(self.config))
        with closing(log), self.display, StopRequest() as stop:
            self.display.begin(self.done, steps=self.steps)
            self.meter.start()
            self._look_at_patience()
            while not (stop or self._ended()):
                self._train_step()
                if self._due(train.log_every):
                    self._log(log)
                elif self.display.waits:
                    self.display.show(self.meter.glance(waited_seconds=0.0))
                    self._watch_load()
                if self._due(train.evaluate_every or self.steps_per_epoch):
                    with self.meter.paused():
                        self._evaluate(log)
                        self._save()
                    self._look_at_patience()
            if stop and not self._ended():
                if self.done:
                    self._save()
                whole = self.folder.parent if self.config.distillation.stage == "intermediate" else self.folder
                _log.info(
                    f"{stop.name}: stopped after step {self.done}; continue with `unmask finetune --resume "
                    f"{as_typed(whole)}`"
                )
        return self._ended()

    def restore(self, checkpoint: Path, facts: Facts) -> None:
        """Load parameters, optimizer state and counters of a checkpoint.

        Raises:
            CheckpointError: the training file is another one, or the state cannot be read.
        """
        if facts.fingerprint != self.train.fingerprint():
            raise CheckpointError(
                f"checkpoint {checkpoint} was trained on other examples than {self.config.data.train} has now; put the "
                "file back as it was, or start a new run"
            )
        load_tensors(checkpoint / "training", self.model, self.optimizer)
        self.done, self.tokens = facts.step, facts.tokens
        self.meter.resume_interval(facts.interval, self.device)
        _log.info(f"resumed from {checkpoint}")
        for difference in differences(facts.machine, machine(self.device, self.model.encoder.compute_dtype)):
            _log.warning(difference)

    def _ended(self) -> bool:
        return self.done >= self.steps or self.stopped_early

    def _due(self, every: int) -> bool:
        return self.done >= self.steps or (self.done > 0 and self.done % every == 0)

    def _train_step(self) -> None:
        epoch, place = divmod(self.done, self.steps_per_epoch)
        size = self.config.train.batch_size
        order = order_of_epoch(len(self.train), seed=self.config.seed, epoch=epoch)
        some = order[place * size : (place + 1) * size]
        batches = [
            self.train.batch(part, epoch=epoch, pad_id=self.tokenizer.pad_id)
            for part in self.train.cut(some, self.config.train.micro_batch_tokens)
        ]
        set_rates(self.optimizer, self.schedule(self.done))
        report = self.step([batch.to(self.device, non_blocking=True) for batch in batches])
        tokens = sum(batch.real_tokens for batch in batches)
        self.meter.add(report, tokens=tokens, flops=0.0)
        self.tokens += tokens
        self.done += 1
        self.display.advance()

    def _log(self, log: RunLog) -> None:
        """Write and show the row of the last interval.

        Raises:
            RunError: the run has diverged.
        """
        row: dict[str, Any] = {"step": self.done, **self.meter.read(waited_seconds=0.0)}
        row["learning_rate"] = self.schedule(self.done - 1)
        row["tokens"] = self.tokens
        row["examples_per_second"] = self.config.train.batch_size / row["seconds_per_step"]
        row["peak_memory_bytes"] = peak_memory_bytes(self.device)
        if self.model.head.task == "regression":
            row = {name: value for name, value in row.items() if not name.endswith("_accuracy")}
        log.write(row)
        self.display.show(row)
        self._watch_load()
        steps = self.config.train.log_every
        self.skipped_in_a_row = self.skipped_in_a_row + steps if row["skipped"] >= steps else 0
        if self.skipped_in_a_row >= _GIVE_UP_AFTER:
            raise RunError(
                f"run {self.folder}: the gradient was not finite in each of the last {self.skipped_in_a_row} steps and "
                "no update was made in them; start a new run with a lower optimizer.learning_rate"
            )

    def _evaluate(self, log: RunLog) -> None:
        """Score the dev file, and keep the model if it is the best so far; without a dev file, keep it."""
        if self.dev is None:
            self.best.save(self.done, self._write_model, bytes_needed=state_bytes(self.model) // 3)
            return
        found = outputs_of(self.model, self.dev.inputs)
        predictions = self.task.predictions(found, self.dev.inputs, self.dev.examples)
        scores = self.task.scores(predictions, self.dev.examples).values
        before = [row[self.metric] for row in read_evaluations(self.folder) if row.get(self.metric) is not None]
        epoch = round(self.done / self.steps_per_epoch, 3)
        log.write_evaluation({"step": self.done, "epoch": epoch, "loss": found.loss, **scores})
        # a process that was killed behind its best model may have left none
        is_best = not before or not self.best.steps() or self._is_better(scores[self.metric], before)
        if is_best:
            self.best.save(self.done, self._write_model, bytes_needed=state_bytes(self.model) // 3)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        loss = "" if found.loss is None else f"loss {found.loss:.3f}  "
        self.tell(f"dev at step {self.done}, epoch {epoch:g}: {loss}{shown}{'  (best)' if is_best else ''}")

    def _is_better(self, score: float, before: list[float]) -> bool:
        return score < min(before) if self.task.best_is_low else score > max(before)

    def _look_at_patience(self) -> None:
        """Note whether the last evaluations brought no better score."""
        patience = self.config.train.patience
        if patience is None:
            return
        scores = [row[self.metric] for row in read_evaluations(self.folder) if row.get(self.metric) is not None]
        if len(scores) > patience and not any(
            self._is_better(score, scores[:-patience]) for score in scores[-patience:]
        ):
            self.stopped_early = True
            self.tell(f"stopped at step {self.done}: {self.metric} is no better after {patience} evaluations")

    def _save(self) -> None:
        """Save a checkpoint from which the run resumes."""
        facts = Facts(
            step=self.done,
            phase=0,
            index=self.done,
            cursor=None,
            fingerprint=self.train.fingerprint(),
            tokens=self.tokens,
            skipped=0,
            threads=torch.get_num_threads(),
            machine=machine(self.device, self.model.encoder.compute_dtype),
            interval=self.meter.open_interval(),
            tuned=to_text(in_effect()) or None,
        )

        def write(folder: Path) -> None:
            self._write_model(folder)
            save_state(folder / "training", state_of(self.model, self.optimizer), facts)

        self.checkpoints.save(self.done, write, bytes_needed=state_bytes(self.model))

    def _write_model(self, folder: Path) -> None:
        data = asdict(self.config.data)
        settings = asdict(self.config.input) | {name: data[name] for name in _READ_AGAIN}
        if self.model.head.task == "qa":
            settings |= asdict(self.config.answers)
        save_task_model(
            self.model,
            self.model.config,
            self.model.head,
            folder,
            pad_id=self.tokenizer.pad_id,
            settings={name: value for name, value in settings.items() if value is not None},
            for_transformers=False,
        )
        self.tokenizer.save(folder, max_length=self.config.input.max_length)
        bind(folder, self.tokenizer)

    def _watch_load(self) -> None:
        if self.device.type == "cpu":
            notice = self.crowd.look(torch.get_num_threads())
            if notice is not None:
                _log.warning(notice)

    def tell(self, text: str) -> None:
        """Show a result like a step line, and log it for those who collect messages."""
        self.display.show_message(text)
        _log.info(text, extra={"shown": True})
