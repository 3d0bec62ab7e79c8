"""Checkpoints of our own whose files are odd although their hashes agree: one sentence, and nothing read outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from unmask.errors import CheckpointError
from unmask.interop.checkpoint_folder import MANIFEST, _digest, _encode, is_checkpoint, verify_checkpoint
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.state import Facts, _as_written, load_facts, load_tensors, save_state, state_of
from unmask.train.logging.log import read_log
from unmask.train.logging.metrics import Meter
from unmask.train.run_folder import saved_config

FACTS = Facts(
    step=3,
    phase=0,
    index=6,
    cursor=(0, 1, 2),
    fingerprint="f",
    tokens=9,
    skipped=1,
    threads=2,
    machine={"torch": "2"},
    interval=[0.1, float("nan"), 2.0],
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    checkpoints = Checkpoints(folder=tmp_path / "checkpoints")
    return checkpoints.save(5, lambda folder: (folder / "a.bin").write_bytes(b"abc") and None, bytes_needed=0)


def rewrite(checkpoint: Path, **fields: Any) -> None:
    """Changes the manifest, with a digest that agrees."""
    manifest = json.loads((checkpoint / MANIFEST).read_bytes()) | fields
    (checkpoint / MANIFEST).write_bytes(_encode(manifest | {"digest": _digest(manifest)}))


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"7", b'"text"', b"{}", b"\xff", b'{"a": ', b"[" * 100_000, b'{"digest": []}'],
    ids=["empty", "list", "null", "number", "text", "object", "not UTF-8", "cut", "deep", "digest"],
)
def test_a_manifest_that_is_none_is_damage(checkpoint: Path, content: bytes) -> None:
    (checkpoint / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        verify_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "fields",
    [
        {"files": []},
        {"files": None},
        {"files": {"a.bin": 3}},
        {"files": {"a.bin": {"bytes": "3", "sha256": ""}}},
        {"files": {"a.bin": {"bytes": 3}}},
        {"files": {"../a.bin": {"bytes": 3, "sha256": ""}}},
        {"files": {"/etc/hostname": {"bytes": 3, "sha256": ""}}},
        {"files": {"a\0": {"bytes": 3, "sha256": ""}}},
        {"step": "5"},
        {"step": None},
        {"step": True},
        {"step": -1},
        {"step": 5.0},
    ],
    ids=str,
)
def test_a_manifest_of_odd_values_is_damage(checkpoint: Path, fields: dict[str, Any]) -> None:
    rewrite(checkpoint, **fields)
    with pytest.raises(CheckpointError, match=r"manifest\.json does not name the step and the bytes and sha256"):
        verify_checkpoint(checkpoint)
    assert is_checkpoint(checkpoint)


@pytest.mark.parametrize("written", [None, "1", [1], {}, -1, 2])
def test_a_format_that_is_not_ours_is_named(checkpoint: Path, written: object) -> None:
    rewrite(checkpoint, format=written)
    with pytest.raises(CheckpointError, match=r"was written by format .*; this version reads 1"):
        verify_checkpoint(checkpoint)


def test_the_manifest_of_another_program_makes_no_checkpoint(tmp_path: Path) -> None:
    assert not is_checkpoint(tmp_path)
    (tmp_path / MANIFEST).write_text('{"name": "a web page", "icons": []}')
    assert not is_checkpoint(tmp_path)
    (tmp_path / "training").mkdir()
    assert is_checkpoint(tmp_path)


def test_a_folder_that_only_resembles_a_step_is_left_alone(checkpoint: Path) -> None:
    for name in ("step-7", "step-0000007", "step-²", "step-"):
        (checkpoint.parent / name).mkdir()
    checkpoints = Checkpoints(folder=checkpoint.parent)
    assert checkpoints.steps() == [5]
    assert checkpoints.latest_valid() == checkpoint
    assert len(list(checkpoint.parent.iterdir())) == 5


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "state.json cannot be read as JSON: it is empty"),
        (b"[1]", "must hold a JSON object, holds [1] (list)"),
        (b"\xff{}", "byte 0 is not UTF-8"),
        (b"{}", "state.json, step: Field required"),
        ({"step": "3"}, "state.json, step: "),
        ({"step": True}, "state.json, step: "),
        ({"step": 3.5}, "state.json, step: "),
        ({"tokens": -1}, "state.json, tokens is -1, below 0"),
        ({"threads": 0}, "state.json, threads is 0, below 1"),
        ({"cursor": [1, 2]}, "state.json, cursor.2: "),
        ({"cursor": {"pass": 1}}, "state.json, cursor: "),
        ({"machine": {"torch": 2}}, "state.json, machine.torch: "),
        ({"window": [None]}, "state.json, window.0: "),
        ({"other": 1}, "state.json holds other, which this version does not know"),
    ],
    ids=str,
)
def test_odd_facts_are_named(tmp_path: Path, content: bytes | dict[str, Any], reason: str) -> None:
    text = content if isinstance(content, bytes) else json.dumps(_as_written(FACTS) | content).encode()
    (tmp_path / "state.json").write_bytes(text)
    with pytest.raises(CheckpointError) as raised:
        load_facts(tmp_path)
    assert f"checkpoint {tmp_path.parent} holds no training state to resume" in str(raised.value)
    assert reason in str(raised.value)


def test_facts_come_back_as_they_were_saved(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps(_as_written(FACTS)))
    assert repr(load_facts(tmp_path)) == repr(FACTS)


@pytest.mark.parametrize("damage", [".metadata", "__0_0.distcp", "all"])
def test_odd_tensors_are_a_sentence(tmp_path: Path, damage: str) -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    save_state(tmp_path, state_of(model, optimizer), FACTS)
    for path in tmp_path.iterdir():
        if damage in (path.name, "all"):
            path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(CheckpointError, match="holds no training state to resume"):
        load_tensors(tmp_path, model, optimizer)


def test_an_open_log_row_of_another_run_is_refused() -> None:
    meter = Meter(["mlm"])
    meter.resume_interval([], "cpu")
    with pytest.raises(CheckpointError, match="the open log row has 4 numbers"):
        meter.resume_interval([1.0, 2.0, 3.0, 1.0], "cpu")


def test_an_open_log_row_goes_on_after_the_configuration_is_put_back(tiny: ModuleType, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny.pretrain(tiny.config(run, steps=6, phases=[], log_every=4, save_every=5))
    shutil.rmtree(run / "checkpoints" / "step-000006")
    facts = load_facts(run / "checkpoints" / "step-000005" / "training")
    other = Meter(["mlm", "nsp"])
    with pytest.raises(CheckpointError, match=r"put config\.yaml of the run back as it was, or start a new run"):
        other.resume_interval(facts.interval, "cpu")
    tiny.pretrain(saved_config(run), resume=run)
    assert read_log(run)[-1]["step"] == 6
