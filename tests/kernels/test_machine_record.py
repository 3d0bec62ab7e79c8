"""Records of a machine: where they are, for what they hold, and what becomes of damaged, stale and foreign ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unmask_kernels import machine_record
from unmask_kernels.machine_record import (
    Machine,
    NotRecorded,
    cache_folder,
    read_records,
    shared_folders,
    this_machine,
    update_record,
)

CONTENTS = {
    "note": 'a "quoted" line\nand ünicode \x7f',
    "count": 3,
    "share": 1e-05,
    "whole": True,
    "names": ["a", "b"],
    "of bins": {"64": 1, "a.b": [1, 2]},
    "runs": [{"dtype": "bfloat16", "shape": {"rows": 5}}, {"dtype": "float32", "shape": {}}],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def here() -> Machine:
    return this_machine("cpu")


def the_record(kind: str = "verified") -> machine_record.Record:
    [record] = read_records(kind)
    return record


def test_a_record_is_read_as_it_was_written(here: Machine, cache: Path) -> None:
    path = update_record("verified", here, lambda old: CONTENTS, comment="What was run.\n\nBy whom.")
    assert path.parent == cache / "verified"
    record = the_record()
    assert (record.path, record.machine, record.ignored) == (path, here, "")
    assert record.contents == CONTENTS
    assert path.read_text().startswith("# What was run.\n#\n# By whom.\n")
    assert read_records("tuned") == []


def test_a_record_grows_by_what_a_later_process_adds(here: Machine) -> None:
    update_record("verified", here, lambda old: {"a": [1]})
    update_record("verified", here, lambda old: {**old, "b": [2]})
    assert the_record().contents == {"a": [1], "b": [2]}


def test_the_folder_is_named_by_the_environment_or_is_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == Path(os.environ["UNMASK_CACHE"])
    monkeypatch.delenv("UNMASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/unmask")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_folder() == Path("/home/ada/.cache/unmask")
    monkeypatch.setenv("UNMASK_SHARED_CACHE", "/opt/a: /opt/b :")
    assert shared_folders() == [Path("/opt/a"), Path("/opt/b")]


def test_a_shared_folder_is_read_after_the_users_own_and_never_written(
    here: Machine, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    monkeypatch.setenv("UNMASK_CACHE", str(shared))
    update_record("verified", here, lambda old: {"by": "the cluster"})
    before = sorted(path.name for path in (shared / "verified").iterdir())
    monkeypatch.setenv("UNMASK_CACHE", str(cache))
    monkeypatch.setenv("UNMASK_SHARED_CACHE", str(shared))
    assert [record.contents["by"] for record in read_records("verified")] == ["the cluster"]
    update_record("verified", here, lambda old: {**old, "by": "me"})
    assert [record.contents["by"] for record in read_records("verified")] == ["me", "the cluster"]
    assert sorted(path.name for path in (shared / "verified").iterdir()) == before


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("driver", "made with driver other, here none"),
        ("torch", f"made with PyTorch other, here {torch.__version__}"),
        ("triton", f"made with Triton other, here {machine_record.triton_version()}"),
        ("kernels", "made with other sources of the kernels"),
    ],
)
def test_a_record_goes_stale_with_the_driver_and_the_software(
    here: Machine, field: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_record, "driver_version", lambda: "none")
    then = replace(here, driver="none")
    update_record("verified", replace(then, **{field: "other"}), lambda old: {"a": 1})
    assert the_record().ignored == reason


def test_a_record_of_this_machine_before_a_change_is_kept_beside_the_new_one(here: Machine) -> None:
    update_record("verified", replace(here, triton="2.0"), lambda old: {"a": 1})
    update_record("verified", here, lambda old: {"a": 2})
    assert {record.contents["a"]: bool(record.ignored) for record in read_records("verified")} == {1: True, 2: False}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_is_ignored_with_the_reason(here: Machine, cache: Path) -> None:
    path = update_record("verified", here, lambda old: {"a": 1})
    os.mkfifo(path.with_name("pipe.toml"))
    path.with_name("folder.toml").mkdir()
    path.with_name("loop.toml").symlink_to("loop.toml")
    path.with_name("endless.toml").symlink_to("/dev/zero")
    ignored = {record.path.stem: record.ignored for record in read_records("verified") if record.ignored}
    assert ignored.keys() == {"pipe", "folder", "loop", "endless"}
    assert all(reason.startswith("cannot be read: ") for reason in ignored.values()), ignored


def test_a_home_folder_that_does_not_exist_is_no_folder_of_records(
    here: Machine, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_CACHE", "~nobody-of-this-name/unmask")
    monkeypatch.setenv("UNMASK_SHARED_CACHE", "~nobody-of-this-name/unmask:/opt/a")
    assert (cache_folder(), shared_folders()) == (None, [Path("/opt/a")])
    with pytest.raises(NotRecorded, match="set UNMASK_CACHE to a folder that can be written"):
        update_record("verified", here, lambda old: {"a": 1})
    monkeypatch.setenv("UNMASK_CACHE", str(cache))
    assert update_record("verified", here, lambda old: {"a": 1}).exists()


def test_a_damaged_record_is_ignored_with_the_reason_and_written_anew(here: Machine) -> None:
    path = update_record("verified", here, lambda old: {"longest": 512})
    whole = path.read_text()
    for damaged, reason in (
        (whole[: whole.index("512") + 1].encode(), "damaged: its end is missing"),
        (whole.replace("= 512", "= = 512").encode(), "damaged: "),
        (whole.replace("driver", "diver").encode(), "damaged: it does not say for which machine it is"),
        (whole.replace("format = 1", "format = 9").encode(), "made by another version of unmask"),
        (b"\xff\xfe\x00", "damaged: it is no text"),
        (b"", "damaged: its end is missing"),
        (b"#" * (1 << 21), "damaged: it is too large for a record"),
        (whole.replace("= 512", "= " + "5" * 5000).encode(), "damaged: a number in it has too many digits"),
    ):
        path.write_bytes(damaged)
        record = the_record()
        assert record.ignored.startswith(reason), damaged[:40]
        assert record.contents == {}
    update_record("verified", here, lambda old: {**old, "longest": 64})
    assert (the_record().contents, the_record().ignored) == ({"longest": 64}, "")


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence_and_the_advice_works(
    here: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(NotRecorded) as raised:
        update_record("verified", here, lambda old: {"a": 1})
    assert str(raised.value) == (
        f"the record is not kept, because {tmp_path}/file/cache/verified cannot be written (Not a directory); "
        "set UNMASK_CACHE to a folder that can"
    )
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "other"))
    update_record("verified", here, lambda old: {"a": 1})
    assert the_record().contents == {"a": 1}


def test_a_read_only_folder_keeps_what_it_has(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    path = update_record("verified", here, lambda old: {"a": 1})

    def refuse(*arguments: Any, **settings: Any) -> Any:
        raise OSError(30, "Read-only file system")

    # root may write into any folder, so the file system itself has to refuse
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(NotRecorded, match=r"cannot be written \(Read-only file system\)"):
        update_record("verified", here, lambda old: {"a": 2})
    assert the_record().contents == {"a": 1}
    assert [each.name for each in path.parent.iterdir() if each.name != ".lock"] == [path.name]


def test_without_a_home_folder_nothing_is_read_and_the_way_out_is_told(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNMASK_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert read_records("verified") == []
    with pytest.raises(NotRecorded, match="there is no home folder; set UNMASK_CACHE"):
        update_record("verified", here, lambda old: {})


def test_two_processes_at_once_keep_each_others_entries(here: Machine) -> None:
    code = """
    import sys
    from unmask_kernels.machine_record import this_machine, update_record
    for number in range(20):
        update_record("verified", this_machine("cpu"), lambda old: {**old, f"{sys.argv[1]}{number}": 1})
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    both = [subprocess.Popen([*command, name], env=environment) for name in ("a", "b")]
    assert [each.wait(120) for each in both] == [0, 0]
    assert the_record().contents == {f"{name}{number}": 1 for name in "ab" for number in range(20)}


def test_a_process_killed_in_the_middle_leaves_the_old_record(here: Machine) -> None:
    path = update_record("verified", here, lambda old: {"a": 1})
    code = """
    import os, signal
    from unmask_kernels.machine_record import this_machine, update_record
    os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)  # the text is written, the file not yet in place
    update_record("verified", this_machine("cpu"), lambda old: {"a": 2})
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert the_record().contents == {"a": 1}
    [left] = path.parent.glob("*.partial")
    # the lock went with the process, and what it left goes with a later record
    os.utime(left, (0, 0))
    update_record("verified", here, lambda old: {"a": 3})
    assert not left.exists()
    assert the_record().contents == {"a": 3}


def test_a_machine_is_its_device_and_its_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="NVIDIA H200 (141 GB)", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    machine = this_machine("cuda")
    assert (machine.device, machine.architecture) == ("NVIDIA H200 (141 GB)", "sm_90")
    assert machine.file_name.startswith("nvidia-h200-141-gb-")
    names = {replace(machine, **{field: "other"}).file_name for field in ("architecture", "driver", "torch", "kernels")}
    assert len({machine.file_name, *names}) == 5


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
            "GCC version:  gcc version 12.2.0",
            "550.54.15",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder)",
            "580.95.05",
        ),
    ],
)
def test_the_driver_is_read_without_starting_cuda(text: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
    assert machine_record.driver_version() == version
    assert not torch.cuda.is_initialized()


def test_an_assembler_named_by_the_environment_is_another_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_PTXAS_PATH", "/opt/ptxas")
    assert machine_record.triton_version.__wrapped__().endswith(" TRITON_PTXAS_PATH=/opt/ptxas")
