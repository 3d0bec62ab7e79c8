"""A tokenizer is read from a store and from a run as from its own folder."""

import json
from pathlib import Path

import pytest

from unmask.config import load_config, to_yaml
from unmask.data.prepare import prepare
from unmask.data.store import Store
from unmask.data.tokenizer import Tokenizer
from unmask.errors import RunError
from unmask.train.checkpoint.checkpoints import Checkpoints

TEXTS = ["the river runs past the old mill", "a cat sat on the warm wall"] * 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose checkpoints of steps 10 and 20 have different tokenizers."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(load_config(None, {})))
    checkpoints = Checkpoints(folder=folder / "checkpoints", keep=2)
    for step, texts in ((10, TEXTS[1:]), (20, [*TEXTS, "xylophone"])):
        checkpoints.save(step, Tokenizer.train(texts, 70).save, bytes_needed=0)
    return folder


def test_prepare_takes_the_tokenizer_of_a_run_of_a_checkpoint_and_of_a_store(run: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS), "utf-8")
    checkpoints = run / "checkpoints"
    expected = {step: Tokenizer.load(checkpoints / f"step-{step:06}").hash for step in (10, 20)}
    assert expected[10] != expected[20]
    for name, given, step in (
        ("of-run", run, 20),
        ("of-checkpoint", checkpoints / "step-000010", 10),
        ("of-store", tmp_path / "of-run", 20),
    ):
        store = prepare(text, tmp_path / name, tokenizer=given, workers=1)
        assert Store.open(store.folder).tokenizer_hash == expected[step]


def test_the_tokenizer_of_the_newest_whole_checkpoint_counts(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    older = Tokenizer.load(run / "checkpoints/step-000010")
    (run / "checkpoints/step-000020/vocab.txt").write_text("damaged")
    assert Tokenizer.load(run).hash == older.hash
    assert "using step-000010 instead" in caplog.text


def test_a_run_without_a_checkpoint_has_no_tokenizer_yet(run: Path) -> None:
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.rename(run / checkpoint.name)
    with pytest.raises(RunError, match="run has no checkpoint yet"):
        Tokenizer.load(run)


def test_a_tokenizer_beside_a_foreign_config_yaml_is_its_own(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, 60)
    tokenizer.save(tmp_path)
    (tmp_path / "config.yaml").write_text(json.dumps({"of": "another program"}))
    assert Tokenizer.load(tmp_path).hash == tokenizer.hash
