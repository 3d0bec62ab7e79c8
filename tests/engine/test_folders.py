"""A folder is what its files say: damage leaves it what it was, a foreign file of the same name makes it nothing."""

import shutil
from pathlib import Path

import pytest

from unmask.data.store import Store
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError, StoreError
from unmask.folders import is_store, kind_of
from unmask.interop.checkpoint_folder import is_checkpoint
from unmask.interop.find_model import find_model
from unmask.train.checkpoint.checkpoints import Checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text('{"model_type": "bert"}')

    return Checkpoints(folder=tmp_path / "checkpoints").save(1, write, bytes_needed=1)


def test_a_foreign_manifest_makes_no_store(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema_version": 7, "files": 30}')
    assert kind_of(tmp_path) is None
    with pytest.raises(StoreError, match=r"is no token store \(its manifest.json was not written by unmask\)"):
        Store.open(tmp_path)


@pytest.mark.parametrize("damage", ["", "{", '{"schema_version": 1}', "[]"])
def test_a_damaged_store_is_still_one(tmp_path: Path, damage: str) -> None:
    (tmp_path / "shard-00000.arrow").touch()
    # of another program, or cut to nothing
    assert kind_of(tmp_path) is None
    (tmp_path / "shard-00001.arrow").write_bytes(b"ARROW1\0\0 unmask.schema_version")
    assert kind_of(tmp_path) == "unfinished store"
    (tmp_path / "manifest.json").write_text(damage)
    assert is_store(tmp_path)
    with pytest.raises(StoreError, match="damaged"):
        Store.open(tmp_path)


def test_a_model_beside_a_foreign_manifest_is_a_model(checkpoint: Path) -> None:
    assert is_checkpoint(checkpoint)
    assert find_model(checkpoint).steps == 1
    (checkpoint / "manifest.json").write_text('{"files": ["config.json"], "version": 2}')
    assert kind_of(checkpoint) == "model"
    assert find_model(checkpoint).steps is None


def test_a_damaged_checkpoint_is_never_taken_for_a_plain_model(checkpoint: Path) -> None:
    manifest = checkpoint / "manifest.json"
    whole = manifest.read_text()
    for text in (whole[:-20], whole.replace('"step"', '"stop"'), whole.replace('"digest"', '"digesT"'), "\x00" * 40):
        manifest.write_text(text)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            find_model(checkpoint)


def test_a_folder_that_is_not_there_or_no_folder_is_of_no_kind(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert [kind_of(tmp_path / name) for name in ("nowhere", "file")] == [None, None]
    # a folder in the place of a file
    (tmp_path / "folder" / "manifest.json").mkdir(parents=True)
    assert kind_of(tmp_path / "folder") is None


def test_what_this_version_writes_is_known(tmp_path: Path) -> None:
    from unmask.config import load_config
    from unmask.train.run_folder import RunFolder

    run = RunFolder.create(load_config(None, {"run": str(tmp_path / "run")})).path
    assert kind_of(run) == "run"
    Tokenizer.train(["one two"], 60).save(tmp_path / "tokenizer")
    assert kind_of(tmp_path / "tokenizer") == "tokenizer"
    for file in sorted((tmp_path / "tokenizer").glob("*.json")):
        (tmp_path / f"only-{file.stem}").mkdir()
        shutil.copy(file, tmp_path / f"only-{file.stem}")
        assert kind_of(tmp_path / f"only-{file.stem}") == "tokenizer"
