"""The CUDA backend of the optimizer as a whole on a CPU: its tables, its launches and its kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from offline.host import build
from offline.host import optimizer as on_host
from offline.host.device import Machine
from offline.host.optimizer_backend import backend_on
from unmask_kernels.dispatch import Backend
from unmask_kernels.optimizer import FAMILY
from unmask_kernels.optimizer.arguments import Arguments
from unmask_kernels.testing import optimizer as cases
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.inputs import Case, Inputs, run
from unmask_kernels.tune.choices import CHOICES, contests
from unmask_kernels.verify.shapes import Shapes

pytestmark = pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))

# 300 parameters take half a minute, and show nothing that 7 do not
CASES = {str(case): case for case in cases.CASES if str(case) != "many"}


@pytest.fixture(scope="module")
def machine() -> Machine:
    return on_host.build()


def run_on(machine: Machine, inputs: Inputs) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Run the updates of a case; return the results and the names of the launches."""
    with machine.device(schedule=3) as device, backend_on(device) as (step, kernels):
        with mock.patch.object(cases, "step", step):
            first = run(cases.run_updates, inputs)
        launches = [*kernels.launches]
    device.report.check()
    return first, launches


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, torch.float32) for case in CASES.values()]
    + [(CASES["lamb-clipped"], dtype) for dtype in (torch.bfloat16, torch.float16)],
    ids=str,
)
def test_the_backend_matches_fp64_truth(machine: Machine, case: Case, dtype: torch.dtype) -> None:
    inputs = case.make(dtype)
    ours, launches = run_on(machine, inputs)
    truth = run(partial(cases.run_updates, backend="reference"), inputs.double())
    compare(ours, run(cases.plain_optimizer, inputs), truth)
    updates = len(inputs.arguments["gradients"])
    norms = 0 if inputs.arguments["max_norm"] is None else updates
    # gradients of each update lie elsewhere, so each has rows of its own
    assert [launches.count(name) for name in ("write_rows", "norm", "update")] == [updates, norms, updates]


@pytest.mark.parametrize("name", ["adamw-clipped", "stable-clipped", "lamb-clipped"])
def test_steps_on_the_tables_of_the_first_one_are_right(machine: Machine, name: str) -> None:
    """Counters and sums have to be after a step what they were before it."""
    inputs = CASES[name].make(torch.float32)

    def steps(step: Callable[[Arguments], None]) -> list[torch.Tensor]:
        arguments = record(inputs)
        for value in (0.125, 0.5, 0.25):
            arguments.lr[0].fill_(value)
            for grad in arguments.grads:
                grad.fill_(value)
            step(arguments)
        return [*arguments.params, *arguments.exp_avg, *arguments.exp_avg_sq, *arguments.steps]

    with machine.device(schedule=2) as device, backend_on(device) as (step, kernels):
        ours = steps(step)
        launches = [*kernels.launches]
    device.report.check()
    assert launches == ["write_rows", *["norm", "update"] * 3]
    for mine, other in zip(ours, steps(partial(cases.step, backend="reference")), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_tune_compares_its_kernels_with_the_definition_and_times_them(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"num_layers": 1, "num_heads": 1, "head_dim": 8, "intermediate_size": 16, "vocab_size": 30}
    shapes = Shapes(**sizes, max_lengths=(4,), dtype=torch.bfloat16)
    choices = [each._replace(devices=("cpu",)) for each in CHOICES if each.tunable is FAMILY.fastest]
    monkeypatch.setitem(FAMILY.backends, "cuda", Backend(verified=("cpu",)))
    checked = {}
    with machine.device(schedule=4) as device, backend_on(device) as (step, kernels):
        monkeypatch.setitem(FAMILY._modules, "cuda", SimpleNamespace(step=step))
        for contest in contests(shapes, torch.device("cpu"), tuple(choices)):
            prepared = contest.prepare()
            contestants = (prepared.default, *prepared.others)
            checked[contest.key.shape] = {each.value: each.check() for each in contestants}
            kernels.launches.clear()
            prepared.default.run()
            first = [*kernels.launches]
            prepared.default.run()
            assert (first, kernels.launches) == (["write_rows", "update"], ["write_rows", "update", "update"])
    device.report.check()
    both = {"first": "", "torch": ""}
    assert checked == {
        f"{name}, float32 gradients, bfloat16 copies": both for name in ("adamw", "lamb", "stable_adamw")
    }


def record(inputs: Inputs) -> Arguments:
    """Return the record of an update of a case's parameters, with moments and gradients of zeros."""
    weights, sizes = inputs.arguments["weights"], [*inputs.arguments["sizes"]]
    count = len(sizes)
    params, grads, exp_avg, exp_avg_sq = (
        [*x.split(sizes)] for x in (weights.clone(), *(torch.zeros_like(weights) for _ in range(3)))
    )
    return Arguments(
        params=params,
        grads=grads,
        exp_avg=exp_avg,
        exp_avg_sq=exp_avg_sq,
        steps=[*torch.zeros(count).unbind()],
        copies=[],
        norm=torch.zeros(()),
        lr=[torch.zeros(())] * count,
        grad_scale=None,
        found_inf=None,
        weight_decay=[0.1] * count,
        trust=[True] * count,
        beta1=0.9,
        beta2=0.99,
        eps=1e-6,
        max_norm=1.0,
        bias_correction=True,
        clip_update=inputs.arguments["clip_update"],
        algorithm=inputs.arguments["algorithm"],
    )
