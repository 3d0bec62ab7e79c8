"""A run from its configuration to its end, new or resumed, by one process or by several ranks.

Of several ranks, rank 0 makes the run directory, prepares the text and chooses the checkpoint; the others take over
what it found. All of them then build the same model and the same stream, and train.
"""

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from unmask.config import BUDGETS, EncoderConfig, RunConfig, to_yaml
from unmask.config.initial import same_architecture
from unmask.config.settings import counted, described
from unmask.config.step_sizes import StepSizes
from unmask.data.compose import describe_composition
from unmask.distillation.student import Student
from unmask.errors import ConfigError, RunError
from unmask.folders import kind_of
from unmask.model import PretrainingModel
from unmask.objectives import TOKEN_OBJECTIVES, build_objectives
from unmask.terminal import messages_through
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.resume import before_decay, inherit, log_schedule_change, require_steps
from unmask.train.checkpoint.state import Facts, load_facts
from unmask.train.data import RunData
from unmask.train.device import choose_device
from unmask.train.graphs import may_use_graphs
from unmask.train.initial import InitialCheckpoint
from unmask.train.logging.destinations import require_installed
from unmask.train.logging.log import destinations_of, read_evaluations
from unmask.train.logging.progress import Display
from unmask.train.logging.provenance import machine
from unmask.train.parallel import ALONE, Ranks, join_ranks
from unmask.train.precision import choose_precision
from unmask.train.run_folder import RunFolder, located, saved_config
from unmask.train.schedule import StepSchedule
from unmask.train.spikes import LeftOut, read_spikes
from unmask.train.store import open_store
from unmask.train.threads import have_a_core_each, step_shape
from unmask.train.trainer import Trainer
from unmask.train.unigram import baseline
from unmask_kernels import using
from unmask_kernels.capability import INTERPRETING
from unmask_kernels.tune.record import read_tuning
from unmask_kernels.tuned import Key, Value, from_text, to_text, using_values

if TYPE_CHECKING:
    from unmask.distillation.teacher import TeacherFolder

__all__ = ["AUTO", "Ending", "build_trainer", "pretrain", "train_run"]

_log = logging.getLogger(__name__)

# tokens below which a held-out loss is rough, the share that helps, and the share of the words that a table should have
_WELL_COVERED = 0.5
# held-out tokens are enough if there are so many, or if they are this share of the text
_ENOUGH_HELD_OUT, _ENOUGH_OF_THE_TEXT = 10_000, 0.03
_FRACTIONS = (0.05, 0.1, 0.2, 0.3)

AUTO = "auto"
"""What `resume` is to continue a run if there is one, and else to start it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a run ended.

    Attributes:
        path: the run directory.
        stopped: name of the signal that stopped it before its end; None if none did.
    """

    path: Path
    stopped: str | None = None


def pretrain(config: RunConfig | None = None, *, resume: str | Path | None = None) -> Path:
    """Train to the last step, or until a signal such as SIGTERM or Ctrl-C, and return the run directory.

    Several processes that torchrun or srun started train together; each of them calls this function.

    A finished run goes on with more steps, and with the settings that it saved:

        config = unmask.load_config(run / "config.yaml", {"train.steps": 40})
        unmask.pretrain(config, resume=run)

    Example:
        >>> import unmask
        >>> config = unmask.load_config("tiny", {"data.store": "store", "run": "runs/mine", "train.steps": 20})
        >>> run = unmask.pretrain(config)
        >>> unmask.pretrain(resume=run)  # goes on, or finds that the run is complete
        PosixPath('runs/mine')
        >>> encoder = unmask.Encoder.from_pretrained(run)  # its newest checkpoint

    Args:
        config: configuration of the run. With `resume`, the configuration saved there, in which at most the settings of
            `run_folder.MAY_CHANGE` differ; None takes it as it is.
        resume: directory of the run to continue. None starts a new run in `config.run`. "auto" continues the run in
            `config.run` if there is one, and else starts it.
    Raises:
        ValueError: there is neither a configuration nor a run to continue.
        TypeError: `config` is no configuration.
        RunError: the directory exists already, is in use, or holds nothing to resume; or the run diverged.
        ConfigError: a setting is wrong.
        CorpusError: the text cannot be used.
        StoreError: the store cannot be used.
        TokenizerError: the tokenizer cannot be used.
        CheckpointError: a checkpoint cannot be read or written.
        RankLost: one of several processes ended or hangs; a `RunError`.
        ToldByOther: another one of several processes raises an error that ends the run for all.
    """
    return train_run(config, resume=resume).path


def train_run(config: RunConfig | None = None, *, resume: str | Path | None = None) -> Ending:
    """Do what `pretrain` does, and tell how the run ended."""
    if config is None:
        if resume is None:
            raise ValueError("pretrain: needs config or resume, got neither; pass unmask.load_config('tiny')")
        if resume == AUTO:
            raise ValueError(
                "pretrain: resume 'auto' needs config, got none; pass unmask.load_config('tiny', {'run': 'runs/mine'})"
            )
        config = saved_config(Path(resume))
    if not isinstance(config, RunConfig):
        raise TypeError(f"pretrain: config must be a RunConfig, got {described(config)}; {_way_to_config(config)}")
    if to := destinations_of(config.train):
        require_installed(to)
    if resume == AUTO and config.run is None:
        raise RunError("run: resume auto needs the name of the run, got none; give it one with --run")
    with join_ranks(config.train.timeout_seconds) as ranks:
        if ranks.size > 1:
            way = "start all of them with the same command, from the same folder"
            ranks.require_same("the settings", to_yaml(config), way)
            _require_shares(config, ranks.size)
        folder, is_new = ranks.first(lambda: _open_folder(config, resume))
        with _display_of(folder, ranks) as display:
            try:
                return Ending(path=folder.path, stopped=_train(folder, display, ranks))
            except Exception:
                if is_new and ranks.is_first:
                    folder.abandon()
                raise


def _open_folder(config: RunConfig, resume: str | Path | None) -> tuple[RunFolder, bool]:
    """Return the directory of a run, and whether it is a new one."""
    if resume == AUTO:
        assert config.run is not None
        resume = config.run if (Path(config.run) / "config.yaml").is_file() else None
        if resume is not None:
            config = _with_sizes_of(saved_config(Path(resume)), config)
    if resume is None:
        return RunFolder.create(config), True
    return RunFolder.reopen(Path(resume), config), False


def _with_sizes_of(saved: RunConfig, config: RunConfig) -> RunConfig:
    """Return the settings of a run to continue, with the sizes that it took from its initial checkpoint."""
    began = config.init.from_ is not None and config.init == saved.init
    return replace(config, model=saved.model) if began and not same_architecture(config.model, saved.model) else config


@contextmanager
def _display_of(folder: RunFolder, ranks: Ranks) -> Iterator[Display]:
    """Lock the run directory and show messages on rank 0; another rank has the same messages and shows none."""
    if ranks.is_first:
        display = Display()
        with folder.locked(), messages_through(display.show_message):
            yield display
        return
    logger = logging.getLogger("unmask")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield Display(console=Console(file=io.StringIO(), quiet=True))
    finally:
        logger.setLevel(level)


def _require_shares(config: RunConfig, world_size: int) -> None:
    """Refuse a number of processes that cannot share the micro-batches of a step.

    Raises:
        ConfigError: it does not divide their number.
    """
    sizes, capacity = StepSizes.of(config.train, config.stream), config.stream.micro_batch_tokens
    # the steps that follow are multiples of the first
    count, tokens = sizes.first, sizes.first * capacity
    if count % world_size == 0:
        return
    fitting = [str(number) for number in range(1, count + 1) if count % number == 0]
    several = f"{', '.join(fitting[:-1])} or {fitting[-1]} processes" if len(fitting) > 1 else "1 process"
    name = "first_tokens_per_step" if sizes.growth else "tokens_per_step"
    # the last step must stay a multiple of the first
    able = [n for n in range(world_size, sizes.last + 1, world_size) if sizes.last % n == 0]
    more = (able or [-(-count // world_size) * world_size])[0] * capacity
    way = "" if sizes.growth and not able else f", or give --train.{name} {more} in a new run"
    raise ConfigError(
        f"config: train.{name}, {tokens:,}, has {count} micro-batch{'' if count == 1 else 'es'} "
        f"of stream.micro_batch_tokens, {capacity:,}, which {world_size} processes cannot share evenly; start "
        f"{several}{way}"
    )


def _way_to_config(given: object) -> str:
    """Return what to pass to `pretrain` instead of a recipe, a file, settings or a run."""
    if isinstance(given, Mapping):
        return "pass unmask.load_config(None, ...) of these settings"
    if not isinstance(given, str | Path):
        return "pass unmask.load_config('tiny')"
    if kind_of(Path(given)) == "run":
        return f"pass resume={str(given)!r} to continue this run"
    return f"pass unmask.load_config({str(given)!r})"


def _newest(folder: RunFolder, checkpoints: Checkpoints) -> tuple[Path | None, Facts | None, RunConfig | None]:
    """Return the checkpoint to go on from, its facts, and the saved settings; None without a checkpoint."""
    checkpoints.clean()
    newest = checkpoints.latest_valid()
    if newest is None:
        return None, None, None
    facts, saved = load_facts(newest / "training"), saved_config(folder.path)
    return *before_decay(checkpoints, newest, facts, before=saved, now=folder.config), saved


def _train(folder: RunFolder, display: Display, ranks: Ranks) -> str | None:
    """Continue the run in `folder` from its newest checkpoint, or start it, and train to its end.

    Returns:
        The signal that stopped it before its end; None if none did.
    """
    config = folder.config
    checkpoints = Checkpoints(folder=folder.path / "checkpoints", keep=config.train.keep_checkpoints)
    newest, facts, saved = ranks.first(lambda: _newest(folder, checkpoints))
    if newest is not None and facts is not None:
        if ranks.first(lambda: _is_finished(folder, facts)):
            budget = next(name for name in BUDGETS if getattr(config.train, name) is not None)
            _log.info(f"already finished: {facts.step} steps, model in {newest}; a larger --train.{budget} goes on")
            return None
        if config.train.steps is not None:
            require_steps(facts, folder.path, config, config.train.steps)
        config = inherit(config, facts)
    dtype_is_saved = facts is not None and folder.config.train.dtype != config.train.dtype
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.seed)
    here = located(config, folder.path)
    if config.data.store is None and not config.data.input:
        _log.warning("no data.store and no data.input: training on the docstrings of the installed Python packages")
    initial = None
    if newest is None and config.init.from_ is not None:
        initial = InitialCheckpoint.open(here)
        here = initial.with_tokenizer(here)
    teacher = None
    if here.distillation.teacher is not None:
        from unmask.train.distilled import open_teacher, with_teachers_tokenizer

        given = here.distillation.teacher
        teacher = ranks.in_turn(lambda: open_teacher(given, folder.path))
        here = with_teachers_tokenizer(here, teacher)
    trainer = build_trainer(
        here,
        folder.path,
        checkpoints,
        display,
        dtype_is_saved=dtype_is_saved,
        initial=initial,
        teacher=teacher,
        ranks=ranks,
    )
    if initial is not None:
        # A resumed run does not read the initial checkpoint, so it needs all sizes.
        folder = replace(folder, config=replace(folder.config, model=trainer.config.model))
    if newest is not None and facts is not None and saved is not None:
        trainer.restore(newest, facts, saved)
        steps = trainer.data.planned_steps(saved.train), trainer.data.num_steps
        log_schedule_change(saved, config, facts, steps=steps)
    else:
        trainer.state.share()
    # Until here the changed configuration might have been refused.
    ranks.first(folder.save_config)
    tuned = ranks.first(lambda: _tuned_values(trainer, facts))
    with using(**config.kernels.named()), using_values(tuned):
        return trainer.run()


def _tuned_values(trainer: Trainer, facts: Facts | None) -> dict[Key, Value]:
    """Return the values of `unmask tune` that a run uses: a resumed one those of its checkpoint, to repeat its bits.

    Values are for one kind of device. So a run that goes on with another one takes that one's.
    """
    config = trainer.config
    if config.kernels.tuned == "never":
        return {}
    dtype = trainer.state.model.encoder.compute_dtype
    tuning = read_tuning(trainer.state.device)
    values = tuning.values()
    if facts is not None and facts.machine.get("device") == machine(trainer.state.device, dtype)["device"]:
        began = from_text(facts.tuned or {})
        unknown = (facts.tuned or {}).keys() - to_text(began).keys()
        if unknown:
            named = ", ".join(sorted(unknown))
            _log.warning(
                f"kernels.tuned: the run began with values that this version does not have ({named}), so from here it "
                "rounds differently; to repeat its bits, resume it with the version that it began with"
            )
        if began != values:
            _log.info(
                f"kernels.tuned: the run goes on with the {counted(len(began), 'value')} of `unmask tune` that it "
                f"began with, where a new run would take {len(values)}"
            )
        values = began
    elif values:
        named = ", ".join(f"{key.name} {value}" for key, value in values.items())
        _log.info(
            f"kernels.tuned: what `unmask tune` found to be faster on this machine is used ({named}), so results round "
            "differently; --kernels.tuned never leaves it out"
        )
    advice = tuning.findings.get(Key("train.threads", step_shape(config.model, dtype)))
    # the record may be from a job with more cores
    can = advice is not None and advice.taken and have_a_core_each(advice.best)
    if advice is not None and can and config.train.threads is None and torch.get_num_threads() != advice.best:
        _log.info(
            f"train.threads: `unmask tune` found {advice.best} threads {advice.ratio:.2f} times as fast as "
            f"{advice.default}; --train.threads {advice.best} takes them, in a new run"
        )
    return values


def _is_finished(folder: RunFolder, facts: Facts) -> bool:
    """Return whether the run is over and evaluated, and nothing is to change in it."""
    train = folder.config.train
    rows = read_evaluations(folder.path)
    if not rows or rows[-1]["step"] != facts.step:
        return False
    if replace(saved_config(folder.path), run=folder.config.run) != folder.config:
        return False
    if train.minutes is not None:
        return (facts.seconds or 0.0) >= 60.0 * train.minutes
    return facts.step == (train.steps if train.epochs is None else _steps_of_epochs(folder))


def _steps_of_epochs(folder: RunFolder) -> int | None:
    """Return the steps that the epochs of a run make; None if its text is not prepared."""
    config = located(folder.config, folder.path)
    if config.data.store is None and config.data.input and not (folder.path / "store").exists():
        return None
    # A finished run needs none of the messages, and one that goes on gives them when it opens the store again.
    with messages_through(lambda message: None):
        store, tokenizer = open_store(config, folder.path)
    return RunData(store, tokenizer, config).num_steps


def _with_vocabulary(model: EncoderConfig, vocab_size: int) -> EncoderConfig:
    """Return the model's sizes with as many rows as the tokenizer has ids, unless more are asked for."""
    if model.vocab_size is not None and model.vocab_size < vocab_size:
        raise ConfigError(
            f"config: model.vocab_size is {model.vocab_size} but the tokenizer has {vocab_size} ids; leave it out, or "
            "give at least as many"
        )
    return replace(model, vocab_size=model.vocab_size or vocab_size)


def build_trainer(
    config: RunConfig,
    run: Path,
    checkpoints: Checkpoints,
    display: Display,
    *,
    dtype_is_saved: bool = False,
    initial: InitialCheckpoint | None = None,
    teacher: "TeacherFolder | None" = None,
    ranks: Ranks = ALONE,
) -> Trainer:
    """Build model, objectives and data of the run in `run`, and the trainer over them.

    The text is prepared first if the store does not exist yet.

    Args:
        config: configuration of the run.
        run: its directory.
        checkpoints: its checkpoints.
        display: its progress.
        dtype_is_saved: whether `train.dtype` of `config` is what auto chose for the checkpoint to resume.
        initial: what a new run starts from; None for new weights, or for those of the checkpoint to resume.
        teacher: what the run learns from; None if it learns from text alone.
        ranks: the processes that train together.
    """
    device = choose_device(config.train.device, ranks)
    asks = device.type == "cuda" or config.train.graph == "require"
    graphs = asks and may_use_graphs(config, device, ranks.size)
    store, tokenizer = ranks.in_turn(lambda: open_store(config, run))
    if initial is not None:
        initial.require_vocabulary(tokenizer, store.folder)
        config = replace(config, model=initial.sizes_for(config.model, tokenizer))
    data = RunData(store, tokenizer, config, composed=run / "composed", rank=ranks.rank, world_size=ranks.size)
    for spike in ranks.first(lambda: read_spikes(run)):
        data.leave_out(LeftOut(**part) for part in spike["left_out"])
    way = "give data.store in a folder that all nodes share, or the same store on each"
    ranks.require_same("the text", data.position(0).fingerprint if ranks.size > 1 else "", way)
    stream = data.stream(data.phases[0])
    _log.info(f"data: {_describe_budget(data)}")
    _log.info(f"data: {describe_composition(stream.composition, store.sources, stream.pair_task)}")
    if few := _few_held_out(data):
        _log.info(f"data: {few}")
    if data.similar_words is not None:
        covered = data.covered_words()
        table = data.similar_words.coverage
        _log.info(f"similar words: {table}; they are {covered:.0%} of the words of the text")
        if covered < _WELL_COVERED:
            _log.warning(
                f"similar words: {covered:.0%} of the words of the text are few; one without a similar word is seldom "
                "predicted, so make a table for this store with unmask similar-words"
            )
    precision = choose_precision(config.train.dtype, device, saved=dtype_is_saved)
    weights = {name: weight for name, weight in asdict(config.objective).items() if weight > 0}
    unigram = data.unigram() if weights.keys() & set(TOKEN_OBJECTIVES) else None
    if unigram is not None:
        _log.info(f"data: {unigram}")
    encoder = _with_vocabulary(config.model, store.vocab_size)
    model: PretrainingModel | Student
    if teacher is None:
        objectives = build_objectives(weights)
        heads = sorted({"mlm", *(head for objective, _ in objectives for head in objective.heads)})
        model = PretrainingModel(encoder, heads=heads, compute_dtype=precision.dtype, seed=config.seed)
    else:
        from unmask.train.distilled import build_student

        model, objectives = build_student(
            config, encoder, teacher, tokenizer, store.folder, dtype=precision.dtype, device=device
        )
    if initial is not None and ranks.is_first:
        assert isinstance(model, PretrainingModel)
        initial.fill(model, tokenizer, learning_rate=config.optimizer.learning_rate, run=run)
    model = model.to(device)
    if config.train.activation_checkpointing:
        model.activation_checkpointing_enable()
    if device.type == "cuda" or INTERPRETING or config.kernels.verify != "tell":
        from unmask.train.verification import prepare_kernels, shapes_of

        prepare_kernels(config, shapes_of(config, precision.dtype, encoder), device, run)
    size = sum(p.numel() for p in model.parameters())
    dtype = str(precision.dtype).removeprefix("torch.")
    _log.info(f"model: {size:,} parameters on {device}, activations in {dtype} ({precision.reason})")
    if config.train.parallel == "fsdp" and ranks.size == 1:
        _log.info("train.parallel is fsdp, but this process is alone and holds the whole model")
    trainer = Trainer(
        config=config,
        folder=run,
        model=model,
        objectives=objectives,
        data=data,
        checkpoints=checkpoints,
        display=display,
        ranks=ranks,
        graphs=graphs,
        unigram=None if unigram is None else baseline(unigram.loss, weights),
    )
    warmup_steps = config.optimizer.warmup_steps
    if isinstance(trainer.schedule, StepSchedule) and trainer.schedule.warmup != warmup_steps:
        _log.warning(
            f"optimizer.warmup_steps is {warmup_steps}, more than the steps of the run, {data.num_steps}; the warm-up "
            f"is cut to a tenth of them, {trainer.schedule.warmup}"
        )
    if config.train.minutes is not None:
        _log.info(
            f"the run ends after {config.train.minutes:g} minutes of training; the clock decides its learning rate and "
            "its last step, so no other run repeats it bit for bit, nor does a resumed one"
        )
    return trainer


def _few_held_out(data: RunData) -> str:
    """Return that the held-out tokens are few, with a share that holds out enough; empty if they are enough or none.

    A document is held out by the hash of its text, so the share of a few documents may be far from the one asked for.
    """
    held_out = data.text_tokens("held_out")
    enough = min(_ENOUGH_HELD_OUT, _ENOUGH_OF_THE_TEXT * (held_out + data.text_tokens()))
    if not 0 < held_out < enough:
        return ""
    few = f"{held_out:,} tokens are few for a held-out loss"
    for fraction in _FRACTIONS:
        tokens = data.text_tokens("held_out", held_out_fraction=fraction)
        if tokens >= enough:
            return f"{few}; --stream.held_out_fraction {fraction} holds out {tokens:,}, in a new run"
    return (
        f"{few}, and no share up to {_FRACTIONS[-1]} holds out enough of so few documents; prepare more text, or "
        "cut it into more documents (--split-at or --blank-line-documents of unmask prepare)"
    )


def _describe_budget(data: RunData) -> str:
    """Return the tokens of an epoch, as the store counts them and with [CLS] and [SEP], and the epochs of the run."""
    train = data.config.train
    tokens, held_out = data.stream(data.phases[0]).tokens_per_epoch, data.text_tokens("held_out")
    counts = f"an epoch reads {data.text_tokens():,} tokens of the store, {tokens:,} with [CLS] and [SEP]"
    if held_out:
        counts += f"; {held_out:,} tokens are held out"
    if train.minutes is not None:
        return counts
    read = data.sizes.before(data.num_steps) * data.config.stream.micro_batch_tokens
    epochs = read / tokens if train.epochs is None else train.epochs
    steps = f"{data.num_steps:,} steps make" if data.num_steps > 1 else "1 step makes"
    return f"{counts}; {steps} about {f'{epochs:,.1f}' if epochs >= 1 else f'{epochs:.2g}'} epochs"
