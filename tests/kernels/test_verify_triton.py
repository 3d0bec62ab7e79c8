"""Verification of the Triton kernels themselves, on tiny cases under the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unmask_kernels import FAMILIES
from unmask_kernels.capability import INTERPRETING
from unmask_kernels.verify import Shapes, verify
from unmask_kernels.verify.plan import plan

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not INTERPRETING, reason="under the interpreter"),
]

SMALL = Shapes(
    dtype=torch.float32,
    num_heads=1,
    head_dim=32,
    intermediate_size=48,
    vocab_size=61,
    attention_dropout=0.0,
    max_lengths=(24,),
    tokens=40,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    yield
    for family in FAMILIES.values():
        family.passed = family.failed = ()


def test_the_kernels_pass_and_are_chosen_for_these_calls_alone() -> None:
    operations = ["attention", "gelu", "masking", "linear_gelu"]
    report = verify(SMALL, device="cpu", own_process=False, seconds=600.0, operations=operations)
    assert [outcome.problem for outcome in report.outcomes] == [""] * len(report.outcomes)
    for check in plan(SMALL, "cpu", "cpu", operations):
        chosen = FAMILIES[check.family].choose(None, check.call)
        # linear_gelu must also be faster
        assert chosen == ("torch" if check.family == "linear_gelu" else "triton")
    for check in plan(replace(SMALL, head_dim=64, intermediate_size=96), "cpu", "cpu", ["attention", "gelu"]):
        assert FAMILIES[check.family].choose(None, check.call) == "torch"


def test_a_kernel_made_wrong_on_purpose_is_reported_and_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FAMILIES["attention"].module("triton")

    def backward(arguments: Any) -> Any:
        results = right.backward(arguments)
        results.dqkv[-1, 2, 0, 5] += 1e-3
        return results

    wrong: Any = SimpleNamespace(forward=right.forward, backward=backward)
    monkeypatch.setitem(FAMILIES["attention"]._modules, "triton", wrong)
    report = verify(SMALL, device="cpu", own_process=False, seconds=600.0, operations=["attention"])
    [failed] = report.failed
    assert failed.problem.startswith("dqkv: max error 0.001 is over its budget")
    assert failed.result == "dqkv"
    assert report.finding is not None
    [check] = plan(SMALL, "cpu", "cpu", ["attention"])
    assert FAMILIES["attention"].choose(None, check.call) == "torch"


def test_the_worker_runs_them_in_a_process_of_its_own() -> None:
    report = verify(SMALL, device="cpu", seconds=600.0, operations=["gelu"])
    assert {(outcome.family, outcome.verdict) for outcome in report.outcomes} == {("gelu", "passed")}
