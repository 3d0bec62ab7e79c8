"""What has passed on this machine: read from records, and chosen for such calls and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import FAMILIES, capability, machine_record, passes
from unmask_kernels.attention import AttentionCall
from unmask_kernels.dispatch import Pass
from unmask_kernels.gelu.choice import GeluCall
from unmask_kernels.machine_record import Machine, update_record
from unmask_kernels.masking import MaskingCall
from unmask_kernels.passes import Entry, note_passes, read_verified, table_of

GPU = "Stand-in GPU"
ATTENTION = AttentionCall("cuda", "sm_90", torch.bfloat16, 64, False, -1, 0.1, 512, False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(capability._names, "sm_90", (GPU,))
    monkeypatch.setattr(capability, "HAS_TRITON", True)
    yield tmp_path / "cache"
    for family in FAMILIES.values():
        family.passed = ()


@pytest.fixture
def here() -> Machine:
    return replace(machine_record.this_machine("cpu"), device=GPU, architecture="sm_90")


def write(machine: Machine, passed: list[Entry], failed: list[Entry] | None = None) -> Path:
    contents = {"passed": [table_of(one) for one in passed], "failed": [table_of(one) for one in failed or []]}
    return update_record("verified", machine, lambda old: contents)


def chosen(call: Any, family: str = "attention") -> str:
    return FAMILIES[family].choose(None, call)


def test_what_has_passed_is_chosen_on_that_machine_from_then_on(here: Machine) -> None:
    assert chosen(ATTENTION) != "triton"
    write(here, [Entry("attention", "triton", ATTENTION)])
    note_passes()
    assert chosen(ATTENTION) == "triton"
    assert "triton: can run; has passed `unmask verify` on this machine" in FAMILIES["attention"].explain(ATTENTION)


@pytest.mark.parametrize(
    ("change", "covered"),
    [
        ({"max_seqlen": 100}, True),
        ({"max_seqlen": 513}, False),
        ({"p": 0.2}, True),
        ({"p": 0.0}, False),
        ({"head_dim": 32}, False),
        ({"causal": True}, False),
        ({"window": 64}, False),
        ({"dtype": torch.float16}, False),
        ({"captured": True}, True),
    ],
)
def test_a_pass_covers_what_was_run_and_nothing_else(change: dict[str, Any], covered: bool, here: Machine) -> None:
    write(here, [Entry("attention", "triton", ATTENTION)])
    note_passes()
    assert (chosen(ATTENTION._replace(**change)) == "triton") == covered


@pytest.mark.parametrize(
    "change",
    [
        {"device": "Another GPU"},
        {"architecture": "sm_80"},
        {"driver": "1.2.3"},
        {"torch": "2.0"},
        {"triton": "3.0"},
        {"kernels": "0123"},
    ],
    ids=str,
)
def test_any_change_of_the_machine_asks_again(change: dict[str, str], here: Machine) -> None:
    write(replace(here, **change), [Entry("attention", "triton", ATTENTION)])
    note_passes()
    assert chosen(ATTENTION) != "triton"


def test_two_kinds_of_gpu_with_one_architecture_both_have_to_pass(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(capability._names, "sm_90", (GPU, "Another GPU"))
    write(here, [Entry("attention", "triton", ATTENTION)])
    note_passes()
    assert chosen(ATTENTION) != "triton"
    write(replace(here, device="Another GPU"), [Entry("attention", "triton", ATTENTION._replace(max_seqlen=1024))])
    note_passes()
    assert chosen(ATTENTION) == "triton"


def test_a_failure_takes_back_the_passes_that_cover_it(
    here: Machine, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = cache.parent / "shared"
    monkeypatch.setenv("UNMASK_CACHE", str(shared))
    write(here, [Entry("attention", "triton", ATTENTION)])
    monkeypatch.setenv("UNMASK_SHARED_CACHE", str(shared))
    monkeypatch.setenv("UNMASK_CACHE", str(cache))
    note_passes()
    assert chosen(ATTENTION) == "triton"
    write(here, [], failed=[Entry("attention", "triton", ATTENTION._replace(max_seqlen=128))])
    note_passes()
    assert chosen(ATTENTION) != "triton"


def test_right_results_do_not_choose_a_backend_that_must_also_be_faster(here: Machine) -> None:
    call = FAMILIES["linear_gelu"].example("cuda", "sm_90", torch.bfloat16)
    write(here, [Entry("linear_gelu", "triton", call)])
    note_passes()
    assert FAMILIES["linear_gelu"].has_passed("triton", call)
    assert chosen(call, "linear_gelu") == "torch"
    assert "right on this machine, but not known to be faster" in FAMILIES["linear_gelu"].explain(call)


def test_a_pass_of_masking_is_for_one_size_of_block() -> None:
    covers, passed = FAMILIES["masking"].covers, MaskingCall("cuda", "sm_90", 300)
    found = [length for length in (1, 256, 257, 300, 512, 513) if covers(passed, passed._replace(max_seqlen=length))]
    assert found == [257, 300, 512]
    assert covers(passed._replace(max_seqlen=9), passed._replace(max_seqlen=1))


def test_a_pass_of_one_activation_is_for_no_other(here: Machine) -> None:
    write(here, [Entry("gelu", "triton", GeluCall("cuda", "sm_90", torch.bfloat16, "geglu", 2304))])
    note_passes()
    assert chosen(GeluCall("cuda", "sm_90", torch.bfloat16, "geglu", 2304), "gelu") == "triton"
    assert chosen(GeluCall("cuda", "sm_90", torch.bfloat16, "swiglu", 2304), "gelu") == "torch"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("max_seqlen = 512", 'max_seqlen = "512"', "damaged: machine_record: a call of attention must have dtype, "),
        ("max_seqlen = 512, ", "", "damaged: machine_record: a call of attention must have dtype, "),
        ('"bfloat16"', '"Tensor"', "damaged: machine_record: a call of attention must have dtype, "),
        ('"triton"', '"fast"', "damaged: machine_record: an entry of passed names no backend, got "),
        ('"attention"', '"atention"', "damaged: machine_record: an entry of passed names no backend, got "),
        ("passed", "damaged", ""),
    ],
)
def test_a_record_with_an_entry_that_is_none_is_ignored_with_the_reason(
    old: str, new: str, reason: str, here: Machine
) -> None:
    path = write(here, [Entry("attention", "triton", ATTENTION)])
    head, entries = path.read_text().split("[[", 1)
    path.write_text(f"{head}[[{entries.replace(old, new)}")
    [record] = read_verified()
    assert record.ignored.startswith(reason)
    note_passes()
    assert chosen(ATTENTION) != "triton"


def test_every_call_of_a_family_is_read_as_it_was_written(here: Machine) -> None:
    entries = [
        Entry(name, next(iter(family.backends)), family.example("cuda", "sm_90", torch.bfloat16))
        for name, family in FAMILIES.items()
    ]
    write(here, entries)
    [record] = read_verified()
    assert list(passes.entries_of(record.contents, "passed", here)) == entries
    note_passes()
    for entry in entries:
        assert FAMILIES[entry.family].has_passed(entry.backend, entry.call)


def test_a_full_graph_compile_traces_through_the_choice_and_follows_records(here: Machine) -> None:
    family = FAMILIES["attention"]

    def number(x: Tensor) -> Tensor:
        return x + list(family.backends).index(family.choose(None, ATTENTION._replace(max_seqlen=x.shape[0])))

    compiled = torch.compile(number, fullgraph=True, backend="eager")
    short, long = torch.zeros(300), torch.zeros(600)
    slow, fast = list(family.backends).index("torch"), list(family.backends).index("triton")
    assert (compiled(short)[0], compiled(long)[0]) == (slow, slow)
    write(here, [Entry("attention", "triton", ATTENTION)])
    # nothing reads files by itself in the middle of a process
    assert compiled(short)[0] == slow
    note_passes()
    assert (compiled(short)[0], compiled(long)[0]) == (fast, slow)
    write(here, [], failed=[Entry("attention", "triton", ATTENTION)])
    note_passes()
    assert compiled(short)[0] == slow


def test_a_process_reads_the_records_when_it_imports_the_kernels_and_starts_no_cuda(here: Machine) -> None:
    write(here, [Entry("gelu", "triton", FAMILIES["gelu"].example("cuda", "sm_90", torch.bfloat16))])
    code = (
        "import sys, torch, unmask_kernels;"
        "print(len(unmask_kernels.FAMILIES['gelu'].passed), torch.cuda.is_initialized(), 'triton' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1", "False", "False"]


def test_a_call_on_a_cpu_looks_for_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("looked for a record")

    for family in FAMILIES.values():
        monkeypatch.setattr(family, "has_passed", refuse)
        call = family.example("cpu", "cpu", torch.float32)
        assert family.choose(None, call) == ("torch" if "torch" in family.backends else "reference")


def test_records_that_say_the_same_leave_compiled_functions_alone(here: Machine) -> None:
    write(here, [Entry("attention", "triton", ATTENTION)])
    note_passes()
    before = FAMILIES["attention"].passed
    assert before == (Pass("triton", GPU, ATTENTION),)
    note_passes()
    assert FAMILIES["attention"].passed is before
