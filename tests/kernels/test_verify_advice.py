"""What verify, tune and their records advise: each message is met here, and then what it says is done, and it works."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from advice import Action, follow
from stand_in_kernel import put_in
from unmask_kernels import FAMILIES, capability, machine_record
from unmask_kernels.machine_record import read_records, this_machine, update_record
from unmask_kernels.passes import note_passes, read_verified
from unmask_kernels.tune import __main__ as tune_command
from unmask_kernels.tune.session import Session
from unmask_kernels.verify import Shapes, VerificationProgress, session, verify
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


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A CPU on which gelu has a backend that nobody has verified."""
    put_in(monkeypatch, tmp_path)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU takes the part of one GPU."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    here = this_machine("cpu")
    run_check = session.run_check
    monkeypatch.setattr(session, "this_machine", lambda device: here)
    monkeypatch.setattr(
        session, "run_check", lambda check, dtype, device, tokens: run_check(check, dtype, "cpu", tokens)
    )


def chosen() -> set[str]:
    return {FAMILIES["gelu"].choose(None, check.call) for check in plan(SMALL, "cpu", "cpu", ["gelu"])}


def verified(shapes: Shapes = SMALL, **settings: Any) -> Action:
    """Verify gelu, and require that everything passes."""

    def act() -> None:
        report = verify(shapes, **{"device": "cpu", "operations": ["gelu"], **settings})
        assert {outcome.verdict for outcome in report.outcomes} == {"passed"}, list(report.lines())

    return act


@pytest.mark.parametrize(
    ("wrong", "told", "advised"),
    [
        ({"num_heads": 0}, "verify: num_heads must be at least 1, got 0", [{"num_heads": 1}]),
        (
            {"hidden_dropout": 1.0},
            "verify: hidden_dropout must be at least 0 and below 1, got 1.0",
            [{"hidden_dropout": 0.0}, {"hidden_dropout": 0.99}],
        ),
        (
            {"dtype": torch.float64},
            "verify: dtype must be float32, bfloat16 or float16, got torch.float64",
            [{"dtype": torch.float32}, {"dtype": torch.bfloat16}],
        ),
        (
            {"activation": "relu"},
            "verify: activation must be one of gelu, gelu_tanh, geglu, swiglu, got 'relu'",
            [{"activation": name} for name in ("gelu", "gelu_tanh", "geglu", "swiglu")],
        ),
        (
            {"windows": (4, -4)},
            "verify: a window must be at least 0, got (4, -4); None is a global layer",
            [{"windows": (4, 0)}, {"windows": (4, None)}],
        ),
        ({"max_lengths": (0,)}, "verify: max_lengths must be at least 1, got (0,)", [{"max_lengths": (1,)}]),
    ],
)
def test_shapes_as_the_error_wants_them_are_verified(
    wrong: dict[str, Any], told: str, advised: list[dict[str, Any]]
) -> None:
    follow(lambda: replace(SMALL, **wrong), told, *(verified(replace(SMALL, **right)) for right in advised))


def test_an_operation_of_those_that_the_error_names_is_verified() -> None:
    follow(
        verified(operations=["gelo"]),
        f"verify: 'gelo' is not an operation; choose from {', '.join(FAMILIES)}",
        verified(operations=["gelu"]),
    )


def default(name: str) -> Any:
    return inspect.signature(verify).parameters[name].default


def test_a_time_that_is_none_is_left_out_and_is_120_seconds() -> None:
    assert default("seconds") == 120.0
    told = "verify: seconds must be a number from 0 on, got nan; leave it out, and it is 120"
    follow(verified(seconds=float("nan")), told, verified())


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("gpu", "verify: device must be a GPU such as cuda or cuda:1, got 'gpu'; leave it out, and it is cuda"),
        ("cuda:7", "verify: device must be below cuda:1, got cuda:7; leave it out, and it is cuda"),
    ],
)
def test_a_device_that_is_none_is_left_out_and_is_the_gpu(device: str, told: str, gpu: None) -> None:
    assert default("device") == "cuda"
    follow(verified(device=device), told, verified(device=default("device")))


def test_on_a_cpu_the_gpu_is_verified_or_the_interpreter(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interpreted() -> None:
        # the variable is read when the kernels are imported
        with monkeypatch.context() as patched:
            patched.setattr(capability, "INTERPRETING", True)
            verified()()

    monkeypatch.setattr(capability, "INTERPRETING", False)
    follow(
        verified(),
        "verify: device must be a GPU, got cpu: on a CPU PyTorch's own operations run, and there is nothing to verify; "
        "leave it out, or set TRITON_INTERPRET=1 to run the kernels in Triton's interpreter",
        verified(device=default("device")),
        interpreted,
    )
    code = "from unmask_kernels.capability import INTERPRETING; print(INTERPRETING)"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_once_triton_is_installed_the_interpreter_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capability, "HAS_TRITON", False)
    follow(
        verified(),
        "verify: package triton is not installed, so there is no interpreter; pip install triton",
        lambda: monkeypatch.setattr(capability, "HAS_TRITON", True),
        verified(),
    )


@pytest.mark.parametrize(
    ("build", "error", "told"),
    [
        (
            None,
            "",
            "verify: this PyTorch is built without CUDA: PyTorch's own operations run, and there is nothing to verify; "
            "on a machine with a GPU, install a PyTorch that is built for CUDA",
        ),
        ("13.0", "The driver is too old.", "; update the driver, or install a PyTorch for an older CUDA"),
        ("13.0", "No CUDA GPUs are available", "No CUDA GPUs are available; check nvidia-smi"),
        ("13.0", None, "verify: no GPU can be used: no CUDA GPUs are available; check nvidia-smi"),
    ],
)
def test_a_gpu_that_can_be_used_after_the_advice_is_verified(
    build: str | None, error: str | None, told: str, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError(error)

    with monkeypatch.context() as patched:
        patched.setattr(torch.version, "cuda", build)
        patched.setattr(torch.version, "hip", None)
        patched.setattr(torch.cuda, "device_count", lambda: 0)
        if error:
            patched.setattr(torch.cuda, "init", fail)
        follow(verified(device="cuda"), told)
    # another PyTorch or driver, or a GPU that is there
    verified(device="cuda")()


def notes_of(**settings: Any) -> list[str]:
    return list(verify(SMALL, **{"device": "cpu", "operations": ["gelu"], **settings}).notes)


def test_without_triton_the_note_says_to_install_it_and_to_verify_again(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(capability, "HAS_TRITON", False)
        [note] = notes_of(device="cuda")
    assert note == "Package triton is not installed, so its kernels were not run; pip install triton, and verify again."
    assert notes_of(device="cuda") == []
    verified(device="cuda")()


@pytest.mark.parametrize("more", [{}, {"seconds": 120.0}], ids=["again", "--seconds"])
def test_what_the_time_did_not_allow_is_run_by_the_same_command_or_with_more_time(
    more: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def ten_seconds(progress: VerificationProgress) -> None:
        now[0] += 10.0

    short: dict[str, Any] = {"seconds": 10.0, "progress": ten_seconds}
    [note] = notes_of(**short)
    assert note == (
        "The 10 s were over before everything was run: run the same command again, which begins with the rest, or give "
        "it more time with --seconds."
    )
    assert chosen() == {"young", "torch"}
    notes_of(**{**short, **more})
    assert chosen() == {"young"}


@pytest.mark.parametrize("why", ["no folder", "no home"])
def test_a_cache_that_can_be_written_keeps_what_has_passed(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    with monkeypatch.context() as patched:
        if why == "no home":
            patched.delenv("UNMASK_CACHE")
            patched.delenv("XDG_CACHE_HOME", raising=False)
            patched.setattr(Path, "home", homeless)
            told = "there is no home folder; set UNMASK_CACHE to a folder that can be written."
        else:
            (tmp_path / "file").touch()
            patched.setenv("UNMASK_CACHE", str(tmp_path / "file"))
            told = "cannot be written (Not a directory); set UNMASK_CACHE to a folder that can."
        [note] = notes_of()
    assert note.startswith("What has passed holds for this process alone: the record is not kept, because ")
    assert note.endswith(told)
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "other"))
    assert notes_of() == []
    [record] = read_verified()
    assert record.path.is_relative_to(tmp_path / "other")


def test_a_value_that_no_record_holds_is_left_out() -> None:
    here = this_machine("cpu")
    follow(
        lambda: update_record("verified", here, lambda old: {"when": None}),
        "machine_record: a value must be text, a number, a truth value, a list or a table, got None; leave it out",
        lambda: update_record("verified", here, lambda old: {}),
    )
    assert [record.ignored for record in read_records("verified")] == [""]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("[[passed]]", "[passed]", "machine_record: passed must be a list, got "),
        ('"young"', '"yung"', "machine_record: an entry of passed names no backend, got "),
        ("width = ", "wdth = ", "machine_record: a call of gelu must have dtype, activation, width, got "),
    ],
)
def test_a_damaged_record_is_made_again_by_the_command(old: str, new: str, told: str) -> None:
    verified()()
    [record] = read_verified()
    # without the line of what has failed, which a table before it would take in
    text = record.path.read_text().replace("failed = []\n", "")
    entry = text[text.index("[[passed]]") :].partition("\n\n")[0]
    record.path.write_text(f"{text.partition('[[passed]]')[0]}{entry.replace(old, new)}\n\n{machine_record._END}")
    [damaged] = read_verified()
    assert damaged.ignored.startswith(f"damaged: {told}")
    assert damaged.ignored.endswith("; run `unmask verify` again")
    note_passes()
    assert chosen() == {"torch"}
    verified()()
    assert [record.ignored for record in read_verified()] == [""]
    assert chosen() == {"young"}


def test_a_wrong_time_of_the_tuning_is_left_out_and_an_interrupted_one_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held: list[float] = []

    def hold(self: Session, contests: object) -> None:
        self.asked = 0
        held.append(self.minutes)
        if len(held) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Session, "hold", hold)
    monkeypatch.setattr(tune_command, "contests", lambda shapes, device: iter(()))
    assert tune_command.main(["--minutes", "0"]) == 2
    assert capsys.readouterr().err == "tune: minutes must be a number above 0, got 0.0; leave it out, and it is 2\n"
    assert tune_command.main([]) == 0
    assert held == [2.0]
    assert tune_command.main([]) == 130
    command = capsys.readouterr().err.split("`")[1]
    assert command == "python -m unmask_kernels.tune"
    assert tune_command.main(command.split()[3:]) == 0
