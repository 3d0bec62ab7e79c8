"""The structure of the project: which module imports which, and what an import needs."""

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOT_FOLDERS = ("engine", "kernels", "bench", "csrc", "examples", "tests")

# imports the baseline, then the modules, and prints the packages that only the modules imported
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


@pytest.fixture(autouse=True)
def _loggers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep import-linter from setting up logging, which would disable the loggers of unmask for the tests after it."""
    monkeypatch.setattr("importlinter.cli.logging_config.dictConfig", lambda config: None)


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == 0, capsys.readouterr().out


def imported_modules(package: Path) -> dict[str, set[str]]:
    """Each module below `package`, and those that it imports anywhere but under TYPE_CHECKING."""
    paths = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        paths[name.removesuffix(".__init__")] = path
    return {module: set(_imports(module, path, set(paths))) for module, path in paths.items()}


def _imports(module: str, path: Path, known: set[str]) -> Iterator[str]:
    tree = ast.parse(path.read_text("utf-8"))
    guarded = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    for_types = {inner for node in guarded for statement in node.body for inner in ast.walk(statement)}
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        if node not in for_types:
            yield from (name for name in names if name in known and name != module)


def test_no_module_of_the_engine_imports_itself_through_others() -> None:
    """Imports inside functions count; `graphlib` names the circle that it finds."""
    graph = imported_modules(ROOT / "engine/unmask")
    assert "unmask.train.step" in graph["unmask.train.trainer"]
    graphlib.TopologicalSorter(graph).prepare()


def test_a_circle_of_imports_is_found(tmp_path: Path) -> None:
    package = tmp_path / "circle"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("from circle.two import thing\n")
    (package / "two.py").write_text("def thing():\n    from . import one\n")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(imported_modules(package)).prepare()


def test_every_family_and_kernel_module_is_under_contract() -> None:
    """The contracts list modules by name; a new family or module must be in them."""
    import unmask_kernels

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = {contract["name"]: contract for contract in settings["tool"]["importlinter"]["contracts"]}
    families = set(contracts["A family of operations stands alone"]["modules"])
    assert families == {f"unmask_kernels.{name}" for name in unmask_kernels.FAMILIES}
    plain = set(contracts["Triton is imported by Triton backends only"]["source_modules"])
    files = (ROOT / "kernels/unmask_kernels").glob("[!_]*.py")
    assert {f"unmask_kernels.{path.stem}" for path in files} <= plain


def test_an_import_that_points_up_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The contracts can fail: a contract of the same kind refuses a package that breaks it."""
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


# packs documents, encodes them and trains one step where the named packages cannot be imported, and shows that much
STEP_WITHOUT = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is out of reach")
blocked = set(sys.argv[1].split())
assert not blocked & sys.modules.keys()
sys.meta_path.insert(0, Refuse())
import numpy as np
import torch
from unmask.batch import assemble, pack
from unmask.config import OptimizerConfig
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives
from unmask.train.optim import build_optimizer
from unmask.train.step import TrainingStep
config = EncoderConfig(
    vocab_size=50, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_positions=16
)
model = PretrainingModel(config, heads=("mlm",), seed=0).train()
batch = pack([[2, 7, 9, 3], [2, 8, 3]])
print(tuple(model.encoder(batch.ids, batch.documents, batch.segments).shape))
ids = np.array([2, 4, 9, 3])
sizes = {"tokens": 8, "sequences": 2, "max_seqlen": 16}
batch = assemble(ids, np.array([4]), keys=np.array([1]), masked=np.array([1]), labels=np.array([7]), **sizes)
optimizer = build_optimizer(model, OptimizerConfig(learning_rate=1e-4))
step = TrainingStep(model=model, objectives=build_objectives({"mlm": 1.0}), optimizer=optimizer)
print(bool(torch.isfinite(step([batch]).loss)))
try:
    import safetensors
except ImportError as refusal:
    print(refusal)
"""


def test_torch_and_numpy_are_enough_to_pack_encode_and_train() -> None:
    blocked = "pyarrow tokenizers pydantic yaml ruamel rich tyro transformers safetensors"
    paths = [str(ROOT / "engine"), str(ROOT / "kernels")]
    program = f"import sys; sys.path[:0] = {paths!r}\n{STEP_WITHOUT}"
    done = subprocess.run([sys.executable, "-c", program, blocked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # the last line shows that such a package really cannot be imported
    assert done.stdout.splitlines() == ["(7, 16)", "True", "safetensors is out of reach"]


def test_every_public_name_resolves() -> None:
    import unmask

    assert [name for name in unmask.__all__ if not hasattr(unmask, name)] == []


def test_importing_the_package_or_the_configuration_loads_no_third_party_package() -> None:
    assert foreign_imports("unmask unmask.config unmask.errors unmask.cli", baseline="sys") == []


@pytest.mark.parametrize("folder", ROOT_FOLDERS)
def test_root_folders_are_plain_folders(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_every_public_module_opens_with_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if "tests" not in path.relative_to(ROOT).parts
        if path.read_text("utf-8").strip() and not path.read_text("utf-8").lstrip().startswith(('"""', "#!"))
    ]
    assert silent == []
