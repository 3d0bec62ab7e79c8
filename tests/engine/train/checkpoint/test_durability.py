"""Checkpoints and stores are on the disk before they have their names, and lose them before they lose their files."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from unmask.data.store.writer import StoredDocument, write_store
from unmask.train.checkpoint.checkpoints import Checkpoints

Watch = Callable[[], AbstractContextManager[list[tuple[str, str]]]]
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@pytest.fixture
def watched() -> Watch:
    """A context that notes what is flushed, as ("flush", name), and what is renamed, as (from, to)."""

    @contextmanager
    def watch() -> Iterator[list[tuple[str, str]]]:
        done: list[tuple[str, str]] = []
        flush, rename = os.fsync, Path.rename

        def flushed(descriptor: int) -> None:
            done.append(("flush", Path(f"/proc/self/fd/{descriptor}").readlink().name))
            flush(descriptor)

        def renamed(path: Path, target: Path) -> Path:
            done.append((path.name, target.name))
            return rename(path, target)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(os, "fsync", flushed)
            patched.setattr(Path, "rename", renamed)
            yield done

    return watch


def write_numbers(folder: Path) -> None:
    (folder / "model.bin").write_bytes(bytes(range(256)))
    (folder / "training").mkdir()
    (folder / "training" / "state.json").write_text("{}")


def test_a_checkpoint_is_flushed_then_named_and_an_old_one_renamed_then_removed(tmp_path: Path, watched: Watch) -> None:
    checkpoints = Checkpoints(folder=tmp_path / "checkpoints", keep=1)
    checkpoints.save(5, write_numbers, bytes_needed=0)
    with watched() as done:
        checkpoints.save(10, write_numbers, bytes_needed=0)
    place = done.index((".step-000010.partial", "step-000010"))
    names = ("model.bin", "manifest.json", "state.json", "training", ".step-000010.partial")
    assert sorted(done[:place]) == sorted(("flush", name) for name in names)
    assert done[place - 1] == ("flush", ".step-000010.partial")
    assert done[place + 1 :] == [("flush", "checkpoints"), ("step-000005", ".step-000005.removed")]
    with watched() as done:
        checkpoints.save(10, write_numbers, bytes_needed=0)
    assert done.index(("step-000010", ".step-000010.removed")) < done.index((".step-000010.partial", "step-000010"))


def test_what_is_left_of_saves_removals_and_damage_is_in_nobodys_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=9)
    for step in (5, 10):
        checkpoints.save(step, write_numbers, bytes_needed=0)
    for name in (".step-000010.partial", ".step-000010.removed", "step-000010.damaged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    (checkpoints.path(10) / "model.bin").unlink()
    assert checkpoints.latest_valid() == checkpoints.path(5)
    assert not (tmp_path / "step-000010.damaged" / "old").exists()
    checkpoints.save(10, write_numbers, bytes_needed=0)
    assert not (checkpoints.path(10) / "old").exists()
    checkpoints.clean()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"step-000005", "step-000010", "step-000010.damaged"}
    assert ".step-000010.removed" in caplog.text


def test_a_store_is_flushed_then_named(tmp_path: Path, watched: Watch) -> None:
    document = StoredDocument(ids=np.array([5, 6, 7]), source="a", content_hash=1)
    with watched() as done:
        write_store(
            tmp_path / "store", [document] * 2, tokenizer_hash="a", vocab_size=9, special_ids=SPECIAL, shard_tokens=3
        )
    place = done.index(("store.partial", "store"))
    assert {("flush", "shard-00000.arrow"), ("flush", "shard-00001.arrow")} < set(done[:place])
    assert ("flush", ".manifest.json.partial") in done[:place]
    assert done[place + 1 :] == [("flush", tmp_path.name)]
