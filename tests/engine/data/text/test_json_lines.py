"""JSON lines: the text field decides, whatever else a line holds."""

import gzip
import json
from pathlib import Path

import pytest

from unmask.data.prepare import prepare
from unmask.data.prepare.inputs import Corpus
from unmask.data.text.options import ReadOptions
from unmask.errors import CorpusError


def _texts(path: Path) -> list[str]:
    return [document.text for document in Corpus([path], ReadOptions()).documents()]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("other", ["9" * 5000, "-" + "1" * 100_000, "NaN", "[Infinity, -Infinity]", "1e999", "0.5"])
def test_numbers_that_python_or_the_standard_refuses_are_passed_over(tmp_path: Path, other: str) -> None:
    line = f'{{"id": {other}, "text": "fine", "more": {{"n": [{other}]}}}}\n'
    assert _texts(_write(tmp_path / "a.jsonl", line.encode() * 2)) == ["fine", "fine"]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("9" * 5000, "a number"),
        ("NaN", "a number"),
        ("-Infinity", "a number"),
        ("3", "a number"),
        ("true", "a boolean"),
        ("{}", "an object"),
        ("[]", "an array"),
    ],
)
def test_a_text_that_is_none_is_refused(tmp_path: Path, value: str, what: str) -> None:
    with pytest.raises(CorpusError, match=f"a.jsonl:1: field 'text' must be a string, got {what}"):
        _texts(_write(tmp_path / "a.jsonl", f'{{"text": {value}}}'.encode()))


@pytest.mark.parametrize("second", ['"text"', '"te\\u0078t"'])
def test_a_text_given_twice_is_refused_and_another_field_is_not(tmp_path: Path, second: str) -> None:
    line = (
        f'{{"id": 1, "text": "one", "id": 2, "in": {{"text": "deeper", "text": "x"}}}}\n{{"text": "a", {second}: "b"}}'
    )
    read = Corpus([_write(tmp_path / "a.jsonl", line.encode())], ReadOptions()).documents()
    assert next(read).text == "one"
    with pytest.raises(CorpusError, match=r"a\.jsonl:2 has the field 'text' 2 times; keep the one that is the text"):
        next(read)


def test_deep_nesting_is_refused_by_line_and_never_kills(tmp_path: Path) -> None:
    fine = '{"text": "fine", "in": ' + "[" * 50 + "]" * 50 + "}\n"
    deep = '{"text": "fine", "in": ' + "[" * 200_000 + "]" * 200_000 + "}\n"
    read = Corpus([_write(tmp_path / "a.jsonl", (fine + deep).encode())], ReadOptions()).documents()
    assert next(read).text == "fine"
    with pytest.raises(CorpusError, match=r"a\.jsonl:2 is nested too deeply to be read"):
        next(read)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"text": "a"}, {"text": "b"}]', r"got an array; write one object a line, for example with jq -c '\.\[\]'"),
        (
            b'[\n{"text": "a"}\n]',
            r"Expecting value.*one object a line \(jq -c '\.\[\]' \S+ makes such lines of an array",
        ),
        (b'{\n"text": "a"\n}', r"one object a line \(jq .* jq -c \. \S+ of objects over several lines\)"),
        (b'"text"', "must be a JSON object, got a string; write one object a line"),
    ],
)
def test_json_that_is_not_by_lines_says_how_to_make_lines(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=rf"a\.jsonl:1 .*{message}"):
        _texts(_write(tmp_path / "a.jsonl", data))


def _gzip(data: bytes) -> bytes:
    # without the time: test runners compare the names of cases, which hold the data
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", _gzip(b'{"text": "x"}'), r"by its first bytes it is gzip: give its name the suffix \.gz"),
        ("a.txt", b"\x28\xb5\x2f\xfd\x00\x58", r"by its first bytes it is zstd: give its name the suffix \.zst"),
        ("a.md", b"PAR1\x15\x04\x00", r"it is parquet: give its name the suffix \.parquet"),
        ("a.txt", b"%PDF-1.7\n\xe2\xe3", r"it is PDF: take the text out: mv (.*)a\.txt \1a\.pdf && pdftotext \1a\.pdf"),
        ("a.txt", "text".encode("utf-16"), r"it is UTF-16: read it with --encoding utf-16 \(data\.encoding of a run\)"),
        ("a.txt.gz", b"plain text", r"is not a whole gzip file .*; leave \.gz out of its name, or copy or compress"),
        ("a.TXT.GZ", _gzip(b"text")[:-6], "is not a whole gzip file .*; copy or compress it again"),
        ("a.jsonl.gz", b"\x28\xb5\x2f\xfd\x00\x58", "not a whole gzip file .*by its first bytes it is zstd"),
        ("a.txt.Zst", b"plain text, and more of it", r"is not a whole zstd file .*; leave \.Zst out of its name"),
        ("a.parquet", _gzip(b"x"), "cannot be read as parquet .*by its first bytes it is gzip"),
        ("a.txt.gz", _gzip(_gzip(b"text")), r"inside it is gzip by its first bytes: gzip -d \S+/a\.txt\.gz, and give"),
        (
            "a.md",
            b"%PDF-1.7 in ASCII",
            r"a\.md is no text; leave it out, or make text of it; by its first bytes it is PDF: take the text out: mv ",
        ),
    ],
)
def test_content_that_belies_the_suffix_is_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(CorpusError, match=message):
        _texts(_write(tmp_path / name, data))


@pytest.mark.parametrize(
    "suffix", [".TXT", ".Md", ".txt.GZ", ".TXT.gz", ".JSONL", ".JSONL.GZ", ".jsonL.ZST", ".PARQUET.GZ"]
)
def test_suffixes_are_read_in_any_case(tmp_path: Path, suffix: str) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    data = b"A text."
    if "json" in suffix.lower():
        data = json.dumps({"text": "A text."}).encode()
    elif "parquet" in suffix.lower():
        pq.write_table(pa.table({"text": ["A text."]}), tmp_path / "plain")
        data = (tmp_path / "plain").read_bytes()
    if suffix.lower().endswith(".gz"):
        data = gzip.compress(data)
    elif suffix.lower().endswith(".zst"):
        data = pa.compress(data, codec="zstd", asbytes=True)
    path = _write(tmp_path / f"CORPUS{suffix}", data)
    documents = list(Corpus([path], ReadOptions()).documents())
    assert [(document.text, document.source) for document in documents] == [("A text.", "CORPUS")]
    assert [document.text for document in Corpus([tmp_path], ReadOptions()).documents()] == ["A text."]


def test_members_one_after_the_other_are_one_text_and_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    _write(tmp_path / "a.txt.gz", gzip.compress(b"one\n") + gzip.compress(b"two"))
    _write(tmp_path / "b.txt", b"")
    assert _texts(tmp_path) == ["one\ntwo", ""]
    assert prepare([tmp_path], tmp_path / "store", vocab_size=60, workers=1).manifest["summary"]["empty_documents"] == 1
    for name in ("c.jsonl", "d.txt"):
        _write(tmp_path / name, b"")
        with pytest.raises(CorpusError, match="holds no text"):
            list(Corpus([tmp_path / name], ReadOptions()))


def test_a_parquet_column_of_nothing_but_nulls_holds_empty_documents(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": pa.nulls(3), "id": [1, 2, 3]}), tmp_path / "nulls.parquet")
    assert _texts(tmp_path / "nulls.parquet") == ["", "", ""]
    with pytest.raises(CorpusError, match="holds no text, every document is empty; give text"):
        list(Corpus([tmp_path / "nulls.parquet"], ReadOptions()))
    _write(tmp_path / "a.jsonl", b'{"text": "one"}\n{"text": null}\n')
    store = prepare([tmp_path / "nulls.parquet", tmp_path / "a.jsonl"], tmp_path / "store", vocab_size=60, workers=1)
    assert (store.num_documents, store.manifest["summary"]["empty_documents"]) == (1, 4)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_end_as_on_any_system_and_joined_files_keep_their_marks(tmp_path: Path, end: bytes) -> None:
    text = "\u2028".join("one sentence" for _ in range(3))
    line = json.dumps({"text": text}, ensure_ascii=False).encode()
    half = b"\xef\xbb\xbf" + line + end + line + end
    # blocks are a megabyte: their borders fall before, inside and after ends of lines
    path = _write(tmp_path / "a.jsonl", half + end + half * 20_000 + line)
    assert _texts(path) == [text] * 40_003
    with pytest.raises(CorpusError, match=r"a\.jsonl:4 is not valid JSON"):
        _texts(_write(tmp_path / "a.jsonl", half + end + b"no" + end))
