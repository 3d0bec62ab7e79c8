"""setup.py: when the extensions are built, from what, and what it says if they cannot be."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from offline.nvcc import ROOT, setup_script

script = setup_script()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNMASK_BUILD_CUDA", "UNMASK_CUDA_ARCHS", "CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    # most tests are about the extension in CUDA C++
    monkeypatch.setenv("UNMASK_BUILD_CPU", "0")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "compiler", lambda: None)


def a_toolkit(folder: Path, told: str = "", *, runtime: bool = True) -> Path:
    """Make a folder that looks like a CUDA toolkit, whose nvcc says something and does nothing."""
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\necho '{told or f'#$ TOP={folder}'}' >&2\n")
    nvcc.chmod(0o755)
    (folder / "include").mkdir()
    (folder / "lib64").mkdir()
    if runtime:
        (folder / "lib64" / "libcudart_static.a").touch()
    return nvcc


def test_the_extension_is_built_where_there_is_a_compiler_or_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "compiler", lambda: tmp_path / "nvcc")
    [extension] = script.extensions()
    assert extension.name == "unmask_kernels._C" and extension.optional
    monkeypatch.setenv("UNMASK_BUILD_CUDA", "1")
    [extension] = script.extensions()
    assert not extension.optional
    monkeypatch.setenv("UNMASK_BUILD_CUDA", "0")
    assert [*script.extensions()] == []


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_an_installation_goes_on_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # pip runs three commands
    for command in ("egg_info", "dist_info", "bdist_wheel"):
        monkeypatch.setattr(sys, "argv", ["setup.py", command])
        assert [*script.extensions()] == []
    told = capsys.readouterr().out.splitlines()
    assert told == ["unmask: goes on without the CUDA extension: nvcc is not found; `unmask doctor` says how to get it"]


@pytest.mark.usefixtures("no_compiler")
def test_pip_is_asked_for_the_compiler_only_if_the_extension_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["setup.py", "egg_info"])
    assert script.build_requirements() == []
    monkeypatch.setenv("UNMASK_BUILD_CUDA", "1")
    assert script.build_requirements() == script.COMPILER
    # pip has fulfilled them, or the user builds without isolation: nothing is fetched while it builds
    monkeypatch.setattr(sys, "argv", ["setup.py", "bdist_wheel"])
    assert script.build_requirements() == []


def test_a_wish_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_BUILD_CUDA", "yes")
    with pytest.raises(SystemExit, match="UNMASK_BUILD_CUDA must be 0 or 1, or unset, got 'yes'"):
        script.wish()
    for asked in ("0", "1"):
        monkeypatch.setenv("UNMASK_BUILD_CUDA", asked)
        assert script.wish() == asked


def test_architectures_become_options_of_nvcc() -> None:
    assert script.codes("sm_80 sm_90a compute_80") == [
        "-gencode arch=compute_80,code=sm_80",
        "-gencode arch=compute_90a,code=sm_90a",
        "-gencode arch=compute_80,code=compute_80",
    ]
    assert script.codes("sm_86, sm_120") == script.codes("sm_86;sm_120")
    with pytest.raises(
        script.Unbuildable, match=r"UNMASK_CUDA_ARCHS must be names such as sm_80 .*, got '8\.0'"
    ) as told:
        script.codes("8.0")
    advised = str(told.value).partition("such as ")[2].partition(",")[0]
    assert len(script.codes(advised)) == 3


def test_a_compiler_is_found_by_cuda_home_then_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    by_path, by_home = a_toolkit(tmp_path / "one"), a_toolkit(tmp_path / "two")
    monkeypatch.setenv("PATH", str(by_path.parent))
    assert script.compiler() == by_path
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "two"))
    assert script.compiler() == by_home
    assert script.toolkit(by_home) == ([tmp_path / "two/include"], [tmp_path / "two/lib64"])
    # a folder that somebody names and that has no compiler is not passed over
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "three"))
    assert script.compiler() is None


def test_a_compiler_from_pypi_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = a_toolkit(tmp_path / "nvidia" / "cu13")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(script, "USUAL_FOLDER", tmp_path / "none")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert script.compiler() == nvcc


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"told": "nvcc fatal"}, "nvcc does not work: nvcc fatal; name another toolkit by CUDA_HOME"),
        ({"runtime": False}, "has no libcudart_static.a beside it; install its package cuda-runtime"),
    ],
)
def test_a_broken_toolkit_is_named_and_another_one_is_the_way_out(
    change: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvcc = a_toolkit(tmp_path / "broken", **change)  # type: ignore[arg-type]
    with pytest.raises(script.Unbuildable) as told:
        script.toolkit(nvcc)
    assert said in str(told.value)
    if "CUDA_HOME" in said:
        a_toolkit(tmp_path / "whole")
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "whole"))
    else:
        (tmp_path / "broken" / "lib64" / "libcudart_static.a").touch()
    assert script.toolkit(script.compiler() if "CUDA_HOME" in said else nvcc)


def test_what_is_missing_for_the_build_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(script, "compiler", lambda: None)
    with pytest.raises(script.Unbuildable, match="nvcc is not found in CUDA_HOME, in PATH or in"):
        script.build_file(tmp_path / "_C.so", tmp_path)
    monkeypatch.setattr(script, "compiler", lambda: a_toolkit(tmp_path / "cuda"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(script.Unbuildable, match=r"no C\+\+ compiler is found; install g\+\+, or name one by CXX"):
        script.build_file(tmp_path / "_C.so", tmp_path)


def test_the_file_for_ninja_has_every_source_and_paths_with_spaces(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvcc = a_toolkit(tmp_path / "a toolkit")
    monkeypatch.setattr(script, "compiler", lambda: nvcc)
    monkeypatch.setattr(script.shutil, "which", lambda name: "/usr/bin/g++")
    objects = tmp_path / "objects"
    objects.mkdir()
    text = script.build_file(tmp_path / "a folder" / "_C.so", objects)
    for path in (ROOT / "csrc").rglob("*.c*"):
        if path.suffix in (".cpp", ".cu"):
            built = f": {'cuda' if path.suffix == '.cu' else 'cxx'} {path}" in text
            assert built == (path.parent.name != "cpu"), "that one has no CUDA"
    assert f"build {tmp_path}/a$ folder/_C.so: link" in text
    assert f"'{tmp_path}/a toolkit/include'" in text
    facts = (objects / "build_facts.h").read_text()
    assert f'#define UNMASK_VERSION "{script.version()}"' in facts
    assert '#define UNMASK_ARCHITECTURES "sm_80 sm_90a compute_80"' in facts


def test_what_the_build_takes_from_pypi_may_come_from_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PyTorch has a copy of the headers of pybind11, and a system may have ninja."""
    headers = tmp_path / "torch" / "include" / "pybind11" / "pybind11.h"
    headers.parent.mkdir(parents=True)
    places = {"torch": tmp_path / "torch"}

    def find_spec(name: str) -> object:
        return SimpleNamespace(submodule_search_locations=[str(places[name])]) if name in places else None

    monkeypatch.setattr(script.importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    with pytest.raises(script.Unbuildable, match="pybind11 is not installed; pip install pybind11"):
        script.pybind11_headers()
    headers.touch()
    assert script.pybind11_headers() == tmp_path / "torch" / "include"
    with pytest.raises(script.Unbuildable, match="ninja is not installed; pip install ninja"):
        script.ninja()
    monkeypatch.setattr(script.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert script.ninja() == ["/usr/bin/ninja"]
    places |= {"pybind11": tmp_path / "pybind11", "ninja": tmp_path / "ninja"}
    own = tmp_path / "pybind11" / "include" / "pybind11" / "pybind11.h"
    own.parent.mkdir(parents=True)
    own.touch()
    assert script.pybind11_headers() == tmp_path / "pybind11" / "include"
    assert script.ninja()[1:] == ["-m", "ninja"]


def test_a_build_that_fails_ends_the_installation_only_if_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from setuptools import Distribution

    monkeypatch.setattr(script, "compiler", lambda: None)
    command = script.BuildExtensions(Distribution())
    command.build_temp, command.build_lib, command.extensions = str(tmp_path / "temp"), str(tmp_path), []
    extension = script.Extension("unmask_kernels._C", [])
    command.build_extension(extension)
    told = capsys.readouterr().out
    assert "goes on without the CUDA extension: nvcc is not found" in told
    assert "UNMASK_BUILD_CUDA=1 makes this an error" in told
    monkeypatch.setenv("UNMASK_BUILD_CUDA", "1")
    with pytest.raises(SystemExit, match="the CUDA extension cannot be built: nvcc is not found"):
        command.build_extension(extension)


def test_the_extension_for_cpus_is_built_unless_it_is_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_BUILD_CUDA", "0")
    for asked in ("", "1"):
        monkeypatch.setenv("UNMASK_BUILD_CPU", asked)
        [extension] = script.extensions()
        assert extension.name == "unmask_kernels._cpu" and extension.optional == (asked == "")
        assert {(ROOT / source).read_text() for source in extension.sources}
        assert "setup.py" in extension.depends and "csrc/cpu/philox.h" in extension.depends
    monkeypatch.setenv("UNMASK_BUILD_CPU", "0")
    assert [*script.extensions()] == []


def test_an_installation_goes_on_without_a_compiler_for_cpus_and_one_that_asked_for_it_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from setuptools import Distribution

    source = tmp_path / "wrong.cpp"
    source.write_text("this is no C++\n")
    extension = script.Extension("unmask_kernels._cpu", [str(source)])
    command = script.BuildExtensions(Distribution({"name": "some", "ext_modules": [extension]}))
    command.build_temp, command.build_lib = str(tmp_path / "temp"), str(tmp_path)
    command.ensure_finalized()
    monkeypatch.setenv("UNMASK_BUILD_CPU", "")
    command.run()
    told = capfd.readouterr().out
    assert "goes on without the extension for CPUs: " in told and "UNMASK_BUILD_CPU=1 makes this an error" in told
    monkeypatch.setenv("UNMASK_BUILD_CPU", "1")
    with pytest.raises(SystemExit, match="the extension for CPUs cannot be built: "):
        command.build_extension(extension)


def test_the_source_distribution_has_the_sources_of_the_extension(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("csrc", "engine", "kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "--formats", "tar", "--dist-dir", str(tmp_path / "dist")],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [archive] = (tmp_path / "dist").iterdir()
    listed = subprocess.run(["tar", "tf", str(archive)], capture_output=True, text=True, check=True).stdout.split()
    inside = {name.partition("/")[2] for name in listed}
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_file()} <= inside
    assert {"setup.py", "kernels/unmask_kernels/_sources.py"} <= inside
