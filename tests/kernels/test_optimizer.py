"""One update of all parameters: every backend against the definition in fp64, and what every family keeps."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.optimizer import FAMILY, step
from unmask_kernels.optimizer.arguments import Arguments
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.contracts import Target, poisoned_memory
from unmask_kernels.testing.inputs import Case, run
from unmask_kernels.testing.optimizer import CASES, optimizer_case, plain_optimizer, run_updates

TARGETS = [
    pytest.param(Target(name, device), id=f"{name}-{device}", marks=[pytest.mark.gpu] * (device == "cuda"))
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
    for name in FAMILY.backends
    if name != "cuda" or device == "cuda"
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("target", TARGETS)
def test_matches_fp64_truth(case: Case, dtype: torch.dtype, target: Target) -> None:
    inputs = case.make(dtype, target.device)
    with poisoned_memory():
        ours = run(partial(run_updates, backend=target.backend), inputs)
    truth = run(partial(run_updates, backend="reference"), inputs.double())
    compare(ours, run(plain_optimizer, inputs), truth)
    same_bits(ours, run(partial(run_updates, backend=target.backend), inputs), "two runs on the same inputs")


def test_the_definition_is_what_papers_write() -> None:
    for case in CASES:
        inputs = case.make(torch.float64)
        ours, plain = run(partial(run_updates, backend="reference"), inputs), run(plain_optimizer, inputs)
        for name, value in plain.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-12, equal_nan=True, msg=f"{case}: {name}")


@pytest.mark.parametrize("algorithm", ["adamw", "lamb"])
def test_pytorch_compiles_an_update_into_one_graph(algorithm: str) -> None:
    inputs = optimizer_case("compiled", (33, 7), algorithm=algorithm, max_norm=1.0, copies=True).make(torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(partial(run_updates, backend="torch"), fullgraph=True, backend="aot_eager")
    same_bits(run(compiled, inputs), run(partial(run_updates, backend="torch"), inputs), "compiled and eager")


def call(sizes: tuple[int, ...] = (3, 4), **changes: Any) -> Arguments:
    def tensors() -> list[Tensor]:
        return [torch.ones(size) for size in sizes]

    rate, count = torch.tensor(0.1), len(sizes)
    arguments = Arguments(
        params=tensors(),
        grads=tensors(),
        exp_avg=tensors(),
        exp_avg_sq=tensors(),
        steps=[torch.zeros(()) for _ in sizes],
        copies=[],
        norm=None,
        lr=[rate] * count,
        grad_scale=None,
        found_inf=None,
        weight_decay=[0.0] * count,
        trust=[True] * count,
        beta1=0.9,
        beta2=0.999,
        eps=1e-6,
        max_norm=math.inf,
        bias_correction=True,
        clip_update=False,
        algorithm="adamw",
    )
    return arguments._replace(**changes)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("algorithm", ["adamw", "lamb"])
def test_an_update_with_found_inf_changes_nothing(target: Target, algorithm: str) -> None:
    for found, moved in ((0.0, True), (1.0, False), (2.0, False)):
        arguments = call(algorithm=algorithm, found_inf=torch.tensor(found), grad_scale=torch.tensor(2.0))
        step(arguments, backend=target.backend)
        changed = [arguments.params[0], arguments.exp_avg[0], arguments.exp_avg_sq[0]]
        assert [bool((x != 1).any()) for x in changed] == [moved] * 3
        assert [float(count) for count in arguments.steps] == [float(moved)] * 2


def test_no_parameters_are_no_update() -> None:
    step(call(sizes=()))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"algorithm": "adam"}, ValueError, "algorithm must be one of adamw, lamb, got 'adam'"),
        ({"beta1": 1.0}, ValueError, "beta1 must be at least 0 and below 1, got 1.0"),
        ({"eps": -1.0}, ValueError, "eps must be at least 0 and finite, got -1.0"),
        ({"max_norm": 0.0}, ValueError, "max_norm must be above 0, got 0.0; inf never clips"),
        ({"steps": []}, ValueError, "steps must have 2 entries, one for each of params, got 0"),
        ({"copies": [torch.ones(3)]}, ValueError, "copies must have 2 entries, one for each of params, got 1"),
        ({"grads": [torch.ones(3), torch.ones(5)]}, ValueError, r"grads\[1\] must have shape \(4,\), that of params"),
        ({"exp_avg": [torch.ones(3).double()] * 2}, TypeError, r"exp_avg\[0\] must be float32, got float64"),
        ({"grads": [torch.ones(3).double()] * 2}, TypeError, r"grads\[0\] must be float32, bfloat16 or float16, got"),
        ({"lr": [torch.ones(1)] * 2}, ValueError, r"lr\[0\] must have shape \(\), a scalar that stays on the device"),
        ({"steps": [torch.ones((), dtype=torch.int64)] * 2}, TypeError, r"steps\[0\] must be float32, got int64"),
        (
            {"steps": [torch.ones((), device="meta")] * 2},
            ValueError,
            r"steps\[0\] must be on cpu, the device of params\[0\], got meta; move it with steps\[0\].to\('cpu'\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^optimizer: {message}"):
        step(call(**changes))


def test_a_norm_to_clip_at_needs_a_tensor_for_the_norm_or_is_inf() -> None:
    message = (
        "optimizer: max_norm is 1.0 but norm is None, so no norm is computed; give a () fp32 tensor as norm, or inf as "
        "max_norm"
    )
    with pytest.raises(ValueError) as raised:
        step(call(max_norm=1.0))
    assert str(raised.value) == message
    norm = torch.zeros(())
    step(call(max_norm=1.0, norm=norm))
    assert float(norm) == pytest.approx(math.sqrt(7))
    step(call(max_norm=math.inf))


def test_a_backend_that_is_asked_for_runs_or_says_why_not() -> None:
    with pytest.raises(
        BackendUnavailable, match=r"backend 'cuda' cannot run this call: .*needs a CUDA tensor, got cpu"
    ):
        step(call(), backend="cuda")
    with pytest.raises(ValueError, match="backend must be one of 'cuda', 'torch', 'reference', got 'apex'"):
        step(call(), backend="apex")
    assert FAMILY.choose(None, FAMILY.example("cpu", "cpu", torch.float32)) == "torch"
