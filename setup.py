"""Build `unmask` and `unmask_kernels` from their two source roots, and the kernels in C++ and CUDA C++ of `csrc/`.

pyproject.toml has everything else. The extension `unmask_kernels._cpu` needs a C++ compiler and pybind11, and
`unmask_kernels._C` nvcc and ninja too. Neither needs a GPU or PyTorch: addresses and streams go in as numbers, and the
CUDA runtime is linked in.

    UNMASK_BUILD_CPU     1: build the extension for CPUs, or fail. 0: leave it out. Unset: build it; if that fails, the
                         installation goes on without it and says why
    UNMASK_BUILD_CUDA    the same for the extension in CUDA C++, where nvcc is found
    UNMASK_CUDA_ARCHS    what to compile for, default "sm_80 sm_90a compute_80": sm_ is code for a GPU, compute_ is PTX,
                         from which a driver makes code for newer GPUs
    CUDA_HOME, CXX       folder of a CUDA toolkit; C++ compiler

With UNMASK_BUILD_CUDA=1 and without nvcc, pip takes nvcc from PyPI for the build.
"""

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError

ROOT = Path(__file__).resolve().parent
ROOTS = {"unmask": "engine", "unmask_kernels": "kernels"}
SOURCES = ROOT / "csrc"
FOR_CPUS = SOURCES / "cpu"
USUAL_FOLDER = Path("/usr/local/cuda")
ARCHITECTURES = "sm_80 sm_90a compute_80"
# the parts of the compiler must be of one release: they do not require one another's
COMPILER = [f"nvidia-{part}==13.0.*" for part in ("cuda-nvcc", "cuda-crt", "nvvm", "cuda-runtime")]

NINJA = """\
cxx = {cxx}
nvcc = {nvcc}
flags = -std=c++17 {own}

rule cxx
  command = $cxx $flags {includes} -O2 -fPIC -fvisibility=hidden -Wall -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
rule cuda
  command = $nvcc -ccbin $cxx $flags -O3 {codes} --threads 2 -Xcompiler -fPIC,-fvisibility=hidden,-Wall $
    -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
# The symbols of the CUDA runtime stay inside: PyTorch brings another one, and makes its symbols known to all.
rule link
  command = $cxx -shared $in -o $out {libraries} -Wl,--exclude-libs,ALL -lcudart_static -ldl -lrt -lpthread

{builds}
build {target}: link {objects}
"""


def wish(variable: str = "UNMASK_BUILD_CUDA") -> str:
    """Return what the user wants of an extension: "1", "0", or "" for what is possible."""
    asked = os.environ.get(variable, "")
    if asked not in ("", "0", "1"):
        raise SystemExit(f"unmask: {variable} must be 0 or 1, or unset, got '{asked}'")
    return asked


class Unbuildable(Exception):
    """Something that the build needs is missing; the message says what, and how to get it."""


def compiler() -> Path | None:
    """Return nvcc of CUDA_HOME, of PATH, of the usual folder, or of a package from PyPI; None if there is none."""
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if homes:
        return next((home / "bin/nvcc" for home in homes if (home / "bin/nvcc").is_file()), None)
    if found := shutil.which("nvcc"):
        return Path(found)
    packages = importlib.util.find_spec("nvidia")
    installed = (packages.submodule_search_locations if packages else None) or []
    folders = [USUAL_FOLDER / "bin", *(Path(folder) / "cu13/bin" for folder in installed)]
    return next((folder / "nvcc" for folder in folders if (folder / "nvcc").is_file()), None)


def toolkit(nvcc: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders of the headers and of the libraries that belong to a compiler, as the compiler names them."""
    told = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    top = re.search(r"^#\$ TOP=(.+)$", told.stderr, re.MULTILINE)
    if told.returncode != 0 or top is None:
        said = told.stderr.strip() or "it says nothing"
        raise Unbuildable(f"{nvcc} does not work: {said}; name another toolkit by CUDA_HOME")
    home = Path(top[1].strip())
    headers = [path for path in (home / "include", *home.glob("targets/*/include")) if path.is_dir()]
    libraries = [path for path in (home / "lib64", home / "lib", *home.glob("targets/*/lib")) if path.is_dir()]
    if not any((path / "libcudart_static.a").is_file() for path in libraries):
        raise Unbuildable(f"{nvcc} has no libcudart_static.a beside it; install its package cuda-runtime")
    return headers, libraries


def names_of(architectures: str) -> list[str]:
    """Return the names in a list that is separated by spaces, commas or semicolons."""
    return re.split(r"[\s,;]+", architectures.strip())


def codes(architectures: str) -> list[str]:
    """Return the options of nvcc for a list such as "sm_80 sm_90a compute_80"."""
    names = names_of(architectures)
    for name in names:
        if not re.fullmatch(r"(sm|compute)_\d+[af]?", name):
            raise Unbuildable(
                f"UNMASK_CUDA_ARCHS must be names such as {ARCHITECTURES}, separated by spaces, got '{architectures}'"
            )
    numbers = {name: name.partition("_")[2] for name in names}
    return [f"-gencode arch=compute_{number},code={name}" for name, number in numbers.items()]


def version() -> str:
    """Return the version, which engine/unmask/__init__.py states."""
    stated = (ROOT / "engine/unmask/__init__.py").read_text("utf-8")
    found = re.search(r'^__version__ = "(.+)"$', stated, re.MULTILINE)
    assert found is not None
    return found[1]


def hash_of_sources(folder: Path) -> str:
    """Return the hash of a folder. `unmask_kernels.extension` compares it with the hash of what was built."""
    module = runpy.run_path(str(ROOT / "kernels/unmask_kernels/_sources.py"))
    return str(module["hash_of_sources"](folder))


def pybind11_headers() -> Path:
    """Return the folder of pybind11's headers: its own, or the copy in PyTorch where there is no network."""
    for package in ("pybind11", "torch"):
        found = importlib.util.find_spec(package)
        for folder in (found.submodule_search_locations if found else None) or []:
            if (Path(folder) / "include/pybind11/pybind11.h").is_file():
                return Path(folder) / "include"
    raise Unbuildable("pybind11 is not installed; pip install pybind11")


def ninja() -> list[str]:
    """Return the command that runs ninja."""
    if importlib.util.find_spec("ninja") is not None:
        return [sys.executable, "-m", "ninja"]
    if found := shutil.which("ninja"):
        return [found]
    raise Unbuildable("ninja is not installed; pip install ninja")


def build_file(target: Path, objects: Path) -> str:
    """Return the file for ninja that builds the extension."""
    nvcc, cxx = compiler(), shutil.which(os.environ.get("CXX", "g++"))
    if nvcc is None:
        raise Unbuildable(
            "nvcc is not found in CUDA_HOME, in PATH or in /usr/local/cuda; install a CUDA toolkit, or unset CUDA_HOME "
            "and let UNMASK_BUILD_CUDA=1 pip install take nvcc from PyPI"
        )
    if cxx is None:
        raise Unbuildable("no C++ compiler is found; install g++, or name one by CXX")
    architectures = os.environ.get("UNMASK_CUDA_ARCHS", ARCHITECTURES)
    options = codes(architectures)
    headers, libraries = toolkit(nvcc)
    # a header of its own, which one file includes: the others need no compilation when it changes
    facts = {
        "VERSION": version(),
        "SOURCES": hash_of_sources(SOURCES),
        "ARCHITECTURES": " ".join(names_of(architectures)),
    }
    lines = [f'#define UNMASK_{name} "{value}"\n' for name, value in facts.items()]
    (objects / "build_facts.h").write_text("".join(lines))
    files = sorted(path for path in SOURCES.rglob("*") if path.suffix in (".cpp", ".cu") and path.parent != FOR_CPUS)
    outputs = {path: objects / f"{path.relative_to(SOURCES).as_posix().replace('/', '.')}.o" for path in files}
    rules = {".cpp": "cxx", ".cu": "cuda"}
    includes = [*headers, sysconfig.get_path("include"), pybind11_headers()]
    builds = [f"build {_escaped(out)}: {rules[path.suffix]} {_escaped(path)}" for path, out in outputs.items()]
    return NINJA.format(
        cxx=shlex.quote(cxx),
        nvcc=shlex.quote(str(nvcc)),
        own=_options("-I", [SOURCES, objects]),
        includes=_options("-isystem ", includes),
        codes=" ".join(options),
        libraries=_options("-L", libraries),
        builds="\n".join(builds),
        target=_escaped(target),
        objects=" ".join(map(_escaped, outputs.values())),
    )


def _options(name: str, values: Sequence[object]) -> str:
    return " ".join(f"{name}{shlex.quote(str(value))}" for value in values)


def _escaped(path: Path) -> str:
    """Return a path as a build statement of ninja takes it."""
    return re.sub(r"([$ :])", r"$\1", str(path))


class BuildExtensions(build_ext):
    """Build `unmask_kernels._cpu` by setuptools, and `unmask_kernels._C` by ninja."""

    def build_extension(self, ext: Extension) -> None:
        """Build one, or leave it out with a reason if nobody asked for it."""
        cuda = ext.name.endswith("_C")
        variable, name = ("UNMASK_BUILD_CUDA", "CUDA extension") if cuda else ("UNMASK_BUILD_CPU", "extension for CPUs")
        try:
            self._build_by_ninja(ext) if cuda else self._build_for_cpus(ext)
        except (Unbuildable, subprocess.CalledProcessError, CCompilerError) as error:
            if wish(variable) == "1":
                raise SystemExit(f"unmask: the {name} cannot be built: {error}") from error
            print(f"unmask: goes on without the {name}: {error}; {variable}=1 makes this an error")

    def _build_for_cpus(self, ext: Extension) -> None:
        facts = {"VERSION": version(), "SOURCES": hash_of_sources(FOR_CPUS)}
        ext.define_macros = [(f"UNMASK_{name}", f'"{value}"') for name, value in facts.items()]
        ext.include_dirs = [str(SOURCES), str(pybind11_headers())]
        # hidden: the symbols of pybind11 must not meet those of another module
        options = {"msvc": ["/std:c++17", "/O2", "/EHsc"]}
        of_gcc = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-pthread"]
        ext.extra_compile_args = options.get(self.compiler.compiler_type, of_gcc)
        ext.extra_link_args = [] if self.compiler.compiler_type in options else ["-pthread"]
        super().build_extension(ext)

    def _build_by_ninja(self, ext: Extension) -> None:
        objects = Path(self.build_temp).resolve()
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        for folder in (objects, target.parent):
            folder.mkdir(parents=True, exist_ok=True)
        (objects / "build.ninja").write_text(build_file(target, objects))
        subprocess.run([*ninja(), "-C", str(objects)], check=True)


def extensions() -> Iterator[Extension]:
    """Yield the extensions that are wanted: with a compiler, or because they are asked for."""
    # optional: an installation goes on without the file
    asked = wish("UNMASK_BUILD_CPU")
    if asked != "0":
        sources = sorted(path.relative_to(ROOT).as_posix() for path in FOR_CPUS.glob("*.cpp"))
        # whatever changes a flag or a macro
        others = [*FOR_CPUS.glob("*.h"), ROOT / "setup.py", ROOT / "engine/unmask/__init__.py"]
        depends = [path.relative_to(ROOT).as_posix() for path in others]
        yield Extension("unmask_kernels._cpu", sources, depends=depends, language="c++", optional=asked == "")
    asked = wish()
    if asked == "1" or (asked == "" and compiler() is not None):
        yield Extension("unmask_kernels._C", [], optional=asked == "")
    elif asked == "" and sys.argv[1:2] not in (["egg_info"], ["dist_info"]):
        # one of the commands that pip runs
        print("unmask: goes on without the CUDA extension: nvcc is not found; `unmask doctor` says how to get it")


def build_requirements() -> list[str]:
    """Return what pip installs for the build, beyond pyproject.toml. The backend asks by the command egg_info."""
    return COMPILER if wish() == "1" and compiler() is None and sys.argv[1:] == ["egg_info"] else []


if __name__ == "__main__":
    setup(
        packages=[name for root in ROOTS.values() for name in find_packages(root)],
        package_dir={package: f"{root}/{package}" for package, root in ROOTS.items()},
        ext_modules=[*extensions()],
        cmdclass={"build_ext": BuildExtensions},
        setup_requires=build_requirements(),
    )
