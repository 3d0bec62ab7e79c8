import multiprocessing
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from unmask.config import RunConfig, TrainConfig, to_mapping
from unmask.errors import RunError
from unmask.train.run_folder import MAY_CHANGE, RunFolder, flatten, saved_config

CONFIG = RunConfig(train=TrainConfig(steps=10, warmup_steps=2))


def test_the_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = replace(CONFIG, run=str(tmp_path / "a"))
    RunFolder.create(config)
    assert saved_config(tmp_path / "a") == config


def test_an_existing_run_directory_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    config = replace(CONFIG, run=str(tmp_path / "a"))
    RunFolder.create(config)
    with pytest.raises(RunError, match=r"exists already; continue it with `unmask pretrain --resume .*--run"):
        RunFolder.create(config)


def test_an_empty_directory_or_one_of_a_start_that_was_killed_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / ".config.yaml.partial").write_text("seed")
    RunFolder.create(replace(CONFIG, run=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_resumed_run_may_change_how_it_is_watched_but_not_what_it_computes(tmp_path: Path) -> None:
    run = tmp_path / "a"
    RunFolder.create(replace(CONFIG, run=str(run)))
    allowed = saved_config(run, {"train.log_every": 1, "train.steps": 20, "data.workers": 0})
    RunFolder.reopen(run, allowed).save_config()
    assert saved_config(run) == allowed
    was = re.escape(f"train.learning_rate is {CONFIG.train.learning_rate} in the saved configuration, got 0.5")
    with pytest.raises(RunError, match=rf"{was}; resuming may change only data\.similar_words, .*, kernels\.\*, train"):
        RunFolder.reopen(run, saved_config(run, {"train.learning_rate": 0.5}))


def test_every_setting_of_watching_may_change_and_no_other() -> None:
    watching = {"run", "data.similar_words", "data.store", "data.workers"}
    for name in ("steps", "log_every", "evaluate_every", "save_every", "keep_checkpoints", "tensorboard", "threads"):
        watching.add(f"train.{name}")
    kernels = {name for name in flatten(to_mapping(CONFIG)) if name.startswith("kernels.")}
    assert watching | kernels == MAY_CHANGE


def test_a_moved_run_resumes_where_it_is(tmp_path: Path) -> None:
    RunFolder.create(replace(CONFIG, run=str(tmp_path / "a")))
    (tmp_path / "a").rename(tmp_path / "b")
    folder = RunFolder.reopen(tmp_path / "b", saved_config(tmp_path / "b"))
    assert folder.config.run == str(tmp_path / "b")


def test_resuming_what_is_not_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be resumed: it has no config\.yaml"):
        saved_config(tmp_path)
    with pytest.raises(RunError, match=r"cannot be resumed: no such directory"):
        saved_config(tmp_path / "nowhere")


def test_a_configuration_that_cannot_be_written_leaves_the_name_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, run=str(tmp_path / "a"))

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("unmask.train.run_folder.replace_text", full)
        with pytest.raises(RunError, match=r"config\.yaml could not be written \(No space left .*start again"):
            RunFolder.create(config)
    RunFolder.create(config)


def test_only_a_directory_in_which_nothing_was_trained_is_given_up(tmp_path: Path) -> None:
    for name, begun in (("log.jsonl", False), ("log.jsonl", True), ("checkpoints", True)):
        folder = RunFolder.create(replace(CONFIG, run=str(tmp_path / "a")))
        if name == "checkpoints":
            (folder.path / name).mkdir()
        else:
            (folder.path / name).write_text("{}" if begun else "")
        folder.abandon()
        assert folder.path.exists() == begun
        shutil.rmtree(folder.path, ignore_errors=True)


def _hold(folder: RunFolder, held: object, release: object) -> None:
    with folder.locked():
        held.set()  # type: ignore[attr-defined]
        release.wait(600)  # type: ignore[attr-defined]


def test_two_processes_cannot_write_to_one_run(tmp_path: Path) -> None:
    folder = RunFolder.create(replace(CONFIG, run=str(tmp_path / "a")))
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(folder, held, release))
    other.start()
    assert held.wait(600)
    with pytest.raises(RunError, match="in use by another process"), folder.locked():
        pass
    other.kill()
    other.join()
    with folder.locked():
        assert not release.is_set()
