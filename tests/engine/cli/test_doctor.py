"""`unmask doctor`: an operation a line, the reasons on request, everything as JSON."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask.cli import main
from unmask.cli.doctor import facts, reasons, table
from unmask_kernels import FAMILIES, extension, philox_cpp
from unmask_kernels.dispatch import Backend, Family, known
from unmask_kernels.extension import Extension
from unmask_kernels.machine_record import this_machine, update_record
from unmask_kernels.passes import Entry, note_passes, table_of
from unmask_kernels.tune.finding import Finding
from unmask_kernels.tune.record import write_finding


@pytest.fixture(autouse=True)
def _terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def rows_of(lines: list[str]) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in lines if line.split() and line.split()[0] in FAMILIES}


def altered(monkeypatch: pytest.MonkeyPatch, **more: Backend) -> None:
    """Give layer_norm more backends, before its own."""
    family = FAMILIES["layer_norm"]
    # a new family takes this name, which must be given back after the test
    monkeypatch.setitem(known, "layer_norm", family)
    both = Family("layer_norm", {**more, **family.backends}, example=family.example)
    monkeypatch.setitem(FAMILIES, "layer_norm", both)


def test_the_table_has_an_operation_a_line_within_25_lines_of_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 25 or "cuda" in "".join(lines)
    assert max(map(len, lines)) <= 80
    assert rows_of(lines).keys() == FAMILIES.keys()
    assert f"Python {sys.version.split()[0]}" in "\n".join(lines)
    assert "cpu: activations in " in "\n".join(lines)


def test_a_line_has_the_choice_then_what_can_run_then_what_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, absent=Backend(lambda call: ["not for me"]), young=Backend(verified=()))
    found = facts(["layer_norm"])
    [device] = [device for device in found["devices"] if device["device"] == "cpu"]
    backends = device["operations"]["layer_norm"]["backends"]
    unable = [name for name, state in backends.items() if state["reasons"]]
    able = [name for name, state in backends.items() if not state["reasons"] and name != "torch"]
    assert "absent" in unable
    lines = list(table(found))
    marked = [f"{name}*" if name == "young" else name for name in able]
    columns = ["layer_norm", "torch", *", ".join(marked).split(), *", ".join(unable).split()]
    assert columns in [line.split() for line in lines]
    assert any(line.startswith("* runs only if you name it") for line in lines)


def test_reasons_are_given_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    refusing = Backend(lambda call: [f"width {call.width} on {call.device} is not for me", "nor is this"])
    altered(monkeypatch, absent=refusing, young=Backend(verified=()))
    assert main(["doctor", "--why", "layer_norm"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "absent width 768 on cpu is not for me; nor is this" in text
    assert "young can run if you name it; its tests have not passed on this kind of device yet" in text
    assert "torch chosen" in text
    assert "reference can run" in text
    assert "attention" not in text
    assert main(["doctor", "--why"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name} on cpu in " in text for name in FAMILIES)


def test_the_advice_of_the_table_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    assert "unmask doctor --why OPERATION gives the reasons" in capsys.readouterr().out
    for name in FAMILIES:
        assert main(["doctor", "--why", name]) == 0
        assert f"{name} on cpu in " in capsys.readouterr().out


def test_json_holds_every_backend_with_its_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found.keys() == {"versions", "processor", "gpu", "extension", "cpu_extension", "devices", "records"}
    cpu = found["devices"][0]
    assert cpu["dtype"] in ("float32", "bfloat16")
    assert {name: list(one["backends"]) for name, one in cpu["operations"].items()} == {
        name: list(family.backends) for name, family in FAMILIES.items()
    }
    for one in cpu["operations"].values():
        assert not one["backends"][one["chosen"]]["reasons"]


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (None, "CUDA C++: not built; UNMASK_BUILD_CUDA=1 pip install"),
        (
            Extension("sm_80 sm_90a", 12090, 0, ""),
            "CUDA C++: built for sm_80, sm_90a with CUDA 12.9, which needs driver 525 or newer; there is none here",
        ),
        (
            Extension("sm_80", 13000, 12080, ""),
            "CUDA C++: built for sm_80 with CUDA 13.0, which needs driver 580 or newer; the one here knows CUDA 12.8",
        ),
        (
            Extension("", 0, 0, "it is of another version"),
            "CUDA C++: it is of another version: UNMASK_BUILD_CUDA=1 pip install",
        ),
    ],
)
def test_the_kernels_in_cuda_are_told_with_the_driver_that_they_need(
    known: Extension | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extension, "installed", lambda: known)
    monkeypatch.setenv("COLUMNS", "200")
    found = facts(["gelu"])
    assert any(line.startswith(said) for line in table(found))
    assert found["extension"]["built"] == (known is not None)
    assert found["extension"]["command"] == extension.build_command()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("", "C++ for CPUs: built; it draws the masks of dropout"),
        (
            "unmask_kernels._cpu is not built",
            "C++ for CPUs: unmask_kernels._cpu is not built, so NumPy draws the masks",
        ),
    ],
)
def test_the_extension_for_cpus_is_told_with_what_draws_without_it(
    fault: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(philox_cpp, "fault", lambda: fault)
    found = facts(["gelu"])
    told = " ".join(" ".join(table(found)).split())
    assert said in told
    assert ("UNMASK_BUILD_CPU=1 pip install" in told) == bool(fault)


def test_an_unknown_operation_gets_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--why", "atention"]) == 2
    assert capsys.readouterr().err == "unmask: doctor: 'atention' is not an operation; did you mean attention?\n"
    assert main(["doctor", "xyz"]) == 2
    told = capsys.readouterr().err
    assert "'xyz' is not an operation; choose one of attention, " in told
    chosen = told.partition("choose one of ")[2].partition(",")[0]
    assert main(["doctor", chosen]) == 0
    assert chosen in capsys.readouterr().out


def test_no_backend_is_told_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch)
    family = FAMILIES["layer_norm"]
    for name in family.backends:
        monkeypatch.setitem(family.backends, name, Backend(lambda call: ["broken"]))
    lines = list(table(facts(["layer_norm"])))
    assert rows_of(lines)["layer_norm"] == ["layer_norm", "none", "-", "triton,", "torch,", "reference"]
    assert "broken" in " ".join(reasons(facts(["layer_norm"])))


def test_missing_package_is_named_with_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata
    import importlib.util

    found, version = importlib.util.find_spec, importlib.metadata.version

    def without_matplotlib(name: str) -> str:
        if name == "matplotlib":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_matplotlib)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    assert facts()["versions"]["matplotlib"] is None
    assert "matplotlib (unmask plot)" in " ".join(table(facts()))


def test_alike_gpus_share_a_table() -> None:
    found = facts(["gelu"])
    young = {"chosen": "torch", "backends": {}}
    young["backends"] = {
        name: {"reasons": [], "verified": name != "triton", "passed": False, "failed": False}
        for name in ("triton", "torch", "reference")
    }
    for number in range(2):
        gpu = {"device": f"cuda:{number}", "name": "GPU X", "dtype": "bfloat16", "dtype_reason": "it has tensor cores"}
        gpu |= {"free_bytes": (number + 1) * 2**30, "total_bytes": 2**34, "operations": {"gelu": young}}
        found["devices"].append(gpu)
    found["gpu"] = None
    lines = list(table(found))
    assert "cuda:0 (GPU X, 1.0 of 16.0 GiB free): activations in bfloat16, it has tensor" in lines
    assert "cuda:1 (GPU X, 2.0 of 16.0 GiB free): activations in bfloat16, it has tensor" in lines
    assert sum(line.startswith("gelu ") for line in lines) == 2
    assert next(line.split() for line in lines if "*" in line) == ["gelu", "torch", "triton*,", "reference", "-"]
    assert not any(line.startswith("GPU: none") for line in lines)
    told = list(reasons(found))
    assert sum(line.startswith("gelu on ") for line in told) == 2
    assert any("can run if you name it" in line for line in told)


def test_what_has_passed_here_is_told_and_records_that_are_ignored_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    here = this_machine("cpu")
    family = FAMILIES["gelu"]
    [cpu] = [device for device in facts(["gelu"])["devices"] if device["device"] == "cpu"]
    call = family.example("cpu", "cpu", getattr(torch, cpu["dtype"]))
    entry = table_of(Entry("gelu", "young", call))
    monkeypatch.setitem(family.backends, "young", Backend(verified=()))
    monkeypatch.setattr(family, "passed", ())
    monkeypatch.setattr(family, "failed", ())
    used = update_record("verified", here, lambda old: {"passed": [entry]})
    stale = update_record("verified", replace(here, torch="2.11.0"), lambda old: {"passed": [entry]})
    foreign = update_record("verified", replace(here, device="Another GPU"), lambda old: {"passed": [entry]})
    damaged = foreign.with_name("damaged.toml")
    damaged.write_text(foreign.read_text()[:-10])
    note_passes()
    assert main(["doctor", "--why", "gelu"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "young can run; it has passed `unmask verify` on this machine" in text
    for path, what in (
        (used, "in use"),
        (stale, f"ignored, made with PyTorch 2.11.0, here {torch.__version__}"),
        (foreign, "ignored, made for Another GPU"),
        (damaged, "ignored, damaged: its end is missing"),
    ):
        assert f"record {path}: {what}" in text
    assert main(["doctor"]) == 0
    assert f"record {used}: in use" in " ".join(capsys.readouterr().out.split())
    update_record("verified", here, lambda old: {"failed": [entry]})
    note_passes()
    assert main(["doctor", "--why", "gelu"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "young can run if you name it; it has failed `unmask verify` on this machine" in text
    [record] = [one for one in facts()["records"] if one["ignored"] is None]
    assert record == {"kind": "verified", "path": str(used), "ignored": None, "used": False}
    assert f"record {used}: read, but nothing has passed" in text


def test_a_record_of_a_tuning_that_took_nothing_is_not_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    found: dict[str, Any] = {"choice": "attention.padding", "shape": "heads of 64, float32", "default": 5}
    slow = Finding(**found, asked="", measured="", best=10, taken=False)
    advice = replace(slow, choice="train.threads", taken=True, advice=True)
    for finding, told in (
        (slow, "read, but no choice was faster than its default"),
        (advice, "read, but no choice was faster than its default"),
        (replace(slow, taken=True), "in use"),
    ):
        write_finding("cpu", finding)
        assert main(["doctor", "gelu"]) == 0
        line = " ".join(capsys.readouterr().out.split()).partition("record ")[2]
        assert line.partition(".toml: ")[2].startswith(f"{told} unmask doctor --why")


def test_a_gpu_without_a_record_is_told_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    found = facts(["gelu"])
    backends = {"triton": {"reasons": [], "verified": False, "passed": False, "failed": False}}
    gpu = {"device": "cuda:0", "name": "GPU X", "dtype": "bfloat16", "dtype_reason": "it has tensor cores"}
    found["devices"] = [gpu | {"operations": {"gelu": {"chosen": None, "backends": backends}}}]
    monkeypatch.setenv("COLUMNS", "200")
    way = "its tests have not passed on this kind of device yet; `unmask verify` runs them here"
    assert f"* runs only if you name it: {way}" in list(table(found))
    assert f"can run if you name it; {way}" in "".join(reasons(found))


def test_a_backend_that_has_passed_and_must_also_be_faster_has_a_mark_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = facts(["linear_gelu"])
    backends = {"triton": {"reasons": [], "verified": False, "passed": True, "failed": False}}
    gpu = {"device": "cuda:0", "name": "GPU X", "dtype": "bfloat16", "dtype_reason": "it has tensor cores"}
    found["devices"] = [gpu | {"operations": {"linear_gelu": {"chosen": None, "backends": backends}}}]
    monkeypatch.setenv("COLUMNS", "200")
    lines = list(table(found))
    assert "+ runs if `unmask tune` finds it faster, or if you name it: it has passed `unmask verify`" in lines
    assert not any(line.startswith("*") for line in lines)
    assert "triton+" in "".join(lines)
    told = " ".join(" ".join(reasons(found)).split())
    assert "but is not known to be faster; `unmask tune` measures it" in told
