"""The embedded corpus: docstrings of installed Python packages, so a first run needs neither network nor data.

About 38,000 docstrings, 16 million characters of English about code. A document's `source` is one of

    topics            the language reference that `help()` shows
    python            the standard library
    torch, numpy      and sympy, networkx if they are installed

Files are parsed, never imported. Repeated and very short texts are dropped. The result depends only on the versions
installed; it is kept in a cache file that is named after them, in `$XDG_CACHE_HOME/unmask` or `~/.cache/unmask`. A
damaged cache is made again, and without a cache all works, only slower.

Cost: 100 MB of source, 14 s of processor time; 0.3 s from the cache.
"""

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from unmask.data.text.corpus import Document
from unmask.errors import CorpusError
from unmask.paths import replace_text
from unmask.processes import ProcessPool, cores

__all__ = ["SOURCES", "cache_folder", "docstring_corpus", "docstrings_of"]

SOURCES = ("topics", "python", "torch", "numpy", "sympy", "networkx")

# a shorter one is a label ("Return the name."): it teaches little and costs a [CLS] and a [SEP]
_MIN_CHARACTERS = 48
_FORMAT = 1
_FILES = 64
_HOLDERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})


def docstring_corpus(
    sources: Sequence[str] | None = None, *, cache: Path | None = None, processes: int | None = None
) -> list[Document]:
    """Return the embedded corpus in a fixed order: by source, file path and place in the file.

    Args:
        sources: some of `SOURCES`. Default: all that are installed.
        cache: folder for the cache file. Default: `cache_folder()`.
        processes: how many processes parse. Default: one per core.

    Raises:
        CorpusError: a source is unknown or not installed, or nothing was found.
        UnmaskError: a worker process died.
    """
    chosen = _chosen(sources)
    versions = {name: _version(name) for name in chosen}
    key = hashlib.sha256(json.dumps([_FORMAT, _MIN_CHARACTERS, versions], sort_keys=True).encode()).hexdigest()
    folder = cache or cache_folder()
    file = None if folder is None else folder / f"docstrings-{key[:16]}.jsonl"
    documents = None if file is None else _read_cache(file, key)
    if documents is None:
        documents = _extract(chosen, processes or cores())
        if file is not None:
            _write_cache(file, key, documents)
    if not documents:
        raise CorpusError(f"corpus: no docstring found in {', '.join(chosen)}; give files with --input instead")
    return documents


def cache_folder() -> Path | None:
    """Return the folder for files that can be made again, or None for a user without a home, as in a container.

    It is `$XDG_CACHE_HOME/unmask`, else `~/.cache/unmask`.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    # the XDG specification says that a relative path is to be ignored
    if Path(base).is_absolute():
        return Path(base) / "unmask"
    try:
        return Path.home() / ".cache" / "unmask"
    except RuntimeError:
        return None


def _chosen(sources: Sequence[str] | None) -> list[str]:
    if sources is None:
        return [name for name in SOURCES if _root(name) is not None]
    for name in sources:
        if name not in SOURCES:
            raise CorpusError(f"corpus: embedded source {name!r} is unknown; there are {', '.join(SOURCES)}")
        if _root(name) is None:
            # this Python came in parts, and the one with help() was left out
            way = "leave it out, or use a Python of python.org" if name == "topics" else f"pip install {name}"
            raise CorpusError(f"corpus: embedded source {name!r} is not installed; {way}")
    return [name for name in SOURCES if name in sources]


def _root(name: str) -> Path | None:
    """Return the folder or file of a source; a top-level package is found without importing it."""
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
    roots = [(name, root) for name in chosen if name != "topics" and (root := _root(name))]
    files = [(name, path, shown) for name, root in roots for path, shown in _python_files(root, name)]
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
    jobs = ((None, paths[first : first + _FILES]) for first in range(0, len(paths), _FILES))
    with ProcessPool(docstrings_of, processes) as pool:
        return [found for _, several in pool.map(jobs) for found in several or ()]


def docstrings_of(paths: Sequence[Path]) -> list[list[tuple[str, str]]]:
    """Return for each file (qualified name, cleaned docstring) of its module, classes and functions, in their order.

    A file that this version of Python cannot parse has none: packages carry templates, and tests of newer syntax.
    """
    # a parsed file leaves no cycles worth a search, which would take a third of the time
    collects = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [_docstrings(path) for path in paths]
    finally:
        if collects:
            gc.enable()


def _docstrings(path: Path) -> list[tuple[str, str]]:
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return list(_collected(tree, ""))


def _collected(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, _HOLDERS):
        if not isinstance(node, ast.Module):
            name = f"{name}.{node.name}" if name else node.name
        text = ast.get_docstring(node)
        if text:
            yield name, text
    # only statements hold definitions; leaving expressions out is 4 times faster than ast.walk
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        children = getattr(node, field, ())
        for child in children if isinstance(children, list) else ():
            if hasattr(child, "body") or hasattr(child, "cases"):
                yield from _collected(child, name)


def _read_cache(file: Path, key: str) -> list[Document] | None:
    """Return the documents of a cache file, or None if it is absent, damaged or of other versions."""
    try:
        header, _, body = file.read_bytes().partition(b"\n")
        if json.loads(header) != {"key": key, "sha256": hashlib.sha256(body).hexdigest()}:
            return None
        rows = [json.loads(line) for line in body.splitlines()]
        return [Document(text=text, source=source, origin=origin) for source, origin, text in rows]
    except (OSError, ValueError):
        return None


def _write_cache(file: Path, key: str, documents: Sequence[Document]) -> None:
    rows = (json.dumps([document.source, document.origin, document.text]) for document in documents)
    body = "".join(f"{row}\n" for row in rows)
    header = json.dumps({"key": key, "sha256": hashlib.sha256(body.encode()).hexdigest()})
    # a read-only home or a full disk: the corpus is in memory all the same
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, f"{header}\n{body}")
