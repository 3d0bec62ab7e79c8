"""A step waits for no device: it runs on `meta`, PyTorch's device of tensors with shapes and no values.

Reading a value there is an error of PyTorch's, and `NothingMoves` refuses what would be a copy between the host and a
GPU that stops one for the other. So all but the inside of the kernels is held without a GPU; that is in `test_gpu.py`.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unmask.batch import PackedBatch, assemble
from unmask.config import OptimizerConfig
from unmask.data.masking import MaskRule
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives
from unmask.train.data import DeviceMasking
from unmask.train.logging.metrics import Meter
from unmask.train.optim import build_optimizer, set_learning_rate
from unmask.train.step import TrainingStep
from unmask_kernels import using

SIZES: dict[str, Any] = {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "intermediate_size": 128}
LENGTHS = np.array([20, 7, 30])
NOWHERE = torch.device("meta")


class NothingMoves(TorchDispatchMode):
    """Refuses every operation that sees a tensor of the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(leaf, Tensor) and leaf.device != NOWHERE for leaf in tree_leaves((args, kwargs))):
            raise AssertionError(f"{func} takes a tensor of the host to the device")
        # the one operation of a step that PyTorch cannot do here; it works in place
        return None if func is torch.ops.aten._fused_adamw_.tensor_lr else func(*args, **kwargs)


def batch(*, masked: bool = True) -> PackedBatch:
    """Three documents and padding, as the loader hands them over."""
    made = assemble(
        np.arange(57) + 5,
        LENGTHS,
        keys=np.arange(3),
        tokens=64,
        sequences=6,
        max_seqlen=32,
        word_starts=np.ones(57, dtype=np.bool_),
        pair_labels=np.array([0, 1, 0]),
        masked=np.array([1, 3]) if masked else None,
        labels=np.array([4, 5]) if masked else None,
        masked_capacity=16,
    )
    return made.to(NOWHERE, non_blocking=True)


def make_step(weights: dict[str, float], **model: Any) -> TrainingStep:
    """A step whose model and optimizer are made on the host, where making them may read, and then moved."""
    config = EncoderConfig(vocab_size=90, max_positions=64, **SIZES, **model)
    made = PretrainingModel(config, heads=("mlm", "nsp"), compute_dtype=torch.bfloat16).train()
    optimizer = build_optimizer(made, OptimizerConfig(), copies=torch.bfloat16)
    names = {parameter: name for name, parameter in made.named_parameters()}
    groups = [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]
    moved = dict(made.to(NOWHERE).named_parameters())
    for group, held in zip(optimizer.param_groups, groups, strict=True):
        group["params"], group["lr"] = [moved[name] for name in held], group["lr"].to(NOWHERE)
    return TrainingStep(model=made, objectives=build_objectives(weights), optimizer=optimizer)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton and the fused optimizer take the device, and autocast, which does not know it, is off."""
    monkeypatch.setattr("unmask_kernels.capability.INTERPRETING", True)
    monkeypatch.setattr("unmask_kernels.capability.HAS_TRITON", True)
    # by name, since torch.optim hides the module behind a class
    optimizer = importlib.import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])
    monkeypatch.setattr("torch.is_autocast_enabled", lambda device=None: False)


def run(step: TrainingStep, monkeypatch: pytest.MonkeyPatch, masking: DeviceMasking | None = None) -> None:
    """What the trainer asks of the device between two rows of the log, twice, so that there are moments."""
    batches = [batch(masked=masking is None) for _ in range(2)]
    meter = Meter([objective.name for objective, _ in step.objectives])
    skipped, streak = torch.zeros((), device=NOWHERE), torch.zeros((), device=NOWHERE)

    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("a tensor is made from values of the host")

    with monkeypatch.context() as patched, using("triton", optimizer="torch"), NothingMoves():
        for name in ("torch.tensor", "torch.as_tensor", "torch.from_numpy", "torch.Tensor.new_tensor"):
            patched.setattr(name, refuse)
        for _ in range(2):
            set_learning_rate(step.optimizer, 1e-3)
            step.model.encoder.dropout_seed.fill_(7)
            report = step(batches if masking is None else [masking(one) for one in batches])
            meter.add(report, tokens=57, flops=0.0)
            skipped += report.skipped
            streak = (streak + 1.0) * report.skipped
    assert report.loss.device == NOWHERE and report.loss.shape == ()


@pytest.mark.parametrize(
    ("weights", "shape"),
    [
        ({"mlm": 1.0}, {}),
        ({"mlm": 1.0}, {"attention_window": 4, "activation": "gelu_tanh"}),
        ({"mlm": 1.0, "nsp": 1.0}, {}),
        ({"sop": 1.0}, {}),
        ({"clm": 1.0}, {"causal": True}),
    ],
    ids=str,
)
def test_a_step_reads_nothing_and_takes_nothing_from_the_host(
    weights: dict[str, float], shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_step(weights, **shape), monkeypatch)


@pytest.mark.parametrize("whole_words", [False, True])
def test_masks_made_on_the_device_read_nothing(whole_words: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = MaskRule(
        keys=np.array([1, 2]),
        special=np.arange(90) < 5,
        ordinary=np.arange(5, 90),
        rate=0.15,
        split=(0.8, 0.1, 0.1),
        mask_id=4,
        whole_words=whole_words,
    )
    run(make_step({"mlm": 1.0}), monkeypatch, DeviceMasking(rule, capacity=16, device=NOWHERE))


def _reads(step: TrainingStep) -> object:
    return bool(step.optimizer.param_groups[0]["lr"] > 0)


def _lists(step: TrainingStep) -> object:
    return step.model.encoder.dropout_seed.tolist()


def _finds(step: TrainingStep) -> object:
    return step.model.mlm.bias.nonzero()


def _sends(step: TrainingStep) -> object:
    return torch.zeros(3).to(NOWHERE)


def _mixes(step: TrainingStep) -> object:
    return step.model.mlm.bias[torch.zeros(3, dtype=torch.int64)]


def _makes(step: TrainingStep) -> object:
    return torch.tensor([1.0, 2.0], device=NOWHERE)


@pytest.mark.parametrize("slip", [_reads, _lists, _finds, _sends, _mixes, _makes])
def test_each_way_to_wait_is_noticed(slip: Callable[[TrainingStep], object], monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step({"mlm": 1.0})
    update = TrainingStep.update

    def slipping(self: TrainingStep) -> tuple[Tensor, Tensor]:
        slip(self)
        return update(self)

    monkeypatch.setattr(TrainingStep, "update", slipping)
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        run(step, monkeypatch)
