"""The public names of `unmask`: lazy, listed, and seen by type checkers."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import unmask
from unmask.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def test_type_checkers_see_every_public_name_from_the_module_that_gives_it() -> None:
    tree = ast.parse(inspect.getsource(unmask))
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in guarded[0].body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == unmask._HOMES
    assert sorted([*seen, "__version__"]) == sorted(unmask.__all__) == dir(unmask)


def test_the_commands_are_functions() -> None:
    # what they print or write is for a person alone
    others = {"config", "plot", "doctor", "completion"}
    names = {command.replace("-", "_") for command in COMMANDS} - others
    assert names <= set(unmask.__all__)
    for name in names:
        function = getattr(unmask, name)
        assert inspect.isfunction(function) and function.__name__ == name
        # a module of this name would take the place of the function once it is imported
        assert importlib.util.find_spec(f"unmask.{name}") is None


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
