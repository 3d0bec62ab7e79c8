"""`plan`: what a run will need, before it starts: memory, time and disk, and what to change if it does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from unmask.config import RunConfig, load_config
from unmask.config.step_sizes import StepSizes
from unmask.data.store import Store
from unmask.errors import ConfigError
from unmask.model import EncoderConfig
from unmask.planning.devices import Device, named_gpu, this_machine
from unmask.planning.lengths import lengths_of, micro_batch_lengths
from unmask.planning.measured import Measured, measure
from unmask.planning.step_memory import StepMemory, example_batch, model_of, trace_step
from unmask.planning.step_time import StepTime, from_peak, timed
from unmask.train.checkpoint.state import state_bytes
from unmask.train.data import RunData
from unmask.train.precision import DTYPES, choose_precision
from unmask.train.store import cache_of

__all__ = ["Plan", "gibibytes", "plan", "plan_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run needs. Bytes are bytes, times are seconds.

    Attributes:
        device: name of the processor or GPU that the plan is for.
        here: whether that is a device of this machine.
        dtype: of the activations.
        parameters: number of trained parameters of each part of the model.
        memory: of a process, by part.
        available: what the device has free for a process; None if the system does not tell.
        max_length: longest sequence of the phase that the plan is for, the one with the longest.
        micro_batch_tokens: tokens of a forward and backward pass.
        tokens_per_step: tokens of an optimizer step of all processes.
        steps: of the run; None if the clock ends it, or if the text that decides them is not prepared.
        step: seconds of an optimizer step, and where the number comes from.
        processes: among which the micro-batches of a step are shared.
        checkpoint: bytes of one checkpoint.
        checkpoints: how many lie on the disk at a time, one that is being written included.
        store: bytes of the token store; None if it is not prepared yet.
        disk_free: bytes that are free where the run will lie.
        measured: the same two numbers from steps that ran, if they were asked for.
        advice: what to change if the run does not fit; if it does, on a GPU, the largest micro-batch that fits too.
    """

    device: str
    here: bool
    dtype: str
    parameters: dict[str, int]
    memory: dict[str, int]
    available: int | None
    max_length: int
    micro_batch_tokens: int
    tokens_per_step: int
    steps: int | None
    step: StepTime
    processes: int
    checkpoint: int
    checkpoints: int
    store: int | None
    disk_free: int
    measured: Measured | None = None
    advice: list[str] = field(default_factory=list)

    @property
    def needed(self) -> int:
        """Bytes of a process."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether memory and disk hold the run, as far as the system tells what is free."""
        disk = self.checkpoint * self.checkpoints <= self.disk_free
        return disk and (self.available is None or self.needed <= self.available)

    @property
    def hours(self) -> float | None:
        """Hours of training; None if the number of steps is not known."""
        seconds = self.step.seconds if self.measured is None else self.measured.seconds
        return None if self.steps is None else self.steps * seconds / 3600

    def to_json(self) -> dict[str, Any]:
        """Return everything as numbers and text."""
        return asdict(self) | {"needed": self.needed, "fits": self.fits, "hours": self.hours}


def plan(
    recipe_or_yaml: str = "bert-base",
    settings: Mapping[str, Any] | None = None,
    *,
    device: str | None = None,
    processes: int = 1,
    measured: bool = False,
) -> Plan:
    """Plan a run before it starts.

    Memory is traced without running anything; see `unmask.planning.step_memory`. Time is measured with small steps on
    this machine, or assumed from the data sheet of a GPU that is not here.

    Example:
        >>> import unmask
        >>> found = unmask.plan("tiny")
        >>> found.fits
        True

    Args:
        recipe_or_yaml: recipe or YAML file of the run.
        settings: settings laid over it, as for `load_config`.
        device: name of a GPU, one of `unmask.planning.devices.GPUS`. Default: the device that a run would take here.
        processes: processes of the run; each takes a share of a step's micro-batches.
        measured: whether to run a few whole steps here, and tell their time and memory beside the plan.
    Returns:
        What the run needs.
    Raises:
        ConfigError: a setting is wrong, the GPU is not known, or `measured` is asked for a GPU that is not here.
        StoreError: the store cannot be read.
    """
    return plan_of(load_config(recipe_or_yaml, settings), device=device, processes=processes, measured=measured)


def plan_of(config: RunConfig, *, device: str | None = None, processes: int = 1, measured: bool = False) -> Plan:
    """Plan a run of `config`; see `plan`."""
    if config.distillation.teacher is not None:
        raise ConfigError(
            "plan: distillation.teacher is given, and neither the teacher nor its losses are counted; leave it out to "
            "plan the student alone"
        )
    place = this_machine() if device is None else named_gpu(device)
    if measured and not place.here:
        raise ConfigError(f"plan: {place.name} is not here, so no step can be measured on it; leave --measure out")
    micro_batches = StepSizes.of(config.train, config.stream).first
    if micro_batches % processes:
        able = ", ".join(str(n) for n in range(1, micro_batches + 1) if micro_batches % n == 0)
        raise ConfigError(
            f"plan: processes must share the micro-batches of a step, {micro_batches}, "
            f"evenly, got {processes}; give one of {able}, or another train.tokens_per_step"
        )
    store = _store(config)
    encoder = _sizes(config, store)
    dtype = _dtype(config, place)
    max_length = _max_length(config)
    lengths = lengths_of(store, max_length)

    def memory_of(changed: RunConfig) -> dict[str, int]:
        tokens = changed.stream.micro_batch_tokens
        step = trace_step(
            changed, encoder, example_batch(changed, encoder, micro_batch_lengths(lengths, tokens)), dtype=dtype
        )
        parts = _parts(step, place)
        if config.train.parallel == "fsdp" and processes > 1:
            parts |= {name: parts[name] // processes for name in ("weights", "gradients", "optimizer")}
            parts["gathered"] = _gathered(_parameters(config, encoder, dtype), encoder.num_layers)
        # as many values as the weights, in their dtype
        return parts if config.optimizer.ema_decay is None else {**parts, "average": step.weights}

    memory = memory_of(config)
    share = replace(config, train=replace(config.train, tokens_per_step=config.train.tokens_per_step // processes))
    found = Plan(
        device=place.name,
        here=place.here,
        dtype=str(dtype).removeprefix("torch."),
        parameters=_parameters(config, encoder, dtype),
        memory=memory,
        available=place.memory,
        max_length=max_length,
        micro_batch_tokens=config.stream.micro_batch_tokens,
        tokens_per_step=config.train.tokens_per_step,
        steps=_steps(config, store),
        step=_step_time(share, encoder, lengths, dtype, place),
        processes=processes,
        checkpoint=_checkpoint_bytes(config, encoder, dtype),
        checkpoints=config.train.keep_checkpoints + 1,
        store=None if store is None else store.num_bytes,
        disk_free=shutil.disk_usage(_nearest_folder(config)).free,
        measured=measure(share, encoder, lengths, dtype=dtype, device=torch.device(place.kind)) if measured else None,
    )
    if found.fits:
        return replace(found, advice=list(_room(share, place, memory_of)))
    return replace(found, advice=list(_advice(config, found, memory_of)))


def _store(config: RunConfig) -> Store | None:
    """Return the store of the run if it is prepared."""
    return None if config.data.store is None else Store.open(config.data.store, cache=cache_of(config))


def _sizes(config: RunConfig, store: Store | None) -> EncoderConfig:
    """Return the encoder's sizes with a vocabulary: that of the configuration, of the store, or to be trained."""
    rows = store.vocab_size if store is not None else config.data.vocab_size
    return replace(config.model, vocab_size=config.model.vocab_size or rows)


def _dtype(config: RunConfig, place: Device) -> torch.dtype:
    """Return the dtype of the activations. A GPU that is not here multiplies bf16 fast, as all known ones do."""
    if place.here:
        return choose_precision(config.train.dtype, torch.device(place.kind)).dtype
    return DTYPES[config.train.dtype] if config.train.dtype != "auto" else torch.bfloat16


def _parts(step: StepMemory, place: Device) -> dict[str, int]:
    """Return the memory of a process by part: that of a step, and what surrounds it."""
    return {**step._asdict(), "process": place.overhead(step.activations + step.working)}


def _gathered(parameters: dict[str, int], num_layers: int) -> int:
    """Return the bytes of whole values and gradients in a step in shards: of all but the layers, and of two layers."""
    return 8 * (parameters["total"] - parameters["layers"] + 2 * parameters["layers"] // num_layers)


def _parameters(config: RunConfig, encoder: EncoderConfig, dtype: torch.dtype) -> dict[str, int]:
    with torch.device("meta"):
        model, _ = model_of(config, encoder, dtype)
    embeddings = _count(model.encoder.embeddings)
    layers = _count(model.encoder.layers)
    total = _count(model)
    return {"embeddings": embeddings, "layers": layers, "heads": total - embeddings - layers, "total": total}


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _checkpoint_bytes(config: RunConfig, encoder: EncoderConfig, dtype: torch.dtype) -> int:
    with torch.device("meta"):
        model, _ = model_of(config, encoder, dtype)
    return state_bytes(model, averaged=config.optimizer.ema_decay is not None)


def _steps(config: RunConfig, store: Store | None) -> int | None:
    """Return the steps of the run; with epochs, of a store that is prepared."""
    if config.train.steps is not None:
        return config.train.steps
    if config.train.epochs is None or store is None:
        return None
    return RunData(store, store.load_tokenizer(), config).num_steps


def _step_time(
    config: RunConfig, encoder: EncoderConfig, lengths: list[int], dtype: torch.dtype, place: Device
) -> StepTime:
    of_batch = micro_batch_lengths(lengths, config.stream.micro_batch_tokens)
    if place.here:
        return timed(config, encoder, of_batch, dtype=dtype, device=torch.device(place.kind))
    assert place.peak is not None
    return from_peak(config, encoder, example_batch(config, encoder, of_batch), peak=place.peak, gpu=place.name)


def _nearest_folder(config: RunConfig) -> Path:
    """Return the folder of the run, or the nearest one above it that exists."""
    folder = Path(config.run or "runs").absolute()
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _advice(config: RunConfig, found: Plan, memory_of: Callable[[RunConfig], dict[str, int]]) -> Iterator[str]:
    """Yield what to change so that the run fits."""
    if found.available is not None and found.needed > found.available:
        yield from _memory_advice(config, found.available, memory_of)
    disk = found.checkpoint * found.checkpoints
    if disk > found.disk_free:
        fit = found.disk_free // found.checkpoint - 1
        way = f"--train.keep_checkpoints {fit} fits" if fit >= 1 else "make room, or give --run on another disk"
        yield f"the disk has {gibibytes(found.disk_free)} free, checkpoints need {gibibytes(disk)}; {way}"


def _memory_advice(
    config: RunConfig, available: int, memory_of: Callable[[RunConfig], dict[str, int]]
) -> Iterator[str]:
    again = replace(config, train=replace(config.train, activation_checkpointing=True))
    for base, option, cost in (
        (config, "", "; the steps stay the same"),
        (again, "--train.activation_checkpointing ", ", and a step takes about a third longer"),
    ):
        for tokens in _smaller_micro_batches(config, itself=base is again):
            changed = replace(base, stream=replace(base.stream, micro_batch_tokens=tokens))
            needed = sum(memory_of(changed).values())
            if needed <= available:
                smaller = tokens < config.stream.micro_batch_tokens
                options = option + (f"--stream.micro_batch_tokens {tokens}" if smaller else "")
                yield f"{options.strip()} needs {gibibytes(needed)}{cost}"
                break
    smallest = sum(memory_of(replace(again, stream=replace(again.stream, micro_batch_tokens=_fewest(config)))).values())
    if smallest > available:
        yield (
            f"no micro-batch fits: the smallest needs {gibibytes(smallest)}; take a smaller model "
            "(--model.num_layers, --model.hidden_size), or a device with more memory"
        )


def _room(share: RunConfig, place: Device, memory_of: Callable[[RunConfig], dict[str, int]]) -> Iterator[str]:
    """Yield the largest micro-batch that the memory of a GPU holds, if it is larger than that of the run.

    Args:
        share: the run, with the part of a step that one process has.
        place: the device; on a CPU, larger micro-batches are not faster.
        memory_of: bytes of each part.
    """
    tokens, whole = share.stream.micro_batch_tokens, share.train.tokens_per_step
    passes = whole // tokens
    for fewer in (number for number in range(1, passes) if passes % number == 0 and place.kind == "cuda"):
        larger = whole // fewer
        needed = sum(memory_of(replace(share, stream=replace(share.stream, micro_batch_tokens=larger))).values())
        if place.memory is not None and needed <= place.memory:
            yield (
                f"--stream.micro_batch_tokens {larger} fits too, in {gibibytes(needed)}: a step then has {fewer} "
                f"forward and backward pass{'' if fewer == 1 else 'es'} instead of {passes}; decide before the run "
                "begins"
            )
            return


def _smaller_micro_batches(config: RunConfig, *, itself: bool) -> Iterator[int]:
    """Yield the tokens of smaller micro-batches that a step can be cut into, largest first."""
    tokens = config.stream.micro_batch_tokens
    if itself:
        yield tokens
    while tokens % 2 == 0 and tokens // 2 >= _max_length(config):
        tokens //= 2
        yield tokens


def _fewest(config: RunConfig) -> int:
    return list(_smaller_micro_batches(config, itself=True))[-1]


def _max_length(config: RunConfig) -> int:
    return max((phase.max_length for phase in config.train.phases), default=config.stream.max_length)


def gibibytes(count: int) -> str:
    """Return bytes for people: `1.53 GiB`, `210 MiB`."""
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
