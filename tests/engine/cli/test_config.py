"""`unmask config`: all settings, or those that differ from the defaults."""

from pathlib import Path

import pytest

from unmask.cli import main
from unmask.config import load_config, to_yaml
from unmask.config.load import recipe_names
from unmask.config.yaml_text import parse_yaml


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["config", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_changed_settings_of_a_recipe_make_its_run(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    table = {"masking.similar_words": "similar.tsv"} if "macbert" in recipe else {}
    table |= {"init.from": str(tmp_path / "model")} if recipe == "continue" else {}
    words = [word for name, value in table.items() for word in (f"--{name}", value)]
    (tmp_path / "mine.yaml").write_text(printed(capsys, recipe, "--changed", "--train.epochs", "3", *words))
    whole = load_config(recipe, {"train.epochs": 3, **table})
    assert load_config(tmp_path / "mine.yaml") == whole
    assert printed(capsys, str(tmp_path / "mine.yaml")) == to_yaml(whole)


def test_only_what_differs_from_the_defaults_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_yaml(printed(capsys, "--changed", "--train.steps", "7", "--seed", "1", "--seed=1"), source="") == {
        "train": {"steps": 7}
    }
    assert parse_yaml(printed(capsys, "tiny", "--composition.weights", "a", "2", "--changed"), source="") == {
        "composition": {"weights": {"a": 2.0}}
    }


def test_without_a_change_a_comment_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--changed")
    assert text == "# every setting has its default\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert load_config(tmp_path / "mine.yaml") == load_config()


def test_settings_that_contradict_each_other_are_printed_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "macbert-mini", "--changed"]) == 0
    told = capsys.readouterr()
    assert "until then a run refuses these settings" in told.err
    assert parse_yaml(told.out, source="")["masking"]["strategy"] == "mac"
