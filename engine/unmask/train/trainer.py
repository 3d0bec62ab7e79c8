"""The training loop, from the position of a run to its end.

    for batches in data.steps():
        report = step(batches)
        log, evaluate and save when due; stop when asked

Everything random is a function of the seed and of the position, and a checkpoint holds the rest. So a resumed run
computes the same bits as a run that was never interrupted, with the same thread count, build and machine. A run with
`train.minutes` is the exception: the clock decides its learning rate and its last step.

The first evaluation comes before the first step. It changes nothing that training reads.

What the loop changes is the `training_state`. The `saver` writes it while the loop goes on, and the loop waits for it
at the end. `spike_return` finds spikes of the loss and prepares the way back.

With several ranks, every rank runs this loop on its share of the micro-batches. Before each step they add up what the
loop decides by: the signals that they heard, the tokens of the step, and the clock of rank 0. Rank 0 alone writes.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import InitVar, asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from unmask.batch import PackedBatch
from unmask.config import RunConfig, to_mapping
from unmask.data.stream import Stream
from unmask.distillation.student import Student
from unmask.errors import RankLost, RunError, ToldByOther
from unmask.model import PretrainingModel
from unmask.objectives import Objective
from unmask.paths import as_typed
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.resume import require_same_data
from unmask.train.checkpoint.state import Facts, load_facts, without_values
from unmask.train.data import RunData, phase_at
from unmask.train.deadline import Deadline
from unmask.train.evaluate import as_row, score_model
from unmask.train.gradient_sum import GradientSum
from unmask.train.graphs import GraphedStep
from unmask.train.logging.log import RunLog, UnwrittenLog, destinations_of
from unmask.train.logging.metrics import FlopCount, GradientNorms, Meter, peak_flops, peak_memory_bytes
from unmask.train.logging.progress import Display, next_command
from unmask.train.logging.provenance import differences, machine
from unmask.train.loss_scale import LossScale
from unmask.train.optim import build_optimizer, copies_for, set_learning_rate
from unmask.train.parallel import ALONE, Ranks
from unmask.train.saver import Saver
from unmask.train.schedule import StepSchedule, TimedSchedule
from unmask.train.sharded import ShardedModel
from unmask.train.signals import StopRequest
from unmask.train.spike_return import SpikeReturn
from unmask.train.spikes import Spike
from unmask.train.step import StepReport, TrainingStep
from unmask.train.threads import CrowdWatch
from unmask.train.training_state import TrainingState
from unmask.train.weight_average import WeightAverage

__all__ = ["Trainer"]

_log = logging.getLogger(__name__)

# The run stops after this many skipped updates in a row. It recovers from a single spike; so many mean divergence.
GIVE_UP_AFTER = 50


@dataclass(kw_only=True, slots=True)
class Trainer:
    """The loop and its parts. `restore` continues from a checkpoint, `run` trains to the end.

    Args:
        model: the encoder with its heads, on the device to train on.
    Attributes:
        config: configuration of the run.
        folder: directory of the run.
        objectives: (objective, weight) pairs.
        data: the phases of the run and their micro-batches.
        checkpoints: the checkpoints of the run.
        display: the progress that a person sees.
        ranks: the processes that train together.
        graphs: whether steps are recorded as CUDA graphs.
        unigram: loss of a model that knows only token frequencies, in nats; None if it is not known.
        saved: step of the last checkpoint, -1 before the first.
        saved_at: seconds of the run at the last checkpoint, if the clock ends the run.
        evaluated: step of the last evaluation of this process, -1 before the first.
        rate: learning rate of the last update.
        ended: whether the last step is done.
        costs: seconds for which the last `save` and the last `evaluation` kept training waiting, if the clock ends the
            run.
        state: what training changes, the model among it.
        saver: writes the state.
        spikes: finds spikes of the loss, and the checkpoint to go back to.
        deadline: the clock that ends the run; None if the number of steps does.
        schedule: learning rate of each update.
        step: the update, one operation after the other.
        take_step: the same, or what replays it from CUDA graphs.
        meter, flops, gradient_norms: what the rows of the log tell.
        crowd: watches whether others use the cores.
    """

    config: RunConfig
    folder: Path
    model: InitVar[PretrainingModel | Student]
    objectives: Sequence[tuple[Objective, float]]
    data: RunData
    checkpoints: Checkpoints
    display: Display
    ranks: Ranks = ALONE
    graphs: bool = False
    unigram: float | None = None
    saved: int = -1
    saved_at: float = 0.0
    evaluated: int = -1
    rate: float = 0.0
    ended: bool = False
    costs: dict[str, float] = field(default_factory=dict)
    state: TrainingState = field(init=False)
    saver: Saver = field(init=False)
    spikes: SpikeReturn = field(init=False)
    deadline: Deadline | None = field(init=False)
    schedule: StepSchedule | TimedSchedule = field(init=False)
    step: TrainingStep = field(init=False)
    take_step: Callable[[Sequence[PackedBatch]], StepReport] = field(init=False)
    meter: Meter = field(init=False)
    flops: FlopCount = field(init=False)
    gradient_norms: GradientNorms | None = field(init=False)
    crowd: CrowdWatch = field(init=False)

    def __post_init__(self, model: PretrainingModel | Student) -> None:
        config, train = self.config, self.config.train
        if train.minutes is None:
            self.deadline = None
            self.schedule = StepSchedule(config.optimizer, self.data.num_steps)
        else:
            deadline = self.deadline = Deadline(train.minutes)
            self.schedule = TimedSchedule(config.optimizer, lambda: deadline.share)
        blank = without_values(model)
        shared: GradientSum | ShardedModel | None = None
        if self.ranks.size > 1:
            shared = (ShardedModel if train.parallel == "fsdp" else GradientSum)(model, self.ranks)
        device, dtype, decay = next(model.parameters()).device, model.encoder.compute_dtype, config.optimizer.ema_decay
        copies = copies_for(dtype, device, compiles=train.compile)
        self.state = TrainingState(
            model=model,
            optimizer=build_optimizer(model, config.optimizer, copies=copies),
            average=None if decay is None else WeightAverage(model, decay),
            loss_scale=LossScale(device) if dtype == torch.float16 else None,
            ranks=self.ranks,
            is_sharded=isinstance(shared, ShardedModel),
            blank=blank,
        )
        self.step = TrainingStep(
            model=model,
            objectives=self.objectives,
            optimizer=self.state.optimizer,
            clip_norm=config.optimizer.clip_norm,
            all_rows=not config.kernels.last_layer_rows,
            shared=shared,
            loss_scale=self.state.loss_scale,
            compiles=train.compile,
        )
        self.take_step = self.step
        if self.graphs:
            self.take_step = GraphedStep(self.step, required=train.graph == "require")
        self.saver = Saver(
            config=config, folder=self.folder, checkpoints=self.checkpoints, data=self.data, state=self.state
        )
        self.spikes = SpikeReturn(
            settings=train,
            folder=self.folder,
            checkpoints=self.checkpoints,
            saves=self.saver.background,
            ranks=self.ranks,
        )
        names = [objective.name for objective, _ in self.objectives]
        # operations of a teacher are not counted
        self.meter = Meter(names, peak=None if config.distillation.teacher else peak_flops(device))
        self.flops = FlopCount(encoder=model.config, mask_rate=config.masking.rate, objectives=names)
        self.gradient_norms = None
        if train.log_gradient_norms:
            self.gradient_norms = GradientNorms(model, self.state.optimizer, self.state.loss_scale)
        self.crowd = CrowdWatch()

    def run(self) -> str | None:
        """Train to the last step or until a signal asks to stop, and save the last state.

        Returns:
            The name of the signal that stopped the run before its end; None if none did.
        """
        self.state.model.train()
        # This lays out the stream, before there is a log and before the clock starts; a corpus may be too small.
        self.data.position(self.state.done)
        self._start_clock()
        with self.display, StopRequest(shared=self.ranks.size > 1) as stop:
            while (spike := self._run_to_spike(stop)) is not None:
                self._go_back(spike)
        return stop.name if stop and not self.ended else None

    def _run_to_spike(self, stop: StopRequest) -> Spike | None:
        """Train until the run ends or stops, or until there is a spike of the loss to go back from."""
        log = self._open_log()
        self.spikes.begin()
        state = self.state
        with (
            closing(log),
            closing(self.data.steps(state.done, state.cursor, stop=lambda: stop.heard is not None)) as steps,
            self._saved_at_loss(),
        ):
            return self._loop(log, stop, steps)

    def _open_log(self) -> RunLog:
        """Open the log on rank 0; the others know where it stands."""
        log = None
        if self.ranks.is_first:
            to = destinations_of(self.config.train)
            log = RunLog(self.folder, done=self.state.done, to=to, settings=to_mapping(self.config) if to else None)
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
            can = lost and self.ranks.is_first and not self.state.is_sharded
            if can and self.state.done > 0 and self.saved != self.state.done:
                self._write_checkpoint(None if self.deadline is None else self.deadline.passed)
            self.saver.background.wait()
            raise

    def _loop(self, log: RunLog, stop: StopRequest, steps: Iterator[list[PackedBatch]]) -> Spike | None:
        """Train, and log, evaluate and save when it is due. Return a spike of the loss to go back from."""
        train, state = self.config.train, self.state
        if state.done > log.evaluated and (state.done == 0 or self._due(train.evaluate_every)):
            # A new run, or one that stopped or was killed between this step and its evaluation.
            self._evaluate(log, stop)
        self.meter.start()
        began = state.done
        while not (stop or self.ended):
            self.saver.background.check()
            batches = next(steps)
            tokens = self._agree(stop, sum(batch.real_tokens for batch in batches))
            if stop and self.ranks.size > 1:
                break
            self._train_step(batches, tokens)
            if self._due(train.log_every):
                row = self._log(log)
                if (spike := self.spikes.look(row)) is not None:
                    return spike
            elif self.display.waits:
                self.display.show(self.meter.glance(waited_seconds=self.data.waited_seconds))
                self._watch_load(workers=self.config.stream.workers)
            tenth = self.deadline is not None and self.deadline.ends_tenth()
            before_decay = state.done == self._stable
            if stop or self._due(train.save_every) or before_decay or (tenth and self._is_cheap("save")):
                self._save()
            if not stop and (self._due(train.evaluate_every) or (tenth and self._is_cheap("evaluation"))):
                self._evaluate(log, stop)
            self.ended = self._is_over()
        if self.ended and state.done > began and self.meter.open_interval():
            # A save or an evaluation took the last of the minutes, and the last row of the log is to come.
            self._log(log)
        # A resumed run has to find in the checkpoint that the minutes are over.
        over = self.ended and self.deadline is not None and self.saved_at < self.deadline.seconds
        if state.done > 0 and (self.saved != state.done or over):
            self._save()
        if self.ended and not stop and log.evaluated < state.done:
            self._evaluate(log, stop)
        self.saver.background.wait()
        self._log_end(stop)
        return None

    def _go_back(self, spike: Spike) -> None:
        """Go on from the checkpoint before a spike, without the data of the spike.

        Raises:
            RunError: the run has gone back as often as it may.
        """
        left_out = self.data.read_in(spike.before, spike.last)
        back = self.spikes.choose(spike, left_out)
        self.data.leave_out(left_out)
        checkpoint = self.checkpoints.path(back)
        self._load(checkpoint, self.ranks.first(lambda: load_facts(checkpoint / "training")))
        if isinstance(self.take_step, GraphedStep):
            # what is recorded updates the moments from before
            self.take_step = GraphedStep(self.step, required=self.config.train.graph == "require")
        self.display.begin(back, steps=None if self.deadline is not None else self.data.num_steps)
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
            self.display.begin(self.state.done, steps=self.data.num_steps)
        else:
            deadline = self.deadline
            deadline.start()
            self.display.begin(self.state.done, steps=None, seconds_left=lambda: deadline.left)
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
        return self.state.done >= self.data.num_steps if self.deadline is None else self.deadline.left == 0.0

    def _watch_load(self, *, workers: int) -> None:
        if self.state.device.type == "cpu":
            notice = self.crowd.look(torch.get_num_threads(), workers=workers)
            if notice is not None:
                _log.warning(notice)

    def _train_step(self, batches: list[PackedBatch], tokens: int) -> None:
        """Do one update and count it, with the real tokens of all ranks."""
        state = self.state
        phase = phase_at(self.data.phases, state.done)
        # Like order and masks, dropout depends on the phase: a piece may occur in two phases.
        state.model.encoder.dropout_seed.fill_(phase.seed)
        self.rate = self.schedule(state.done)
        set_learning_rate(state.optimizer, self.rate)
        moved = [self.data.to_device(batch, phase, state.device) for batch in batches]
        # in shards, any part of a step waits for the other ranks
        with self.ranks.waiting() if state.is_sharded else nullcontext():
            report = self.take_step(moved)
        if state.average is not None:
            state.average.update(state.model, state.done)
        if self.deadline is not None:
            # Without this, the host and its clock would run ahead of a GPU.
            report.loss.item()
        flops = 0.0 if self.meter.peak is None else sum(self.flops.training(batch) for batch in batches)
        self.meter.add(report, tokens=tokens, flops=flops)
        state.count(report, tokens=tokens, cursor=batches[-1].cursor)
        self.display.advance()
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
        machine_now = machine(self.state.device, self.state.model.encoder.compute_dtype)
        for difference in differences(facts.machine, machine_now):
            _log.warning(difference)
        if facts.machine.get("device", machine_now["device"]) != machine_now["device"]:
            auto = [name for name, value in asdict(self.config.kernels).items() if value is None]
            _log.info(
                f"auto chooses the best backend of this machine for {', '.join(f'kernels.{name}' for name in auto)}"
            )

    def _load(self, checkpoint: Path, facts: Facts) -> None:
        """Take over the state of a checkpoint and the open log interval; the clock goes on."""
        self.state.load(checkpoint, facts)
        self.saved = facts.step
        self.meter.resume_interval(facts.interval, self.state.device)

    def _due(self, every: int) -> bool:
        return self.ended or (self.state.done > 0 and self.state.done % every == 0)

    def _log(self, log: RunLog) -> dict[str, Any]:
        """Write, show and return the row of the last interval.

        Raises:
            RunError: the run has diverged.
        """
        row: dict[str, Any] = {"step": self.state.done, **self.meter.read(waited_seconds=self.data.waited_seconds)}
        row["learning_rate"] = self.rate
        row["tokens"] = self.state.tokens
        row["packing_efficiency"] = self._packing_efficiency(*log.logged)
        row["peak_memory_bytes"] = peak_memory_bytes(self.state.device)
        if self.gradient_norms is not None:
            row |= self.gradient_norms.read()
        log.write(row)
        self.display.show(row)
        self._watch_load(workers=self.config.stream.workers)
        skipped = int(self.state.skipped_in_a_row.item())
        if skipped >= GIVE_UP_AFTER:
            self._save()
            raise RunError(
                f"run {self.folder}: the gradient was not finite in each of the last {skipped} steps and no update was "
                "made in them; start a new run with a lower optimizer.learning_rate or a longer warm-up"
            )
        return row

    def _packing_efficiency(self, step: int, tokens: int) -> float:
        """Return the share of real tokens in the capacity of the steps since `step`, where there were `tokens`."""
        micro_batches = self.data.sizes.before(self.state.done) - self.data.sizes.before(step)
        return (self.state.tokens - tokens) / (micro_batches * self.config.stream.micro_batch_tokens)

    def _evaluate(self, log: RunLog, stop: StopRequest) -> None:
        """Score the model on held-out text. If a stop is asked for meanwhile, the resumed run evaluates."""
        done = self.state.done
        with self._paused("evaluation"):
            phase = phase_at(self.data.phases, done - 1)
            stream = self.data.held_out(phase)
            scores = score_model(
                self.state.scored_model(),
                self.objectives,
                () if stream is None else takewhile(lambda _: stop.heard is None, self._share_of(stream)),
                tokens=self.config.train.evaluate_tokens,
                device=self.state.device,
                ranks=self.ranks,
            )
            self._agree(stop)
            if stop:
                return
            for score in scores:
                self._tell(f"held-out at step {done}: {score}")
            if scores:
                weights = [weight for _, weight in self.objectives]
                row = {"step": done, "max_length": phase.max_length} | as_row(scores, weights)
                log.write_evaluation(row if self.unigram is None else row | {"unigram_loss": self.unigram})
                if self.ended and self.unigram is not None and row["loss"] >= self.unigram:
                    _log.info(
                        f"the held-out loss is not below {self.unigram:.3f}, that of token frequencies alone: the run "
                        "was too short to learn more"
                    )
            elif self.evaluated < 0:
                _log.warning("no held-out document in this store: training goes on without evaluation")
            self.evaluated = done

    def _share_of(self, stream: Stream) -> Iterator[PackedBatch]:
        return stream.batches(rank=self.ranks.rank, world_size=self.ranks.size)

    def _save(self) -> None:
        """Begin to save a checkpoint that a run resumes from and that `transformers` loads; rank 0 does."""
        passed = None if self.deadline is None else self.deadline.passed
        with self._paused("save"):
            self._write_checkpoint(passed)
            self.saved = self.state.done
            self.saved_at = passed or 0.0

    def _write_checkpoint(self, seconds: float | None) -> None:
        self.saver.save(interval=self.meter.open_interval, seconds=seconds, beside=self._stable)

    @property
    def _stable(self) -> int | None:
        """The last step before the decay of `wsd`: a longer run goes on from its checkpoint."""
        return self.schedule.stable if isinstance(self.schedule, StepSchedule) else None

    def _tell(self, text: str) -> None:
        """Show a result like a step line, and log it for those who collect messages."""
        self.display.show_message(text)
        _log.info(text, extra={"shown": True})

    def _log_end(self, stop: StopRequest) -> None:
        if self.ended:
            steps = "1 step" if self.state.done == 1 else f"{self.state.done} steps"
            skipped = int(self.state.skipped_in_a_row.item())
            # a single step may be one that a loss scale of fp16 was too large for
            if skipped > 1:
                _log.warning(
                    f"the gradient was not finite in each of the last {skipped} steps and no update was made in them: "
                    "start a new run with a lower optimizer.learning_rate or a longer warm-up"
                )
            self._tell(
                f"done: {steps}, {self.state.tokens:,} tokens, model in {self.checkpoints.path(self.state.done)}"
            )
            _log.info(f"try: unmask {next_command(self.config, self.folder)}")
        elif self.state.done == 0:
            _log.info(
                f"{stop.name}: stopped before the first step; start it again with `unmask pretrain --resume "
                f"{as_typed(self.folder)}`"
            )
        else:
            _log.info(
                f"{stop.name}: stopped after step {self.state.done}, saved; continue with `unmask pretrain --resume "
                f"{as_typed(self.folder)}`"
            )
