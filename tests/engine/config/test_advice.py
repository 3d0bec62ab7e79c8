"""What the errors about settings advise: each is followed here, and then the settings are taken."""

import re
from pathlib import Path
from typing import Any

import pytest

from unmask.config import load_config
from unmask.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "news.yaml"


def refusal(source: Path | str | None, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value)


def test_a_text_in_the_place_of_a_list_is_told_its_brackets(file: Path) -> None:
    file.write_text("data:\n  input: a/\n")
    told = refusal(file)
    assert told == f"config: {file}, line 2: data.input must be a list, got 'a/' (str); write it in brackets, ['a/']"
    file.write_text(f"data:\n  input: {told.rpartition('brackets, ')[2]}\n")
    assert load_config(file).data.input == ["a/"]
    assert refusal(None, {"data.input": "a/"}).endswith("write it in brackets, ['a/']")


@pytest.mark.parametrize(("given", "fields"), [("[title, text]", "title,text"), ("['a,b', c]", '"a,b",c')])
def test_a_list_of_fields_is_told_its_commas(file: Path, given: str, fields: str) -> None:
    file.write_text(f"data:\n  input: [a.csv]\n  text_field: {given}\n")
    told = refusal(file)
    assert f"{file}, line 3: data.text_field must be text, got [" in told
    file.write_text(f"data:\n  input: [a.csv]\n  text_field: {told.rpartition('write ')[2]}\n")
    assert load_config(file).data.text_field == fields


@pytest.mark.parametrize("fields", ["title,text", "title, text", "title,lead,text"])
def test_a_comma_inside_braces_is_told_its_quotes(file: Path, fields: str) -> None:
    file.write_text(f"data: {{input: [a.csv], text_field: {fields}}}\n")
    told = refusal(file)
    assert "is not a setting; if it is of data.text_field, put the text in quotes, since a comma parts" in told
    file.write_text(f"data: {{input: [a.csv], {told.rpartition('braces: ')[2]}}}\n")
    assert load_config(file).data.text_field == fields.replace(" ", "")


def test_a_name_without_a_value_that_is_no_part_of_a_text_is_unknown(file: Path) -> None:
    file.write_text("train:\n  steps: 5\n  stops:\n")
    assert refusal(file) == f"config: {file}, line 3: train.stops is not a setting; did you mean train.steps?"


def test_text_that_is_no_yaml_is_told_its_quotes(file: Path) -> None:
    file.write_text("data: {input: [a.md], split_at: ^#{1,2} }\n")
    assert refusal(file).endswith("and put text with signs such as { [ , : # in quotes")
    file.write_text("data: {input: [a.md], split_at: '^#{1,2} '}\n")
    assert load_config(file).data.split_at == "^#{1,2} "


@pytest.mark.parametrize(("asked", "there"), [("news.yml", "news.yaml"), ("news.yaml", "news.yml")])
def test_the_other_suffix_of_yaml_is_offered(tmp_path: Path, asked: str, there: str) -> None:
    (tmp_path / there).write_text("seed: 7\n")
    told = refusal(tmp_path / asked)
    assert told == f"config: there is no file {tmp_path / asked}; did you mean {tmp_path / there}?"
    assert load_config(told.rpartition("mean ")[2].rstrip("?")).seed == 7


def test_a_backend_that_does_not_exist_is_refused_with_the_nearest() -> None:
    told = refusal(None, {"kernels.attention": "tritn"})
    assert told == (
        "config: kernels.attention must be one of triton, flash, torch, reference, got 'tritn'; did you mean triton?"
    )
    assert load_config(None, {"kernels.attention": told.rpartition("mean ")[2].rstrip("?")}).kernels.attention
    told = refusal(None, {"kernels.gelu": "flash"})
    assert told.endswith("got 'flash'; `unmask doctor` says which of them run here")


def test_a_contradiction_names_the_line_of_the_file(file: Path) -> None:
    file.write_text("seed: 1\nstream:\n  max_length: 600\n")
    assert refusal(file).startswith(f"config: {file}, line 3: stream.max_length is 600 but model.max_positions is 512;")
    file.write_text("train:\n  steps: 9\n  phases:\n    - {share: 1, max_length: 600}\n")
    assert refusal(file).startswith(f"config: {file}, line 3: train.phases.0.max_length is 600 but ")
    file.write_text("model:\n  hidden_size: 33\n")
    assert refusal(file).startswith(f"config: {file}, line 2: model.hidden_size must be a multiple of num_heads")
    file.write_text("objective:\n  mlm: 0\n")
    assert refusal(file).startswith(f"config: {file}, line 1: objective must give one of")
    file.write_text("seed: 1\nmasking:\n  similar_words: a.tsv\n")
    assert refusal(file).startswith(f"config: {file}, line 3: masking.similar_words is 'a.tsv' but masking.strategy is")


def test_what_the_command_line_or_a_recipe_says_has_no_line(file: Path) -> None:
    file.write_text("objective:\n  mlm: 1\nstream:\n  max_length: 64\n")
    assert refusal(file, {"stream.max_length": 600}).startswith("config: stream.max_length is 600 but")
    assert refusal(file, {"objective.mlm": 0}).startswith("config: objective must give one of")
    assert re.match(r"config: objective\.nsp is 1\.0 but", refusal("bert-original", {"composition.strategy": "mix"}))
