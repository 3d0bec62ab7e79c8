"""Where a text file is cut: at lines as cleaning sees them, whatever ends them, and a rule that meets none is said."""

import gzip
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from unmask.data.prepare import prepare
from unmask.data.prepare.doubts import warn_of_documents
from unmask.data.prepare.inputs import Corpus
from unmask.data.text import decoding
from unmask.data.text.cleaning import clean
from unmask.data.text.options import ReadOptions

BREAKS = ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"]
BOOK = "".join(f"CHAPTER {n}\n\nThe mill turned.\nIt stopped.\n\n" for n in ("I", "II", "III"))


def _texts(path: Path, **options: Any) -> list[str]:
    return [document.text for document in Corpus([path], ReadOptions(**options)).documents()]


def _write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
@pytest.mark.parametrize("options", [{"split_at": "^CHAPTER [IVX]+$"}, {"blank_line_documents": True}], ids=str)
def test_every_line_break_that_cleaning_knows_is_one(tmp_path: Path, line_break: str, options: dict[str, Any]) -> None:
    expected = _texts(_write(tmp_path / "lf.txt", BOOK), **options)
    assert len(expected) == (3 if "split_at" in options else 6)
    text = BOOK.replace("\n", line_break)
    assert clean(text).text == BOOK
    found = _texts(_write(tmp_path / "other.txt", text), **options)
    # as it was read, not as it is cleaned
    assert found == [document.replace("\n", line_break) for document in expected]


def test_mixed_breaks_and_the_place_of_a_document(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", "one\r\rtwo\r\n\r\n\nthree\x0c\u2028four")
    documents = list(Corpus([path], ReadOptions(blank_line_documents=True)).documents())
    assert [document.text for document in documents] == ["one\r", "two\r\n", "three\x0c", "four"]
    assert [document.origin.rpartition(":")[2] for document in documents] == ["1", "3", "6", "8"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 20])
def test_a_break_or_character_across_two_blocks_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(decoding, "_BLOCK_BYTES", size)
    text = "é\r\n\r\nzwei\r\r\u2028drei\n\n\n第四"
    for name, data in (("a.txt", text.encode()), ("a.txt.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(data)
        assert _texts(tmp_path / name, blank_line_documents=True) == ["é\r\n", "zwei\r", "drei\n", "第四"]
        assert _texts(tmp_path / name) == [text]


def test_a_rule_sees_the_line_without_its_break(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.txt", "x\r\n\r\ny\r\n")
    assert _texts(path, split_at="^$") == ["x\r\n", "\r\ny\r\n"]
    assert _texts(path, split_at=r"[\r\n]") == ["x\r\n\r\ny\r\n"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"split_at": "^KAPITEL"}, "corpus: split_at '^KAPITEL' is found in no line of the text files"),
        ({"blank_line_documents": True}, "corpus: blank_line_documents found no blank line of the text files"),
    ],
)
@pytest.mark.parametrize("matches", [False, True])
def test_a_rule_that_meets_no_line_of_all_files_is_said_once(
    tmp_path: Path, options: dict[str, Any], told: str, matches: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.txt", "b.txt"):
        _write(tmp_path / "in" / name, "one line\nand another\n")
    if matches:
        _write(tmp_path / "in" / "c.txt", "before\n\nKAPITEL 1\ntext\n")
    prepare([tmp_path / "in"], tmp_path / "store", vocab_size=80, workers=1, **options)
    said = caplog.messages
    if matches and "split_at" in options:
        names = ", ".join(str(tmp_path / "in" / name) for name in ("a.txt", "b.txt"))
        some = "is found in no line of 2 of the text files, and each of these is one document: "
        assert said == [f"corpus: split_at '^KAPITEL' {some}{names}"]
        return
    assert [message for message in said if message.startswith(told)] == ([] if matches else said)
    assert len(said) == (0 if matches else 1)


def test_many_files_without_a_match_are_counted_and_empty_ones_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(8):
        _write(tmp_path / "in" / f"{number}.txt", "no heading\n")
    _write(tmp_path / "in" / "8.txt", "\n\n")
    _write(tmp_path / "in" / "9.txt", "CHAPTER I\ntext\nCHAPTER II\ntext\n")
    store = prepare([tmp_path / "in"], tmp_path / "store", vocab_size=80, workers=1, split_at="^CHAPTER")
    assert store.num_documents == 10
    [told] = caplog.messages
    assert "is found in no line of 8 of the text files, and each of these is one document: " in told
    assert told.endswith("4.txt and 3 more")


@pytest.mark.parametrize(("lines", "said_once"), [(10, True), (9, False)])
def test_a_list_whose_lines_all_open_a_document_is_said_once(
    tmp_path: Path, lines: int, said_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A rule such as '^' seems to make a document of each line, and makes one of all."""
    _write(tmp_path / "a.txt", "CCO\n" * lines)
    _write(tmp_path / "b.txt", "title\n")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    store = prepare(paths, tmp_path / "store", vocab_size=80, workers=1, split_at="^")
    assert store.num_documents == 2
    assert len(caplog.messages) == said_once
    for message in caplog.messages:
        assert message.startswith(f"corpus: split_at '^' is found in each line of {tmp_path / 'a.txt'}, and lines")
        assert message.endswith(f"jq -cR '{{text: .}}' {tmp_path / 'a.txt'} > lines.jsonl")


def test_a_long_file_of_one_line_is_read_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte is looked at a bounded number of times, counted in blocks: nothing is joined again and again."""
    monkeypatch.setattr(decoding, "_BLOCK_BYTES", 64)
    path = _write(tmp_path / "a.txt", "x" * 300_000)
    assert _texts(path, split_at="^#") == ["x" * 300_000]


def test_a_heading_after_a_byte_order_mark_is_one(tmp_path: Path) -> None:
    """Files of an editor that writes marks, joined by `cat`."""
    chapter = "\ufeffCHAPTER\nThe mill turns.\n"
    path = tmp_path / "a.txt"
    path.write_text(chapter * 3, encoding="utf-8")
    documents = list(Corpus([path], ReadOptions(split_at="^CHAPTER")).documents())
    assert [document.origin for document in documents] == [f"{path}:{line}" for line in (1, 3, 5)]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_text_of_many_lines_that_is_one_document_is_told_with_ways_that_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    text = "".join(f"the mill {n} turned\n" for n in range(60)).encode()
    path = tmp_path / f"molecules.txt{suffix}"
    path.write_bytes(gzip.compress(text) if suffix else text)
    prepare(path, tmp_path / "one", vocab_size=200)
    [told] = [record.getMessage() for record in caplog.records if "one; cut it" in record.getMessage()]
    assert f"the store has 1 document, and {path} with 60 lines is one; cut it with --split-at; where" in told
    command = told.partition("as the input: ")[2]
    if shutil.which("jq"):
        subprocess.run(command, shell=True, check=True)
        caplog.clear()
        assert prepare(tmp_path / "molecules.jsonl", tmp_path / "all", vocab_size=200).num_documents == 60
        assert not [record for record in caplog.records if "one; cut it" in record.getMessage()]
    cut = prepare(path, tmp_path / "cut", split_at="mill 10 |mill 20 ", vocab_size=200)
    assert cut.num_documents == 3


def test_blank_lines_are_a_way_only_where_there_are_some(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _write(tmp_path / "book.txt", BOOK * 10)
    prepare(path, tmp_path / "one", vocab_size=100)
    assert "with 150 lines is one; cut it with --split-at or --blank-line-documents; where each" in caplog.text
    caplog.clear()
    cut = prepare(path, tmp_path / "cut", vocab_size=100, blank_line_documents=True)
    assert cut.num_documents == 60
    store = prepare(_write(tmp_path / "short.txt", BOOK), tmp_path / "short", vocab_size=100)
    warn_of_documents(store, [tmp_path / "gone.txt"], ReadOptions())
    assert "cut it with" not in caplog.text


def test_a_column_of_ids_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _write(tmp_path / "a.csv", "".join(f"f{n},the mill {n} turned\n" for n in range(20)))
    prepare(path, tmp_path / "ids", text_field="1", vocab_size=100)
    assert "nearly all of the 20 documents have one word; if --text-field names a column of ids" in caplog.text
    caplog.clear()
    prepare(path, tmp_path / "texts", text_field="2", vocab_size=100)
    assert "one word" not in caplog.text
