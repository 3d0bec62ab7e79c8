"""Through how many modules a training step and a text pass; `walks.py` says what counts, -s prints their names."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location("walks", Path(__file__).with_name("walks.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
walks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(walks)

MODULES, FILES, RETURNS = 71, 12, 0


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    found = walks.walk()
    print(walks.report(found))
    return found


def test_a_training_step_runs_functions_of_few_modules(found: dict[str, Any]) -> None:
    assert {"cli", "train.trainer", "train.step", "batch"} <= set(found["modules"])
    # the worker's process counts
    assert any("masking" in name for name in found["modules"])
    assert len(found["modules"]) <= MODULES


def test_few_files_stand_between_the_command_and_the_optimizer(found: dict[str, Any]) -> None:
    assert found["chain"][0].startswith("cli")
    assert found["chain"][-1] == "train.step"
    assert len(found["chain"]) <= FILES


def test_a_text_does_not_come_back_to_a_module_that_it_has_left(found: dict[str, Any]) -> None:
    to_store, to_loader, to_model = found["legs"]
    # each leg was seen from its beginning to its end
    assert any("cleaning" in name for name in to_store)
    assert "store" in to_loader[0]
    assert to_loader[-1].endswith("loader")
    assert to_model[-1] == "train.step"
    assert len(found["returns"]) <= RETURNS, found["returns"]


MODULES_OF_A_TOY = {
    "read.py": "def read(lines):\n    for line in lines:\n        yield line\n",
    "clean.py": "TABLE = (lambda: 1)()\ndef clean(text):\n    return text.strip()\ntrim = lambda text: text[:9]\n",
    "words.py": "def words(text):\n    return text.split()\n",
    "run.py": """
from toy.read import read
from toy.clean import clean, trim
from toy.words import words
def straight(lines):
    return [words(clean(text)) for text in read(lines)]
def back(lines):
    for text in read(lines):
        words(clean(text))
        trim(text)
def waiting(lines):
    for result in [words(clean(text)) for text in read(lines)]:
        take(result)
def take(result):
    return len(result)
""",
}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "toy").mkdir()
    for name, source in MODULES_OF_A_TOY.items():
        (tmp_path / "toy" / name).write_text(source)
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    import toy.run  # type: ignore[import-not-found]

    return toy.run


def watched(walk: Any, function: Any, *arguments: Any) -> Any:
    sys.setprofile(walk)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return walk


LINES = ["a boat", f"a {' '.join(walks.PHRASE)} b", "rain"]


def test_the_walk_of_a_text_finds_a_return(toy: ModuleType, tmp_path: Path) -> None:
    package = walks.Package(tmp_path / "toy")
    straight = watched(walks.TextWalk(package), toy.straight, iter(LINES))
    assert straight.legs == [["read", "run", "clean", "words"]]
    assert straight.returns == []
    assert watched(walks.TextWalk(package), toy.waiting, iter(LINES)).returns == []
    back = watched(walks.TextWalk(package), toy.back, iter(LINES))
    assert back.returns == ["clean (<lambda>, called in run), after words"]


def test_a_document_without_the_phrase_is_not_followed(toy: ModuleType, tmp_path: Path) -> None:
    walk = watched(
        walks.TextWalk(walks.Package(tmp_path / "toy")), toy.back, iter(["a boat", " ".join(reversed(walks.PHRASE))])
    )
    assert walk.legs == [[]]


def test_modules_count_for_functions_and_not_for_imports(toy: ModuleType, tmp_path: Path) -> None:
    record = tmp_path / "record"
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        del sys.modules[name]

    def imports_and_cleans() -> None:
        import toy.run

        toy.run.words("a b")

    watched(walks.StepWalk(walks.Package(tmp_path / "toy"), record), imports_and_cleans)
    assert record.read_text() == '{"module": "words"}\n'
