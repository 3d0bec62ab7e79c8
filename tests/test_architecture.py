"""The shape of the project: who imports whom, what an import needs, and how long a file may be."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOT_FOLDERS = ("engine", "kernels", "bench", "csrc", "tests")
MAX_LINES = 300

# imports the baseline, then the modules named, and prints the packages that only the latter brought
FOREIGN = """
import importlib, sys
baseline, modules = sys.argv[1].split(), sys.argv[2].split()
for name in baseline:
    importlib.import_module(name)
before = {name.partition(".")[0] for name in sys.modules}
for name in modules:
    importlib.import_module(name)
after = {name.partition(".")[0] for name in sys.modules}
ours = {"unmask", "unmask_kernels"}
print(*sorted(after - before - ours - set(sys.stdlib_module_names) - {"__mp_main__"}))
"""


def foreign_imports(modules: str, *, baseline: str) -> list[str]:
    paths = [str(ROOT / "engine"), str(ROOT / "kernels")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{FOREIGN}", baseline, modules],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def python_files() -> list[Path]:
    return sorted(path for folder in ROOT_FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == 0, capsys.readouterr().out


def test_an_import_that_points_up_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The contracts above can fail: the same kind of contract refuses a package that breaks it."""
    package = tmp_path / "upside"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "high.py").touch()
    (package / "low.py").write_text("import upside.high\n")
    (tmp_path / "contracts.toml").write_text(
        "[tool.importlinter]\nroot_package = 'upside'\n[[tool.importlinter.contracts]]\n"
        "name = 'down'\ntype = 'layers'\nlayers = ['upside.high', 'upside.low']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from importlinter.cli import lint_imports

    assert lint_imports(config_filename=str(tmp_path / "contracts.toml"), no_cache=True) == 1
    assert "upside.low is not allowed to import upside.high" in capsys.readouterr().out


def test_kernels_import_torch_only() -> None:
    assert foreign_imports("unmask_kernels", baseline="torch") == []


def test_model_objectives_and_step_import_torch_and_numpy_only() -> None:
    modules = "unmask unmask.batch unmask.model unmask.objectives unmask.train.step"
    assert foreign_imports(modules, baseline="torch numpy") == []


def test_every_public_name_resolves() -> None:
    import unmask

    assert [name for name in unmask.__all__ if not hasattr(unmask, name)] == []


def test_importing_the_package_or_the_configuration_loads_no_third_party_package() -> None:
    assert foreign_imports("unmask unmask.config unmask.errors unmask.cli", baseline="sys") == []


@pytest.mark.parametrize("folder", ROOT_FOLDERS)
def test_root_folders_are_plain_folders(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_no_file_is_longer_than_a_reader_keeps_in_mind() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in python_files()}
    assert lengths, "no Python file was found"
    too_long = {str(path): lines for path, lines in lengths.items() if lines > MAX_LINES}
    assert too_long == {}


def test_every_public_module_opens_with_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if "tests" not in path.relative_to(ROOT).parts
        if path.read_text("utf-8").strip() and not path.read_text("utf-8").lstrip().startswith(('"""', "#!"))
    ]
    assert silent == []
