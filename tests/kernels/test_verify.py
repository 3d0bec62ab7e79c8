"""Verification on a stand-in: a backend of ours that runs PyTorch's code on the CPU, right or wrong on purpose."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from unmask_kernels import FAMILIES, capability, gelu, machine_record, passes
from unmask_kernels.dispatch import Backend
from unmask_kernels.optimizer.choice import describe
from unmask_kernels.passes import note_passes, read_verified
from unmask_kernels.testing.optimizer import updates_of
from unmask_kernels.tune.calls import optimizer_calls
from unmask_kernels.verify import (
    CannotVerify,
    Outcome,
    Shapes,
    Verification,
    VerificationProgress,
    session,
    standing,
    verify,
    verify_once,
)
from unmask_kernels.verify.__main__ import main
from unmask_kernels.verify.plan import plan

SMALL = Shapes(
    dtype=torch.float32,
    num_heads=2,
    head_dim=8,
    intermediate_size=24,
    vocab_size=61,
    max_lengths=(30,),
    tokens=80,
)


def torch_module(name: str) -> ModuleType:
    path = FAMILIES[name].backends["torch"].module or f"unmask_kernels.{name}._torch"
    return importlib.import_module(path)


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In place of Triton, every family has a backend "young" that nobody has verified."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(capability, "INTERPRETING", True)
    # names of devices that were found before
    monkeypatch.setattr(capability, "_names", {})
    monkeypatch.setattr(passes, "_kept_here", [])
    monkeypatch.delenv("UNMASK_SHARED_CACHE", raising=False)
    for name, family in FAMILIES.items():
        others = {each: backend for each, backend in family.backends.items() if each not in ("triton", "flash", "cuda")}
        # linear_gelu in plain PyTorch is no backend of two directions
        young = {} if name == "linear_gelu" else {"young": Backend(verified=())}
        monkeypatch.setattr(family, "backends", {**young, **others})
        monkeypatch.setattr(family, "_modules", {**family._modules, "young": torch_module(name)})
        monkeypatch.setattr(family, "passed", ())
        monkeypatch.setattr(family, "failed", ())
    yield
    os.environ.pop("UNMASK_SHARED_CACHE", None)


def verify_here(shapes: Shapes = SMALL, **settings: Any) -> Verification:
    return verify(shapes, device="cpu", own_process=False, **settings)


def broken(name: str, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], Any], part: str = "backward") -> None:
    """Give a family a backend whose results are spoilt after they were computed."""
    right = torch_module(name)

    def wrong(arguments: Any) -> Any:
        return spoil(getattr(right, part)(arguments))

    both = {"forward": right.forward, "backward": getattr(right, "backward", None), part: wrong}
    monkeypatch.setitem(FAMILIES[name]._modules, "young", SimpleNamespace(**both))  # type: ignore[misc]


def chosen(shapes: Shapes = SMALL) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for check in plan(shapes, "cpu", "cpu"):
        found.setdefault(check.family, set()).add(FAMILIES[check.family].choose(None, check.call))
    return found


def test_what_passes_is_recorded_and_chosen_at_once_and_in_the_next_process() -> None:
    assert "young" not in set().union(*chosen().values())
    report = verify_here()
    assert [outcome.problem for outcome in report.outcomes] == [""] * len(report.outcomes)
    everywhere = {name: {"young"} for name in FAMILIES if name != "linear_gelu"}
    assert chosen() == everywhere
    assert standing(SMALL, "cpu") == "verified"
    for family in FAMILIES.values():
        family.passed = ()
    assert standing(SMALL, "cpu") == "unknown"
    note_passes()
    assert chosen() == everywhere
    [record] = read_verified()
    assert record.path == report.record
    assert report.finding is None


def test_a_run_with_other_shapes_asks_again() -> None:
    verify_here(operations=["attention"])
    wider = replace(SMALL, num_heads=1, head_dim=16)
    assert chosen()["attention"] == {"young"}
    assert chosen(wider)["attention"] == {"torch"}
    assert standing(replace(SMALL, attention_dropout=0.0), "cpu") == "unknown"
    assert chosen(replace(SMALL, attention_dropout=0.0, max_lengths=(64,)))["attention"] == {"young"}
    assert chosen(replace(SMALL, max_lengths=(65,)))["attention"] == {"torch"}
    assert chosen(replace(SMALL, causal=True))["attention"] == {"torch"}
    assert chosen(replace(SMALL, windows=(4,)))["attention"] == {"torch"}


def test_the_table_has_a_family_a_line_with_its_worst_error_against_its_bound() -> None:
    lines = list(verify_here(operations=["layer_norm", "masking"]).lines())
    assert lines[0].split("   ")[0] == "family"
    assert lines[1].split()[:3] == ["layer_norm", "young", "8"]
    error, slash, bound, _, verdict = lines[1].split()[3:]
    assert (slash, verdict) == ("/", "passed")
    assert 0.0 < float(error) <= float(bound)
    assert lines[2].split() == ["masking", "young", "5", "equal", "bits", "passed"]


def add_to_one(results: Any) -> Any:
    results[0].view(-1)[-1] += 0.01
    return results


def leave_one(results: Any) -> Any:
    rest = torch.empty_like(results[0])
    rest.view(-1)[1:] = results[0].view(-1)[1:]
    return results._replace(**{results._fields[0]: rest})


class Noise:
    """Adds another error to each call, smaller than what the criterion allows."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, results: Any) -> Any:
        self.calls += 1
        return results._replace(**{results._fields[0]: results[0] * (1 + 2.0**-23 * (self.calls % 2))})


@pytest.mark.parametrize(
    ("name", "part", "spoil", "problem"),
    [
        ("gelu", "backward", add_to_one, "dx: max error 0.01 is over its budget"),
        ("layer_norm", "forward", leave_one, "y: NaN at other places than plain in 1 of"),
        ("gelu", "forward", Noise(), "two runs on the same inputs: "),
        ("masking", "forward", add_to_one, "this backend and the definition: y0 differs in 1 of"),
    ],
    ids=["wrong", "unwritten", "unsteady", "other-bits"],
)
def test_a_kernel_made_wrong_on_purpose_is_reported_and_not_chosen(
    name: str, part: str, spoil: Callable[[Any], Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "masking":
        spoil = lambda results: results._replace(ids=results.ids + (torch.arange(len(results.ids)) == 1))  # noqa: E731
    broken(name, monkeypatch, spoil, part)
    report = verify_here(operations=[name])
    [failed, *_] = report.failed
    assert problem in failed.problem
    assert "young" not in chosen()[name]
    assert standing(SMALL, "cpu") != "verified"
    lines = list(report.lines())
    assert "FAILED" in lines[1]
    assert any(problem in line for line in lines[2:])
    assert f"What failed is in {report.finding}: please open an issue with this file" in lines[-1]
    assert report.finding is not None
    told = json.loads(report.finding.read_text())
    assert told["seed"] == 0x5EED
    assert told["machine"]["torch"] == torch.__version__
    assert told["failed"][0]["case"] == failed.case
    assert problem in told["failed"][0]["problem"]
    assert told["shapes"]["head_dim"] == 8
    assert "has failed `unmask verify` on this machine" in FAMILIES[name].explain(
        plan(SMALL, "cpu", "cpu", [name])[0].call
    )


def test_a_document_that_differs_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch_module("gelu")
    changed = SimpleNamespace(
        forward=lambda arguments: right.forward(arguments._replace(x=arguments.x + (len(arguments.x) < 30) * 1e-3)),
        backward=right.backward,
    )
    monkeypatch.setitem(FAMILIES["gelu"]._modules, "young", changed)  # type: ignore[misc]
    report = verify_here(operations=["gelu"])
    assert "document 0 packed and alone: y differs by" in report.failed[0].problem


def test_a_failure_takes_back_an_earlier_pass_and_a_later_pass_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    verify_here(operations=["gelu"])
    assert chosen()["gelu"] == {"young"}
    with monkeypatch.context() as changed:
        broken("gelu", changed, add_to_one)
        verify_here(operations=["gelu"])
        assert chosen()["gelu"] == {"torch"}
    verify_here(operations=["gelu"])
    assert chosen()["gelu"] == {"young"}
    [record] = read_verified()
    assert record.contents["failed"] == []


def test_a_read_only_cache_is_told_in_one_sentence_and_the_passes_hold_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "file"))
    report = verify_here(operations=["gelu"])
    assert report.record is None
    [note] = report.notes
    assert note.startswith("What has passed holds for this process alone: the record is not kept, because ")
    assert note.endswith("set UNMASK_CACHE to a folder that can.")
    note_passes()
    assert chosen()["gelu"] == {"young"}


def test_too_little_memory_makes_the_cases_smaller_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    right, limit = torch_module("gelu"), 100

    def forward(arguments: Any) -> Any:
        if len(arguments.x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return right.forward(arguments)

    module = SimpleNamespace(forward=forward, backward=right.backward)
    monkeypatch.setitem(FAMILIES["gelu"]._modules, "young", module)  # type: ignore[misc]
    report = verify_here(replace(SMALL, tokens=150), operations=["gelu"])
    assert {outcome.verdict for outcome in report.outcomes} == {"passed"}
    assert "gelu young: too little memory for larger cases: run with 75 tokens" in list(report.lines())
    limit = 10
    report = verify_here(replace(SMALL, tokens=70), operations=["gelu"])
    assert {outcome.problem for outcome in report.outcomes} == {"too little memory for the smallest case"}
    assert "not run (too little memory for the smallest case)" in list(report.lines())[1]


def test_what_does_not_fit_into_the_time_is_told_and_not_recorded() -> None:
    report = verify_here(operations=["gelu"], seconds=0.0)
    assert {outcome.verdict for outcome in report.outcomes} == {"not run"}
    assert report.record is None
    assert list(report.lines())[-1] == (
        "The 0 s were over before everything was run: run the same command again, which begins with the rest, or give "
        "it more time with --seconds."
    )
    assert chosen()["gelu"] == {"torch"}


def test_given_again_a_time_that_is_too_short_goes_on_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: now[0]))
    began: list[str] = []

    def one_is_enough(progress: VerificationProgress) -> None:
        began.append(progress.doing)
        now[0] += 10.0

    for left in (1, 0, 0):
        report = verify_here(operations=["gelu"], seconds=10.0, progress=one_is_enough)
        assert len(report.passed) == 1
        assert (standing(SMALL, "cpu", ["gelu"]) == "unknown") == (left > 0)
    assert began == ["gelu young (float32, gelu, width 24)", "gelu young (float32, gelu, width 16)", began[0]]
    now[0] = 0.0
    assert len(verify_here(operations=["gelu"], seconds=30.0, progress=one_is_enough).passed) == 2


def test_a_verdict_tells_each_reason_once() -> None:
    problems = ("the time was over while it ran", "the time was over", "the time was over")
    outcomes = [Outcome(family="gelu", backend="young", call={}, verdict="not run", problem=each) for each in problems]
    [_, row] = Verification(machine={}, outcomes=outcomes).lines()
    assert row.split("   ")[-1].strip() == "not run (the time was over)"


def test_a_backend_that_must_also_be_faster_is_told_as_right_and_not_yet_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backends = {"young": Backend(verified=(), must_win=True), "torch": Backend()}
    monkeypatch.setattr(FAMILIES["gelu"], "backends", backends)
    report = verify_here(operations=["gelu"])
    assert report.passed
    assert list(report.lines())[-1] == (
        "gelu young is right here. It is chosen only where it is faster too, which `unmask tune` measures."
    )
    assert chosen()["gelu"] == {"torch"}


def test_an_interruption_keeps_what_is_done() -> None:
    def stop(progress: VerificationProgress) -> None:
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_here(operations=["gelu"], progress=stop)
    [record] = read_verified()
    assert len(record.contents["passed"]) == 1


def test_an_old_gpu_is_told_what_runs_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    old = replace(machine_record.this_machine("cpu"), device="Tesla T4", architecture="sm_75")
    monkeypatch.setattr(session, "this_machine", lambda device: old)
    report = verify_here()
    assert list(report.lines()) == [
        "The kernels are for sm_80 and newer, Tesla T4 is sm_75: PyTorch's own operations run here, and there is "
        "nothing to verify."
    ]


@pytest.mark.parametrize(
    ("version", "note"),
    [
        ("3.9.0", None),
        ("3.12.1", "Triton 3.12.1 is newer than any that the kernels were tested with (3.9): what has passed here is"),
        ("4.0.0+git1", "Triton 4.0.0+git1 is newer than any"),
    ],
)
def test_a_triton_newer_than_any_tested_is_told_and_verified(
    version: str, note: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = replace(machine_record.this_machine("cpu"), triton=version)
    monkeypatch.setattr(session, "this_machine", lambda device: machine)
    monkeypatch.setattr(capability, "HAS_TRITON", True)
    report = verify_here(operations=["gelu"])
    assert {outcome.verdict for outcome in report.outcomes} == {"passed"}
    assert [each.startswith(note or "") for each in report.notes] == [True] * (note is not None)


def test_a_missing_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machine_record.this_machine("cpu")
    monkeypatch.setattr(session, "require_device", lambda device: None)
    monkeypatch.setattr(session, "this_machine", lambda device: machine)
    monkeypatch.setattr(capability, "HAS_TRITON", False)
    refused = Backend(lambda call: ["package triton is not installed (pip install triton)"], verified=())
    monkeypatch.setattr(FAMILIES["gelu"], "backends", {"triton": refused, "torch": Backend()})
    lines = list(verify_here(operations=["gelu"]).lines())
    assert lines[1].split("   ")[-1].strip() == ("not run (package triton is not installed (pip install triton))")
    assert "Package triton is not installed, so its kernels were not run" in lines[-1]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver.",
            "verify: no GPU can be used: The NVIDIA driver on your system is too old (found version 11040); update the "
            "driver, or install a PyTorch for an older CUDA",
        ),
        ("No CUDA GPUs are available", "verify: no GPU can be used: No CUDA GPUs are available; check nvidia-smi"),
    ],
)
def test_a_driver_that_is_too_old_or_a_missing_gpu_is_one_sentence(
    error: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", refuse)
    with pytest.raises(CannotVerify) as raised:
        verify(SMALL)
    assert str(raised.value) == told


def test_a_gpu_that_is_not_there_is_one_sentence_and_a_rank_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for call in (verify, verify_once):
        with pytest.raises(CannotVerify, match="verify: device must be below cuda:1, got cuda:7; leave it out"):
            call(SMALL, device="cuda:7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(CannotVerify, match="verify: no GPU can be used"):
        verify_once(SMALL)


def test_a_triton_that_cannot_be_imported_is_told_and_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(arguments: Any) -> Any:
        raise ImportError("libcuda.so.1: cannot open shared object file")

    broken("gelu", monkeypatch, lambda result: result)
    monkeypatch.setitem(FAMILIES["gelu"]._modules, "young", SimpleNamespace(forward=missing))  # type: ignore[misc]
    report = verify_here(operations=["gelu"])
    assert (report.failed, report.passed, report.finding, report.record) == ([], [], None, None)
    assert "not run (cannot be imported: libcuda.so.1: cannot open shared object file)" in list(report.lines())[1]


def test_a_cpu_has_nothing_to_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "INTERPRETING", False)
    with pytest.raises(CannotVerify, match="verify: device must be a GPU, got cpu: on a CPU PyTorch's own operations"):
        verify(SMALL, device="cpu")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(CannotVerify, match="this PyTorch is built without CUDA"):
        verify(SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 0}, "verify: num_heads must be at least 1, got 0"),
        ({"attention_dropout": 1.0}, "verify: attention_dropout must be at least 0 and below 1, got 1.0"),
        ({"dtype": torch.float64}, "verify: dtype must be float32, bfloat16 or float16, got torch.float64"),
        ({"activation": "relu"}, "verify: activation must be one of gelu, gelu_tanh, geglu, swiglu, got 'relu'"),
        ({"max_lengths": ()}, r"verify: max_lengths must be at least 1, got \(\)"),
    ],
)
def test_wrong_shapes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_an_unknown_operation_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"verify: 'gelo' is not an operation; choose from attention, .*masking"):
        verify_here(operations=["gelo"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_verified_of_the_optimizer_covers_the_updates_of_a_run(dtype: torch.dtype) -> None:
    family = FAMILIES["optimizer"]
    passed = [check.call for check in plan(replace(SMALL, dtype=dtype), "cpu", "cpu", ["optimizer"])]
    for call in optimizer_calls(replace(SMALL, dtype=dtype)):
        update = describe(updates_of(**call.compared.make(dtype).arguments)[0])
        assert update.copy_dtype == ("none" if dtype == torch.float32 else str(dtype).removeprefix("torch."))
        assert sum(family.covers(each, update) for each in passed) == 1


def test_shapes_go_to_a_worker_and_come_back() -> None:
    shapes = Shapes(windows=(None, 64), max_lengths=(128, 512))
    assert Shapes.from_json(json.loads(json.dumps(shapes.to_json()))) == shapes


# speaks as `verify.worker` does, without the seconds that PyTorch takes to load
FAKE = """
import json, os, signal, sys, time
question = json.loads(sys.stdin.readline())
for number in question["numbers"]:
    print(json.dumps({"begin": number}), flush=True)
    act(number)
    outcome = {"family": "gelu", "backend": "young", "call": {}, "verdict": "passed", "cases": 1}
    print(json.dumps({"outcome": outcome}), flush=True)
"""


def apart(code: str, monkeypatch: pytest.MonkeyPatch, seconds: float = 60.0) -> list[tuple[str, str]]:
    """Run three checks in workers that do what `code` says."""
    monkeypatch.setattr(session, "_START", f"{code}\n{FAKE}")
    checks = plan(SMALL, "cpu", "cpu", ["gelu", "masking"])[:3]
    order = list(range(len(checks)))
    machine = machine_record.this_machine("cpu")
    one = session._Session(
        SMALL, "cpu", machine, None, checks, order, session.time.monotonic(), seconds, lambda progress: None
    )
    one.run_apart()
    one.fill(session._TIME_WAS_OVER if one.is_over() else "?")
    return [(one.outcomes[number].verdict, one.outcomes[number].problem) for number in range(3)]


def test_a_kernel_that_ends_its_process_is_a_finding_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
def act(number):
    if number == 1:
        print("illegal memory access", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
"""
    found = apart(code, monkeypatch)
    assert [verdict for verdict, _ in found] == ["passed", "failed", "passed"]
    assert found[1][1].startswith("its process ended with signal SIGSEGV: ")
    assert "illegal memory access" in found[1][1]


def test_a_kernel_that_hangs_is_ended_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
def act(number):
    time.sleep(0 if number == 0 else 600)
"""
    begun = session.time.monotonic()
    found = apart(code, monkeypatch, seconds=3.0)
    assert session.time.monotonic() - begun < 60
    assert [verdict for verdict, _ in found] == ["passed", "not run", "not run"]
    assert [problem for _, problem in found] == ["", "the time was over while it ran", "the time was over"]


def test_a_worker_that_cannot_begin_is_an_error_and_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotVerify, match=r"the worker process ended with status 1 \(.*no room.*\); run the command"):
        apart("raise SystemExit('no room')", monkeypatch)
    # the way out, once there is room
    assert apart("def act(number): pass", monkeypatch) == [("passed", "")] * 3


def test_the_process_without_the_engine_prints_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session._Session, "run_apart", session._Session.run_here)
    small = ["--num-heads", "2", "--head-dim", "8", "--intermediate-size", "24", "--vocab-size", "61", "--tokens", "80"]
    arguments = ["gelu", "--device", "cpu", "--dtype", "float32", "--max-length", "30", *small]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].split()[:3] == ["gelu", "young", "8"]
    assert "recorded in " in shown.out
    assert "call 1 of 2, gelu young (float32, gelu, width 24), 120 s left\n" in shown.err
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"][0]["verdict"] == "passed"
    broken("gelu", monkeypatch, add_to_one)
    assert main(arguments) == 1
    assert main([*arguments, "--num-heads", "0"]) == 2
    assert "verify: num_heads must be at least 1, got 0" in capsys.readouterr().err
    assert main([*arguments, "--seconds", "0"]) == 2
    assert "not run (the time was over)" in capsys.readouterr().out
    for wrong, told in (
        (["--seconds", "nan"], "verify: seconds must be a number from 0 on, got nan; leave it out, and it is 120"),
        (["--device", "gpu"], "verify: device must be a GPU such as cuda or cuda:1, got 'gpu'; leave it out"),
        (["--window", "-4"], "verify: a window must be at least 0, got (None, -4)"),
    ):
        assert main([*arguments, *wrong]) == 2
        assert told in capsys.readouterr().err


def _verify_in_a_process(number: int, count: Path) -> None:
    """A process of torchrun: what it does is noted in the file."""
    report = verify_once(SMALL, device="cpu", own_process=False)
    known = standing(SMALL, "cpu")
    with count.open("a") as file:
        file.write(f"{number} {report is not None} {known}\n")


@pytest.mark.parametrize("writable", [True, False], ids=["cache", "read-only"])
def test_of_several_processes_on_a_machine_one_verifies_and_the_others_wait(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not writable:
        (tmp_path / "file").touch()
        monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "file"))
    names = [name for name in FAMILIES if name != "gelu"]
    for name in names:
        monkeypatch.setattr(FAMILIES[name], "backends", {"torch": FAMILIES[name].backends["torch"]})
    count = tmp_path / "count"
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_verify_in_a_process, args=(number, count)) for number in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    lines = [line.split() for line in count.read_text().splitlines()]
    assert sorted(line[0] for line in lines) == ["0", "1", "2"]
    assert sum(line[1] == "True" for line in lines) == 1
    assert {line[2] for line in lines} == {"verified"}


def test_a_known_failure_is_not_tried_again_by_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FAMILIES:
        if name != "gelu":
            monkeypatch.setattr(FAMILIES[name], "backends", {"torch": FAMILIES[name].backends["torch"]})
    broken("gelu", monkeypatch, add_to_one)
    assert verify_once(SMALL, device="cpu", own_process=False) is not None
    assert standing(SMALL, "cpu") == "failed"
    assert verify_once(SMALL, device="cpu", own_process=False) is None


def test_a_machine_without_kernels_of_ours_has_nothing_to_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in FAMILIES.values():
        monkeypatch.setattr(family, "backends", {"torch": Backend()})
    assert standing(SMALL, "cpu") == "nothing to verify"


def _command_of_a_rank(arguments: list[str], said: Path) -> None:
    with said.open("w") as file, contextlib.redirect_stdout(file):
        assert main(arguments) == 0


def test_of_the_ranks_of_torchrun_one_runs_the_command_and_the_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(session._Session, "run_apart", session._Session.run_here)
    small = ["--num-heads", "2", "--head-dim", "8", "--intermediate-size", "24", "--vocab-size", "61", "--tokens", "80"]
    arguments = ["gelu", "--device", "cpu", "--dtype", "float32", "--max-length", "30", *small]
    fork = multiprocessing.get_context("fork")
    said = [tmp_path / name for name in ("one", "two")]
    ranks = [fork.Process(target=_command_of_a_rank, args=(arguments, file)) for file in said]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    texts = sorted((file.read_text() for file in said), key=len)
    assert texts[0] == "Verified by another process of this machine.\n"
    assert "gelu" in texts[1]


def test_a_full_graph_compile_traces_through_the_choice_before_and_after_a_verification() -> None:
    made: list[int] = []
    right = torch_module("gelu")
    FAMILIES["gelu"]._modules["young"] = SimpleNamespace(  # type: ignore[assignment]
        forward=lambda arguments: (made.append(len(arguments.x)), right.forward(arguments))[1], backward=right.backward
    )
    compiled = torch.compile(gelu, fullgraph=True, backend="aot_eager")
    x = torch.randn(7, SMALL.intermediate_size)
    before = compiled(x)
    assert made == []
    verify_here(operations=["gelu"])
    made.clear()
    assert torch.equal(compiled(x), before)
    assert made == [7]
    # another width was not run
    made.clear()
    compiled(torch.randn(7, 40))
    assert made == []


def test_a_worker_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask_kernels.verify import worker

    ended: list[int] = []
    monkeypatch.setattr(worker.os, "_exit", ended.append)
    monkeypatch.setattr(worker.time, "sleep", lambda seconds: None)
    parents = iter([7, 7, 1])
    monkeypatch.setattr(worker.os, "getppid", lambda: next(parents))
    worker._end_with(7)
    assert ended == [1]
