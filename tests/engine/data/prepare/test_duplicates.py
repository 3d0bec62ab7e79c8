"""Documents with the same text: counted and named by default, dropped on request."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.cli import main
from unmask.data.prepare import describe, prepare, seen
from unmask.data.prepare.seen import SeenHashes
from unmask.data.store import Store, duplicates
from unmask.data.store.duplicates import describe_duplicates
from unmask.data.tokenizer import Tokenizer
from unmask.errors import StoreError

LINES = [f"the {one} cat sat on the {two} mat" for one in ("red", "old", "sad") for two in ("big", "new")]
AD = "share this on your wall"
SETTINGS: dict[str, Any] = {"workers": 1}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([*LINES, AD], 120)


def _write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    first = _write(tmp_path / "first.jsonl", [AD, *LINES[:4], AD, ""])
    return [first, _write(tmp_path / "second.jsonl", [AD, *LINES[3:], ""])]


def test_copies_are_counted_by_source_and_the_most_frequent_is_shown(
    inputs: list[Path], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = prepare(inputs, tmp_path / "store", tokenizer=tokenizer, **SETTINGS)
    assert describe_duplicates(store) == (
        "3 of 10 documents are copies of earlier ones, 30.0% (first 1, second 2); 'share this on your wall' comes 3 "
        "times; --drop-duplicates keeps one of each (data.drop_duplicates of a run)"
    )
    # the manifest of a store knows nothing of it: its bytes stay as they were
    assert "duplicates" not in json.dumps(store.manifest)
    with monkeypatch.context() as few:
        # in many parts, by way of a file
        few.setattr(duplicates, "_SORTED", 1)
        told = describe_duplicates(store)
    assert told == describe_duplicates(store)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.jsonl", "second.jsonl", "store"]
    alone = prepare([_write(tmp_path / "alone.jsonl", LINES)], tmp_path / "alone", tokenizer=tokenizer, **SETTINGS)
    assert describe_duplicates(alone) == ""


def test_dropped_copies_leave_the_store_of_the_distinct_texts(
    inputs: list[Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store = prepare(inputs, tmp_path / "store", tokenizer=tokenizer, drop_duplicates=True, **SETTINGS)
    distinct = [
        f"first={_write(tmp_path / 'a.jsonl', [AD, *LINES[:4]])}",
        f"second={_write(tmp_path / 'b.jsonl', LINES[4:])}",
    ]
    assert store.fingerprint == prepare(distinct, tmp_path / "distinct", tokenizer=tokenizer, **SETTINGS).fingerprint
    assert describe_duplicates(store) == ""
    assert "3 copies of earlier documents were dropped" in describe(store)
    assert store.manifest["summary"]["empty_documents"] == 2
    # copies of what a store holds are dropped too, and so are those of a trained vocabulary's text
    grown = prepare([tmp_path / "store", inputs[1]], tmp_path / "grown", drop_duplicates=True, **SETTINGS)
    assert grown.fingerprint == store.fingerprint
    trained = prepare(inputs, tmp_path / "trained", vocab_size=60, drop_duplicates=True, **SETTINGS)
    assert trained.tokenizer_hash == prepare(distinct, tmp_path / "same", vocab_size=60, **SETTINGS).tokenizer_hash


def test_one_copy_is_told_as_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = [_write(tmp_path / "text.jsonl", [LINES[0], LINES[1], LINES[0]])]
    store = prepare(text, tmp_path / "store", tokenizer=tokenizer, **SETTINGS)
    assert describe_duplicates(store).startswith("1 of 3 documents is a copy of an earlier one, 33.3% (text 1); ")
    dropped = prepare(text, tmp_path / "dropped", tokenizer=tokenizer, drop_duplicates=True, **SETTINGS)
    assert "1 copy of an earlier document was dropped" in describe(dropped)


def test_a_killed_preparation_that_drops_copies_goes_on_to_the_same_bytes(
    inputs: list[Path], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"tokenizer": tokenizer, "shard_tokens": 20, "drop_duplicates": True, **SETTINGS}
    whole = prepare(inputs, tmp_path / "whole", **settings)

    def killed(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(inputs, tmp_path / "store", progress=killed, **settings)
    assert (tmp_path / "store.partial" / "unfinished.json").exists()
    assert prepare(inputs, tmp_path / "store", **settings).manifest == whole.manifest


def test_the_command_shows_copies_and_its_advice_drops_them(
    inputs: list[Path], tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    words = ["prepare", "--input", *map(str, inputs), "--tokenizer", str(tmp_path / "tokenizer"), "--workers", "1"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out
    assert "3 of 10 documents are copies of earlier ones" in told
    assert "--drop-duplicates keeps one of each" in told
    assert main([*words, "--out", str(tmp_path / "b"), "--drop-duplicates"]) == 0
    assert "3 copies of earlier documents were dropped" in capsys.readouterr().out
    assert Store.open(tmp_path / "b").num_documents == 7


def test_without_input_the_command_names_both_ways_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.data.text.docstrings.SOURCES", ("topics",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["prepare", "--out", str(tmp_path / "store"), "--vocab-size", "400", "--workers", "1"]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "give text with --input, or the embedded corpus with --input docstrings:" in told
    assert not (tmp_path / "store").exists()
    assert main([*words, "--input", "docstrings:"]) == 0
    assert Store.open(tmp_path / "store").sources == ["topics"]


def test_hashes_that_came_before_are_found_in_tables_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "_FIRST_BITS", 2)
    rng = np.random.default_rng(0)
    drawn = [0, 2**64 - 1, 2**63, 2**63 + 1, *rng.integers(0, 2**64, 500, dtype=np.uint64).tolist()]
    with SeenHashes(tmp_path) as found:
        for number, hashed in enumerate(drawn):
            assert hashed not in found
            found.add(hashed)
            assert all(before in found for before in drawn[: number + 1])
        assert len(found._tables) > 5
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_of_hashes_is_told(
    inputs: list[Path], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(seen.tempfile, "TemporaryFile", full)
    with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); make room"):
        prepare(inputs, tmp_path / "store", tokenizer=tokenizer, drop_duplicates=True, **SETTINGS)
