"""docs/configuration.md: its three spellings are one configuration, and its sentences are those that are said."""

import re
from pathlib import Path

import pytest

from unmask.cli.pretrain import parse
from unmask.config import MaskingConfig, load_config
from unmask.config.mappings import groups_of
from unmask.errors import ConfigError

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "configuration.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)


def block(language: str, beginning: str) -> str:
    return next(text for kind, text in BLOCKS if kind == language and text.startswith(beginning))


def test_a_file_a_command_line_and_python_give_the_same_configuration(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(block("yaml", "train:"), "utf-8")
    python: dict[str, object] = {}
    exec(block("python", "from unmask"), python)
    words = block("", "unmask pretrain --train").split()[2:]
    assert load_config(file) == parse(words)[0] == python["config"]


def test_every_way_of_the_command_line_works() -> None:
    for words in re.findall(r"`(--[^`]+)`", PAGE):
        if "lr" not in words and "'" not in words and "learning_rate" not in words:
            parse([*words.split(), *(["--data.input", "b.txt"] if "input" in words else [])])
    [phases] = re.findall(r"`--train\.phases '([^']+)'`", PAGE)
    listed = parse(["bert-base", "--train.phases", phases])[0].train.phases
    assert [phase.max_length for phase in listed] == [128, 512]


def test_the_sentences_are_those_that_are_said(tmp_path: Path) -> None:
    component, flat, placed = block("", "MaskingConfig:").splitlines()
    with pytest.raises(ConfigError, match=f"^{re.escape(component)}$"):
        MaskingConfig(rate=2)
    with pytest.raises(ConfigError, match=f"^{re.escape(flat)}$"):
        load_config(None, {"masking.rate": 2})
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  steps: 5\nmasking:\n  rate: 2\n", "utf-8")
    with pytest.raises(ConfigError, match=re.escape(placed.removeprefix("config: mine.yaml"))):
        load_config(file)


def test_the_page_has_every_group() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(groups_of())
