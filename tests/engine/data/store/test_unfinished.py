"""A store that is being made: killed runs go on to the same bytes, and nothing half-written passes for whole."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unmask.data.prepare import Progress, describe, prepare
from unmask.data.store import Store
from unmask.data.store.unfinished import unfinished_hint
from unmask.data.store.writer import StoredDocument, write_store
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError, StoreError

WORDS = ("the", "river", "runs", "past", "old", "mill", "and", "cat", "sat", "on", "warm", "wall", "深度", "学习", "好")
# a shard holds 65,536 documents or this many tokens
SHARD = 400


def _texts(count: int) -> list[str]:
    return [" ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, number % 40)) for number in range(count)]


def _write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return _write(tmp_path / "docs.jsonl", [*_texts(150), "damaged \ufffd\x01 text"])


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes writing fail after so many shards, as a kill would, but for what exceptions do."""

    def arrange(shards: int) -> None:
        from unmask.data.store.unfinished import UnfinishedStore

        record = UnfinishedStore.record

        def stopping(self: UnfinishedStore, *arguments: Any) -> None:
            record(self, *arguments)
            if len(arguments[0]) == shards:
                raise KeyboardInterrupt

        monkeypatch.setattr(UnfinishedStore, "record", stopping)

    return arrange


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("shards", [1, 4])
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(
    corpus: Path, tmp_path: Path, stop_after: Callable[[int], None], trained: bool, shards: int
) -> None:
    given: dict[str, Any] = {"vocab_size": 120} if trained else {"tokenizer": Tokenizer.train(_texts(50), 120)}
    common: dict[str, Any] = {**given, "shard_tokens": SHARD, "workers": 1}
    whole = prepare([corpus], tmp_path / "whole", **common)
    assert len(whole.manifest["shards"]) > 5
    stop_after(shards)
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "store", **common)
    assert unfinished_hint(tmp_path / "store") is not None
    # half of a shard, as a kill leaves it
    for number in (shards, 99):
        (tmp_path / "store.partial" / f"shard-{number:05d}.arrow").write_bytes(b"half")
    stop_after(0)
    seen: list[Progress] = []
    store = prepare([corpus], tmp_path / "store", progress=seen.append, **common)
    assert seen[0].stage == "continue"
    assert 0 < seen[0].documents < 151
    assert _files(store.folder) == _files(whole.folder)
    shards = {shard["file"] for shard in store.manifest["shards"]}
    assert {path.name for path in store.folder.iterdir()} == {"manifest.json", "tokenizer", "index", *shards}
    assert not (tmp_path / "store.partial").exists()
    assert describe(store).splitlines()[1:] == describe(whole).splitlines()[1:]


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path) -> None:
    corpus = _write(tmp_path / "docs.jsonl", _texts(40) * 300)
    Tokenizer.train(_texts(40), 120).save(tmp_path / "tokenizer")
    limits = ["--tokenizer", str(tmp_path / "tokenizer"), "--shard-tokens", "20000", "--workers", "2"]
    command = [sys.executable, "-m", "unmask", "prepare", "--input", str(corpus), *limits]
    command += ["--out", str(tmp_path / "store")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    journal = tmp_path / "store.partial" / "unfinished.json"
    deadline = time.monotonic() + 600
    while not journal.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(
        StoreError, match=r"store is not finished; run the unmask prepare that began .*store\.partial again"
    ):
        Store.open(tmp_path / "store")
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0
    assert "continue: " in again.stderr
    whole = prepare([corpus], tmp_path / "whole", tokenizer=tmp_path / "tokenizer", shard_tokens=20_000, workers=1)
    assert _files(tmp_path / "store") == _files(whole.folder)


def test_other_settings_or_another_text_do_not_go_on(
    corpus: Path, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    common: dict[str, Any] = {"tokenizer": Tokenizer.train(_texts(50), 120), "shard_tokens": SHARD, "workers": 1}
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "store", **common)
    stop_after(0)
    before = _files(tmp_path / "store.partial")
    for other, name in (
        ({"tokenizer": Tokenizer.train(_texts(50), 120, lowercase=False)}, "tokenizer"),
        ({"segmenter": "spaces", "normalisation": "NFC"}, "normalisation, segmenter"),
        ({"shard_tokens": 2 * SHARD, "text_field": "body"}, "shard_tokens, text_field"),
    ):
        with pytest.raises(StoreError, match=f"was begun with another {name}; run the command that began it"):
            prepare([corpus], tmp_path / "store", **(common | other))
    assert _files(tmp_path / "store.partial") == before
    # as many bytes, other words
    corpus.write_bytes(corpus.read_bytes().replace(b"river", b"rover"))
    with pytest.raises(StoreError, match=r"was begun with another text: its first [0-9]+ documents have changed"):
        prepare([corpus], tmp_path / "store", **common)
    corpus.write_bytes(corpus.read_bytes() + b"\n")
    with pytest.raises(StoreError, match=r"input \(or a file of it has changed since\); run .* on the same text"):
        prepare([corpus], tmp_path / "store", **common)
    (tmp_path / "store.partial" / "shard-00001.arrow").write_bytes(b"")
    with pytest.raises(StoreError, match="is damaged and cannot be continued; remove it"):
        prepare([corpus], tmp_path / "store", **common)


def test_one_document_that_has_changed_is_told_as_one(
    tmp_path: Path, stop_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = _write(tmp_path / "docs.jsonl", ["the river runs", "past the old mill", "on the warm wall"])
    common: dict[str, Any] = {"tokenizer": Tokenizer.train(_texts(50), 120), "shard_tokens": 1, "workers": 1}
    stop_after(1)
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "store", **common)
    monkeypatch.undo()
    corpus.write_bytes(corpus.read_bytes().replace(b"river", b"rover"))
    with pytest.raises(StoreError, match=r"text: its first document has changed; remove it to start afresh"):
        prepare([corpus], tmp_path / "store", **common)
    # the way out
    shutil.rmtree(tmp_path / "store.partial")
    assert prepare([corpus], tmp_path / "store", **common).num_documents > 1


def test_an_interruption_right_after_the_journal_keeps_the_shards(tmp_path: Path, corpus: Path) -> None:
    """It may come between the rename of the journal and the next line of the program."""
    from unmask.paths import replace_text

    def interrupted(path: Path, text: str) -> None:
        replace_text(path, text)
        raise KeyboardInterrupt

    common: dict[str, Any] = {"tokenizer": Tokenizer.train(_texts(100), 120), "shard_tokens": SHARD, "workers": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unmask.data.store.unfinished.replace_text", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare([corpus], tmp_path / "store", **common)
    assert len(list((tmp_path / "store.partial").glob("shard-*"))) == 1
    assert "run the same command on the same text to go on with it" in (unfinished_hint(tmp_path / "store") or "")
    assert prepare([corpus], tmp_path / "store", **common).num_documents == sum(map(bool, _texts(150))) + 1


def test_bad_text_after_finished_shards_keeps_them_until_it_is_mended(tmp_path: Path) -> None:
    texts = _texts(100)
    corpus = _write(tmp_path / "docs.jsonl", texts)
    good = corpus.read_bytes()
    corpus.write_bytes(good[:-4] + b"\xff" + good[-3:])
    common: dict[str, Any] = {"tokenizer": Tokenizer.train(texts, 120), "shard_tokens": SHARD, "workers": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unmask.data.prepare.preparation._BATCH_CHARACTERS", 500)
        patch.setattr("unmask.data.prepare.preparation._SAMPLE_CHARACTERS", 100)
        # what is read at once is decoded at once
        patch.setattr("unmask.data.text.decoding._BLOCK_BYTES", 500)
        with pytest.raises(CorpusError, match="is not UTF-8"):
            prepare([corpus], tmp_path / "store", **common)
        assert "to go on with it, or remove it to start afresh" in (unfinished_hint(tmp_path / "store") or "")
        corpus.write_bytes(good)
        assert prepare([corpus], tmp_path / "store", **common).num_documents == sum(map(bool, texts))


def test_a_store_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    document = StoredDocument(ids=[1], source="a", content_hash=0)  # type: ignore[arg-type]
    common: dict[str, Any] = {
        "tokenizer_hash": "x",
        "vocab_size": 10,
        "special_ids": dict.fromkeys(("pad", "unk", "cls", "sep", "mask"), 0),
    }

    def rival() -> Iterator[StoredDocument]:
        with pytest.raises(StoreError, match=f"is being written by process {os.getpid()}; wait for it"):
            write_store(tmp_path / "store", [document], **common)
        yield document

    assert write_store(tmp_path / "store", rival(), **common).num_documents == 1
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_what_a_kill_left_before_the_first_shard_is_no_obstacle(corpus: Path, tmp_path: Path) -> None:
    partial = tmp_path / "store.partial"
    (partial / "tokenizer").mkdir(parents=True)
    (partial / "lock").write_text("1")
    (partial / "shard-00000.arrow").write_bytes(b"half")
    assert prepare([corpus], tmp_path / "store", vocab_size=120).num_documents > 100
    assert not partial.exists()


@pytest.mark.parametrize("locked", [False, True])
def test_a_folder_of_that_name_that_holds_something_else_is_left_alone(
    locked: bool, corpus: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "store.partial"
    partial.mkdir()
    (partial / "thesis.txt").write_text("years of work")
    if locked:
        (partial / "lock").write_text("1")
    with pytest.raises(StoreError, match=r"thesis\.txt lies there, no part of a store; move that away"):
        prepare([corpus], tmp_path / "store", vocab_size=120)
    assert (partial / "thesis.txt").read_text() == "years of work"
    (partial / "thesis.txt").rename(tmp_path / "thesis.txt")
    assert prepare([corpus], tmp_path / "store", vocab_size=120).num_documents > 100


def test_of_two_that_make_one_store_at_once_one_does(corpus: Path, tmp_path: Path) -> None:
    """The other says so; the store is whole and nothing is left beside it."""
    command = [sys.executable, "-m", "unmask", "prepare", "--input", str(corpus), "--out", str(tmp_path / "store")]
    command += ["--vocab-size", "120", "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 2], said
    [loser] = [text for process, text in zip(processes, said, strict=True) if process.returncode == 2]
    assert "is being written by process" in loser or "exists already" in loser
    assert Store.open(tmp_path / "store", verify=True).num_documents > 100
    assert not (tmp_path / "store.partial").exists()


def test_a_journal_keeps_an_option_that_is_no_text(tmp_path: Path) -> None:
    """Half a surrogate pair comes from an argument in another encoding; the same command goes on."""
    from unmask.data.store.unfinished import UnfinishedStore

    settings = {"split_at": "caf\udce9 \u00e9"}
    with UnfinishedStore(tmp_path / "store", settings) as place:
        place.record([], [], {})
    with UnfinishedStore(tmp_path / "store", settings) as place:
        assert place.journal is not None
        assert place.journal["settings"] == settings
