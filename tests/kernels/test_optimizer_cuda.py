"""What the CUDA backend of the optimizer launches, and with which tables: on a CPU, with kernels that only listen.

`tests/offline/host` executes the kernels themselves, and on a GPU `test_optimizer.py` runs all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.optimizer import _cuda
from unmask_kernels.optimizer.arguments import Arguments
from unmask_kernels.optimizer.op import step


class Listening:
    """The functions of `unmask_kernels._C.optimizer`; launches are noted and do nothing."""

    CHUNK, MAX_GROUPS, ROW_BYTES, ITEM_BYTES, FIRST_ROW_COUNTER = 8192, 64, 64, 16, 2

    def __init__(self) -> None:
        self.launches: list[tuple[str, dict[str, Any]]] = []
        self.planned = 0

    def Group(self, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(**settings)

    def count_items(self, sizes: tuple[int, ...], *, two_passes: bool) -> int:
        return (1 + two_passes) * sum(-(-size // self.CHUNK) for size in sizes)

    def write_items(self, address: int, sizes: tuple[int, ...], *, two_passes: bool) -> None:
        self.planned += 1

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in ("write_rows", "norm", "update"):
            raise AttributeError(name)
        return lambda **arguments: self.launches.append((name, arguments))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what was launched since the last call."""
        taken, self.launches = self.launches, []
        return taken


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Listening:
    listening = Listening()
    monkeypatch.setattr(_cuda, "_kernels", lambda device: listening)
    monkeypatch.setattr(_cuda, "_stream", lambda device: 7)
    monkeypatch.setattr(_cuda, "_is_capturing", lambda: False)
    for name in ("_items", "_rows"):
        monkeypatch.setattr(_cuda, name, {})
    monkeypatch.setattr(_cuda, "_captured", [])
    return listening


def call(sizes: tuple[int, ...] = (3, 9000), **changes: Any) -> Arguments:
    def tensors() -> list[Tensor]:
        return [torch.ones(size) for size in sizes]

    rate = torch.tensor(0.1)
    arguments = Arguments(
        params=tensors(),
        grads=tensors(),
        exp_avg=tensors(),
        exp_avg_sq=tensors(),
        steps=[torch.zeros(()) for _ in sizes],
        copies=[],
        norm=None,
        lr=[rate] * len(sizes),
        grad_scale=None,
        found_inf=None,
        weight_decay=[0.0] * len(sizes),
        trust=[True] * len(sizes),
        beta1=0.9,
        beta2=0.999,
        eps=1e-6,
        max_norm=math.inf,
        bias_correction=True,
        clip_update=False,
        algorithm="adamw",
    )
    return arguments._replace(**changes)


@pytest.mark.parametrize(
    ("algorithm", "clip_update", "rule"), [("adamw", False, 0), ("adamw", True, 1), ("lamb", False, 2)]
)
def test_an_update_of_all_parameters_is_two_launches(
    algorithm: str, clip_update: bool, rule: int, kernels: Listening
) -> None:
    arguments = call((5,) * 1000, algorithm=algorithm, clip_update=clip_update, norm=torch.zeros(()), max_norm=1.0)
    _cuda.step(arguments)
    assert [name for name, _ in kernels.take()] == ["write_rows", "norm", "update"]
    # the tables are there
    _cuda.step(arguments)
    (first, norm), (second, update) = kernels.take()
    assert (first, second) == ("norm", "update")
    assert update["rule"] == rule and update["row_count"] == 1000 and update["stream"] == 7
    assert (norm["item_count"], update["item_count"]) == (1000, 1000 if rule == 0 else 2000)
    assert norm["rows"] == update["rows"] and norm["norm"] == update["norm"]
    assert len(update["groups"]) == 1
    _cuda.step(arguments._replace(norm=None, max_norm=math.inf))
    assert [name for name, _ in kernels.take()] == ["update"]


def test_rows_are_written_again_only_for_other_addresses(kernels: Listening) -> None:
    arguments = call()
    others = arguments._replace(grads=[torch.ones_like(grad) for grad in arguments.grads])
    written = []
    for each in (arguments, others, arguments, others):
        _cuda.step(each)
        launches = kernels.take()
        written.append([name for name, _ in launches] == ["write_rows", "update"])
        if written[-1]:
            assert list(launches[0][1]["gradients"]) == [grad.data_ptr() for grad in each.grads]
    assert written == [True, True, False, False]
    # storage that is exchanged in place is other memory
    arguments.params[1].data = torch.ones(9000)
    _cuda.step(arguments)
    assert kernels.take()[0][0] == "write_rows"
    assert kernels.planned == 1


def test_the_oldest_table_goes_first(kernels: Listening) -> None:
    several = [call() for _ in range(_cuda._MOST_TABLES + 1)]
    for arguments in several:
        _cuda.step(arguments)
    kernels.take()
    _cuda.step(several[1])
    assert [name for name, _ in kernels.take()] == ["update"]
    _cuda.step(several[0])
    assert [name for name, _ in kernels.take()] == ["write_rows", "update"]
    assert len(_cuda._rows) == _cuda._MOST_TABLES


def test_more_rates_and_decays_than_a_launch_has_room_for_are_more_launches(kernels: Listening) -> None:
    sizes = (4,) * 130
    arguments = call(
        sizes, weight_decay=[index % 65 / 100 for index in range(130)], norm=torch.zeros(()), algorithm="lamb"
    )
    _cuda.step(arguments)
    launches = kernels.take()
    assert [name for name, _ in launches] == ["write_rows"] * 3 + ["norm", "update", "update"]
    (_, norm), (_, first), (_, second) = launches[3:]
    assert norm["item_count"] == 130
    assert [len(update["groups"]) for update in (first, second)] == [64, 1]
    assert [update["row_count"] for update in (first, second)] == [128, 2]
    assert [group.weight_decay for group in second["groups"]] == [0.64]
    written = launches[1][1]
    assert list(written["weights"]) == [arguments.params[index].data_ptr() for index in (64, 129)]
    assert list(written["groups"]) == [0, 0]


def test_each_group_has_its_rate_its_decay_and_its_trust(kernels: Listening) -> None:
    rates = [torch.tensor(0.5), torch.tensor(0.25, dtype=torch.float64)]
    arguments = call(
        (4, 4, 4), lr=[rates[0], rates[1], rates[0]], weight_decay=[0.0, 0.1, 0.0], trust=[False, True, False]
    )
    _cuda.step(arguments._replace(algorithm="lamb"))
    (_, written), (_, update) = kernels.take()
    assert list(written["groups"]) == [0, 1, 0]
    first, second = update["groups"]
    assert first.learning_rate_at == rates[0].data_ptr() and second.learning_rate_at not in (0, rates[1].data_ptr())
    assert (first.weight_decay, second.weight_decay) == (0.0, 0.1)
    assert (first.adapts, second.adapts) == (False, True)
    # StableAdamW clips the update of every parameter
    _cuda.step(arguments._replace(clip_update=True))
    assert [group.adapts for group in kernels.take()[-1][1]["groups"]] == [True, True]


def test_views_of_one_rate_are_one_group(kernels: Listening) -> None:
    rates = torch.tensor([0.1, 0.2])
    _cuda.step(call((4,) * 100, lr=[rates[index % 2] for index in range(100)]))
    (_, written), (_, update) = kernels.take()
    assert [*written["groups"]] == [0, 1] * 50
    assert [group.learning_rate_at for group in update["groups"]] == [rate.data_ptr() for rate in rates]


def test_copies_and_scalars_are_passed_by_address(kernels: Listening) -> None:
    scalars = {name: torch.ones(()) for name in ("grad_scale", "found_inf", "norm")}
    copies = [torch.zeros(3, dtype=torch.float16), torch.zeros(9000, dtype=torch.float16)]
    grads = [torch.ones(3, dtype=torch.bfloat16), torch.ones(9000, dtype=torch.bfloat16)]
    _cuda.step(call(copies=copies, grads=grads, **scalars))
    (_, written), (_, norm), (_, update) = kernels.take()
    assert (written["gradient_dtype"], written["copy_dtype"]) == (2, 3)
    assert list(written["copies"]) == [copy.data_ptr() for copy in copies]
    for launch in (norm, update):
        assert {name: launch[name] for name in scalars} == {name: x.data_ptr() for name, x in scalars.items()}
    _cuda.step(call())
    (_, written), (_, update) = kernels.take()
    assert (written["gradient_dtype"], written["copy_dtype"], [*written["copies"]]) == (1, 0, [0, 0])
    assert (update["grad_scale"], update["found_inf"], update["norm"]) == (0, 0, 0)


def test_parameters_without_elements_are_counted_and_launch_nothing(kernels: Listening) -> None:
    arguments = call((0, 0), norm=torch.tensor(math.nan))
    _cuda.step(arguments)
    assert float(arguments.norm) == 0.0 and [float(step) for step in arguments.steps] == [1.0, 1.0]  # type: ignore[arg-type]
    _cuda.step(arguments._replace(found_inf=torch.tensor(1.0)))
    assert [float(step) for step in arguments.steps] == [1.0, 1.0]
    assert kernels.take() == []


def test_a_launch_that_would_have_no_work_is_left_out(kernels: Listening) -> None:
    arguments = call((4,) * 64 + (0,), weight_decay=[index / 100 for index in range(65)])
    _cuda.step(arguments)
    assert [name for name, _ in kernels.take()] == ["write_rows"] * 2 + ["update"]
    assert [float(step) for step in arguments.steps] == [0.0] * 64 + [1.0]


def test_a_captured_graph_needs_a_step_before_it_and_keeps_its_tables(
    kernels: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = call()
    capturing = pytest.MonkeyPatch()
    capturing.setattr(_cuda, "_is_capturing", lambda: True)
    with pytest.raises(
        BackendUnavailable, match=r"must have run before a CUDA graph is captured.*; call step\(\) once"
    ):
        _cuda.step(arguments)
    capturing.undo()
    # what the message advises
    _cuda.step(arguments)
    kernels.take()
    capturing.setattr(_cuda, "_is_capturing", lambda: True)
    _cuda.step(arguments)
    assert [name for name, _ in kernels.take()] == ["update"]
    # gradients that the graph allocates: the launch that writes their rows is part of the graph
    inside = arguments._replace(grads=[torch.ones_like(grad) for grad in arguments.grads])
    _cuda.step(inside)
    assert [name for name, _ in kernels.take()] == ["write_rows", "update"]
    capturing.undo()
    # a table that is written when the graph runs is not taken outside of it
    _cuda.step(inside)
    assert [name for name, _ in kernels.take()] == ["write_rows", "update"]
    for _ in range(_cuda._MOST_TABLES):
        _cuda.step(call())
    assert len(_cuda._captured) == 2


def test_the_kernels_are_loaded_once_for_a_device_and_never_in_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[int] = []
    extension = SimpleNamespace(optimizer=SimpleNamespace(load=loaded.append))
    monkeypatch.setattr(_cuda, "load_extension", lambda: extension)
    monkeypatch.setattr(_cuda, "_is_capturing", lambda: True)
    _cuda._kernels.cache_clear()
    with pytest.raises(BackendUnavailable, match="call step"):
        _cuda._kernels(3)
    monkeypatch.setattr(_cuda, "_is_capturing", lambda: False)
    try:
        assert _cuda._kernels(3) is _cuda._kernels(3)
        assert loaded == [3]
    finally:
        _cuda._kernels.cache_clear()


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Tensor)


def _compare(arguments: Arguments, other: Arguments) -> None:
    for mine, theirs in zip(arguments, other, strict=True):
        if _is_list(mine):
            for x, y in zip(mine, theirs, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("algorithm", ["adamw", "lamb"])
def test_a_captured_update_reads_rates_gradients_and_counts_at_each_replay(algorithm: str) -> None:
    def moved() -> Arguments:
        arguments = call((3, 9000, 0, 70_001), algorithm=algorithm, max_norm=1.0, norm=torch.zeros(()))
        return Arguments(*([x.cuda() for x in value] if _is_list(value) else value for value in arguments))._replace(
            norm=torch.zeros((), device="cuda"), lr=[torch.full((), 0.1, device="cuda")] * 4
        )

    replayed, direct = moved(), moved()
    step(replayed, backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(replayed, backend="cuda")
    step(direct, backend="torch")
    for rate in (0.1, 0.2, 0.05):
        for arguments in (replayed, direct):
            arguments.lr[0].fill_(rate)
            for grad in arguments.grads:
                grad.fill_(rate)
        graph.replay()
        step(direct, backend="torch")
    _compare(replayed, direct)
    assert [float(count) for count in replayed.steps] == [4.0] * 4
