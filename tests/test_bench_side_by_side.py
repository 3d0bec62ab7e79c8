"""Variants are timed side by side, and peers compute what ours computes."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench import conftest, mlm_loss_peers, variants
from bench.clock import PLAYBACK, DeviceClock, Playback, interleave
from bench.side_by_side import SideBySide
from bench.variants import checked, compiled

from unmask_kernels.testing.mlm_loss import mlm_loss_case


def test_rounds_are_interleaved_and_warm_up_is_not_counted() -> None:
    order: list[tuple[str, int]] = []
    variants = {name: lambda at, name=name: order.append((name, at)) for name in "ab"}
    times = interleave(variants, DeviceClock("cpu"), rounds=3, warmup=1)
    assert {name: len(taken) for name, taken in times.items()} == {"a": 3, "b": 3}
    # each round runs both variants; they take turns in running first
    assert [at for _, at in order] == [-1, -1, 0, 0, 1, 1, 2, 2]
    assert [name for name, _ in order[2:]] == ["a", "b", "b", "a", "a", "b"]


def test_a_slow_variant_sits_out_once_it_has_run_five_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def takes(seconds: float) -> Callable[[int], object]:
        return lambda at: now.append(now[-1] + seconds)

    monkeypatch.setattr(time, "perf_counter", lambda: now[-1])
    times = interleave({"fast": takes(1e-3), "slow": takes(1e-2)}, DeviceClock("cpu"), rounds=9, warmup=0, enough=0.04)
    assert {name: len(taken) for name, taken in times.items()} == {"fast": 9, "slow": 5}


def test_no_rounds_is_an_error() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        interleave({"a": lambda at: None}, DeviceClock("cpu"), rounds=0)


def test_playback_hands_out_the_recorded_durations() -> None:
    timer = Playback()
    timer.load([0.5, 2.0])
    taken = []
    for _ in range(2):
        start = timer()
        taken.append(timer() - start)
    assert taken == [0.5, 2.0]


class _Benchmark:
    """Replaces the fixture of pytest-benchmark: times rounds with the same timer."""

    def __init__(self) -> None:
        self.group = ""
        self.extra_info: dict[str, Any] = {}
        self.taken: list[float] = []

    def pedantic(self, call: Callable[[], object], rounds: int) -> None:
        for _ in range(rounds):
            start = PLAYBACK()
            call()
            self.taken.append(PLAYBACK() - start)


def _run(side_by_side: SideBySide, variant: str, enter: Callable[[], dict[str, Callable[[int], object]]]) -> _Benchmark:
    benchmark = _Benchmark()
    side_by_side.run(benchmark, group="g", case="c", variant=variant, enter=enter, rounds=3, extra={"baseline": "a"})
    return benchmark


def test_a_case_is_timed_once_and_each_variant_gets_its_own_times() -> None:
    entered = []

    def enter() -> dict[str, Callable[[int], object]]:
        entered.append(True)
        return {"a": lambda at: None, "b": lambda at: time.sleep(0.01)}

    side_by_side = SideBySide(DeviceClock("cpu"), None)
    fast, slow = (_run(side_by_side, variant, enter) for variant in "ab")
    assert len(entered) == 1
    assert len(fast.taken) == len(slow.taken) == 3
    assert min(slow.taken) >= 0.01 > min(fast.taken)
    assert slow.extra_info == {"case": "c", "variant": "b", "peak_bytes": 0, "baseline": "a"}


def test_a_preparation_that_fails_fails_every_bench_of_the_case() -> None:
    def enter() -> dict[str, Callable[[int], object]]:
        raise ValueError("no such documents")

    side_by_side = SideBySide(DeviceClock("cpu"), None)
    with pytest.raises(ValueError, match="no such documents"):
        _run(side_by_side, "a", enter)
    with pytest.raises(pytest.fail.Exception, match="nothing was timed because the preparation failed"):
        _run(side_by_side, "b", enter)


def test_a_variant_that_is_wrong_or_does_not_run_fails_alone() -> None:
    def check(name: str, function: Callable[[int], object]) -> None:
        assert name != "wrong", "y: over its budget"

    def too_large(at: int) -> object:
        raise MemoryError("65,536 rows")

    functions = {"wrong": lambda at: None, "large": too_large, "right": lambda at: None}
    side_by_side = SideBySide(DeviceClock("cpu"), None)
    enter = partial(checked, functions, check)
    with pytest.raises(pytest.fail.Exception, match=r"g, c, wrong: AssertionError: .*y: over its budget"):
        _run(side_by_side, "wrong", enter)
    with pytest.raises(pytest.fail.Exception, match="g, c, large: MemoryError: 65,536 rows"):
        _run(side_by_side, "large", enter)
    assert len(_run(side_by_side, "right", enter).taken) == 3


@pytest.fixture
def every_variant_again() -> Iterator[None]:
    yield
    variants.select(None)


def test_a_variant_without_a_selected_test_is_neither_built_nor_timed(every_variant_again: None) -> None:
    built: list[str] = []

    def check(name: str, function: Callable[[int], object]) -> None:
        built.append(name)
        function(0)

    variants.select({"ours"})
    side_by_side = SideBySide(DeviceClock("cpu"), None)
    enter = partial(checked, {"ours": lambda at: None, "slow to compile": lambda at: time.sleep(9)}, check)
    assert len(_run(side_by_side, "ours", enter).taken) == 3
    assert built == ["ours"]
    with pytest.raises(pytest.fail.Exception, match="nothing was timed"):
        _run(side_by_side, "slow to compile", enter)


@pytest.mark.parametrize(("asked", "kept"), [("", ["a", "b, c", None]), ("b, c;d", ["b, c"])])
def test_variants_of_the_environment_select_benches(
    asked: str, kept: list[str | None], monkeypatch: pytest.MonkeyPatch, every_variant_again: None
) -> None:
    monkeypatch.setenv("VARIANTS", asked)
    left_out: list[Any] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    items: list[Any] = [
        SimpleNamespace(callspec=SimpleNamespace(params={"variant": name})) if name else SimpleNamespace()
        for name in ("a", "b, c", None)
    ]
    config: Any = SimpleNamespace(hook=hook)
    conftest.pytest_collection_modifyitems(config, items)
    assert [item.callspec.params["variant"] if hasattr(item, "callspec") else None for item in items] == kept
    assert len(items) + len(left_out) == 3
    assert variants.wanted("b, c") and variants.wanted("a") == (not asked)
    assert not variants.wanted("of no bench")


def test_a_case_is_kept_as_soon_as_it_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESULT_LINES", str(tmp_path / "lines"))
    side_by_side = SideBySide(DeviceClock("cpu"), None)
    _run(side_by_side, "a", lambda: {"a": lambda at: None, "b": lambda at: None})
    # the test of b has not run yet
    rows = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [row["extra_info"]["variant"] for row in rows] == ["a", "b"]
    assert {(row["group"], row["extra_info"]["case"], row["stats"]["rounds"]) for row in rows} == {("g", "c", 3)}


def test_a_compiled_peer_is_compiled_for_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count))
    double = compiled(lambda x: 2 * x)
    for length in range(2, 14):
        double(torch.ones(length))
    assert len(graphs) == 12


@pytest.mark.parametrize(
    ("package", "head", "peer"),
    [
        ("liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy", "liger"),
        ("cut_cross_entropy", "linear_cross_entropy", "cce"),
    ],
)
def test_a_head_of_others_is_called_as_the_installed_package_has_it(
    package: str, head: str, peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip(package)
    signature, calls = inspect.signature(getattr(library, head)), []

    def called(*arguments: Any, **named: Any) -> torch.Tensor:
        calls.append(signature.bind(*arguments, **named).arguments)
        return arguments[0].sum()

    monkeypatch.setattr(library, head, called)
    made = mlm_loss_case("small", tokens=9, width=8, vocabulary=11, masked=4).make(torch.float32).arguments
    mlm_loss_peers.HEADS[peer](**made)
    ((rows, weight, labels, *_), reduction) = calls[0].values(), calls[0]["reduction"]
    assert (rows.shape, weight.shape, labels.shape, reduction) == ((4, 8), (11, 8), (4,), "sum")
