"""The embedded corpus: documentation that is on every machine able to run the engine, so a first run needs no
network and no data.

Sources, each a `source` of its documents: `topics` (the language reference that `help()` shows), `python`
(docstrings of the standard library), `torch`, `numpy`, and `sympy`, `networkx` when installed: about 38,000
docstrings, 16 million characters of English about code. They are read by parsing (`docstring_extract.py`),
nothing is imported. Exact repetitions and fragments are dropped.

The result depends only on the versions installed. Extraction runs in one process per core and is kept in a
cache file named after those versions, `$XDG_CACHE_HOME/unmask` or `~/.cache/unmask`; a cache that is damaged
or cannot be written costs time, never the corpus. Cost: 100 MB of source; 14 s of processor time the first
time, 0.3 s after.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from unmask.data.text.corpus import Document
from unmask.errors import CorpusError

__all__ = ["SOURCES", "cache_folder", "docstring_corpus"]

SOURCES = ("topics", "python", "torch", "numpy", "sympy", "networkx")

# shorter ones are labels ("Return the name."), which teach little and cost a [CLS] and a [SEP] each
_MIN_CHARACTERS = 48
_FORMAT = 1
_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})


def docstring_corpus(
    sources: Sequence[str] | None = None, *, cache: Path | None = None, processes: int | None = None
) -> list[Document]:
    """Returns the embedded corpus in a fixed order: by source, then file path, then position in the file.

    Args:
        sources: some of `SOURCES`; None takes all that are installed.
        cache: folder for the cache file; None takes `cache_folder()`, if there is one.
        processes: how many processes parse; None takes one per core available.

    Raises:
        CorpusError: a source is unknown or, named explicitly, not installed; or nothing was found.
    """
    chosen = _chosen(sources)
    versions = {name: _version(name) for name in chosen}
    key = hashlib.sha256(json.dumps([_FORMAT, _MIN_CHARACTERS, versions], sort_keys=True).encode()).hexdigest()
    folder = cache or cache_folder()
    file = None if folder is None else folder / f"docstrings-{key[:16]}.jsonl"
    documents = None if file is None else _read_cache(file, key)
    if documents is None:
        documents = _extract(chosen, processes or _cores())
        if file is not None:
            _write_cache(file, key, documents)
    if not documents:
        raise CorpusError(f"corpus: no docstring found in {', '.join(chosen)}; give files with --input instead")
    return documents


def cache_folder() -> Path | None:
    """Returns the folder for files that can be made again: `$XDG_CACHE_HOME/unmask`, else `~/.cache/unmask`; None for a
    user who has no home, as in a container.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification says that a relative path is to be ignored
    if Path(base).is_absolute():
        return Path(base) / "unmask"
    try:
        return Path.home() / ".cache" / "unmask"
    except RuntimeError:
        return None


def _cores() -> int:
    # macOS cannot tell which cores this process may use
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _chosen(sources: Sequence[str] | None) -> list[str]:
    if sources is None:
        return [name for name in SOURCES if _root(name) is not None]
    for name in sources:
        if name not in SOURCES:
            raise CorpusError(f"corpus: embedded source {name!r} is unknown; there are {', '.join(SOURCES)}")
        if _root(name) is None:
            raise CorpusError(f"corpus: embedded source {name!r} is not installed; pip install {name}")
    return [name for name in SOURCES if name in sources]


def _root(name: str) -> Path | None:
    """The folder or file of a source; a top-level package is found without importing it."""
    if name == "python":
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec("pydoc_data" if name == "topics" else name)
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    return root / "topics.py" if name == "topics" else root


def _version(name: str) -> str:
    if name in ("topics", "python"):
        return sys.version
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"unpackaged at {_root(name)}"


def _extract(chosen: Sequence[str], processes: int) -> list[Document]:
    files: list[tuple[str, Path, str]] = []
    for name in chosen:
        root = _root(name)
        if root is not None and name != "topics":
            files.extend((name, path, shown) for path, shown in _python_files(root, name))
    found = _parse([path for _, path, _ in files], processes)
    texts: list[tuple[str, str, str]] = list(_topics()) if "topics" in chosen else []
    for (name, _, shown), docstrings in zip(files, found, strict=True):
        texts.extend((name, f"{shown}:{qualified}", text) for qualified, text in docstrings)
    seen: set[str] = set()
    documents: list[Document] = []
    for source, origin, text in texts:
        # a docstring may escape half a surrogate pair, which is no text
        text = text.encode("utf-8", "ignore").decode().strip()
        if len(text) >= _MIN_CHARACTERS and text not in seen:
            seen.add(text)
            documents.append(Document(text=text, source=source, origin=origin))
    return documents


def _python_files(root: Path, name: str) -> Iterator[tuple[Path, str]]:
    left_out = _NOT_LIBRARY if name == "python" else frozenset()
    paths = (path for path in root.rglob("*.py") if left_out.isdisjoint(path.relative_to(root).parts))
    for path in sorted(paths, key=lambda path: path.relative_to(root).parts):
        yield path, f"{name}/{path.relative_to(root).as_posix()}"


def _topics() -> Iterator[tuple[str, str, str]]:
    path = _root("topics")
    assert path is not None
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            for topic, text in sorted(ast.literal_eval(node.value).items()):
                yield "topics", f"pydoc_data/topics.py:{topic}", text


def _parse(paths: Sequence[Path], processes: int) -> list[list[tuple[str, str]]]:
    """The docstrings of every path, in order, from `processes` workers with about equal shares of the bytes."""
    shares: list[list[int]] = [[] for _ in range(max(1, processes))]
    loads = [0] * len(shares)
    sizes = [path.stat().st_size for path in paths]
    for index in sorted(range(len(paths)), key=lambda index: -sizes[index]):
        lightest = loads.index(min(loads))
        shares[lightest].append(index)
        loads[lightest] += sizes[index]
    worker = Path(__file__).with_name("docstring_extract.py")
    found: list[list[tuple[str, str]]] = [[] for _ in paths]
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for number, share in enumerate(shares):
            # files, not pipes: no worker waits for this process to read
            given, answer = Path(folder, f"{number}.in"), Path(folder, f"{number}.out")
            given.write_bytes(b"\0".join(os.fsencode(paths[index]) for index in share))
            with given.open("rb") as stdin, answer.open("wb") as stdout:
                command = [sys.executable, "-I", "-X", "utf8", str(worker)]
                running.append((subprocess.Popen(command, stdin=stdin, stdout=stdout), share, answer))
        try:
            for process, share, answer in running:
                if process.wait() != 0:
                    status = process.returncode
                    raise CorpusError(
                        f"corpus: a docstring worker ended with status {status}, see above; give files with "
                        "--input instead"
                    )
                with answer.open(encoding="ascii") as lines:
                    for index, line in zip(share, lines, strict=True):
                        found[index] = [(name, text) for name, text in json.loads(line)]
        finally:
            for process, _, _ in running:
                process.kill()
                process.wait()
    return found


def _read_cache(file: Path, key: str) -> list[Document] | None:
    """The documents of a whole cache file, or None when it is absent, damaged or of other versions."""
    try:
        header, _, body = file.read_bytes().partition(b"\n")
        expected = json.loads(header)
        if expected != {"key": key, "sha256": hashlib.sha256(body).hexdigest()}:
            return None
        rows = [json.loads(line) for line in body.splitlines()]
        return [Document(text=text, source=source, origin=origin) for source, origin, text in rows]
    except (OSError, ValueError):
        return None


def _write_cache(file: Path, key: str, documents: Sequence[Document]) -> None:
    rows = (json.dumps([document.source, document.origin, document.text]) for document in documents)
    body = "".join(f"{row}\n" for row in rows).encode("ascii")
    header = json.dumps({"key": key, "sha256": hashlib.sha256(body).hexdigest()}).encode("ascii")
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(header + b"\n" + body)
        partial.replace(file)
    except OSError:
        # a read-only home or a full disk: the corpus is in memory all the same
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
