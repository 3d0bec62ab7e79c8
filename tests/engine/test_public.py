"""The public names of `unmask`: lazy, listed, and seen by type checkers."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unmask
from unmask.cli import COMMANDS
from unmask.config import to_yaml
from unmask.data.store.duplicates import describe_duplicates
from unmask.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_type_checkers_see_every_public_name_from_the_module_that_gives_it() -> None:
    tree = ast.parse(inspect.getsource(unmask))
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in guarded[0].body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == unmask._HOMES
    assert sorted([*seen, "__version__"]) == sorted(unmask.__all__) == dir(unmask)


def test_the_commands_are_functions() -> None:
    # what they print or write is for a person alone; distill is pretrain and finetune with a teacher
    others = {"config", "distill", "plot", "doctor", "completion"}
    names = {command.replace("-", "_") for command in COMMANDS} - others
    assert names <= set(unmask.__all__)
    for name in names:
        function = getattr(unmask, name)
        assert inspect.isfunction(function) and function.__name__ == name
        # a module of this name would take the place of the function once it is imported
        assert importlib.util.find_spec(f"unmask.{name}") is None
    said = (ROOT / "README.md").read_text("utf-8").split(" are commands alone")[0].rpartition("; ")[2]
    assert set(re.findall("`(.*?)`", said)) == others


def test_a_configuration_that_is_none_is_named_with_what_to_pass(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(unmask.load_config()))
    given = {
        "tiny": r"'tiny' \(str\); pass unmask.load_config\('tiny'\)",
        str(run / "config.yaml"): r"config.yaml' \(str\); pass unmask.load_config\('.*/config.yaml'\)",
        str(run): r"\(str\); pass resume='.*/run' to continue this run",
    }
    for config, told in given.items():
        with pytest.raises(TypeError, match=f"^pretrain: config must be a RunConfig, got .*{told}") as raised:
            unmask.pretrain(config)  # type: ignore[arg-type]
        way = str(raised.value).rpartition("; pass ")[2]
        if way.startswith("unmask."):
            assert eval(way) == unmask.load_config()
    settings = {"train": {"steps": 5}}
    with pytest.raises(TypeError, match=r"; pass unmask.load_config\(None, ...\) of these settings"):
        unmask.pretrain(settings)  # type: ignore[arg-type]
    assert unmask.load_config(None, settings).train.steps == 5


def test_a_store_may_be_given_where_its_folder_may(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the old mill turns\n" * 20)
    store = unmask.prepare([tmp_path / "text.txt"], tmp_path / "store", vocab_size=60, workers=1)
    assert unmask.load_config("tiny", {"data.store": store}).data.store == str(tmp_path / "store")


def test_a_name_with_a_comma_is_quoted_in_lists_of_sources(tmp_path: Path) -> None:
    inputs = []
    for name in ("sports", "world, culture"):
        (tmp_path / f"{name}.txt").write_text("the old mill turns\n" * 20)
        inputs.append(tmp_path / f"{name}.txt")
    store = unmask.prepare(inputs, tmp_path / "store", vocab_size=60, workers=1)
    assert 'sources sports, "world, culture">' in repr(store)
    assert '("world, culture" ' in describe_duplicates(store)
    weights = unmask.load_config(None, {"composition.weights": {"letters": 2.0}}).composition
    with pytest.raises(ConfigError, match='the store has sports, "world, culture"'):
        weights.source_weights(store.sources)


def test_the_package_loads_nothing_and_the_encoder_only_pytorch_and_numpy() -> None:
    code = """
import sys
before = {name.partition(".")[0] for name in sys.modules}
import unmask
assert not {name.partition(".")[0] for name in sys.modules} - before - {"unmask"}, "import unmask"
import numpy, torch
before = {name.partition(".")[0] for name in sys.modules}
unmask.Encoder, unmask.PretrainingModel, unmask.pack, unmask.mean_pool
new = {name.partition(".")[0] for name in sys.modules} - before - set(sys.stdlib_module_names)
assert new <= {"unmask", "unmask_kernels"}, new
"""
    paths = [str(ROOT / "engine"), str(ROOT / "kernels")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'unmask' has no attribute 'trainer'"):
        unmask.trainer  # type: ignore[attr-defined]  # noqa: B018


def test_training_without_a_configuration_names_what_to_pass() -> None:
    with pytest.raises(ValueError, match=r"pretrain: needs config or resume, got neither; pass unmask\.load_config"):
        unmask.pretrain()
