"""The training loop, from the position of a run to its end.

    for batches in data.steps():
        report = step(batches)
        log, evaluate and save when due; stop when asked

Everything random is a function of the seed and of the position, and a checkpoint holds the rest. So a resumed run
computes the same bits as a run that was never interrupted, with the same thread count, build and machine. A run with
`train.minutes` is the exception: the clock decides its learning rate and its last step.

The first evaluation comes before the first step. It changes nothing that training reads.

A save copies the state, and a thread writes the copy while the loop goes on (`checkpoint.background`). What the thread
fails at is raised at the next step, and the loop waits for it at the end.

With several ranks, every rank runs this loop on its share of the micro-batches. Before each step they add up what the
loop decides by: the signals that they heard, the tokens of the step, and the clock of rank 0. Rank 0 alone writes.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.batch import Cursor, PackedBatch
from unmask.config import RunConfig, to_mapping
from unmask.config.settings import counted
from unmask.data.stream import Stream
from unmask.distillation.student import Student
from unmask.errors import RankLost, RunError, ToldByOther
from unmask.interop.checkpoint_folder import damage_of
from unmask.model import PretrainingModel
from unmask.objectives import Objective
from unmask.paths import as_typed
from unmask.train.checkpoint.background import BackgroundSaves
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.resume import require_same_data
from unmask.train.checkpoint.state import (
    Facts,
    export_of,
    load_facts,
    load_tensors,
    read_tensors,
    save_state,
    send_state,
    state_bytes,
    state_of,
    without_values,
)
from unmask.train.checkpoint.tokenizer_hash import bind
from unmask.train.data import Position, RunData, phase_at
from unmask.train.deadline import Deadline
from unmask.train.evaluate import as_row, score_model
from unmask.train.gradient_sum import GradientSum
from unmask.train.graphs import GraphedStep
from unmask.train.logging.log import RunLog, UnwrittenLog, destinations_of, read_log
from unmask.train.logging.metrics import FlopCount, GradientNorms, Meter, peak_flops, peak_memory_bytes
from unmask.train.logging.progress import Display, next_command
from unmask.train.logging.provenance import differences, machine
from unmask.train.loss_scale import LossScale
from unmask.train.optim import build_optimizer, copies_for, set_learning_rate
from unmask.train.parallel import ALONE, Ranks
from unmask.train.run_folder import RunFolder, note_start
from unmask.train.schedule import StepSchedule, TimedSchedule
from unmask.train.sharded import ShardedModel, gathered, scatter_state
from unmask.train.signals import StopRequest
from unmask.train.spikes import Spike, SpikeGuard, add_spike, read_spikes
from unmask.train.step import StepReport, TrainingStep
from unmask.train.threads import CrowdWatch
from unmask.train.weight_average import WeightAverage
from unmask_kernels.tuned import in_effect, to_text

__all__ = ["Trainer"]

_log = logging.getLogger(__name__)

# The run stops after this many skipped updates in a row. It recovers from a single spike; so many mean divergence.
GIVE_UP_AFTER = 50


@dataclass(kw_only=True, slots=True)
class Trainer:
    """The loop and its parts. `restore` continues from a checkpoint, `run` trains to the end.

    Attributes:
        config: configuration of the run.
        folder: directory of the run.
        model: the encoder with its heads, on the device to train on.
        objectives: (objective, weight) pairs.
        data: the phases of the run and their micro-batches.
        checkpoints: the checkpoints of the run.
        display: the progress that a person sees.
        done: updates so far, skipped ones included.
        tokens: real tokens so far.
        cursor: cursor of the last micro-batch used.
        saved: step of the last checkpoint, -1 before the first.
        saved_at: seconds of the run at the last checkpoint, if the clock ends the run.
        evaluated: step of the last evaluation of this process, -1 before the first.
        ranks: the processes that train together.
        graphs: whether steps are recorded as CUDA graphs.
        unigram: loss of a model that knows only token frequencies, in nats; None if it is not known.
        rate: learning rate of the last update.
        ended: whether the last step is done.
        guard: looks for spikes of the loss, on rank 0; None without `train.spike_guard`.
        told_of_spike: whether a spike was told of from which the run could not go back.
        deadline: the clock that ends the run; None if the number of steps does.
        step: the update, one operation after the other.
        take_step: the same, or what replays it from CUDA graphs.
        loss_scale: what the loss is multiplied by in fp16; None for other dtypes.
        average: the moving average of the weights; None without `optimizer.ema_decay`.
        costs: seconds for which the last `save` and the last `evaluation` kept training waiting, if the clock ends the
            run.
        blank: a copy of the model without values, for what is exported.
        shared: what sums over several ranks, and shards the model with `train.parallel` fsdp; None for a single one.
        saves: writes checkpoints while training goes on.
    """

    config: RunConfig
    folder: Path
    model: PretrainingModel | Student
    objectives: Sequence[tuple[Objective, float]]
    data: RunData
    checkpoints: Checkpoints
    display: Display
    ranks: Ranks = ALONE
    graphs: bool = False
    done: int = 0
    tokens: int = 0
    cursor: Cursor | None = None
    saved: int = -1
    saved_at: float = 0.0
    evaluated: int = -1
    unigram: float | None = None
    rate: float = 0.0
    ended: bool = False
    guard: SpikeGuard | None = None
    told_of_spike: bool = False
    deadline: Deadline | None = field(init=False)
    costs: dict[str, float] = field(default_factory=dict)
    saves: BackgroundSaves = field(default_factory=BackgroundSaves)
    blank: PretrainingModel | Student = field(init=False)
    shared: GradientSum | ShardedModel | None = field(init=False)
    device: torch.device = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    schedule: StepSchedule | TimedSchedule = field(init=False)
    average: WeightAverage | None = field(init=False)
    step: TrainingStep = field(init=False)
    take_step: Callable[[Sequence[PackedBatch]], StepReport] = field(init=False)
    loss_scale: LossScale | None = field(init=False)
    meter: Meter = field(init=False)
    flops: FlopCount = field(init=False)
    gradient_norms: GradientNorms | None = field(init=False)
    crowd: CrowdWatch = field(init=False)
    skipped: Tensor = field(init=False)
    skipped_in_a_row: Tensor = field(init=False)

    def __post_init__(self) -> None:
        optimizer, train = self.config.optimizer, self.config.train
        self.device = next(self.model.parameters()).device
        if train.minutes is None:
            self.deadline = None
            self.schedule = StepSchedule(optimizer, self.data.num_steps)
        else:
            deadline = self.deadline = Deadline(train.minutes)
            self.schedule = TimedSchedule(optimizer, lambda: deadline.share)
        self.crowd = CrowdWatch()
        self.blank = without_values(self.model)
        if self.ranks.size == 1:
            self.shared = None
        elif train.parallel == "fsdp":
            self.shared = ShardedModel(self.model, self.ranks)
        else:
            self.shared = GradientSum(self.model, self.ranks)
        copies = copies_for(self.model.encoder.compute_dtype, self.device, compiles=train.compile)
        self.optimizer = build_optimizer(self.model, optimizer, copies=copies)
        self.average = None if optimizer.ema_decay is None else WeightAverage(self.model, optimizer.ema_decay)
        self.loss_scale = LossScale(self.device) if self.model.encoder.compute_dtype == torch.float16 else None
        self.step = TrainingStep(
            model=self.model,
            objectives=self.objectives,
            optimizer=self.optimizer,
            clip_norm=optimizer.clip_norm,
            all_rows=not self.config.kernels.last_layer_rows,
            shared=self.shared,
            loss_scale=self.loss_scale,
            compiles=train.compile,
        )
        self.take_step = self.step
        if self.graphs:
            self.take_step = GraphedStep(self.step, required=train.graph == "require")
        names = [objective.name for objective, _ in self.objectives]
        # operations of a teacher are not counted
        self.meter = Meter(names, peak=None if self.config.distillation.teacher else peak_flops(self.device))
        self.flops = FlopCount(encoder=self.model.config, mask_rate=self.config.masking.rate, objectives=names)
        norms = self.config.train.log_gradient_norms
        self.gradient_norms = GradientNorms(self.model, self.optimizer, self.loss_scale) if norms else None
        self.skipped = torch.zeros((), device=self.device)
        self.skipped_in_a_row = torch.zeros((), device=self.device)

    def run(self) -> str | None:
        """Train to the last step or until a signal asks to stop, and save the last state.

        Returns:
            The name of the signal that stopped the run before its end; None if none did.
        """
        self.model.train()
        # This lays out the stream, before there is a log and before the clock starts; a corpus may be too small.
        self.data.position(self.done)
        self._start_clock()
        with self.display, StopRequest(shared=self.ranks.size > 1) as stop:
            while (spike := self._run_to_spike(stop)) is not None:
                self._go_back(spike)
        return stop.name if stop and not self.ended else None

    def _run_to_spike(self, stop: StopRequest) -> Spike | None:
        """Train until the run ends or stops, or until there is a spike of the loss to go back from."""
        log = self._open_log()
        if self.config.train.spike_guard is not None and self.ranks.is_first:
            self.guard = SpikeGuard(self.config.train.spike_guard, self.config.train.spike_rows, read_log(self.folder))
        with (
            closing(log),
            closing(self.data.steps(self.done, self.cursor, stop=lambda: stop.heard is not None)) as steps,
            self._saved_at_loss(),
        ):
            return self._loop(log, stop, steps)

    def _open_log(self) -> RunLog:
        """Open the log on rank 0; the others know where it stands."""
        log = None
        if self.ranks.is_first:
            to = destinations_of(self.config.train)
            log = RunLog(self.folder, done=self.done, to=to, settings=to_mapping(self.config) if to else None)
        evaluated = self.ranks.first(lambda: -1 if log is None else log.evaluated)
        return UnwrittenLog(evaluated) if log is None else log

    @contextmanager
    def _saved_at_loss(self) -> Iterator[None]:
        """Save the last whole step before the run ends for want of another rank. Every error waits for its save."""
        try:
            yield
        except Exception as error:
            # all that ranks do together comes before the update, so the state is that of `done` steps
            lost = isinstance(error, RankLost | ToldByOther)
            # without the other ranks, their parts of the model are gone
            can = lost and self.ranks.is_first and not self._is_sharded
            if can and self.done > 0 and self.saved != self.done:
                self._write_checkpoint(None if self.deadline is None else self.deadline.passed)
            self.saves.wait()
            raise

    def _loop(self, log: RunLog, stop: StopRequest, steps: Iterator[list[PackedBatch]]) -> Spike | None:
        """Train, and log, evaluate and save when it is due. Return a spike of the loss to go back from."""
        train = self.config.train
        if self.done > log.evaluated and (self.done == 0 or self._due(train.evaluate_every)):
            # A new run, or one that stopped or was killed between this step and its evaluation.
            self._evaluate(log, stop)
        self.meter.start()
        began = self.done
        while not (stop or self.ended):
            self.saves.check()
            batches = next(steps)
            tokens = self._agree(stop, sum(batch.real_tokens for batch in batches))
            if stop and self.ranks.size > 1:
                break
            self._train_step(batches, tokens)
            if self._due(train.log_every):
                row = self._log(log)
                if train.spike_guard is not None and (spike := self._look_for_spike(row)) is not None:
                    return spike
            elif self.display.waits:
                self.display.show(self.meter.glance(waited_seconds=self.data.waited_seconds))
                self._watch_load(workers=self.config.stream.workers)
            tenth = self.deadline is not None and self.deadline.ends_tenth()
            before_decay = self.done == self._stable
            if stop or self._due(train.save_every) or before_decay or (tenth and self._is_cheap("save")):
                self._save()
            if not stop and (self._due(train.evaluate_every) or (tenth and self._is_cheap("evaluation"))):
                self._evaluate(log, stop)
            self.ended = self._is_over()
        if self.ended and self.done > began and self.meter.open_interval():
            # A save or an evaluation took the last of the minutes, and the last row of the log is to come.
            self._log(log)
        # A resumed run has to find in the checkpoint that the minutes are over.
        over = self.ended and self.deadline is not None and self.saved_at < self.deadline.seconds
        if self.done > 0 and (self.saved != self.done or over):
            self._save()
        if self.ended and not stop and log.evaluated < self.done:
            self._evaluate(log, stop)
        self.saves.wait()
        self._log_end(stop)
        return None

    def _look_for_spike(self, row: dict[str, Any]) -> Spike | None:
        """Return the spike that a row ends, on all ranks alike, if there is a checkpoint from before it."""
        spike = None if self.guard is None else self.guard.look(row)
        if spike is not None:
            # the checkpoint before may be on its way to the disk
            self.saves.wait()
        if spike is not None and self._whole_before(spike) is None:
            if not self.told_of_spike:
                _log.warning(
                    f"train.spike_guard: {spike}; there is no checkpoint from before, so the run goes on with it"
                )
            self.told_of_spike, spike = True, None
        found, before, last, limit, has_loss, loss = self.ranks.totals(
            [0.0] * 6
            if spike is None
            else [1.0, spike.before, spike.last, spike.limit, float(spike.loss is not None), spike.loss or 0.0]
        )
        if not found:
            return None
        return Spike(before=int(before), last=int(last), limit=limit, loss=loss if has_loss else None)

    def _whole_before(self, spike: Spike) -> int | None:
        """Return the step of the newest whole checkpoint from before a spike; None if there is none."""
        steps = (step for step in reversed(self.checkpoints.steps()) if step <= spike.before)
        return next((step for step in steps if damage_of(self.checkpoints.path(step)) is None), None)

    def _go_back(self, spike: Spike) -> None:
        """Go on from the checkpoint before a spike, without the data of the spike.

        Raises:
            RunError: the run has gone back as often as it may.
        """
        left_out = self.data.read_in(spike.before, spike.last)

        def choose() -> int:
            limit = self.config.train.spike_limit
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

        back = self.ranks.first(choose)
        self.data.leave_out(left_out)
        checkpoint = self.checkpoints.path(back)
        self._load(checkpoint, self.ranks.first(lambda: load_facts(checkpoint / "training")))
        if isinstance(self.take_step, GraphedStep):
            # what is recorded updates the moments from before
            self.take_step = GraphedStep(self.step, required=self.config.train.graph == "require")
        self.display.begin(self.done, steps=None if self.deadline is not None else self.data.num_steps)
        self.ended = self._is_over()
        _log.warning(
            f"train.spike_guard: {spike}; the run goes back to step {back} and leaves out the data of the spike"
        )

    def _agree(self, stop: StopRequest, tokens: int = 0) -> int:
        """Take over from all ranks what the loop decides by, and return the tokens of all of them."""
        if self.ranks.size == 1:
            return tokens
        seconds = self.deadline.own if self.deadline is not None and self.ranks.is_first else 0.0
        tokens_of_all, seconds_of_first, *votes = self.ranks.totals([tokens, seconds, *stop.votes()])
        stop.settle(votes)
        if self.deadline is not None:
            self.deadline.take_over(seconds_of_first)
        return int(tokens_of_all)

    def _start_clock(self) -> None:
        if self.deadline is None:
            self.display.begin(self.done, steps=self.data.num_steps)
        else:
            deadline = self.deadline
            deadline.start()
            self.display.begin(self.done, steps=None, seconds_left=lambda: deadline.left)
        self.ended = self._is_over()
        self._watch_load(workers=0)

    def _is_cheap(self, work: str) -> bool:
        """Return whether ten times `work`, `save` or `evaluation`, takes at most a tenth of the minutes."""
        return self.deadline is None or 100.0 * self.costs.get(work, 0.0) <= self.deadline.seconds

    @contextmanager
    def _paused(self, work: str) -> Iterator[None]:
        """Leave the time spent inside this context out of the speed, and keep it as the cost of `work`."""
        before = 0.0 if self.deadline is None else self.deadline.own
        with self.meter.paused():
            yield
        if self.deadline is not None:
            cost = self.deadline.own - before
            self.costs[work] = self.ranks.totals([cost if self.ranks.is_first else 0.0])[0]

    def _is_over(self) -> bool:
        return self.done >= self.data.num_steps if self.deadline is None else self.deadline.left == 0.0

    def _watch_load(self, *, workers: int) -> None:
        if self.device.type == "cpu":
            notice = self.crowd.look(torch.get_num_threads(), workers=workers)
            if notice is not None:
                _log.warning(notice)

    def _train_step(self, batches: list[PackedBatch], tokens: int) -> None:
        """Do one update and count it, with the real tokens of all ranks."""
        phase = phase_at(self.data.phases, self.done)
        # Like order and masks, dropout depends on the phase: a piece may occur in two phases.
        self.model.encoder.dropout_seed.fill_(phase.seed)
        self.rate = self.schedule(self.done)
        set_learning_rate(self.optimizer, self.rate)
        moved = [self.data.to_device(batch, phase, self.device) for batch in batches]
        # in shards, any part of a step waits for the other ranks
        with self.ranks.waiting() if self._is_sharded else nullcontext():
            report = self.take_step(moved)
        if self.average is not None:
            self.average.update(self.model, self.done)
        if self.deadline is not None:
            # Without this, the host and its clock would run ahead of a GPU.
            report.loss.item()
        self._account(batches, report, tokens)
        self.ended = self._is_over()

    def restore(self, checkpoint: Path, facts: Facts, saved: RunConfig) -> None:
        """Load parameters, optimizer state and counters of `checkpoint`, which a run configured as `saved` wrote.

        Raises:
            RunError: the run is configured to end before the checkpoint's step.
            CheckpointError: the model or the data is not that of the checkpoint.
        """
        here = self.data.position(facts.step)
        require_same_data(
            facts,
            here,
            checkpoint=checkpoint,
            run=self.folder,
            before=saved,
            now=self.config,
            num_steps=self.data.num_steps,
        )
        self._load(checkpoint, facts)
        if self.deadline is not None and facts.seconds is not None:
            self.deadline.resume(facts.seconds)
            self.saved_at = facts.seconds
        _log.info(f"resumed from {checkpoint}")
        if (facts.ranks or 1) != self.ranks.size:
            before = facts.ranks or 1
            _log.info(
                f"ranks were {before}, now {self.ranks.size}: same data and masks, but sums may round differently"
            )
        machine_now = self._machine()
        for difference in differences(facts.machine, machine_now):
            _log.warning(difference)
        if facts.machine.get("device", machine_now["device"]) != machine_now["device"]:
            auto = [name for name, value in asdict(self.config.kernels).items() if value is None]
            _log.info(
                f"auto chooses the best backend of this machine for {', '.join(f'kernels.{name}' for name in auto)}"
            )

    def _load(self, checkpoint: Path, facts: Facts) -> None:
        """Take over the state and the counters of a checkpoint; the clock goes on."""
        training = checkpoint / "training"
        if self._is_sharded:
            state = read_tensors(training, self.model) if self.ranks.is_first else {}
            scatter_state(state, self.model, self.optimizer, self.ranks)
        elif self.ranks.is_first:
            load_tensors(training, self.model, self.optimizer, self._average_model)
        self.share_state()
        self.done, self.tokens, self.saved = facts.step, facts.tokens, facts.step
        self.cursor = None if facts.cursor is None else Cursor(*facts.cursor)
        self.skipped.fill_(facts.skipped)
        self.skipped_in_a_row.zero_()
        if self.loss_scale is not None and facts.loss_scale is not None:
            self.loss_scale.restore(facts.loss_scale)
        self.meter.resume_interval(facts.interval, self.device)

    def share_state(self) -> None:
        """Give the weights and the optimizer's state of rank 0 to all ranks. A model in shards has them already."""
        if self.ranks.size > 1 and not self._is_sharded:
            send_state(self.model, self.optimizer, self.ranks, self._average_model)

    def _account(self, batches: list[PackedBatch], report: StepReport, tokens: int) -> None:
        """Count a finished step; device values stay on the device."""
        flops = 0.0 if self.meter.peak is None else sum(self.flops.training(batch) for batch in batches)
        self.meter.add(report, tokens=tokens, flops=flops)
        self.skipped += report.skipped
        self.skipped_in_a_row = (self.skipped_in_a_row + 1.0) * report.skipped
        self.tokens += tokens
        self.cursor = batches[-1].cursor
        self.done += 1
        self.display.advance()

    def _due(self, every: int) -> bool:
        return self.ended or (self.done > 0 and self.done % every == 0)

    def _log(self, log: RunLog) -> dict[str, Any]:
        """Write, show and return the row of the last interval.

        Raises:
            RunError: the run has diverged.
        """
        row: dict[str, Any] = {"step": self.done, **self.meter.read(waited_seconds=self.data.waited_seconds)}
        row["learning_rate"] = self.rate
        row["tokens"] = self.tokens
        row["packing_efficiency"] = self._packing_efficiency(*log.logged)
        row["peak_memory_bytes"] = peak_memory_bytes(self.device)
        if self.gradient_norms is not None:
            row |= self.gradient_norms.read()
        log.write(row)
        self.display.show(row)
        self._watch_load(workers=self.config.stream.workers)
        skipped = int(self.skipped_in_a_row.item())
        if skipped >= GIVE_UP_AFTER:
            self._save()
            raise RunError(
                f"run {self.folder}: the gradient was not finite in each of the last {skipped} steps and no update was "
                "made in them; start a new run with a lower optimizer.learning_rate or a longer warm-up"
            )
        return row

    def _packing_efficiency(self, step: int, tokens: int) -> float:
        """Return the share of real tokens in the capacity of the steps since `step`, where there were `tokens`."""
        micro_batches = self.data.sizes.before(self.done) - self.data.sizes.before(step)
        return (self.tokens - tokens) / (micro_batches * self.config.stream.micro_batch_tokens)

    def _evaluate(self, log: RunLog, stop: StopRequest) -> None:
        """Score the model on held-out text. If a stop is asked for meanwhile, the resumed run evaluates."""
        with self._paused("evaluation"):
            phase = phase_at(self.data.phases, self.done - 1)
            stream = self.data.held_out(phase)
            scores = score_model(
                self._scored_model(),
                self.objectives,
                () if stream is None else takewhile(lambda _: stop.heard is None, self._share_of(stream)),
                tokens=self.config.train.evaluate_tokens,
                device=self.device,
                ranks=self.ranks,
            )
            self._agree(stop)
            if stop:
                return
            for score in scores:
                self._tell(f"held-out at step {self.done}: {score}")
            if scores:
                weights = [weight for _, weight in self.objectives]
                row = {"step": self.done, "max_length": phase.max_length} | as_row(scores, weights)
                log.write_evaluation(row if self.unigram is None else row | {"unigram_loss": self.unigram})
                if self.ended and self.unigram is not None and row["loss"] >= self.unigram:
                    _log.info(
                        f"the held-out loss is not below {self.unigram:.3f}, that of token frequencies alone: the run "
                        "was too short to learn more"
                    )
            elif self.evaluated < 0:
                _log.warning("no held-out document in this store: training goes on without evaluation")
            self.evaluated = self.done

    def _share_of(self, stream: Stream) -> Iterator[PackedBatch]:
        return stream.batches(rank=self.ranks.rank, world_size=self.ranks.size)

    def _save(self) -> None:
        """Begin to save a checkpoint that a run resumes from and that `transformers` loads; rank 0 does."""
        passed = None if self.deadline is None else self.deadline.passed
        with self._paused("save"):
            if self.ranks.is_first or self._is_sharded:
                self._write_checkpoint(passed)
            self.saved = self.done
            self.saved_at = passed or 0.0

    def _cursor(self, here: Position) -> Cursor | None:
        """Return the cursor of the last micro-batch of a step, which may be another rank's."""
        if self.ranks.size == 1 or here.index == 0:
            return self.cursor
        return self.data.stream(self.data.phases[here.phase]).locate(here.index - 1)

    def _write_checkpoint(self, passed: float | None) -> None:
        """Begin to write the state after the last step, at so many seconds of a run that the clock ends.

        With a model in shards, all ranks do it, and only rank 0 writes.
        """
        state: Iterable[tuple[str, Tensor]] = state_of(self.model, self.optimizer, self._average_model).items()
        if self._is_sharded:
            state = gathered(state, self.ranks)
        if not self.ranks.is_first:
            deque(state, maxlen=0)
            return
        self._require_directory()
        here = self.data.position(self.done)
        cursor = self._cursor(here)
        facts = Facts(
            step=self.done,
            phase=here.phase,
            index=here.index,
            cursor=None if cursor is None else (*cursor,),
            fingerprint=here.fingerprint,
            tokens=self.tokens,
            skipped=int(self.skipped.item()),
            threads=torch.get_num_threads(),
            machine=self._machine(),
            interval=self.meter.open_interval(),
            seconds=passed,
            tuned=to_text(in_effect()) or None,
            ranks=None if self.ranks.size == 1 else self.ranks.size,
            loss_scale=None if self.loss_scale is None else self.loss_scale.state(),
        )

        needed = state_bytes(self.blank, averaged=self.average is not None)

        def save(state: dict[str, Tensor]) -> None:
            self.checkpoints.save(
                facts.step, partial(self._write_files, state, facts), bytes_needed=needed, beside=self._stable
            )

        self.saves.begin(state, save, self.optimizer)

    def _write_files(self, state: dict[str, Tensor], facts: Facts, folder: Path) -> None:
        """Write the files of a checkpoint from a copy of the state, while training goes on."""
        tokenizer = self.data.tokenizer
        export_of(state, self.blank).save_pretrained(folder, pad_id=tokenizer.pad_id, for_transformers=False)
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

    @property
    def _stable(self) -> int | None:
        """The last step before the decay of `wsd`: a longer run goes on from its checkpoint."""
        return self.schedule.stable if isinstance(self.schedule, StepSchedule) else None

    @property
    def _is_sharded(self) -> bool:
        return isinstance(self.shared, ShardedModel)

    def _scored_model(self) -> PretrainingModel | Student:
        """Return the model that is evaluated, whole: the ranks score different numbers of micro-batches."""
        if self._is_sharded:
            state = state_of(self.model, self.optimizer).items()
            weights = ((name, value) for name, value in state if name.startswith("model/"))
            return export_of(dict(gathered(weights, self.ranks)), self.blank)
        return self._average_model or self.model

    @property
    def _average_model(self) -> PretrainingModel | Student | None:
        return None if self.average is None else self.average.model

    def _machine(self) -> dict[str, str]:
        return machine(self.device, self.model.encoder.compute_dtype)

    def _tell(self, text: str) -> None:
        """Show a result like a step line, and log it for those who collect messages."""
        self.display.show_message(text)
        _log.info(text, extra={"shown": True})

    def _log_end(self, stop: StopRequest) -> None:
        if self.ended:
            steps = "1 step" if self.done == 1 else f"{self.done} steps"
            skipped = int(self.skipped_in_a_row.item())
            # a single step may be one that a loss scale of fp16 was too large for
            if skipped > 1:
                _log.warning(
                    f"the gradient was not finite in each of the last {skipped} steps and no update was made in them: "
                    "start a new run with a lower optimizer.learning_rate or a longer warm-up"
                )
            self._tell(f"done: {steps}, {self.tokens:,} tokens, model in {self.checkpoints.path(self.done)}")
            _log.info(f"try: unmask {next_command(self.config, self.folder)}")
        elif self.done == 0:
            _log.info(
                f"{stop.name}: stopped before the first step; start it again with `unmask pretrain --resume "
                f"{as_typed(self.folder)}`"
            )
        else:
            _log.info(
                f"{stop.name}: stopped after step {self.done}, saved; continue with `unmask pretrain --resume "
                f"{as_typed(self.folder)}`"
            )
