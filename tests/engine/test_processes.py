"""Worker processes: one process's results in its order, nothing of the current folder, an end with the parent."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from unmask.data.prepare.encoding import TextEncoder
from unmask.data.text import docstrings
from unmask.data.text.words import load_segmenter
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError, UnmaskError
from unmask.processes import ProcessPool

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
    encode = TextEncoder(tokenizer=tokenizer, segmenter=load_segmenter("our_words:cut"), normalisation="none")
    jobs = [(number, TEXTS) for number in range(3)]
    with ProcessPool(encode, 2) as pool:
        found = list(pool.map(jobs))
    expected = encode(TEXTS)
    assert [number for number, _ in found] == [0, 1, 2]
    for _, batch in found:
        assert batch is not None
        assert np.array_equal(batch.ids, expected.ids)
        assert np.array_equal(batch.word_starts, expected.word_starts)


def test_docstrings_are_read_from_files_of_any_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "_FILES", 1)
    paths = [folder / "a\nb.py", folder / "caf\udce9.py", folder / "\u00e9 {}.py"]
    for number, path in enumerate(paths):
        path.write_text(f'"""The text of file {number}."""\n')
    assert docstrings._parse(paths, 2) == [[("", f"The text of file {number}.")] for number in range(3)]


WORK = """
import os
from unmask.errors import CorpusError

def work(item):
    if item < 0:
        raise CorpusError(f"item {item} must not be negative")
    if item == 1000:
        raise KeyError(item)
    if item == 2000:
        os._exit(3)
    print("noise")
    return item * 2, os.getpid()
"""


Work = Callable[[int], tuple[int, int]]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """A function of a module that workers can import too."""
    (tmp_path / "pool_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pool_work", raising=False)
    function: Work = importlib.import_module("pool_work").work
    return function


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_jobs_and_none_stays_none(work: Work, workers: int) -> None:
    jobs = [(str(number), None if number % 3 == 0 else number) for number in range(20)]
    with ProcessPool(work, workers) as pool:
        found = list(pool.map(jobs))
    assert [tag for tag, _ in found] == [tag for tag, _ in jobs]
    assert [result and result[0] for _, result in found] == [None if item is None else item * 2 for _, item in jobs]
    processes = {result[1] for _, result in found if result}
    assert (processes == {os.getpid()}) if workers == 1 else os.getpid() not in processes


def test_a_single_job_is_done_here(work: Work) -> None:
    with ProcessPool(work, 4) as pool:
        assert list(pool.map([("one", 1)])) == [("one", (2, os.getpid()))]


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        (-1, CorpusError, "^item -1 must not be negative$"),
        (1000, RuntimeError, "(?s)a worker process failed.*KeyError: 1000"),
        (2000, UnmaskError, r"a worker process died \(status .*fewer --workers"),
    ],
)
def test_the_error_of_a_worker_reaches_the_caller(work: Work, item: int, error: type[Exception], message: str) -> None:
    with ProcessPool(work, 2) as pool, pytest.raises(error, match=message):
        list(pool.map([(None, 1), (None, item)]))


def test_a_killed_parent_leaves_no_worker(tmp_path: Path) -> None:
    # no main guard: a worker that imported this script would start workers without end
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = {[entry for entry in sys.path if entry]!r}\n"
        "import os, time\n"
        "from unmask.processes import ProcessPool\n"
        "with ProcessPool(os.getppid, 2) as pool:\n"
        "    pool._start()\n"
        "    print(*[process.pid for process in pool._processes], flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(number) for number in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(map(_runs, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, workers))


def _runs(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
