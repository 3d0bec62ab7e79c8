"""The state that a run needs to continue exactly.

Tensors are parameters, their moving average if the run has one, moments and random generators. They go through
`torch.distributed.checkpoint` under flat names (`model/...`, `average/...`, `optimizer/<parameter>/exp_avg`,
`rng/cpu`), and they are whole, so that any number of ranks reads them. `Facts` goes to `state.json` as readable text.
The learning rate and the settings are not saved here: they follow from the run's configuration and the step.

Size: 12 bytes a parameter, for its fp32 value and two moments; 16 with an average.
"""

import copy
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from unmask.distillation.student import Student
from unmask.errors import CheckpointError
from unmask.interop.model_folder import read_object
from unmask.model import PretrainingModel
from unmask.train.parallel import Ranks

__all__ = [
    "Facts",
    "export_of",
    "load_facts",
    "load_tensors",
    "read_tensors",
    "save_state",
    "send_state",
    "state_bytes",
    "state_of",
    "without_values",
]

# torch.distributed.checkpoint says that no process group exists, and none is needed. The filter stays, because one that
# is taken back is taken back for all threads.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized", UserWarning)

# the names of format 1, where they differ from those of `Facts`
_NAMES_IN_FILE = {"phase": "segment", "interval": "window"}
# not in the file of a run that has none
_OPTIONAL = {"seconds", "tuned", "ranks", "loss_scale"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The part of the state that is not tensors.

    Attributes:
        step: updates done.
        phase: number of the phase; `segment` in the file.
        index: number, in the phase, of the next global micro-batch.
        cursor: (epoch, block, k) of the last micro-batch used; None when the stream gives none.
        fingerprint: fingerprint of the phase's stream.
        tokens: real tokens seen.
        skipped: updates left out because a gradient was not finite.
        threads: intra-op threads. Results repeat bit for bit only with the same number.
        machine: the machine and the versions that computed the state, see `provenance`.
        interval: sums of the unfinished log interval, see `Meter.open_interval`; `window` in the file.
        seconds: time of training so far, if `train.minutes` ends the run; else None, and not in the file.
        tuned: values of `unmask tune` that the run uses, see `unmask_kernels.tuned.to_text`; None, and not in the file,
            if it uses none.
        ranks: number of processes that trained together; None, and not in the file, for a single one. Sums round
            differently with another number.
        loss_scale: scale of the loss and finite steps since it changed, see `LossScale.state`; None, and not in the
            file, if the activations are not fp16.
    """

    step: int
    phase: int
    index: int
    cursor: tuple[int, int, int] | None
    fingerprint: str
    tokens: int
    skipped: int
    threads: int
    machine: dict[str, str]
    interval: list[float]
    seconds: float | None = None
    tuned: dict[str, int | str] | None = None
    ranks: int | None = None
    loss_scale: tuple[float, int] | None = None


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None) -> dict[str, Tensor]:
    """Return the tensors of a run by their names in a checkpoint, in the memory that they have.

    Args:
        model: the model.
        optimizer: its optimizer.
        average: a model with the moving average of the weights.
    """
    state = _weights(model, average)
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"optimizer/{name}/{key}"] = value
    state["rng/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        state["rng/cuda"] = torch.cuda.get_rng_state()
    return state


def save_state(folder: Path, state: Mapping[str, Tensor], facts: Facts) -> None:
    """Write the tensors of `state_of` and the facts into `folder`."""
    with _quiet():
        dcp.save(dict(state), checkpoint_id=folder, no_dist=True)
    (folder / "state.json").write_text(json.dumps(_as_written(facts), indent=1) + "\n")


def without_values(model: PretrainingModel | Student) -> PretrainingModel | Student:
    """Return a copy of a model whose parameters have shapes and no values."""
    shapes = {id(one): nn.Parameter(one.detach().to("meta"), requires_grad=False) for one in model.parameters()}
    return copy.deepcopy(model, shapes)


def export_of(state: Mapping[str, Tensor], blank: PretrainingModel | Student) -> PretrainingModel | Student:
    """Return the model of a state that others read: with the moving average if there is one, else with the weights.

    Args:
        state: tensors by the names of `state_of`; the model takes over their memory.
        blank: a copy of the model `without_values`.
    """
    kind = "average/" if any(name.startswith("average/") for name in state) else "model/"
    model = copy.deepcopy(blank)
    weights = {name.removeprefix(kind): value for name, value in state.items() if name.startswith(kind)}
    model.load_state_dict(weights, assign=True)
    return model


def _as_written(facts: Facts) -> dict[str, object]:
    """Return the facts under the names of the file."""
    named = {_NAMES_IN_FILE.get(name, name): value for name, value in asdict(facts).items()}
    return {name: value for name, value in named.items() if name not in _OPTIONAL or value is not None}


def load_facts(folder: Path) -> Facts:
    """Read the facts in a checkpoint's training folder.

    Raises:
        CheckpointError: the file is missing, or is not what `save_state` writes.
    """
    import pydantic

    def unusable(reason: object) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {folder.parent} holds no training state to resume ({reason}); remove it to go on from the one "
            "before it, or start a new run"
        )

    ours = {theirs: name for name, theirs in _NAMES_IN_FILE.items()}
    try:
        found = read_object(folder / "state.json")
        renamed = {ours.get(name, name): value for name, value in found.items()}
        facts = pydantic.TypeAdapter(Facts).validate_json(json.dumps(renamed), strict=True)
    except CheckpointError as error:
        raise unusable(error) from error
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, *inner = map(str, first["loc"])
        where = ".".join([_NAMES_IN_FILE.get(name, name), *inner])
        raise unusable(f"state.json, {where}: {first['msg']}") from error
    if unknown := sorted(found.keys() - _OPTIONAL - _as_written(facts).keys()):
        raise unusable(f"state.json holds {unknown[0]}, which this version does not know")
    for name, least in {"step": 0, "phase": 0, "index": 0, "tokens": 0, "skipped": 0, "threads": 1}.items():
        if getattr(facts, name) < least:
            raise unusable(f"state.json, {_NAMES_IN_FILE.get(name, name)} is {getattr(facts, name)}, below {least}")
    if facts.seconds is not None and not 0 <= facts.seconds < math.inf:
        raise unusable(f"state.json, seconds is {facts.seconds}, no time")
    return facts


def load_tensors(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
) -> None:
    """Copy parameters, their moving average, moments and generator states of a checkpoint into place.

    Raises:
        CheckpointError: names or shapes differ from those of `model`, or the files cannot be read.
    """
    state = read_tensors(folder, model, average)
    for name, target in _weights(model, average).items():
        target.copy_(state[name])
    optimizer.state.clear()
    for name, parameter in model.named_parameters():
        prefix = f"optimizer/{name}/"
        moments = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if moments:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in moments.items()}


def read_tensors(folder: Path, model: nn.Module, average: nn.Module | None = None) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, whole and on the host, and set the generators of random numbers.

    Args:
        folder: the checkpoint's training folder.
        model: a model with the names and shapes that are wanted.
        average: a model with the moving average of the weights.
    Raises:
        CheckpointError: names or shapes differ from those of `model`, or the files cannot be read.
    """
    try:
        return _read_tensors(folder, model, average)
    except CheckpointError:
        raise
    # PyTorch raises errors of any class for odd files, and CheckpointException, which is no subclass of Exception.
    except (Exception, CheckpointException) as error:
        raise CheckpointError(
            f"checkpoint {folder.parent} holds no training state to resume (its tensors cannot be read: "
            f"{type(error).__name__}); remove it to go on from the one before it, or start a new run"
        ) from error


def _read_tensors(folder: Path, model: nn.Module, average: nn.Module | None) -> dict[str, Tensor]:
    stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    _check_names(folder, state, _weights(model, average))
    with _quiet():
        dcp.load(state, checkpoint_id=folder, no_dist=True)
    torch.set_rng_state(state["rng/cpu"])
    if "rng/cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["rng/cuda"])
    return state


def send_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks, average: nn.Module | None = None
) -> None:
    """Give parameters, buffers, their moving average and the state of the optimizer of rank 0 to all ranks.

    So only rank 0 has to read a checkpoint, and all ranks begin with the same bits.
    """
    by_name = dict(model.named_parameters())
    entries = ranks.first(
        lambda: [
            (name, key, value.shape, value.dtype, value.device.type)
            for name, parameter in by_name.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        ]
    )
    ranks.send(list(_weights(model, average).values()))
    for name, key, shape, dtype, device in entries:
        place = by_name[name].device if device != "cpu" else torch.device("cpu")
        state = optimizer.state[by_name[name]]
        state.setdefault(key, torch.empty(shape, dtype=dtype, device=place))
        ranks.send([state[key]])


def state_bytes(model: nn.Module, *, averaged: bool = False) -> int:
    """Return the approximate size of a checkpoint: values, two moments, values as safetensors, and 8 MiB of text.

    Args:
        model: whose state it is.
        averaged: whether the run keeps a moving average of the weights too.
    """
    copies = 5 if averaged else 4
    return sum(copies * p.numel() * p.element_size() for p in model.parameters()) + 8 * 2**20


def _weights(model: nn.Module, average: nn.Module | None) -> dict[str, Tensor]:
    found = {f"model/{name}": value.detach() for name, value in model.state_dict().items()}
    averaged = {} if average is None else average.state_dict()
    return found | {f"average/{name}": value.detach() for name, value in averaged.items()}


def _check_names(folder: Path, state: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    way = "put config.yaml of the run back as it was, or start a new run"
    held = {name: value.shape for name, value in state.items() if name.startswith(("model/", "average/"))}
    for name, target in targets.items():
        shown = name.removeprefix("model/")
        if name not in held:
            raise CheckpointError(f"checkpoint {folder.parent} lacks {shown}, which the configured model has; {way}")
        if held[name] != target.shape:
            raise CheckpointError(
                f"checkpoint {folder.parent}: {shown} has shape {tuple(held[name])}, the configured model "
                f"needs {tuple(target.shape)}; {way}"
            )
    extra = sorted(name.removeprefix("model/") for name in held.keys() - targets.keys())
    if extra:
        raise CheckpointError(f"checkpoint {folder.parent} holds {extra[0]}, which the configured model lacks; {way}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch.distributed.checkpoint logs about the process group that is not there."""
    log = logging.getLogger("torch.distributed.checkpoint")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
