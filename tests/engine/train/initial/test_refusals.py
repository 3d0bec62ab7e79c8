"""Checkpoints and settings that a run cannot start from."""

import json
import os
import shutil
from pathlib import Path

import pytest

import unmask
from initial_runs import settings, start, trainer
from unmask.cli import main
from unmask.config import InitConfig, RunConfig, load_config
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError, ConfigError, RunError, TokenizerError
from unmask.train.pretrain import pretrain
from unmask.train.run_folder import saved_config


def test_resume_and_init_exclude_each_other(
    first_run: Path, model_folder: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(first_run, tmp_path / "run"))
    with pytest.raises(RunError, match=r"init\.from and resume are given together.*leave init\.from out"):
        pretrain(saved_config(run, {"init.from": str(model_folder)}), resume=run)
    assert main(["pretrain", "--resume", str(run), "--init.from", str(model_folder)]) == 2
    assert "init.from and resume are given together" in capsys.readouterr().err
    pretrain(saved_config(run, {"train.steps": 3}), resume=run)


def test_a_damaged_checkpoint_is_refused_and_an_older_one_is_taken(
    first_run: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Path(shutil.copytree(first_run, tmp_path / "run"))
    newest = run / "checkpoints" / "step-000002"
    with (newest / "model.safetensors").open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"damaged!")
    with pytest.raises(CheckpointError, match=r"model\.safetensors was altered .*take another checkpoint of the run"):
        load_config(None, settings(newest, corpus / "store", tmp_path / "one"))
    trainer(run, corpus / "store", tmp_path / "two")
    assert "using step-000001 instead" in caplog.text
    assert json.loads((tmp_path / "two" / "initial.json").read_text())["step"] == 1
    shutil.rmtree(run / "checkpoints" / "step-000001")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        load_config(None, settings(run, corpus / "store", tmp_path / "three"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type must be 'bert'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
        ({"hidden_act": "silu"}, "hidden_act must be one of"),
    ],
)
def test_an_architecture_that_is_not_computed_here_is_named(
    changes: dict[str, str], message: str, model_folder: Path
) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(CheckpointError, match=message):
        load_config(None, {"init.from": str(model_folder)})


def test_a_folder_without_a_tokenizer_is_refused(model_folder: Path, corpus: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (model_folder / name).unlink()
    with pytest.raises(TokenizerError, match=r"has no tokenizer .*; copy the tokenizer"):
        start(model_folder, corpus / "store", tmp_path / "run")
    Tokenizer.load(corpus / "tokenizer").save(model_folder)
    trainer(model_folder, corpus / "store", tmp_path / "run")


def test_the_recipe_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "continue"]) == 2
    assert "init.from must name the model to start from, is empty; give a run" in capsys.readouterr().err


def test_the_setting_has_its_name_everywhere(model_folder: Path, tmp_path: Path) -> None:
    config = load_config(None, {"init.from": str(model_folder)})
    text = unmask.config.to_yaml(config)
    assert f"  from: {model_folder}\n" in text and "from_" not in text
    (tmp_path / "saved.yaml").write_text(text)
    assert load_config(tmp_path / "saved.yaml") == config
    assert load_config(None, {"init": InitConfig(from_=str(model_folder))}) == config
    with pytest.raises(ConfigError, match=r"^config: init\.from must be text, got 3 \(int\)"):
        load_config(None, {"init.from": 3})
    with pytest.raises(ConfigError, match=r"did you mean init\.from\?"):
        load_config(None, {"model_name_or_path": str(model_folder)})
    assert RunConfig().init == InitConfig()
