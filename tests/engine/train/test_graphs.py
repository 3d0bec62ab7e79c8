"""The step as CUDA graphs, without a GPU: `Tape` records and replays as a graph does, on a CPU.

A graph records kernels with the addresses and the numbers that they got, computes nothing then, and replays them on the
same memory. So does `Tape`, with the operations of PyTorch in the place of kernels. What a graph cannot see, `Tape`
cannot see either: a tensor that was replaced, a number of the host that has changed. A value that is read on the host
is an error in both.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unmask.batch import PackedBatch, assemble
from unmask.config import OptimizerConfig, RunConfig, load_config
from unmask.errors import ConfigError, RunError
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives
from unmask.train.batch_buffers import BatchBuffers
from unmask.train.graphs import GraphedStep, may_use_graphs
from unmask.train.logging.metrics import Meter
from unmask.train.loss_scale import LossScale
from unmask.train.optim import build_optimizer, set_learning_rate
from unmask.train.run_folder import saved_config
from unmask.train.step import StepReport, TrainingStep

CONFIG = EncoderConfig(
    vocab_size=60,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=32,
    max_positions=32,
    hidden_dropout=0.1,
    attention_dropout=0.1,
)
READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.lift_fresh.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.nonzero.default,
}


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and labels are checked on a CPU alone, since a GPU would have to wait for that."""
    monkeypatch.setattr("unmask_kernels.checks.reads_contents", lambda x: False)


def is_read(func: Any, arguments: Any) -> bool:
    """Whether an operation gives a value to the host, or needs one there to know the shape of its result."""
    masks = (torch.bool, torch.uint8)
    by_mask = func is torch.ops.aten.index.Tensor and any(each.dtype in masks for each in _tensors(arguments[1]))
    return func in READS or by_mask


class _Call(NamedTuple):
    function: Any
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    results: list[Tensor]
    addresses: list[int]


class Tape(TorchDispatchMode):
    """What is recorded by one `record`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[_Call] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Any, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_read(func, args):
            raise RuntimeError(f"{func} reads a value on the host")
        self._keep(func, args, kwargs)
        results = func(*args, **kwargs)
        tensors = _tensors(results)
        self._made |= {_storage(each) for each in tensors} - {_storage(each) for each in _tensors((args, kwargs))}
        self.calls.append(_Call(func, args, kwargs, tensors, _addresses((args, kwargs))))
        return results

    def _keep(self, func: Any, args: Any, kwargs: Any) -> None:
        """Keep what an operation is about to change, unless it was made since the recording began."""
        for position, declared in enumerate(func._schema.arguments):
            if declared.alias_info is not None and declared.alias_info.is_write:
                value = args[position] if position < len(args) else kwargs.get(declared.name)
                for each in _tensors(value):
                    if _storage(each) not in self._made:
                        storage = each.untyped_storage()
                        self._before.setdefault(_storage(each), (storage, storage.clone()))

    def undo(self) -> None:
        """Put back what was changed: a recording computes nothing."""
        for storage, before in self._before.values():
            storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        """Compute everything again, from the same memory into the same memory."""
        for call in self.calls:
            assert _addresses((call.arguments, call.named)) == call.addresses, f"{call.function}: a tensor has moved"
            for old, new in zip(call.results, _tensors(call.function(*call.arguments, **call.named)), strict=True):
                assert old.shape == new.shape, f"{call.function}: {old.shape} was recorded, got {new.shape}"
                if _storage(old) != _storage(new):
                    old.copy_(new)


class TapeRecorder:
    """Records as `CudaRecorder` does."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        tape = Tape()
        with tape:
            work()
        tape.undo()
        return tape.replay


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _addresses(values: Any) -> list[int]:
    return [each.data_ptr() for each in _tensors(values)]


def mixes(count: int, *, max_seqlen: int = 32, seed: int = 0) -> Iterable[PackedBatch]:
    """Batches of as many documents, of as many lengths, as chance gives: 1 to 12 of them in 96 tokens."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        lengths = generator.integers(3, max_seqlen + 1, size=generator.integers(1, 13))
        lengths = lengths[np.cumsum(lengths) <= 96]
        total = int(lengths.sum())
        ids = generator.integers(5, 60, size=total)
        rows = np.sort(generator.permutation(total)[: max(1, total // 6)])
        yield assemble(
            np.where(np.isin(np.arange(total), rows), 4, ids),
            lengths,
            keys=generator.integers(1 << 40, size=lengths.size) + number,
            tokens=96,
            sequences=48,
            max_seqlen=max_seqlen,
            pair_labels=generator.integers(0, 2, size=lengths.size),
            masked=rows,
            labels=ids[rows],
            masked_capacity=24,
        )


def make_step(dtype: torch.dtype = torch.float32, **weights: float) -> TrainingStep:
    model = PretrainingModel(CONFIG, heads=("mlm", "nsp"), compute_dtype=dtype, seed=3).train()
    return TrainingStep(
        model=model,
        objectives=build_objectives(weights or {"mlm": 1.0}),
        optimizer=build_optimizer(model, OptimizerConfig(learning_rate=1e-2)),
        clip_norm=0.5,
        loss_scale=LossScale("cpu") if dtype == torch.float16 else None,
    )


def run(
    step: TrainingStep, call: Callable[[Sequence[PackedBatch]], StepReport], steps: Sequence[list[PackedBatch]]
) -> list[StepReport]:
    """What the trainer does: another rate in every step, another seed of dropout now and then."""
    reports = []
    for number, batches in enumerate(steps):
        step.model.encoder.dropout_seed.fill_(number // 5)
        set_learning_rate(step.optimizer, 1e-2 / (1 + number))
        reports.append(call(batches))
    return reports


def in_steps(batches: Iterable[PackedBatch], *sizes: int) -> list[list[PackedBatch]]:
    left = iter(batches)
    return [[next(left) for _ in range(size)] for size in sizes]


def assert_same(graphed: TrainingStep, eager: TrainingStep, ours: list[StepReport], theirs: list[StepReport]) -> None:
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        for name, value, expected in zip(one._fields, one, other, strict=True):
            assert torch.equal(value, expected), f"{name} of step {number}: {value} and {expected}"
    for (name, one), other in zip(graphed.model.named_parameters(), eager.model.parameters(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize(
    "sizes", [(1,) * 16, (2,) * 6, (2, 2, 3, 3, 5), (1, 1, 1, 2, 2, 2, 1, 1)], ids=["one", "two", "growing", "mixed"]
)
def test_replays_over_arbitrary_documents_have_the_bits_of_eager_steps(sizes: tuple[int, ...]) -> None:
    steps = in_steps(mixes(sum(sizes)), *sizes)
    eager, graphed = make_step(mlm=1.0, nsp=0.5), make_step(mlm=1.0, nsp=0.5)
    theirs = run(eager, eager, steps)
    ours = run(graphed, GraphedStep(graphed, TapeRecorder, required=True), steps)
    assert_same(graphed, eager, ours, theirs)
    assert len({float(report.loss) for report in ours}) == len(sizes)


def test_a_phase_of_another_length_is_recorded_anew() -> None:
    steps = [*in_steps(mixes(4, max_seqlen=16), 1, 1, 1, 1), *in_steps(mixes(4, seed=1), 1, 1, 1, 1)]
    eager, graphed = make_step(), make_step()
    recorders: list[TapeRecorder] = []

    def recorder() -> TapeRecorder:
        recorders.append(TapeRecorder())
        return recorders[-1]

    ours = run(graphed, GraphedStep(graphed, recorder, required=True), steps)
    assert_same(graphed, eager, ours, run(eager, eager, steps))
    assert len(recorders) == 2


def test_a_replay_skips_an_update_whose_gradient_is_not_finite_and_goes_on() -> None:
    steps = in_steps(mixes(6), *(1,) * 6)
    eager, graphed = make_step(), make_step()
    results = []
    for step, call in ((eager, eager), (graphed, GraphedStep(graphed, TapeRecorder, required=True))):
        reports = run(step, call, steps[:3])
        bias = step.model.mlm.bias
        with torch.no_grad():
            kept = bias.clone()
            bias[7] = float("nan")
        reports += run(step, call, steps[3:4])
        assert float(reports[-1].skipped) == 1.0
        with torch.no_grad():
            bias.copy_(kept)
        results.append([*reports[:3], *run(step, call, steps[4:])])
    assert_same(graphed, eager, results[1], results[0])
    assert [float(report.skipped) for report in results[1]] == [0.0] * 5


def test_the_loss_scale_of_fp16_is_part_of_the_recording() -> None:
    steps = in_steps(mixes(8), *(2,) * 4)
    eager, graphed = make_step(torch.float16), make_step(torch.float16)
    for step in (eager, graphed):
        assert step.loss_scale is not None
        step.loss_scale.restore((2.0**60, 0))
    ours = run(graphed, GraphedStep(graphed, TapeRecorder, required=True), steps)
    theirs = run(eager, eager, steps)
    assert [float(report.skipped) for report in ours] == [float(report.skipped) for report in theirs] == [1.0] * 4
    assert graphed.loss_scale is not None and graphed.loss_scale.state() == (2.0**56, 0)


@pytest.fixture
def with_tapes(monkeypatch: pytest.MonkeyPatch) -> list[TapeRecorder]:
    """Runs with `train.graph` require record tapes on a CPU; returns their recorders."""
    made: list[TapeRecorder] = []

    def recorder() -> TapeRecorder:
        made.append(TapeRecorder())
        return made[-1]

    monkeypatch.setattr("unmask.train.pretrain.may_use_graphs", lambda *given: True)
    monkeypatch.setattr("unmask.train.trainer.GraphedStep", partial(GraphedStep, recorder=recorder))
    return made


def test_a_run_of_replays_has_the_bits_of_an_eager_one_and_so_has_a_resumed_run(
    tiny: ModuleType, tmp_path: Path, unbroken: Path, with_tapes: list[TapeRecorder]
) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, graph="require"))
    # one for each of its two phases; evaluations and saves lie between the replays
    assert len(with_tapes) == 2
    tiny.assert_same_end(run, unbroken)
    # the checkpoints after steps 10 and 16 are kept by another run
    tiny.pretrain(tiny.config(tmp_path / "cut", graph="require", save_every=10))
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-000016")
    tiny.pretrain(saved_config(tmp_path / "cut"), resume=tmp_path / "cut")
    assert len(with_tapes) == 5
    tiny.assert_same_end(tmp_path / "cut", unbroken)


def _stays(step: TrainingStep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchBuffers, "fill", lambda self, batch: None)


def _replaces_the_rate(step: TrainingStep, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(optimizer: torch.optim.Optimizer, rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(rate)

    monkeypatch.setitem(globals(), "set_learning_rate", replace)


def _bakes_a_number(step: TrainingStep, monkeypatch: pytest.MonkeyPatch) -> None:
    update, updates = TrainingStep.update, iter(range(1, 100))

    def by_number(self: TrainingStep) -> tuple[Tensor, Tensor]:
        torch._foreach_mul_([p.grad for p in self.model.parameters() if p.grad is not None], 1.0 / next(updates))
        return update(self)

    monkeypatch.setattr(TrainingStep, "update", by_number)


@pytest.mark.parametrize("slip", [_stays, _replaces_the_rate, _bakes_a_number])
def test_what_a_graph_would_not_see_changes_a_replay(
    slip: Callable[[TrainingStep, pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = in_steps(mixes(6), *(1,) * 6)
    reports = []
    for graphs in (False, True):
        step = make_step()
        with monkeypatch.context() as patched:
            slip(step, patched)
            reports.append(run(step, GraphedStep(step, TapeRecorder, required=True) if graphs else step, steps))
    assert [float(report.loss) for report in reports[0]] != [float(report.loss) for report in reports[1]]


def _reads(step: TrainingStep, monkeypatch: pytest.MonkeyPatch) -> None:
    update = TrainingStep.update

    def reading(self: TrainingStep) -> tuple[Tensor, Tensor]:
        self.model.mlm.bias.sum().item()
        return update(self)

    monkeypatch.setattr(TrainingStep, "update", reading)


def test_a_step_that_waits_for_the_device_trains_without_graphs_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="unmask")
    steps = in_steps(mixes(5), *(1,) * 5)
    eager, graphed = make_step(), make_step()
    _reads(graphed, monkeypatch)
    ours = run(graphed, GraphedStep(graphed, TapeRecorder), steps)
    assert_same(graphed, eager, ours, run(eager, eager, steps))
    assert caplog.messages == [
        "train.graph: steps run without CUDA graphs, because recording one failed (aten._local_scalar_dense.default "
        "reads a value on the host)"
    ]


def test_a_recording_that_does_not_give_what_the_step_gives_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf(TapeRecorder):
        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            super().record(work)
            return lambda: None

    caplog.set_level(logging.INFO, logger="unmask")
    steps = in_steps(mixes(8), *(2,) * 4)
    eager, graphed = make_step(), make_step()
    ours = run(graphed, GraphedStep(graphed, Deaf), steps)
    assert_same(graphed, eager, ours, run(eager, eager, steps))
    assert "a replay has another loss or gradient than the step itself" in caplog.text


def test_a_required_graph_that_cannot_be_recorded_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = in_steps(mixes(3), 1, 1, 1)
    step = make_step()
    _reads(step, monkeypatch)
    with pytest.raises(RunError, match=r"train\.graph is 'require', but the step cannot .* give --train\.graph auto"):
        run(step, GraphedStep(step, TapeRecorder, required=True), steps)
    # what it advises
    run(step, GraphedStep(step, TapeRecorder), steps)


class HostReads(TorchDispatchMode):
    """Counts the values that are read on the host: item, bool, nonzero, masks as indices.

    On a CPU `tolist` and `numpy` are no operations; `test_step_without_values.py` finds them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += is_read(func, args)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_step_reads_no_value_on_the_host(dtype: torch.dtype) -> None:
    step = make_step(dtype, mlm=1.0, nsp=0.5)
    steps, meter = in_steps(mixes(6), 2, 2, 2), Meter(["mlm", "nsp"])
    run(step, step, steps[:1])
    with HostReads() as reads:
        for report in run(step, step, steps):
            meter.add(report, tokens=1, flops=0.0)
    assert reads.count == 0


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: bool(x[0] > 0),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
        lambda x: int(x[0]),
    ],
)
def test_each_read_of_a_value_is_counted(read: Callable[[Tensor], object]) -> None:
    with HostReads() as reads:
        read(torch.ones(3))
    assert reads.count > 0


def with_graph(graph: str, **settings: Any) -> RunConfig:
    return load_config(None, {"train.graph": graph, **settings})


@pytest.mark.parametrize(
    ("device", "processes", "settings", "reason"),
    [
        ("cpu", 1, {}, "the run trains on cpu, and CUDA graphs need a CUDA device"),
        ("cuda", 2, {}, "the gradients of 2 processes are summed while the backward pass goes on"),
        ("cuda", 1, {"optimizer.name": "muon"}, "optimizer.name is 'muon', which waits for the device"),
        (
            "cuda",
            1,
            {"train.activation_checkpointing": True},
            "train.activation_checkpointing is true, which reads the state of random generators in each layer",
        ),
    ],
)
def test_graphs_are_refused_by_name_where_they_are_required(
    device: str, processes: int, settings: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="unmask")
    with pytest.raises(ConfigError) as refused:
        may_use_graphs(with_graph("require", **settings), torch.device(device), processes)
    told = f"config: train.graph is 'require', but {reason}; give --train.graph auto to train without graphs"
    assert str(refused.value) == told
    # what it advises; a run on a CPU has nothing to explain
    assert not may_use_graphs(with_graph("auto", **settings), torch.device(device), processes)
    said = [f"train.graph: steps run without CUDA graphs, because {reason}"]
    assert caplog.messages == (said if device == "cuda" else [])


def test_graphs_are_used_on_a_gpu_unless_they_are_forbidden() -> None:
    gpu = torch.device("cuda")
    assert may_use_graphs(with_graph("auto"), gpu, 1)
    assert may_use_graphs(with_graph("require"), gpu, 1)
    assert not may_use_graphs(with_graph("never"), gpu, 1)
    assert not may_use_graphs(with_graph("auto"), torch.device("cpu"), 1)
