"""The backend of the optimizer as a choice of `unmask tune`: on a CPU, with a stand-in for the backend `cuda`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unmask_kernels import AdamW
from unmask_kernels.capability import processor_name
from unmask_kernels.dispatch import Backend, Pass
from unmask_kernels.optimizer import FAMILY, LAMB, OptimizerCall, _torch
from unmask_kernels.optimizer.arguments import Arguments
from unmask_kernels.testing.inputs import run
from unmask_kernels.tune.calls import optimizer_calls
from unmask_kernels.tune.choices import CHOICES, contests
from unmask_kernels.tune.contest import Contest
from unmask_kernels.tune.finding import Finding
from unmask_kernels.tune.record import read_tuning
from unmask_kernels.tune.session import Session
from unmask_kernels.tuned import Key, using_values
from unmask_kernels.verify.shapes import Shapes

CPU = torch.device("cpu")
SHAPES = Shapes(
    num_layers=2, num_heads=2, head_dim=4, intermediate_size=16, vocab_size=70, max_lengths=(16,), dtype=torch.float32
)
ADAMW, LAMB_SHAPE, STABLE = (f"{name}, float32 gradients" for name in ("adamw", "lamb", "stable_adamw"))


class StandIn:
    """The backend `cuda`, in which PyTorch's operations run.

    Attributes:
        ran: the backends of the updates so far.
        wrong: what is added to the parameters; `restless`: how it grows with each update.
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.wrong = self.restless = 0.0

    def step(self, arguments: Arguments) -> None:
        self.ran.append("cuda")
        _torch.step(arguments)
        self.wrong += self.restless
        for param in arguments.params:
            param.add_(self.wrong)

    def torch_step(self, arguments: Arguments) -> None:
        self.ran.append("torch")
        _torch.step(arguments)

    def passes(self, *, algorithm: str, clip_update: bool = False, copies: str = "bfloat16") -> Pass:
        """What `unmask verify` keeps of a call."""
        call = OptimizerCall("cpu", "cpu", torch.float32, "float32", copies, algorithm, clip_update, True, True)
        return Pass("cuda", processor_name(), call)


@pytest.fixture
def cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A `cuda` backend that runs here, and has passed for the three algorithms."""
    one = StandIn()
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(FAMILY.backends, "cuda", Backend(verified=()))
    monkeypatch.setitem(FAMILY._modules, "cuda", one)
    monkeypatch.setitem(FAMILY._modules, "torch", SimpleNamespace(step=one.torch_step))
    algorithms = (("adamw", False), ("lamb", False), ("adamw", True))
    passes = tuple(one.passes(algorithm=name, clip_update=clips) for name, clips in algorithms)
    monkeypatch.setattr(FAMILY, "passed", passes)
    monkeypatch.setattr("unmask_kernels.tune.race.MOST_ROUNDS", 5)
    return one


def held(shapes: Shapes = SHAPES) -> list[Contest]:
    """The contests of a GPU, on a CPU."""
    choices = [choice for choice in CHOICES if choice.tunable is FAMILY.fastest]
    assert [choice.devices for choice in choices] == [("cuda",)]
    return list(contests(shapes, CPU, tuple(choice._replace(devices=("cpu",)) for choice in choices)))


def tuned(one: StandIn, fast: str, shapes: Shapes = SHAPES) -> list[Finding]:
    """Tune the backend; `fast` takes half the time."""

    def clock(call: Callable[[], object]) -> float:
        call()
        return 0.5 if one.ran[-1] == fast else 1.0

    session = Session(device=CPU, minutes=5.0, clock=clock)
    session.hold(held(shapes))
    return session.findings


def updated(optimizer: type[torch.optim.Optimizer], one: StandIn, **settings: object) -> str:
    """Return the backend of an update by an optimizer."""
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer([param], **settings).step()  # type: ignore[arg-type]
    return one.ran[-1]


def test_the_faster_backend_is_taken_for_each_algorithm_and_optimizers_use_it(cuda: StandIn) -> None:
    findings = tuned(cuda, "torch")
    assert {(one.key, one.default, one.best, one.taken, one.bits, one.wrong) for one in findings} == {
        (Key("optimizer.backend", shape), "first", "torch", True, "same bits", ())
        for shape in (ADAMW, LAMB_SHAPE, STABLE)
    }
    values = read_tuning(CPU).values()
    optimizers = (AdamW, LAMB)
    assert [updated(each, cuda) for each in optimizers] == ["cuda", "cuda"]
    with using_values(values):
        assert [updated(each, cuda) for each in optimizers] == ["torch", "torch"]
        assert updated(AdamW, cuda, clip_update=True) == "torch"
        # PyTorch's fused kernel does not compute this one, so nothing is known of it
        assert updated(AdamW, cuda, bias_correction=False) == "cuda"
        # a backend that is named runs
        assert updated(AdamW, cuda, backend="cuda") == "cuda"


def test_a_backend_that_is_first_and_the_fastest_stays(cuda: StandIn) -> None:
    assert [(one.best, one.taken, one.wrong) for one in tuned(cuda, "cuda")] == [("first", False, ())] * 3


def test_a_backend_that_is_not_verified_here_is_no_candidate(cuda: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FAMILY, "passed", (cuda.passes(algorithm="lamb"),))
    assert [contest.key.shape for contest in held()] == [LAMB_SHAPE]
    monkeypatch.setattr(FAMILY, "passed", ())
    assert held() == []
    # nor does a record choose it
    with using_values({Key("optimizer.backend", ADAMW): "cuda"}):
        assert updated(AdamW, cuda) == "torch"
    assert cuda.ran == ["torch"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"wrong": 1e-3}, "first: y0: max error "),
        ({"restless": 1e-9}, "first: two runs on the same inputs: y0 differs in "),
    ],
)
def test_a_backend_that_is_wrong_or_restless_is_named_and_not_timed(
    cuda: StandIn, fault: dict[str, float], told: str
) -> None:
    vars(cuda).update(fault)
    for finding in tuned(cuda, "cuda"):
        assert (finding.rounds, finding.taken) == (0, False)
        assert finding.wrong[0].startswith(told)


def test_a_candidate_that_is_wrong_is_never_taken(cuda: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    step = cuda.torch_step

    def wrong(arguments: Arguments) -> None:
        step(arguments)
        arguments.exp_avg_sq[0].mul_(1.001)

    monkeypatch.setitem(FAMILY._modules, "torch", SimpleNamespace(step=wrong))
    for finding in tuned(cuda, "torch"):
        assert not finding.taken
        assert finding.wrong[0].startswith("torch: y0: max error ")


def test_what_is_timed_is_one_update_of_all_parameters_of_the_encoder(
    cuda: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Arguments] = []
    monkeypatch.setitem(FAMILY._modules, "cuda", SimpleNamespace(step=seen.append))
    layer = [(24, 8), (24,), (8, 8), (8,), (8,), (8,), (16, 8), (16,), (8, 16), (8,), (8,), (8,)]
    params = [(70, 8), (16, 8), (2, 8), (8,), (8,), *layer * 2, (8, 8), (8,), (8,), (8,), (70,)]
    sizes = [math.prod(shape) for shape in params]
    for shapes, copies in ((SHAPES, set()), (replace(SHAPES, dtype=torch.float16), {torch.float16})):
        passes = [cuda.passes(algorithm=name, copies="float16") for name in ("adamw", "lamb")]
        monkeypatch.setattr(FAMILY, "passed", (*passes, cuda.passes(algorithm="adamw", clip_update=True)))
        call = next(optimizer_calls(shapes))
        assert call.measured == f"{sum(sizes):,} parameters in {len(sizes)} tensors"
        timed = call.timed(call.case.make(shapes.dtype, CPU))
        seen.clear()
        timed()
        timed()
        [one, again] = seen
        # it goes on with the same tensors
        assert all(a is b for a, b in zip(one.params, again.params, strict=True))
        assert [param.numel() for param in one.params] == sizes
        assert {grad.dtype for grad in one.grads} == {torch.float32}
        assert {copy.dtype for copy in one.copies} == copies
        # matrices have decay, and all of one kind have one learning rate, so that a call takes them together
        assert [decay > 0 for decay in one.weight_decay] == [len(shape) > 1 for shape in params]
        assert len(set(map(id, one.lr))) == 2
        assert one.norm is None
        assert one.grad_scale is not None
        assert one.found_inf is not None


def test_the_call_that_is_compared_is_the_same_with_fewer_rows() -> None:
    for call in optimizer_calls(replace(SHAPES, vocab_size=1000)):
        inputs = call.compared.make(torch.float32)
        assert max(inputs.arguments["sizes"]) == 64 * 8
        assert len(inputs.arguments["gradients"]) == 3
        truth = run(call.reference, inputs.double())
        # the last update is not the first one again
        assert truth["y3"].unique().tolist() == [3.0]


def test_a_memory_that_does_not_hold_the_parameters_is_told_once(
    cuda: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def full(arguments: Arguments) -> None:
        tries.append(1)
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setitem(FAMILY._modules, "cuda", SimpleNamespace(step=full))
    finding = tuned(cuda, "cuda", replace(SHAPES, tokens=4096))[0]
    assert len(tries) == 3
    assert finding.wrong == (f"the memory of the device is too small for {finding.measured}",)


def test_a_pass_covers_an_update_without_bias_correction() -> None:
    call = OptimizerCall("cuda", "sm_90", torch.float32, "float32", "none", "adamw", False, False, True)
    passed = call._replace(clip_norm=True, copy_dtype="bfloat16")
    assert FAMILY.covers(passed, call._replace(bias_correction=False))
    assert not FAMILY.covers(passed, call._replace(algorithm="lamb"))
