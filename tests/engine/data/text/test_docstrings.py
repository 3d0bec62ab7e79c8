"""The embedded corpus: found without importing, the same on any number of processes, cached."""

import subprocess
import sys
from pathlib import Path

import pytest

from unmask.data.text import docstrings
from unmask.data.text.docstrings import cache_folder, docstring_corpus, docstrings_of
from unmask.errors import CorpusError

MODULE = '''"""The module."""
if True:
    class Outer:
        """The class."""
        def method(self):
            """The method,
            with a hanging line."""
            async def inner(): "inner text"
try:
    pass
except ValueError:
    def handler():
        """In a handler."""
match 1:
    case 1:
        def cased():
            """In a case."""
'''


def test_finds_every_docstring_of_a_file_cleaned_and_named(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(MODULE)
    [found] = docstrings_of([path])
    assert found == [
        ("", "The module."),
        ("Outer", "The class."),
        ("Outer.method", "The method,\nwith a hanging line."),
        ("Outer.method.inner", "inner text"),
        ("handler", "In a handler."),
        ("cased", "In a case."),
    ]


@pytest.mark.parametrize("source", [b'"""x"""\ndef broken(:', b'"""x"""\0', b'"""\xff"""'])
def test_a_file_that_is_no_python_of_this_version_is_empty(tmp_path: Path, source: bytes) -> None:
    path = tmp_path / "template.py"
    path.write_bytes(source)
    assert docstrings_of([path]) == [[]]


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 60 files of a package stand for it."""
    found = docstrings._python_files
    monkeypatch.setattr(docstrings, "_python_files", lambda root, name: list(found(root, name))[:60])


@pytest.mark.usefixtures("few_files")
def test_several_sources_in_order_without_repetitions_or_fragments(tmp_path: Path) -> None:
    documents = docstring_corpus(["numpy", "python", "topics"], cache=tmp_path)
    assert list(dict.fromkeys(document.source for document in documents)) == ["topics", "python", "numpy"]
    texts = [document.text for document in documents]
    assert len(set(texts)) == len(texts) > 200
    assert min(map(len, texts)) >= 48
    assert documents[0].origin.startswith("pydoc_data/topics.py:")


@pytest.mark.usefixtures("few_files")
def test_any_number_of_processes_and_the_cache_give_the_same_documents(tmp_path: Path) -> None:
    alone = docstring_corpus(["numpy"], cache=tmp_path / "a", processes=1)
    assert docstring_corpus(["numpy"], cache=tmp_path / "b", processes=3) == alone
    assert docstring_corpus(["numpy"], cache=tmp_path / "a") == alone


def test_a_damaged_cache_is_made_again_and_an_unwritable_one_does_without(tmp_path: Path) -> None:
    documents = docstring_corpus(["topics"], cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-20].replace(b"Python", b"Pythom"))
    assert docstring_corpus(["topics"], cache=tmp_path) == documents
    assert file.read_bytes() == whole
    (tmp_path / "blocked").touch()
    assert docstring_corpus(["topics"], cache=tmp_path / "blocked") == documents


def test_nothing_is_imported() -> None:
    code = (
        "import sys, unmask.data.text.docstrings as d; before = set(sys.modules);"
        "[d._version(name) for name in d._chosen(None)]; list(d._topics());"
        "new = {module.split('.')[0] for module in set(sys.modules) - before};"
        "print(new & {'sympy', 'networkx', 'pydoc_data'})"
    )
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


def test_works_where_the_system_cannot_tell_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert docstring_corpus(["topics"], cache=tmp_path)


def test_cache_folder_follows_the_xdg_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "unmask"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "unmask"


def test_unknown_and_absent_sources_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="'nunpy' is unknown; there are topics, python, torch"):
        docstring_corpus(["nunpy"], cache=tmp_path)
    monkeypatch.setattr("unmask.data.text.docstrings._root", lambda name: None)
    with pytest.raises(CorpusError, match="'sympy' is not installed; pip install sympy"):
        docstring_corpus(["sympy"], cache=tmp_path)
