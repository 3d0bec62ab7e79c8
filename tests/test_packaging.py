"""An installation: how many packages it needs, what it contains, and which versions are tested."""

import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from offline.nvcc import setup_script

ROOT = Path(__file__).parents[1]
MOST_PACKAGES = 30
# trackio refuses the tested version of pillow; its test runs where it is installed
NOT_INSTALLED = {"trackio"}


def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return loaded


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements_of(name: str) -> list[str]:
    """Return the requirements of a package. The parts of nvcc, which tests do not install, require one another."""
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        if name.startswith("nvidia-"):
            return []
        raise


def closure(requirements: list[str]) -> set[str]:
    """Return the names of all packages that pip installs for these requirements on this machine."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonical(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        for text in requirements_of(name):
            child = Requirement(text)
            environments = [{"extra": extra} for extra in (extras or {""})]
            if child.marker is None or any(child.marker.evaluate(environment) for environment in environments):
                waiting.append(child)
    return found


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): version for name, version in pairs}


def test_default_install_pulls_few_packages_beyond_torch() -> None:
    beyond = closure(project()["dependencies"]) - closure(["torch"])
    assert {"numpy", "tokenizers", "pyarrow"} <= beyond
    assert len(beyond) <= MOST_PACKAGES, sorted(beyond)


def test_extras_are_not_part_of_the_default_install() -> None:
    default = closure(project()["dependencies"])
    assert not default & {"matplotlib", "tensorboard", "transformers", "triton", "pytest"}


def test_every_package_of_every_extra_has_a_tested_version() -> None:
    declared = project()
    extras = {name: needs for name, needs in declared["optional-dependencies"].items() if name not in NOT_INSTALLED}
    requirements = [*declared["dependencies"], *chain(*extras.values())]
    # setuptools comes with the environment; torch chooses triton
    missing = closure(requirements) - set(constraints()) - {"setuptools", "triton"}
    # a CUDA build of torch pins its own libraries
    assert {name for name in missing if not name.startswith(("nvidia-", "cuda-"))} == set()


def test_triton_is_left_to_the_build_of_torch() -> None:
    """A CUDA build of torch requires one version of triton; a pin of another makes the installation impossible."""
    assert "triton" not in constraints()


@pytest.mark.parametrize("text", project()["dependencies"])
def test_tested_version_satisfies_the_requirement(text: str) -> None:
    requirement = Requirement(text)
    assert Version(constraints()[canonical(requirement.name)]) in requirement.specifier


def test_a_virtual_environment_that_fails_half_way_is_removed_and_explained(tmp_path: Path) -> None:
    """Debian's python3 without python3-venv leaves .venv/bin/python behind, so make would think the job is done."""
    python = tmp_path / "python-without-venv"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p .venv/bin && touch .venv/bin/python\nexit 1\n')
    python.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    command = ["make", f"PYTHON={python}", ".venv/bin/python"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "python3-venv" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_version_is_stated_once() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "version" not in settings["project"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "unmask.__version__"}
    source = (ROOT / "engine/unmask/__init__.py").read_text("utf-8")
    # a literal, which setuptools reads without an import
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+"$', source, flags=re.MULTILINE)


def test_the_parts_of_the_compiler_are_of_one_release() -> None:
    """They do not require one another's release, and a mixture of two compiles nothing."""
    asked = [text.partition(";")[0] for text in project()["optional-dependencies"]["cuda-build"] if "nvidia" in text]
    assert sorted(asked) == sorted(setup_script().COMPILER)
    assert len({text.partition("==")[2] for text in asked}) == 1


def test_both_packages_are_found_in_their_roots() -> None:
    from setuptools import find_packages

    engine, kernels = find_packages(str(ROOT / "engine")), find_packages(str(ROOT / "kernels"))
    assert {"unmask", "unmask.cli", "unmask.recipes", "unmask.data"} <= set(engine)
    assert {"unmask_kernels", "unmask_kernels.layer_norm"} <= set(kernels)
    assert {name.partition(".")[0] for name in engine + kernels} == {"unmask", "unmask_kernels"}


def test_every_folder_with_modules_is_a_package() -> None:
    """A folder without __init__.py works in the source tree but is missing from an installation."""
    packages = {ROOT / "engine/unmask", ROOT / "kernels/unmask_kernels"}
    folders = {path.parent for package in packages for path in package.rglob("*.py")}
    assert {str(folder) for folder in folders if not (folder / "__init__.py").is_file()} == set()
