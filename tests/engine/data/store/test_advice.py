"""What the errors about a store advise: each is followed here, and then the store opens."""

import errno
import hashlib
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from unmask.cli import main
from unmask.data.prepare import prepare
from unmask.data.store import Store
from unmask.data.tokenizer import Tokenizer
from unmask.errors import StoreError

TEXT = "the mill turns by the river and the river runs past the mill"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


LIMIT = "raise the limit for the size of a file (ulimit -f)"


def made(text: Path, name: str = "store") -> Path:
    return prepare([text], text.parent / name, vocab_size=60, workers=1).folder


def refusal(folder: Path) -> str:
    with pytest.raises(StoreError) as told:
        Store.open(folder)
    return str(told.value)


def test_what_is_no_store_is_made_one_by_the_command_of_the_error(text: Path, tmp_path: Path) -> None:
    told = refusal(text)
    assert "give text with data.input" in told
    command = told.partition("with unmask ")[2].replace("--out store", f"--out {tmp_path}/made")
    assert main([*shlex.split(command), "--vocab-size", "60"]) == 0
    Store.open(tmp_path / "made")
    for folder in (tmp_path, tmp_path / "absent"):
        told = refusal(folder)
        assert "give the folder of a store, or make one with unmask prepare --out " in told
    command = told.partition("make one with unmask ")[2]
    assert main([*shlex.split(command), "--input", str(text), "--vocab-size", "60"]) == 0
    Store.open(tmp_path / "absent")
    (tmp_path / "manifest.json").write_text("{}")
    assert refusal(tmp_path).endswith(
        "is no token store (its manifest.json was not written by unmask); make one with unmask prepare"
    )


SAYS = {
    "cut": "is truncated: ",
    "grown": "is altered: ",
    "changed": "is damaged: its SHA-256 begins ",
    "gone": "is missing (No such file or directory); copy the store again, or remove it and prepare it anew",
    "manifest": "manifest.json is damaged; remove the store and prepare it again",
    "lacks": "is damaged, it lacks tokenizer_hash; remove the store and prepare it again",
    "version": "was written in format 99; this version reads format 1 - upgrade unmask or prepare the store again",
    "unreadable": "cannot be read ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte); make it "
    "readable, or prepare the store again",
    "count": "holds 1 document, the manifest says 7; prepare it again",
    "no shard": "is no shard of a token store (",
}


@pytest.mark.parametrize("damage", SAYS)
def test_a_damaged_store_is_copied_or_prepared_again(text: Path, damage: str) -> None:
    folder = made(text)
    shutil.copytree(folder, folder.with_name("copy"))
    manifest = json.loads((folder / "manifest.json").read_text())
    shard = folder / manifest["shards"][0]["file"]
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-8])
    elif damage == "grown":
        shard.write_bytes(shard.read_bytes() + b"12345678")
    elif damage == "unreadable":
        (folder / "manifest.json").write_bytes(b"\xff")
    elif damage == "count":
        (folder / "manifest.json").write_text(json.dumps(manifest | {"documents": 7}))
    elif damage == "no shard":
        shard.write_bytes(bytes(len(shard.read_bytes())))
        manifest["shards"][0]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))
    elif damage == "changed":
        shard.write_bytes(shard.read_bytes()[:-8] + b"12345678")
    elif damage == "gone":
        shard.unlink()
    elif damage == "lacks":
        del manifest["tokenizer_hash"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    elif damage == "version":
        (folder / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    else:
        (folder / "manifest.json").write_text(json.dumps(manifest)[:-9])
    told = refusal(folder)
    assert SAYS[damage] in told
    shutil.rmtree(folder)
    if "copy the store again" in told:
        shutil.copytree(folder.with_name("copy"), folder)
        Store.open(folder)
        shutil.rmtree(folder)
    assert made(text) == folder
    assert Store.open(folder).fingerprint == Store.open(folder.with_name("copy")).fingerprint


def test_an_unfinished_store_goes_on_or_is_removed(text: Path) -> None:
    folder = text.parent / "store"
    partial = folder.with_name("store.partial")
    partial.mkdir()
    assert f"run the unmask prepare that began {partial} again, which goes on with it" in refusal(folder)
    made(text)
    Store.open(folder)
    with pytest.raises(StoreError, match="exists already; choose another folder or remove it first"):
        made(text)
    made(text, "other")
    shutil.rmtree(folder)
    made(text)
    (text.parent / "foreign.partial").mkdir()
    (text.parent / "foreign.partial" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="move that away or choose another folder"):
        made(text, "foreign")
    (text.parent / "foreign.partial" / "mine.txt").rename(text.parent / "mine.txt")
    made(text, "foreign")


def test_a_store_of_another_tokenizer_or_without_one_is_mended(text: Path, tmp_path: Path) -> None:
    folder = made(text)
    other = Tokenizer.train([TEXT, "a cat sat on a warm wall"], 90)
    other.save(tmp_path / "tokenizer")
    with pytest.raises(StoreError, match="use the tokenizer in the store's folder or prepare the text again with"):
        Store.open(folder).require_tokenizer(other)
    Store.open(folder).require_tokenizer(Tokenizer.load(folder / "tokenizer"))
    again = prepare([text], tmp_path / "again", tokenizer=tmp_path / "tokenizer", workers=1)
    again.require_tokenizer(other)
    (again.folder / "tokenizer").rename(tmp_path / "kept")
    with pytest.raises(StoreError) as told:
        again.load_tokenizer()
    place = str(told.value).partition("its ids to ")[2].partition(",")[0]
    shutil.copytree(tmp_path / "kept", place)
    assert again.load_tokenizer().hash == other.hash
    with pytest.raises(
        StoreError, match="stores of different tokenizers cannot be mixed; prepare the text of"
    ) as mixed:
        prepare([folder, again.folder], tmp_path / "both", workers=1)
    option, given = shlex.split(str(mixed.value).rpartition(" again with ")[2])
    assert option == "--tokenizer"
    mended = prepare([text], tmp_path / "mended", tokenizer=given, workers=1)
    assert prepare([folder, mended.folder], tmp_path / "both", workers=1).num_documents == 2


def test_a_store_that_another_process_writes_or_that_would_be_empty_waits_for_its_turn(tmp_path: Path) -> None:
    import numpy as np

    from unmask.data.store import StoredDocument, write_store
    from unmask.data.store.unfinished import UnfinishedStore

    with UnfinishedStore(tmp_path / "store"):
        with (
            pytest.raises(StoreError, match="wait for it or choose another folder"),
            UnfinishedStore(tmp_path / "store"),
        ):
            pass
        with UnfinishedStore(tmp_path / "other"):
            pass
    with UnfinishedStore(tmp_path / "store"):
        pass
    Tokenizer.train([TEXT], 60).save(tmp_path / "tokenizer")
    with pytest.raises(StoreError, match="give at least one document with text"):
        write_store(tmp_path / "made", [], tokenizer=tmp_path / "tokenizer")
    document = StoredDocument(ids=np.array([5, 6, 7]), source="a", content_hash=1)
    write_store(tmp_path / "made", [document], tokenizer=tmp_path / "tokenizer")
    assert Store.open(tmp_path / "made").num_documents == 1


def test_a_store_that_appears_while_it_is_written_is_named_otherwise_or_removed(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.store import unfinished

    store = text.parent / "store"
    publish = unfinished.UnfinishedStore.publish

    def after_another(self: unfinished.UnfinishedStore, *arguments: Any) -> None:
        if self.folder == store:
            store.mkdir()
        publish(self, *arguments)

    monkeypatch.setattr(unfinished.UnfinishedStore, "publish", after_another)
    with pytest.raises(
        StoreError, match="appeared while it was being written, nothing was replaced; run the same command with another"
    ):
        made(text)
    Store.open(made(text, "other"))
    monkeypatch.undo()
    store.rmdir()
    Store.open(made(text))


@pytest.mark.parametrize(("number", "first"), [(errno.ENOSPC, "make room"), (errno.EFBIG, LIMIT)])
def test_an_unfinished_store_that_the_disk_stops_goes_on_after_room_is_made(
    number: int, first: str, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.store import unfinished

    write = unfinished.UnfinishedStore._write

    def full(self: unfinished.UnfinishedStore, name: str, value: Any) -> None:
        if name == "manifest.json":
            raise OSError(number, os.strerror(number))
        write(self, name, value)

    monkeypatch.setattr(unfinished.UnfinishedStore, "_write", full)
    with pytest.raises(StoreError) as told:
        prepare([text], text.parent / "store", vocab_size=60, workers=1, shard_tokens=5)
    assert str(told.value) == (
        f"store: {text.parent}/store cannot be written ({os.strerror(number)}); {first}; {text.parent}/store.partial "
        "is an unfinished store; run the same command on the same text to go on with it, or remove it to start afresh"
    )
    monkeypatch.undo()
    assert prepare([text], text.parent / "store", vocab_size=60, workers=1, shard_tokens=5).num_documents == 1
    shutil.rmtree(text.parent / "store")
    shutil.rmtree(text.parent / "store.partial", ignore_errors=True)
    assert prepare([text], text.parent / "store", vocab_size=60, workers=1, shard_tokens=5).num_documents == 1


@pytest.mark.parametrize(
    ("number", "way"), [(errno.ENOSPC, "make room or choose another folder"), (errno.EFBIG, LIMIT)]
)
def test_a_disk_without_room_for_a_store_gets_room_or_another_folder(
    number: int, way: str, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.store import writer

    def full(stream: object, data: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(writer._HashingFile, "write", full)
        with pytest.raises(StoreError) as told:
            made(text)
    assert str(told.value) == (
        f"store: {text.parent}/store cannot be written ({os.strerror(number)}); {way}, nothing of it was kept"
    )
    assert not (text.parent / "store.partial").exists()
    Store.open(made(text))
    Store.open(made(text, "other"))


def test_an_unfinished_store_of_other_options_is_finished_or_removed(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.store import unfinished

    tokenizer = Tokenizer.train([TEXT], 60)
    store, partial = text.parent / "store", text.parent / "store.partial"

    def begin(**options: Any) -> None:
        prepare([text], store, **({"tokenizer": tokenizer, "shard_tokens": 5, "workers": 1} | options))

    def stop(self: unfinished.UnfinishedStore, manifest: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(unfinished.UnfinishedStore, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            begin()
    shutil.copytree(partial, text.parent / "kept")
    told = "run the command that began it, on the same text, to finish it, or remove it to start afresh"
    with pytest.raises(StoreError, match=f"was begun with another shard_tokens; {told}"):
        begin(shard_tokens=7)
    begin()
    assert Store.open(store).num_documents == 1
    shutil.rmtree(store)
    shutil.copytree(text.parent / "kept", partial)
    text.write_text(TEXT + " and")
    with pytest.raises(StoreError, match=rf"another input \(or a file of it has changed since\); {told}"):
        begin()
    for path in partial.glob("shard-*"):
        path.write_bytes(b"")
    with pytest.raises(StoreError, match="is damaged and cannot be continued; remove it to start afresh"):
        begin()
    shutil.rmtree(partial)
    begin(shard_tokens=7)
    assert Store.open(store).num_documents == 1


def test_what_a_tokenizer_says_is_not_said_beside_it(text: Path, tmp_path: Path) -> None:
    import numpy as np

    from unmask.data.store import StoredDocument, write_store

    Tokenizer.train([TEXT], 60).save(tmp_path / "tokenizer")

    def write(name: str, **options: Any) -> Store:
        document = StoredDocument(ids=np.array([5, 6, 7]), source="a", content_hash=1)
        return write_store(tmp_path / name, [document], **options)

    with pytest.raises(ValueError, match="vocab_size is given beside a tokenizer, which says it; leave it out"):
        write("a", tokenizer=tmp_path / "tokenizer", vocab_size=60)
    with pytest.raises(
        ValueError, match="tokenizer must be given, or tokenizer_hash, vocab_size and special_ids in its"
    ):
        write("a", vocab_size=60)
    made_with = write("a", tokenizer=tmp_path / "tokenizer")
    ids = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert made_with.num_documents == 1
    assert write("b", tokenizer_hash="0" * 64, vocab_size=60, special_ids=ids).num_documents == 1
    with pytest.raises(ValueError, match="is a store, which keeps its own vocabulary; leave one of them out"):
        prepare([tmp_path / "a"], tmp_path / "c", vocab_size=60, workers=1)
    assert prepare([tmp_path / "a"], tmp_path / "c", workers=1).num_documents == 1
    assert prepare([text], tmp_path / "d", vocab_size=60, workers=1).num_documents == 1
