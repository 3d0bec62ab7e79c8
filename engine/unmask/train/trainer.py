"""The training loop, from where a run stands to its end.

    for batches in the data:
        report = training_step(batches)
        log, evaluate and save when due; stop politely when asked

Everything random is addressed by seed and position, and a checkpoint holds the rest, so a resumed run computes the
same bits as one that was never interrupted (same thread count, build and machine).
"""

from contextlib import closing
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.batch import Cursor, PackedBatch
from unmask.config import RunConfig
from unmask.errors import RunError
from unmask.paths import as_typed
from unmask.train.assembly import Parts
from unmask.train.checkpoint.binding import bind
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.resume import require_same_data
from unmask.train.checkpoint.state import Facts, load_tensors, save_state, state_bytes
from unmask.train.evaluate import as_row, evaluate
from unmask.train.logging.log import RunLog
from unmask.train.logging.meter import Meter
from unmask.train.logging.metrics import FlopCount, peak_flops
from unmask.train.logging.progress import Display, next_command
from unmask.train.logging.provenance import differences, machine
from unmask.train.optim import adamw, set_learning_rate
from unmask.train.phases import segment_of
from unmask.train.run_folder import RunFolder
from unmask.train.schedule import LinearSchedule
from unmask.train.signals import StopRequest
from unmask.train.start_folder import note_start
from unmask.train.step import StepReport, TrainingStep

__all__ = ["Trainer"]

# Updates left out in a row after which the run stops: a single spike recovers, this many mean that it diverged.
GIVE_UP_AFTER = 50


@dataclass(kw_only=True, slots=True)
class Trainer:
    """The loop and what it needs; `restore` puts it where a checkpoint was, `run` goes on to the end.

    Fields:
        config: of the run. folder: its directory. parts: device, model, objectives, data.
        checkpoints: where states go. display: what a person sees.
        done: updates so far, skipped ones included. tokens: real tokens so far.
    """

    config: RunConfig
    folder: Path
    parts: Parts
    checkpoints: Checkpoints
    display: Display
    done: int = 0
    tokens: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)
    schedule: LinearSchedule = field(init=False)
    step: TrainingStep = field(init=False)
    meter: Meter = field(init=False)
    flops: FlopCount = field(init=False)
    skipped: Tensor = field(init=False)
    streak: Tensor = field(init=False)
    cursor: Cursor | None = None
    saved: int = -1
    evaluated: int = -1

    def __post_init__(self) -> None:
        train, device = self.config.train, self.parts.device
        self.schedule = LinearSchedule(peak=train.learning_rate, warmup_steps=train.warmup_steps, steps=train.steps)
        self.optimizer = adamw(
            self.parts.model,
            learning_rate=train.learning_rate,
            weight_decay=train.weight_decay,
            beta1=train.beta1,
            beta2=train.beta2,
            eps=train.eps,
        )
        self.step = TrainingStep(
            model=self.parts.model,
            objectives=self.parts.objectives,
            optimizer=self.optimizer,
            clip_norm=train.clip_norm,
            all_rows=not self.config.kernels.last_layer_rows,
        )
        names, encoder = [objective.name for objective, _ in self.parts.objectives], self.parts.model.encoder.config
        self.meter = Meter(names, peak=peak_flops(device))
        self.flops = FlopCount.of(encoder, mask_rate=self.config.data.mask_rate, objectives=names)
        self.skipped = torch.zeros((), device=device)
        self.streak = torch.zeros((), device=device)

    def run(self) -> None:
        """Train to the last step or a polite stop; the last state is saved either way."""
        train = self.config.train
        self.parts.model.train()
        self.display.begin(self.done)
        # Lays out the stream: a corpus that is too small is refused before there is a log, and off the clock.
        self.parts.sources.position(self.done)
        log = RunLog(self.folder, done=self.done, tensorboard=train.tensorboard)
        with (
            closing(log),
            self.display,
            StopRequest() as stop,
            closing(self.parts.sources.steps(self.done, self.cursor)) as steps,
        ):
            if self.done > log.evaluated and self._due(train.evaluate_every):
                # The evaluation that a stop or a kill came before.
                self._evaluate(log, stop)
            self.meter.start()
            for batches in steps:
                set_learning_rate(self.optimizer, self.schedule(self.done))
                # As order and masks: the same piece in two segments must not meet the same dropout.
                segment = segment_of(self.parts.sources.segments, self.done)
                self.parts.model.encoder.dropout_seed.fill_(segment.seed)
                report = self.step(
                    [self.parts.sources.to_device(batch, segment, self.parts.device) for batch in batches]
                )
                self._account(batches, report)
                if self._due(train.log_every):
                    self._log(log)
                if stop or self._due(train.save_every):
                    self._save()
                if not stop and self._due(train.evaluate_every):
                    self._evaluate(log, stop)
                if stop:
                    break
            if self.saved != self.done:
                self._save()
            self._say_goodbye(stop)

    def restore(self, checkpoint: Path, facts: Facts, saved: RunConfig) -> None:
        """Put parameters, moments and counters where `checkpoint`, of a run configured as `saved`, has them.

        Raises:
            RunError: the run is configured to end before that step.
            CheckpointError: the model or the data are not those of the checkpoint.
        """
        here = self.parts.sources.position(facts.step)
        require_same_data(facts, here, checkpoint=checkpoint, run=self.folder, before=saved, now=self.config)
        load_tensors(checkpoint / "training", self.parts.model, self.optimizer)
        self.done, self.tokens, self.saved = facts.step, facts.tokens, facts.step
        self.cursor = None if facts.cursor is None else Cursor(*facts.cursor)
        self.skipped.fill_(facts.skipped)
        self.meter.reopen_window(facts.window, self.parts.device)
        self.display.say(f"resumed from {checkpoint}")
        for sentence in differences(facts.machine, self._machine()):
            self.display.say(sentence)

    def _account(self, batches: list[PackedBatch], report: StepReport) -> None:
        """Count a finished step; device values stay on the device."""
        tokens = sum(batch.real_tokens for batch in batches)
        flops = 0.0 if self.meter.peak is None else sum(self.flops.training(batch) for batch in batches)
        self.meter.add(report, tokens=tokens, flops=flops)
        self.skipped += report.skipped
        self.streak = (self.streak + 1.0) * report.skipped
        self.tokens += tokens
        self.cursor = batches[-1].cursor
        self.done += 1
        self.display.advance()

    def _log(self, log: RunLog) -> None:
        """Write and show the row of the steps since the last one; stops a run that has diverged."""
        row: dict[str, Any] = {"step": self.done, **self.meter.read(waited_seconds=self.parts.sources.waited_seconds)}
        row["learning_rate"] = self.schedule(self.done - 1)
        row["tokens"] = self.tokens
        log.write(row)
        self.display.show(row)
        streak = int(self.streak.item())
        if streak >= GIVE_UP_AFTER:
            self._save()
            raise RunError(
                f"run {self.folder}: the gradient was not finite in each of the last {streak} steps and no update was "
                "made in them; start a new run with a lower train.learning_rate or a longer warm-up"
            )

    def _due(self, every: int) -> bool:
        return self.done == self.config.train.steps or (self.done > 0 and self.done % every == 0)

    def _evaluate(self, log: RunLog, stop: StopRequest) -> None:
        """Score the model on held-out text; a stop leaves it to the resumed run."""
        with self.meter.paused():
            parts = self.parts
            segment = segment_of(parts.sources.segments, self.done - 1)
            stream = parts.sources.held_out(segment)
            scores = evaluate(
                parts.model,
                parts.objectives,
                () if stream is None else takewhile(lambda _: not stop, stream.batches()),
                tokens=self.config.train.evaluate_tokens,
                device=parts.device,
            )
            if stop:
                return
            for score in scores:
                self.display.say(f"held-out at step {self.done}: {score}")
            if scores:
                weights = [weight for _, weight in parts.objectives]
                log.write_evaluation({"step": self.done, "max_length": segment.max_length} | as_row(scores, weights))
            elif self.evaluated < 0:
                self.display.say("no held-out document in this store: training goes on without evaluation")
            self.evaluated = self.done

    def _save(self) -> None:
        """Save a checkpoint that resumes and that `transformers` loads."""
        with self.meter.paused():
            self._require_directory()
            parts = self.parts
            here = parts.sources.position(self.done)
            facts = Facts(
                step=self.done,
                segment=here.segment,
                index=here.index,
                cursor=None if self.cursor is None else (self.cursor.epoch, self.cursor.block, self.cursor.k),
                fingerprint=here.fingerprint,
                tokens=self.tokens,
                skipped=int(self.skipped.item()),
                threads=torch.get_num_threads(),
                machine=self._machine(),
                window=self.meter.open_window(),
            )

            def write(folder: Path) -> None:
                parts.model.save_pretrained(folder, pad_id=parts.sources.tokenizer.pad_id, for_transformers=False)
                parts.sources.tokenizer.save(folder, max_length=self.config.model.max_positions)
                bind(folder, parts.sources.tokenizer)
                save_state(folder / "training", parts.model, self.optimizer, facts)

            self.checkpoints.save(self.done, write, bytes_needed=state_bytes(parts.model))
            self.saved = self.done

    def _require_directory(self) -> None:
        """Make the run directory anew where it was moved away or removed, so that what is saved there resumes."""
        if (self.folder / "config.yaml").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        RunFolder(path=self.folder, config=self.config).save_config()
        note_start(self.folder)
        self.display.say(
            f"the run directory {self.folder} was moved or removed while it trained, so it is made anew for the "
            "checkpoints from here on; to keep one run, move them into checkpoints/ of the other"
        )

    def _machine(self) -> dict[str, str]:
        return machine(self.parts.device, self.parts.model.encoder.compute_dtype)

    def _say_goodbye(self, stop: StopRequest) -> None:
        if self.done == self.config.train.steps:
            self.display.say(
                f"done: {self.done} steps, {self.tokens:,} tokens, model in {self.checkpoints.path(self.done)}"
            )
            self.display.say(f"try: unmask {next_command(self.config, self.folder)}")
        else:
            self.display.say(
                f"{stop.name}: stopped after step {self.done}, saved; continue with `unmask pretrain --resume "
                f"{as_typed(self.folder)}`"
            )
