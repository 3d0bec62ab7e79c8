"""The commands and settings of docs/distillation.md are taken as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from unmask.cli.distill import parse_general, parsers
from unmask.config.load import recipe_names
from unmask.config.mappings import settings_of
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.load import distillation_recipe_names

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "distillation.md").read_text("utf-8")


def test_each_command_is_taken() -> None:
    lines = re.findall(r"unmask distill (?:general|task)[^`\n]*", PAGE)
    assert len(lines) >= 3
    for line in lines:
        kind, *words = shlex.split(line)[2:]
        if kind == "general":
            assert parse_general(words).distillation.teacher == "TEACHER"
        elif "--resume" not in words:
            values, names = parsers()["task"].known(words)
            assert len(names) == 3 and "data.train" in values


def test_each_setting_and_recipe_exists() -> None:
    settings = {*settings_of(), *settings_of(FinetuneConfig)}
    for name in re.findall(r"--([a-z_]+\.[a-z_]+)", PAGE):
        assert name in settings, name
    assert {"tinybert-4", "tinybert-6"} <= set(recipe_names())
    for recipe in distillation_recipe_names():
        assert f"`{recipe}`" in PAGE
