"""The door to the kernels in CUDA C++: what opens it, and what is said where it stays closed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from offline.nvcc import ROOT, setup_script
from unmask_kernels import extension, philox_cpp
from unmask_kernels._sources import hash_of_sources
from unmask_kernels.dispatch import BackendUnavailable
from unmask_kernels.extension import Extension, build_command, cuda_reasons, has_code, load_extension

# the facts that `extension.py` reads, in a C extension without pybind11, whose headers take long to compile
BINDINGS = """
#include <Python.h>
#include <build_facts.h>
static PyObject* none(PyObject*, PyObject*) { return PyLong_FromLong(0); }
static PyMethodDef methods[] = {{"driver_version", none, METH_NOARGS, ""}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", "", -1, methods, nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__C() {
  PyObject* made = PyModule_Create(&module);
  PyModule_AddStringConstant(made, "version", UNMASK_VERSION);
  PyModule_AddStringConstant(made, "sources", UNMASK_SOURCES);
  PyModule_AddStringConstant(made, "architectures", UNMASK_ARCHITECTURES);
  PyModule_AddIntConstant(made, "runtime_version", 13000);
  return made;
}
"""

WHOLE = Extension("sm_80 sm_90a compute_80", 13000, 13010, "")


@pytest.fixture(autouse=True)
def _read_anew() -> Any:
    """Nothing that a test pretends stays known."""
    for function in (extension.installed, philox_cpp.fault):
        function.cache_clear()
    yield
    for function in (extension.installed, philox_cpp.fault):
        function.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, known: Extension | None) -> None:
    monkeypatch.setattr(extension, "installed", lambda: known)


def pretend_module(monkeypatch: pytest.MonkeyPatch, *, version: str, sources: str) -> None:
    """Put a module of that version and those sources in the place of the extension."""
    facts = {"architectures": "sm_80", "runtime_version": 13000, "driver_version": lambda: 0}
    module = SimpleNamespace(version=version, sources=sources, **facts)
    monkeypatch.setitem(sys.modules, "unmask_kernels._C", module)
    monkeypatch.setattr(extension.importlib.util, "find_spec", lambda name: object())


@pytest.mark.parametrize(
    ("architecture", "compiled", "runs"),
    [
        ("sm_80", "sm_80", True),
        ("sm_86", "sm_80", True),
        ("sm_90", "sm_80", False),
        ("sm_90", "sm_90a", True),
        ("sm_100", "sm_90a", False),
        ("sm_100", "sm_80 sm_90a compute_80", True),
        ("sm_120", "sm_100f compute_90", True),
        ("sm_75", "sm_80 compute_80", False),
        ("sm_80", "sm_86", False),
        ("cpu", "sm_80", False),
    ],
)
def test_code_runs_on_its_gpu_and_on_newer_ones_of_its_generation_and_ptx_on_all_newer_ones(
    architecture: str, compiled: str, runs: bool
) -> None:
    assert has_code(architecture, compiled) is runs


@pytest.mark.parametrize(
    ("known", "device", "architecture", "said"),
    [
        (WHOLE, "cuda", "sm_90", []),
        (None, "cuda", "sm_90", ["unmask_kernels._C is not built; run `unmask doctor` for the command that builds it"]),
        (WHOLE, "cpu", "cpu", ["needs a CUDA tensor, got cpu"]),
        (WHOLE, "cuda", "sm_75", ["needs a GPU of compute capability 8.0 or newer, got sm_75"]),
        (
            WHOLE._replace(architectures="sm_80"),
            "cuda",
            "sm_90",
            ["unmask_kernels._C is built for sm_80, this GPU is sm_90; set UNMASK_CUDA_ARCHS=sm_90 and run"],
        ),
        (
            WHOLE._replace(driver=0),
            "cuda",
            "sm_90",
            ["no NVIDIA driver is found; CUDA 13.0 of unmask_kernels._C needs"],
        ),
        (
            WHOLE._replace(driver=12080),
            "cuda",
            "sm_90",
            ["the driver knows CUDA up to 12.8 only; CUDA 13.0 of unmask_kernels._C needs driver 580 or newer"],
        ),
        # a runtime of 12.9 runs with the driver of 12.0
        (WHOLE._replace(runtime=12090, driver=12000), "cuda", "sm_90", []),
        (
            WHOLE._replace(runtime=12090, driver=11080),
            "cuda",
            "sm_90",
            ["the driver knows CUDA up to 11.8 only; CUDA 12.9 of unmask_kernels._C needs driver 525 or newer"],
        ),
        (WHOLE._replace(fault="it is stale"), "cuda", "sm_90", ["it is stale"]),
        (None, "cpu", "cpu", ["unmask_kernels._C is not built", "needs a CUDA tensor, got cpu"]),
    ],
)
def test_each_reason_against_a_kernel_in_cuda_is_named(
    known: Extension | None, device: str, architecture: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, known)
    reasons = cuda_reasons(device, architecture)
    assert len(reasons) == len(said)
    for reason, beginning in zip(reasons, said, strict=True):
        assert reason.startswith(beginning)


def test_code_that_is_missing_is_there_after_the_advised_build(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, WHOLE._replace(architectures="sm_80"))
    [reason] = cuda_reasons("cuda", "sm_90")
    advised = reason.partition("UNMASK_CUDA_ARCHS=")[2].split()[0]
    assert setup_script().codes(advised)
    assert has_code("sm_90", advised)


def test_an_installation_without_the_extension_says_so_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension.importlib.util, "find_spec", lambda name: None)
    assert extension.installed() is None
    with pytest.raises(BackendUnavailable, match=r"unmask_kernels\._C is not built; run `unmask doctor` for"):
        load_extension()


def test_an_extension_of_other_sources_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    here = hash_of_sources(ROOT / "csrc")
    pretend_module(monkeypatch, version="0.0.9", sources="0123456789abcdef")
    said = rf"was built from other sources \(hash 0123456789abcdef, csrc here has {here}\); run `unmask doctor` for"
    assert cuda_reasons("cuda", "sm_90") == (extension.installed().fault,)  # type: ignore[union-attr]
    with pytest.raises(BackendUnavailable, match=said):
        load_extension()
    extension.installed.cache_clear()
    pretend_module(monkeypatch, version="0.0.9", sources=here)
    assert load_extension().sources == here


def test_an_installed_extension_of_another_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "_checkout", lambda: None)
    monkeypatch.setattr(extension.importlib.metadata, "version", lambda name: "0.2.0")
    pretend_module(monkeypatch, version="0.1.0", sources="0123456789abcdef")
    said = r"_C is of version 0\.1\.0, unmask of 0\.2\.0; run `unmask doctor` for"
    with pytest.raises(BackendUnavailable, match=said):
        load_extension()
    extension.installed.cache_clear()
    pretend_module(monkeypatch, version="0.2.0", sources="0123456789abcdef")
    assert load_extension().version == "0.2.0"


def test_an_extension_that_cannot_be_imported_is_told_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("undefined symbol: x")

    monkeypatch.setattr(extension.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(extension.importlib, "import_module", broken)
    with pytest.raises(BackendUnavailable, match=r"cannot be imported: undefined symbol: x; run `unmask doctor` for"):
        load_extension()


@pytest.mark.parametrize(
    ("told", "origin"),
    [
        (None, "unmask"),
        ({"url": "file:///home/me/unmask", "dir_info": {}}, "file:///home/me/unmask"),
        ({"url": "https://example.org/unmask.git", "vcs_info": {"vcs": "git"}}, "git+https://example.org/unmask.git"),
    ],
)
def test_the_command_builds_from_where_the_package_came(
    told: dict[str, object] | None, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert build_command() == f"UNMASK_BUILD_CUDA=1 pip install --no-deps --editable {ROOT}"
    assert build_command("UNMASK_BUILD_CPU") == build_command().replace("CUDA", "CPU")
    monkeypatch.setattr(extension, "_checkout", lambda: None)
    distribution = SimpleNamespace(read_text=lambda name: None if told is None else json.dumps(told))
    monkeypatch.setattr(extension.importlib.metadata, "distribution", lambda name: distribution)
    assert build_command() == (
        f"UNMASK_BUILD_CUDA=1 pip install --no-deps --force-reinstall --no-cache-dir --no-binary unmask {origin}"
    )


def test_the_extension_of_this_checkout_is_of_its_sources() -> None:
    known = extension.installed()
    if known is None:
        pytest.skip("the extension is not built here")
    assert known.fault == ""
    assert {"sm_80", "sm_90a", "compute_80"} == set(known.architectures.split())
    module = load_extension()
    assert module.version == setup_script().version()


@pytest.mark.parametrize(
    ("pretended", "said"),
    [
        ({"find_spec": lambda name: None}, "unmask_kernels._cpu is not built"),
        (
            {"version": "0.0.9", "sources": "0123456789abcdef"},
            "unmask_kernels._cpu was built from other sources (hash 0",
        ),
        ({"version": "0.0.9", "sources": hash_of_sources(ROOT / "csrc" / "cpu")}, ""),
        ({}, "unmask_kernels._cpu was built from other sources (hash unknown"),
    ],
)
def test_an_extension_for_cpus_that_is_missing_or_of_other_sources_is_not_used(
    pretended: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = pretended.pop("find_spec", lambda name: object())
    monkeypatch.setattr(philox_cpp.importlib.util, "find_spec", find)
    monkeypatch.setitem(sys.modules, "unmask_kernels._cpu", SimpleNamespace(**pretended))
    assert philox_cpp.fault().startswith(said) and bool(philox_cpp.fault()) == bool(said)


@pytest.mark.skipif(setup_script().compiler() is None, reason="nvcc is not installed")
def test_the_advised_command_builds_the_extension(tmp_path: Path) -> None:
    """The command that `unmask doctor` gives, in a copy of the repository with a kernel that compiles fast."""
    tree, environment = tmp_path / "tree", tmp_path / "environment"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("engine", "kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / "csrc").mkdir()
    (tree / "csrc" / "bindings.cpp").write_text(BINDINGS)
    (tree / "csrc" / "empty.cu").write_text("__global__ void empty_kernel() {}\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    # packages of this environment are found there, and pip installs nothing but ours
    [site] = environment.glob("lib/python*/site-packages")
    (site / "beside.pth").write_text(str(Path(pytest.__file__).parents[1]))
    pip = environment / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {environment}/bin/python -m pip "$@"\n')
    pip.chmod(0o755)
    ask = (
        f"import sys; sys.path.insert(0, {str(tree / 'kernels')!r})\n"
        "from unmask_kernels.extension import build_command, installed\n"
        "print(build_command()); print(installed())"
    )
    python = str(environment / "bin" / "python")

    def asked() -> list[str]:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    command, known = asked()
    assert known == "None"
    quick = {
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_INDEX": "1",
        "UNMASK_CUDA_ARCHS": "compute_80",
        "UNMASK_BUILD_CPU": "0",
    }
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        env={**os.environ, **quick, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert asked()[1].startswith("Extension(architectures='compute_80', runtime=") and "fault=''" in asked()[1]
    # the sources change, as after `git pull`: the extension is stale
    with (tree / "csrc" / "empty.cu").open("a") as file:
        file.write("// one more line\n")
    assert "was built from other sources" in asked()[1]
