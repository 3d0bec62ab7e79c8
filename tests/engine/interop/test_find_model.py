"""One function finds a model, so a run, a checkpoint and a folder are taken by whatever takes a model."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

import unmask
from unmask.errors import CheckpointError, RunError
from unmask.interop.find_model import ModelFolder, find_model
from unmask.train.checkpoint.checkpoints import Checkpoints

CONFIG = unmask.EncoderConfig(
    vocab_size=40, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_positions=24
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the checkpoints of steps 10 and 20, whose models differ."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1\n")
    checkpoints = Checkpoints(folder=folder / "checkpoints", keep=2)
    for step in (10, 20):
        model = unmask.PretrainingModel(CONFIG, seed=step)
        checkpoints.save(step, model.save_pretrained, bytes_needed=0)
    return folder


def damage(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{}")


@pytest.mark.parametrize("kind", [unmask.Encoder, unmask.PretrainingModel])
def test_from_pretrained_reads_the_newest_checkpoint_of_a_run(
    kind: type[unmask.Encoder] | type[unmask.PretrainingModel], run: Path
) -> None:
    expected = kind.from_pretrained(run / "checkpoints/step-000020").state_dict()
    older = kind.from_pretrained(run / "checkpoints/step-000010").state_dict()
    for given in (run, str(run), find_model(run)):
        read = kind.from_pretrained(given).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in read.items())
    assert not all(torch.equal(value, expected[name]) for name, value in older.items())


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = run / "checkpoints/step-000020"
    damage(newest)
    assert find_model(run) == ModelFolder(path=run / "checkpoints/step-000010", steps=10, run=run)
    caplog.clear()
    unmask.Encoder.from_pretrained(run)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert warned[0].startswith(f"checkpoint {newest}: config.json has 2 bytes")
    assert warned[0].endswith("using step-000010 instead")
    with pytest.raises(CheckpointError, match="copy it again, or take another checkpoint of the run"):
        unmask.Encoder.from_pretrained(newest)
    damage(run / "checkpoints/step-000010")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*run is whole: .*; start a new run"):
        unmask.Encoder.from_pretrained(run)


def test_an_optimizer_state_that_is_damaged_or_gone_does_no_harm_to_reading_the_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"

    def write(folder: Path) -> None:
        unmask.PretrainingModel(CONFIG, seed=10).save_pretrained(folder)
        (folder / "training").mkdir()
        for name in ("moments.distcp", "state.json"):
            (folder / "training" / name).write_text("{}")

    checkpoints = Checkpoints(folder=run / "checkpoints")
    checkpoint = checkpoints.save(10, write, bytes_needed=0)
    (run / "config.yaml").write_text("seed: 1\n")
    moments = checkpoint / "training" / "moments.distcp"
    moments.write_text("[]")
    for given in (run, checkpoint):
        assert find_model(given) == ModelFolder(path=checkpoint, steps=10, run=run)
    moments.unlink()
    unmask.Encoder.from_pretrained(checkpoint)
    assert not caplog.records
    # the steps and the phase of the model stand there
    (checkpoint / "training" / "state.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"training/state\.json was altered"):
        find_model(checkpoint)
    # a run goes on only with a whole one
    (checkpoint / "training" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is whole: .*training/moments\.distcp cannot be read"):
        checkpoints.latest_valid()


def test_a_checkpoint_of_a_newer_version_is_not_passed_over(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("unmask.interop.checkpoint_folder.FORMAT", 3)
        model = unmask.PretrainingModel(CONFIG, seed=30)
        Checkpoints(folder=run / "checkpoints", keep=9).save(30, model.save_pretrained, bytes_needed=0)
    with pytest.raises(CheckpointError, match="was written by format 3; this version reads 1 - upgrade unmask"):
        unmask.Encoder.from_pretrained(run)


def test_a_run_without_a_checkpoint_says_so(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunError, match=r"run has no checkpoint yet; wait for the first, .* `unmask pretrain --resume"):
        unmask.Encoder.from_pretrained(run)


def test_the_run_of_a_checkpoint_is_found_under_any_spelling(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = run / "checkpoints/step-000020"
    assert find_model(checkpoint).run == run
    for here in (run.parent, run, run / "checkpoints", checkpoint):
        monkeypatch.chdir(here)
        found = find_model(checkpoint.relative_to(here))
        assert found.steps == 20
        assert found.run is not None and found.run.samefile(run)
    alone = shutil.copytree(checkpoint, run.parent / "alone")
    assert find_model(alone) == ModelFolder(path=alone, steps=20)


def test_what_was_found_is_not_read_again(run: Path) -> None:
    found = find_model(run)
    (found.path / "manifest.json").write_text("damaged")
    assert find_model(found) is found
    with pytest.raises(CheckpointError):
        find_model(found.path)
