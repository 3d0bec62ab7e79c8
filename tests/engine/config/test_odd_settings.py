"""Odd files, values and names: each gets one sentence, and none harms the next configuration."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.cli import main
from unmask.cli.pretrain import parse
from unmask.config import EncoderConfig, RunConfig, TrainConfig, load_config, to_yaml
from unmask.config.yaml_text import parse_yaml
from unmask.errors import ConfigError, SettingError, SettingTypeError, UnmaskError


def complaint(overrides: Any, source: str | Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value)


def test_a_version_in_one_file_changes_no_other_file() -> None:
    text = "a: no\nb: 010\nc: 1_000\nd: 2001-01-01\ne: 0b11\nf: +.5e3\ng: <<"
    expected = {"a": "no", "b": 10, "c": "1_000", "d": "2001-01-01", "e": "0b11", "f": 500.0, "g": "<<"}
    assert parse_yaml(text, source="text") == expected
    assert parse_yaml(f"%YAML 1.1\n---\n{text}", source="text") == expected
    assert parse_yaml(text, source="text") == expected


def test_threads_read_configurations_at_once() -> None:
    found: list[RunConfig] = []
    threads = [threading.Thread(target=lambda: found.append(load_config("bert-base"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [load_config("bert-base")] * 6


def test_configurations_share_no_list() -> None:
    one = load_config()
    one.data.input.append("x")
    one.composition.weights["a"] = 1.0
    assert (load_config().data.input, load_config("bert-mini").composition.weights) == ([], {})


def test_a_file_changes_an_item_of_its_list_by_a_dotted_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  phases: [{share: 1, max_length: 64}]\n  phases.0.max_length: 32\n", "utf-8")
    assert load_config(file).train.phases[0].max_length == 32
    file.write_text("train.phases.0.max_length: 32\n", "utf-8")
    assert "changes an item of train.phases, which has 0" in complaint({}, file)
    file.write_text("train: {phases: 5}\n", "utf-8")
    assert "train.phases must be a list, got 5 (int)" in complaint({"train.phases.0.max_length": 64}, file)


@pytest.mark.parametrize(
    "setting",
    [
        "train.steps",
        "train.epochs",
        "stream.max_documents",
        "train.threads",
        "optimizer.learning_rate",
        "train.log_every",
    ],
)
def test_numbers_beyond_all_use_are_refused(setting: str) -> None:
    assert f"{setting} must be " in complaint({setting: 1e300})


def test_numbers_of_numpy_become_plain_ones_and_paths_text() -> None:
    config = load_config(
        None, {"optimizer.learning_rate": np.float64(5e-4), "train.steps": np.int64(7), "run": Path("x")}
    )
    assert (config.optimizer.learning_rate, config.train.steps, config.run) == (5e-4, 7, "x")
    assert "learning_rate: 0.0005" in to_yaml(config)
    assert load_config(None, {"model": EncoderConfig(num_layers=3)}).model.num_layers == 3


def test_arguments_of_a_wrong_kind_are_named() -> None:
    assert "settings must be a mapping" in complaint(5)
    assert "train.phases.\u00b2.max_length is not a setting" in complaint({"train.phases.\u00b2.max_length": 64})
    with pytest.raises(SettingTypeError, match="model must be EncoderConfig, got a group of settings"):
        RunConfig(model={"num_layers": 2})  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="or make it None"):
        TrainConfig(epochs=1.0)
    with pytest.raises(SettingError, match="must be one of 'gelu', 'gelu_tanh', got 'relu'") as wrong_choice:
        EncoderConfig(activation="relu")  # type: ignore[arg-type]
    assert not isinstance(wrong_choice.value, TypeError)


def test_words_of_the_command_line_that_look_like_options_or_no_value_are_values() -> None:
    assert parse(["--train.threads", "None", "--data.lowercase", "None"])[0].data.lowercase is None
    for words, told in (
        (["--train.tensorboard", "no"], "train.tensorboard must be true or false, got 'no'"),
        (["--optimizer.learning_rate", "-1e-3"], "optimizer.learning_rate must be above 0, got -0.001"),
        (["--composition.weights", "a", "2", "a", "3"], "'a' must stand once"),
        (["--train"], "did you mean --train.steps?"),
        (["bert-base", "--train.phases.0.max_length", "x"], "config: train.phases.0.max_length must be a whole number"),
    ):
        with pytest.raises(UnmaskError) as caught:
            parse(words)
        assert told in str(caught.value)


def test_config_prints_a_recipe_that_still_lacks_a_table_and_an_old_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "macbert"]) == 0
    told = capsys.readouterr()
    assert "strategy: mac" in told.out
    assert "needs masking.similar_words" in told.err
    old = tmp_path / "old.yaml"
    old.write_text("data: {compose: pairs, mask_rate: 0.2, lowercase: true, store: st}\n", "utf-8")
    assert main(["config", str(old)]) == 0
    assert "strategy: pairs" in capsys.readouterr().out
    assert main(["config", "x" * 300]) == 2
    assert "no recipe or file is called" in capsys.readouterr().err


def test_the_lower_case_that_0_1_wrote_beside_a_store_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("data: {lowercase: true, store: st}\n", "utf-8")
    assert load_config(file).data.store == "st"


@pytest.mark.parametrize("words", [["help"], ["help", "help"], ["--help", "help"], ["--help", "config"]])
def test_help_is_given_however_it_is_asked_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "usage: unmask" in capsys.readouterr().out
