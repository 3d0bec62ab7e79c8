"""Readers of raw text: every form yields the same documents, every damage is named with file and place."""

import errno
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from unmask.data.prepare.inputs import Corpus
from unmask.data.text.corpus import Document, named_inputs
from unmask.data.text.options import ReadOptions
from unmask.errors import CorpusError

TEXTS = ["The first document.\nTwo lines.", "第二篇文章。", "A third — with a dash"]


def _texts(path: Path, **options: object) -> list[str]:
    return [document.text for document in _documents(path, **options)]


def _documents(*paths: Path, **options: object) -> Iterator[Document]:
    return Corpus(paths, ReadOptions(**options)).documents()  # type: ignore[arg-type]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def _jsonl(rows: list[object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(path: Path, texts: list[object], name: str = "text") -> bytes:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": list(range(len(texts))), name: texts}), path)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet", ".parquet.gz"])
def test_a_document_per_line_or_row(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": text, "id": n} for n, text in enumerate(TEXTS)]
    data = _jsonl(list(rows)) if "jsonl" in suffix else _parquet(tmp_path / "plain.parquet", list(TEXTS))
    assert _texts(_write(tmp_path / f"docs{suffix}", data)) == TEXTS


@pytest.mark.parametrize("suffix", [".txt", ".md", ".txt.gz"])
def test_a_text_file_is_one_document_or_one_per_block(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"book{suffix}", b"\n\none\nstill one\n \t\n\ntwo\n")
    assert _texts(path) == ["\n\none\nstill one\n \t\n\ntwo\n"]
    assert _texts(path, blank_line_documents=True) == ["one\nstill one\n", "two\n"]
    origins = [document.origin for document in _documents(path, blank_line_documents=True)]
    assert origins == [f"{path}:3", f"{path}:7"]


def test_a_directory_is_read_in_depth_in_sorted_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/y.txt.gz", ".hidden.txt", ".git/x.txt", "picture.png"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, name.encode())
    documents = list(_documents(tmp_path / "corpus"))
    assert [document.text for document in documents] == ["a/y.txt.gz", "a/z.md", "b.txt"]
    assert {document.source for document in documents} == {"corpus"}


def test_each_input_is_a_source_and_colliding_names_keep_their_path(tmp_path: Path) -> None:
    for name in ("one/docs.txt", "two/docs.txt", "books.jsonl.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inputs = [tmp_path / "one/docs.txt", tmp_path / "two/docs.txt", tmp_path / "books.jsonl.gz"]
    assert [given.source for given in named_inputs(inputs)] == [str(inputs[0]), str(inputs[1]), "books"]


def test_byte_order_mark_is_dropped_and_null_text_is_an_empty_document(tmp_path: Path) -> None:
    assert _texts(_write(tmp_path / "a.txt", b"\xef\xbb\xbfhello")) == ["hello"]
    rows = [{"text": None}, {"text": "x"}]
    assert _texts(_write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + _jsonl(list(rows)))) == ["", "x"]
    _parquet(tmp_path / "a.parquet", [None, "x"])
    assert _texts(tmp_path / "a.parquet") == ["", "x"]


def test_jsonl_is_streamed_up_to_the_damage(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", b'{"text": "good"}\n\n{"text": "bad"\n')
    documents = _documents(path)
    assert next(documents).text == "good"
    with pytest.raises(CorpusError, match=r"a\.jsonl:3 is not valid JSON \(Expecting ',' delimiter, column"):
        next(documents)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [(name, False) for name in ("a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz")] + [("a.txt", True), ("a.txt.gz", True)],
)
def test_invalid_utf8_is_named_with_its_byte_offset(tmp_path: Path, name: str, blocks: bool) -> None:
    good = _jsonl([{"text": "é" * 100}] * 30)
    data = good + b'{"text": "caf\xe9"}\n'
    path = _write(tmp_path / name, data)
    with pytest.raises(CorpusError, match=f"{name} is not UTF-8 at byte {len(good) + 13}.*0xe9"):
        _texts(path, blank_line_documents=blocks)


def test_the_byte_offset_is_right_beyond_the_first_read_block(tmp_path: Path) -> None:
    good = "é line\n".encode() * 400_000
    with pytest.raises(CorpusError, match=f"at byte {len(good)} "):
        _texts(_write(tmp_path / "a.txt", good + b"\xff"))


def test_invalid_utf8_in_a_parquet_row_is_named(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    column = pa.array([b"fine", b"caf\xe9"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet:row 1 is not UTF-8 at byte 3"):
        _texts(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.md.gz"])
def test_a_binary_file_is_refused_with_the_offset_of_its_nul(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match=f"{name} is binary: NUL at byte 4"):
        _texts(_write(tmp_path / name, b"\x7fELF\0\0\xff"))


def test_a_missing_text_field_names_the_fields_and_the_nearest(tmp_path: Path) -> None:
    message = (
        "has no field 'text', its fields are id, txt; the nearest is 'txt'; name the one that holds the text with "
        "`unmask prepare --text-field`, or data.text_field of a run"
    )
    with pytest.raises(CorpusError, match=rf"a\.jsonl:1 {message}"):
        _texts(_write(tmp_path / "a.jsonl", _jsonl([{"id": 1, "txt": "x"}])))
    _parquet(tmp_path / "a.parquet", ["x"], name="txt")
    with pytest.raises(CorpusError, match=message):
        _texts(tmp_path / "a.parquet")
    assert _texts(tmp_path / "a.jsonl", text_field="txt") == ["x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1, 2]", "must be a JSON object, got an array"),
        (b'{"text": 3}', "field 'text' must be a string, got a number"),
        (b'{"text": "\\ud83d tail"}', "half a surrogate pair"),
    ],
)
def test_json_that_is_no_document_is_refused(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=rf"a\.jsonl:1.*{message}"):
        _texts(_write(tmp_path / "a.jsonl", line))


def test_a_whole_surrogate_pair_is_text(tmp_path: Path) -> None:
    assert _texts(_write(tmp_path / "a.jsonl", b'{"text": "\\ud83d\\ude00"}')) == ["\U0001f600"]


def test_a_parquet_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", ["x"])
    with pytest.raises(CorpusError, match="column 'id' must hold strings, it holds int64"):
        _texts(tmp_path / "a.parquet", text_field="id")


def test_damaged_containers_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(os.urandom(1000).hex().encode())
    (tmp_path / "cut.txt.gz").write_bytes(whole[:300])
    (tmp_path / "plain.txt.gz").write_bytes(b"not compressed")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing of the kind")
    for name, message in (
        ("cut.txt.gz", "whole gzip"),
        ("plain.txt.gz", "whole gzip"),
        ("a.parquet", "parquet"),
    ):
        with pytest.raises(CorpusError, match=rf"{name}.*{message}"):
            _texts(tmp_path / name)


def test_missing_unsupported_and_empty_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="nowhere does not exist"):
        _texts(tmp_path / "nowhere")
    with pytest.raises(
        CorpusError, match=r"suffix \.pdf; files read are \.txt, .*\.parquet, each also \.gz and \.zst; pdftotext \S+"
    ):
        _texts(_write(tmp_path / "a.pdf", b"x"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(CorpusError, match="folder holds no file to read"):
        _texts(tmp_path / "folder")
    with pytest.raises(CorpusError, match="at least one file or folder"):
        named_inputs([])
    with pytest.raises(CorpusError, match="holds no text"):
        list(Corpus([_write(tmp_path / "a.txt", b" \n")], ReadOptions()))


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("unmask.data.text.decoding.open_bytes", denied)
    with pytest.raises(CorpusError, match=r"a\.txt cannot be read \(Permission denied\)"):
        _texts(_write(tmp_path / "a.txt", b"x"))
