"""Worker processes import nothing of the current folder, except the segmenter that the user named."""

import sys
from pathlib import Path

import numpy as np
import pytest

from unmask.data.prepare.encoding import TextEncoder
from unmask.data.prepare.workers import WorkerPool
from unmask.data.text.docstrings import _parse
from unmask.data.text.words import load_segmenter
from unmask.data.tokenizer import Tokenizer

# imported by the workers on their way, some before they know a path
NAMES = (
    "pickle",
    "struct",
    "keyword",
    "operator",
    "types",
    "io",
    "re",
    "json",
    "queue",
    "numpy",
    "tokenizers",
    "random",
)
TEXTS = ["the mill 磨坊裡 turns", "by the 河邊 river"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files of the user under names of Python's modules, and with a segmenter."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("import os\nos._exit(7)\n")
    (tmp_path / "our_words.py").write_text(
        "def cut(text):\n    print('noise')\n    return [text[i:i + 2] for i in range(0, len(text), 2)]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize("before", [[], ["", "."]])
def test_files_of_the_user_are_no_modules_of_a_worker(
    before: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join([*before, "", *filter(None, sys.path)]))
    sys.path[:0] = before
    tokenizer = Tokenizer.train(TEXTS * 20, 100)
    tokenizer.save(folder / "tokenizer")
    encode = TextEncoder(tokenizer=tokenizer, segmenter=load_segmenter("our_words:cut"), normalisation="none")
    jobs = [(number, TEXTS) for number in range(3)]
    with WorkerPool(encode, folder / "tokenizer", 2) as pool:
        found = list(pool.map(jobs))
    expected = encode(TEXTS)
    assert [number for number, _ in found] == [0, 1, 2]
    for _, batch in found:
        assert batch is not None
        assert np.array_equal(batch.ids, expected.ids)
        assert np.array_equal(batch.word_starts, expected.word_starts)


def test_docstrings_are_read_from_files_of_any_name(folder: Path) -> None:
    paths = [folder / "a\nb.py", folder / "caf\udce9.py", folder / "\u00e9 {}.py"]
    for number, path in enumerate(paths):
        path.write_text(f'"""The text of file {number}."""\n')
    assert _parse(paths, 2) == [[("", f"The text of file {number}.")] for number in range(3)]
