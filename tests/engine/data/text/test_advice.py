"""What the errors about text advise: each is followed here, and then the text is read.

A command runs as it is printed. A program that may be missing (pandoc, pdftotext, 7z, openpyxl) is replaced by one that
takes exactly the documented arguments.
"""

import bz2
import gzip
import json
import lzma
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.data.prepare.inputs import Corpus
from unmask.data.text.options import ReadOptions
from unmask.errors import CorpusError

# with the arguments that the manual of each has: name, test of the arguments, command that does the work on small text
STAND_INS = {
    "pdftotext": ('[ $# = 2 ] && [ "$(head -c5 "$1")" = %PDF- ]', 'echo one > "$2"'),
    "pandoc": ('[ $# = 5 ] && [ "$1 $2 $3" = "-t plain -o" ] && [ -f "$5" ]', 'echo one > "$4"'),
    "7z": ('[ $# = 2 ] && [ "$1" = x ] && [ -f "$2" ]', "echo one > unpacked.txt"),
}
PANDAS = """
class _Frame:
    def to_csv(self, path, *, index):
        assert index is False
        open(path, "w").write("text\\none\\n")
def read_excel(path):
    open(path, "rb").close()
    return _Frame()
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What runs a command in the current folder, with `python` and the stand-ins on the path."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, (takes, does) in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/sh\n{takes} || exit 64\n{does}\n")
    (programs / "python").write_text(f'#!/bin/sh\nPYTHONPATH="{programs}" exec {sys.executable} "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    (programs / "pandas.py").write_text(PANDAS)
    here = tmp_path / "my texts"
    here.mkdir()
    monkeypatch.chdir(here)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"

    def run(command: str) -> None:
        subprocess.run(["sh", "-c", command], check=True, env=os.environ | {"PATH": path})

    return run


def texts(*inputs: str | Path, **options: Any) -> list[str]:
    return [document.text.strip() for document in Corpus(list(inputs), ReadOptions(**options)).documents()]


def refusal(*inputs: str | Path, **options: Any) -> str:
    with pytest.raises(CorpusError) as caught:
        texts(*inputs, **options)
    return str(caught.value)


def packed(program: str, data: bytes) -> bytes:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    return subprocess.run([program, "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize(
    ("name", "data", "marker", "made"),
    [
        *((f"a b{suffix}", b"x", "python -c", "a b.csv") for suffix in (".xlsx", ".xls", ".ods")),
        *(
            (f"a b{suffix}", b"x", "pandoc", "a b.txt")
            for suffix in (".html", ".htm", ".docx", ".odt", ".rtf", ".epub", ".tex")
        ),
        ("a b.pdf", b"%PDF-1.7", "pdftotext", "a b.txt"),
        ("a b.7z", b"x", "7z x", "unpacked.txt"),
        ("a b.txt.bz2", bz2.compress(b"one"), "bunzip2", "a b.txt"),
        ("a b.txt.xz", lzma.compress(b"one"), "unxz", "a b.txt"),
        ("a b.txt.lz4", b"one", "lz4 -d", "a b.txt"),
        ("a b.gz", gzip.compress(b"one"), "mv", "a b.txt.gz"),
        ("a b.ner", b"one O\n", "cp", "a b.conll"),
    ],
)
def test_a_file_with_another_suffix_is_read_after_the_command(
    name: str, data: bytes, marker: str, made: str, shell: Callable[[str], None]
) -> None:
    Path(name).write_bytes(packed("lz4", data) if name.endswith("lz4") else data)
    told = refusal(name)
    shell(told[told.index(marker) :].removesuffix(" (pandas and openpyxl)"))
    assert texts(made) == ["one"]
    # the files of a folder get the same advice
    (Path.cwd() / "folder").mkdir()
    Path(name).write_bytes(b"") if Path(name).exists() else None
    (Path.cwd() / "folder" / name).write_bytes(b"x")
    assert marker in refusal("folder")


@pytest.mark.parametrize(
    ("name", "data", "made"),
    [
        ("a b.txt", bz2.compress(b"one"), "a b.txt"),
        ("a b.txt", lzma.compress(b"one"), "a b.txt"),
        ("a b.txt", gzip.compress(b"one"), "a b.txt.gz"),
        ("a b.jsonl", gzip.compress(b'{"text": "one"}'), "a b.jsonl.gz"),
        ("a b.txt", b"zstd", "a b.txt.zst"),
        ("a b.txt.gz", b"zstd", "a b.txt.zst"),
        ("a b.txt", b"%PDF-1.4 plain", "a b.txt"),
        ("a b.md", b"%PDF-1.4 \xe2\xe3", "a b.txt"),
        ("a b.json", b"%PDF-1.4 plain", "a b.txt"),
        ("a b.txt", b"zip", "a b"),
        ("a b.txt", b"parquet", "a b.parquet"),
    ],
)
def test_a_file_of_another_format_is_read_after_the_command(
    name: str, data: bytes, made: str, shell: Callable[[str], None]
) -> None:
    if data == b"zstd":
        data = packed("zstd", b"one")
    elif data == b"zip":
        with zipfile.ZipFile("made.zip", "w") as archive:
            archive.writestr("inside.txt", "one")
        data = Path("made.zip").read_bytes()
    elif data == b"parquet":
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pa.table({"text": ["one"]}), "made")
        data = Path("made").read_bytes()
    Path(name).write_bytes(data)
    shell(refusal(name).rpartition(": ")[2])
    assert texts(made) == ["one"]


def test_a_compressed_file_of_another_format_is_unpacked_first(shell: Callable[[str], None]) -> None:
    Path("a b.txt.gz").write_bytes(gzip.compress(b"%PDF-1.4 \xe2\xe3"))
    told = refusal("a b.txt.gz")
    shell(told.rpartition("first bytes: ")[2].partition(", and give")[0])
    shell(refusal("a b.txt").rpartition(": ")[2])
    assert texts("a b.txt") == ["one"]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a b.txt", b"%PDF-1.4 plain", "is no text; leave it out, or make text of it; inside it is PDF"),
        ("a b.json", b"%PDF-1.4 plain", "is not valid JSON (Expecting value, line 1, column 1); inside it is PDF"),
        ("a b.jsonl", b"%PDF-1.4 plain", "is not valid JSON (Expecting value, column 1); inside it is PDF"),
        ("a b.parquet", b"%PDF-1.4 plain", "cannot be read as parquet ("),
        ("a b.txt", b"%PDF-1.4 \0", "is binary: NUL at byte 9; inside it is PDF by its first bytes"),
    ],
)
def test_what_is_no_text_inside_a_compressed_file_is_unpacked_and_converted(
    name: str, data: bytes, says: str, shell: Callable[[str], None]
) -> None:
    Path(f"{name}.gz").write_bytes(gzip.compress(data))
    told = refusal(f"{name}.gz")
    assert says in told and told.endswith(", and give the file that it makes")
    shell(told.rpartition("first bytes: ")[2].partition(", and give")[0])
    told = refusal(name)
    assert "by its first bytes it is PDF: take the text out" in told
    shell(told.rpartition(": ")[2])
    assert texts("a b.txt") == ["one"]


def test_a_file_that_is_no_text_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    pdf = tmp_path / "b.txt"
    pdf.write_bytes(b"%PDF-1.4 plain")
    assert f"{pdf} is no text; leave it out, or make text of it; by its first bytes it is PDF" in refusal(tmp_path)
    pdf.unlink()
    assert texts(tmp_path) == ["one"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_utf_16_under_the_name_of_a_compressed_file_is_read_under_another(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes("né".encode("utf-16"))
    assert f"; leave {suffix} out of its name, or copy or compress it again" in refusal(path, encoding="utf-16")
    path = path.rename(tmp_path / "a.txt")
    told = refusal(path)
    assert "by its first bytes it is UTF-16: read it with --encoding utf-16" in told
    assert texts(path, encoding="utf-16") == ["né"]


def test_a_file_under_the_name_of_another_compression_is_named_after_its_own(shell: Callable[[str], None]) -> None:
    Path("a b.txt.zst").write_bytes(gzip.compress(b"one"))
    told = refusal("a b.txt.zst")
    assert "is not a whole zstd file (" in told and "; by its first bytes it is gzip: give its name the suffix" in told
    shell(told.rpartition(": ")[2])
    assert texts("a b.txt.gz") == ["one"]


def test_an_object_that_holds_the_objects_is_parted_by_the_command(shell: Callable[[str], None]) -> None:
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    for name, near in (("a b.json", "data"), ("c d.jsonl", "data"), ("e f.json", "texts"), ("g h.jsonl", "texts")):
        Path(name).write_text(json.dumps({near: [{"text": "one"}]}))
        told = refusal(name)
        assert f"leaves this file out; for the objects in the field '{near}': jq -c" in told
        assert ("the nearest is 'texts'; name the one that holds" in told) == (near == "texts")
        shell(told[told.index("jq -c") :])
        assert texts(f"{name}.lines.jsonl") == ["one"]


def test_a_damaged_or_misnamed_compressed_file_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"one")[:-4])
    assert refusal(path).endswith("; copy or compress it again")
    path.write_bytes(gzip.compress(b"one"))
    assert texts(path) == ["one"]
    path.write_bytes(b"one")
    assert "; leave .gz out of its name, or copy or compress it again" in refusal(path)
    assert texts(path.rename(tmp_path / "a.txt")) == ["one"]


@pytest.mark.parametrize(
    ("files", "options", "advice", "mended", "changes"),
    [
        (
            {"a.txt": "one"},
            {"split_at": "("},
            "split_at '(' is no regular expression (missing ), unterminated subpattern at position 0); put a "
            "backslash before "
            "each sign that stands for itself",
            {},
            {"split_at": r"\("},
        ),
        (
            {"a.txt": "one"},
            {"split_at": "x", "blank_line_documents": True},
            "at split_at, not at both; leave one out",
            {},
            {"split_at": "x"},
        ),
        ({"a.csv": "text\none\n"}, {"delimiter": "ab"}, "give for example ';', or tab", {}, {"delimiter": ";"}),
        ({"a.csv": "text\none\n"}, {"delimiter": "ab"}, "give for example ';', or tab", {}, {"delimiter": "tab"}),
        ({"a.csv": "text\none\n"}, {"text_field": ""}, "write for example title,text", {}, {"text_field": "text"}),
        ({"a.csv": 'x,"a,b"\n,one\n'}, {"text_field": '"a,b'}, "in double quotes", {}, {"text_field": '"a,b"'}),
        ({"a.txt": "one"}, {"encoding": "latin-11"}, "give latin", {}, {"encoding": "latin-1"}),
        ({"a.txt": "one"}, {"delimiter": ";"}, "no input is one; leave it out", {}, {}),
        ({"a.csv": "body\none\n"}, {}, "name the one that holds the text", {}, {"text_field": "body"}),
        ({"a.csv": "txt\none\n"}, {}, "the nearest is 'txt'", {}, {"text_field": "txt"}),
        ({"a.csv": "top,body\none,\n"}, {}, "as in title,body", {}, {"text_field": "top,body"}),
        ({"a.csv": "text;x\none;1\n"}, {}, "give --delimiter ';'", {}, {"delimiter": ";"}),
        ({"a.csv": "7,one\n"}, {}, "give --text-field the number of the text's column", {}, {"text_field": "2"}),
        ({"a.csv": "7,one\n"}, {"text_field": "3"}, "give a number from 1 to 2", {}, {"text_field": "2"}),
        (
            {"a.tsv": 'text\tx\n"one\n"\tb\n'},
            {},
            "name the file .csv and give --delimiter tab",
            {"a.tsv": None, "a.csv": 'text\tx\n"one\n"\tb\n'},
            {"delimiter": "tab"},
        ),
        ({"a.jsonl": '{"body": "one"}'}, {}, "name the one that holds the text", {}, {"text_field": "body"}),
        ({"a.jsonl": '{"txt": "one"}'}, {}, "the nearest is 'txt'", {}, {"text_field": "txt"}),
        (
            {"a.jsonl": '{"text": "one", "text": "two"}'},
            {},
            "keep the one that is the text",
            {"a.jsonl": '{"text": "one"}'},
            {},
        ),
        ({"a.jsonl": "[1]"}, {}, "write one object a line", {"a.jsonl": '{"text": "one"}'}, {}),
        ({"a.jsonl": "\nBZh"}, {}, ":2 is not valid JSON (", {"a.jsonl": '{"text": "one"}'}, {}),
        ({"a.json": '[{"body": "one"}]'}, {}, "its fields are body; name the one", {}, {"text_field": "body"}),
        ({"a.json": '[{"txt": "one"}]'}, {}, "the nearest is 'txt'; name the one", {}, {"text_field": "txt"}),
        (
            {"a.json": '[{"text": "one", "text": "two"}]'},
            {},
            "item 0 has the field 'text' 2 times; keep the one that is the text",
            {"a.json": '[{"text": "one"}]'},
            {},
        ),
        (
            {"a.csv": "a,b\n,one\n"},
            {"text_field": ["a", "b"]},
            "text_field must be a string, got ['a', 'b']; write 'a,b', with commas between the names",
            {},
            {"text_field": "a,b"},
        ),
        ({"a.csv": "x,one\n"}, {"text_field": 2}, 'write a number in quotes too, such as "3"', {}, {"text_field": "2"}),
        (
            {"a.jsonl": '{"text": "one", "x": ' + "[" * 9999 + "]" * 9999 + "}"},
            {},
            "is nested too deeply to be read, about a thousand levels; leave the field that is out",
            {"a.jsonl": '{"text": "one"}'},
            {},
        ),
        ({"a.conll": "1 one\n"}, {"text_field": "w"}, "leave it out for column 1", {"a.conll": "one 1\n"}, {}),
        (
            {"a.conll": "1 one\n"},
            {"text_field": "3"},
            "give the number of its column with --text-field",
            {},
            {"text_field": "2"},
        ),
        ({"a.txt": ""}, {}, "holds no text, every document is empty; give text", {"a.txt": "one"}, {}),
        ({".a.txt": "one"}, {}, "names that begin with a dot are passed over, rename", {"a.txt": "one"}, {}),
    ],
)
def test_a_file_or_an_option_that_is_mended_as_the_error_says_is_read(
    files: dict[str, str],
    options: dict[str, Any],
    advice: str,
    mended: dict[str, str | None],
    changes: dict[str, Any],
    tmp_path: Path,
) -> None:
    def write(given: dict[str, Any]) -> None:
        for name, text in given.items():
            path = tmp_path / "in" / name
            path.parent.mkdir(exist_ok=True)
            path.unlink() if text is None else path.write_text(text)

    def read(**given: Any) -> list[str]:
        return [document.text.strip() for document in Corpus([tmp_path / "in"], ReadOptions(**given))]  # type: ignore[union-attr]

    write(files)
    with pytest.raises(CorpusError) as caught:
        read(**options)
    assert advice in str(caught.value)
    write(mended)
    assert read(**changes) == ["one"]


def test_a_pipe_a_link_to_nothing_and_a_locked_file_are_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "a.txt")
    assert "write it to a file first, for example FILE.txt" in refusal(tmp_path / "a.txt")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").symlink_to(tmp_path / "text.txt")
    told = refusal(tmp_path / "in")
    assert "restore the text or remove the link" in told
    (tmp_path / "text.txt").write_text("one")
    assert texts(tmp_path / "in") == ["one"]
    (tmp_path / "text.txt").unlink()
    assert "a.txt is a link to" in refusal(tmp_path / "in" / "a.txt")
    (tmp_path / "in" / "a.txt").unlink()
    (tmp_path / "in" / "b.txt").write_text("one")
    assert texts(tmp_path / "in") == ["one"]
    allowed = os.access
    locked = tmp_path / "in" / "b.txt"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and allowed(path, mode))
    assert "b.txt cannot be read (Permission denied); make it readable, or move it away" in refusal(tmp_path / "in")
    (tmp_path / "in" / "c.txt").write_text("two")
    locked.rename(tmp_path / "away.txt")
    assert texts(tmp_path / "in") == ["two"]


def test_names_and_patterns_of_inputs_are_mended(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one")
    assert "give text with --input, or the embedded corpus with --input docstrings:" in refusal()
    assert "give one that matches files or folders (** stands" in refusal(f"{tmp_path}/*.txt")
    assert texts(f"{tmp_path}/**/*.txt") == ["one"]
    assert refusal(tmp_path / "out").endswith("out does not exist; give a file or folder that does")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert refusal(tmp_path / "nowhere").endswith("gone, which does not exist; give a file or folder that does")
    told = refusal(tmp_path / "inn")
    assert "inn does not exist; did you mean " in told
    assert texts(told.rpartition("mean ")[2].removesuffix("?")) == ["one"]
    (tmp_path / "inx").symlink_to(tmp_path / "gone")
    told = refusal(tmp_path / "inx")
    assert "gone, which does not exist; did you mean " in told
    assert texts(told.rpartition("mean ")[2].removesuffix("?")) == ["one"]
    assert texts(tmp_path / "in") == ["one"]
    told = refusal(f"my text={tmp_path}/in")
    assert "name a source with letters, digits, '.', '-' and '_' only" in told
    assert texts(f"my-text_1.0={tmp_path}/in") == ["one"]
    with pytest.raises(CorpusError, match="docstrings: is no input; leave one of them out"):
        Corpus([tmp_path / "in"], ReadOptions(), cache=tmp_path / "cache")
    assert len(list(Corpus([tmp_path / "in"], ReadOptions()))) == 1


def test_a_folder_of_another_kind_names_what_to_give(tmp_path: Path) -> None:
    from unmask.data.prepare import prepare

    (tmp_path / "a.txt").write_text("one two three")
    run = tmp_path / "run"
    prepare([tmp_path / "a.txt"], run / "store", vocab_size=60, workers=1)
    (run / "config.yaml").write_text("data:\nmodel:\nobjective:\ntrain:\nkernels:\n")
    told = refusal(run)
    given = told.rpartition("; give ")[2].partition(",")[0]
    assert Corpus([given], ReadOptions()).names
    shutil.rmtree(run / "store")
    assert refusal(run).endswith(
        "run is a run, which is not read as text; give the files or folders with the text by name"
    )
    (run / "manifest.json").write_text(json.dumps({}))
    unfinished = tmp_path / "store.partial"
    unfinished.mkdir()
    (unfinished / "unfinished.json").write_text('{"settings": {}, "shards": []}')
    assert "finish it with the command that began it and give the store, or give the text" in refusal(unfinished)
    assert texts(tmp_path / "a.txt") == ["one two three"]


def test_a_file_that_changes_is_read_when_nothing_writes_to_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    corpus = Corpus([path], ReadOptions())
    path.write_text("one and more")
    with pytest.raises(CorpusError, match="run the command again when nothing writes to it"):
        list(corpus)
    assert texts(path) == ["one and more"]


def test_a_damaged_parquet_file_or_column_is_mended(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["one"]}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert refusal(path).endswith("; copy it again")
    path.write_bytes(whole)
    assert texts(path) == ["one"]
    bad = pa.StringArray.from_buffers(
        1, pa.array([0, 3], pa.int32()).buffers()[1], pa.py_buffer("né".encode("latin-1") + b"e")
    )
    parquet.write_table(pa.table({"text": bad}), path)
    assert refusal(path).endswith("; convert the column first")
    parquet.write_table(pa.table({"text": pa.array([bytes(bad.cast(pa.binary())[0].as_py()).decode("latin-1")])}), path)
    assert texts(path) == ["née"]
    parquet.write_table(pa.table({"body": ["one"]}), path)
    assert "name the one that holds the text" in refusal(path)
    assert texts(path, text_field="body") == ["one"]


def test_a_segmenter_that_is_none_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.data.text.words import load_segmenter

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_words.py").write_text(
        "def cut(text):\n    return text.split(' ')\ndef kept(text):\n    return list(text)\n"
    )
    for given, advice, mended in (
        ("jeiba", "choose ", "spaces"),
        ("my_words:cat", "name it as module:function", "my_words:kept"),
        ("my_word:kept", "of a module that is installed or lies in the current folder", "my_words:kept"),
    ):
        with pytest.raises(CorpusError, match=advice):
            load_segmenter(given)
        load_segmenter(mended)


def test_an_address_that_is_none_is_mended_with_a_protocol_of_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    with memory.open("/advice/a.txt", "wb") as out:
        out.write(b"one")
    told = refusal("memry://advice/a.txt")
    assert "give an address of s3://, gs://, hf://datasets/, https:// or another protocol of fsspec" in told
    assert texts("memory://advice/a.txt") == ["one"]
    memory.rm("/advice", recursive=True)


def test_an_address_whose_package_is_missing_is_read_as_copied_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec.core

    def missing(uri: str) -> None:
        raise ImportError('Please install "paramiko" to access sftp')

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    told = refusal("sftp://host/texts/a.txt")
    assert told == (
        'corpus: sftp://host/texts/a.txt needs a package (Please install "paramiko" to access sftp); install what it '
        "names, or copy the files"
    )
    (tmp_path / "a.txt").write_text("one")
    assert texts(tmp_path / "a.txt") == ["one"]


class _Rows(list[dict[str, Any]]):
    """Rows of a streamed data set, whose columns are not known before."""

    column_names = None


def test_a_column_that_a_streamed_row_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for column, told in (
        ("body", "hf://a/b:row 0 has no field 'text', its fields are body; name the one"),
        ("txt", "its fields are txt; the nearest is 'txt'; name the one that holds the text"),
    ):
        monkeypatch.setattr(
            "unmask.data.text.hugging_face.dataset_splits",
            lambda location, column=column: [(location, _Rows([{column: "one"}]))],
        )
        assert told in refusal("hf://a/b")
        assert texts("hf://a/b", text_field=column) == ["one"]


def test_a_file_that_the_system_refuses_is_read_when_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    opened = Path.open

    def refuses(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path and not stat.S_IMODE(self.stat().st_mode) & stat.S_IRUSR:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuses)
    path.chmod(0)
    told = refusal(path)
    assert "make it readable" in told
    path.chmod(0o600)
    assert texts(path) == ["one"]


def test_a_segmenter_that_loses_text_is_wrapped_and_a_missing_one_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.data.text.words import Segmenter, load_segmenter

    text, lossy = "他 好", str.split
    with pytest.raises(
        CorpusError, match=r"lossy must join up to the text .*; wrap it in a function that keeps every character"
    ):
        Segmenter(name="lossy", version="", cut=lossy).continues(text, [0, 3])

    def kept(text: str) -> list[str]:
        # each word, with the space before it
        words, end = [], 0
        for word in lossy(text):
            begin = text.index(word, end)
            words.append(text[end : begin + len(word)])
            end = begin + len(word)
        return [*words, text[end:]] if text[end:] else words

    Segmenter(name="kept", version="", cut=kept).continues(text, [0, 3])
    with pytest.raises(CorpusError, match="choose rjieba, jieba, chinese, spaces, or name a function") as told:
        load_segmenter("pkuseg")
    assert load_segmenter("spaces")
    assert "spaces" in str(told.value)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in ("rjieba", "jieba"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CorpusError, match=r"pip install 'unmask\[chinese\]' brings it, or leave the segmenter out"):
        load_segmenter("chinese")


def test_zstd_without_its_library_is_decompressed_first(
    shell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    Path("a.txt.zst").write_bytes(packed("zstd", b"one"))
    monkeypatch.setattr(pa, "Codec", _NoCodec)
    assert refusal("a.txt.zst").endswith(
        "needs zstd, which this build of pyarrow leaves out; install pyarrow from PyPI, which has it, or decompress "
        "the file"
    )
    shell("zstd -d a.txt.zst")
    assert texts("a.txt") == ["one"]


class _NoCodec:
    @staticmethod
    def is_available(name: str) -> bool:
        return False


def test_a_data_set_that_cannot_be_loaded_is_saved_or_named_by_a_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "nothing").mkdir()
    told = refusal(f"hf://{tmp_path}/nothing")
    assert "cannot be loaded as a data set (" in told
    assert told.endswith(
        "; give hf://owner/name:split, hf://datasets/owner/name/PATH for files in its repository, or a saved one"
    )
    (tmp_path / "nothing" / "train.jsonl").write_text('{"text": "one"}\n')
    assert texts(f"hf://{tmp_path}/nothing:train") == ["one"]
    datasets.Dataset.from_dict({"text": ["one"]}).save_to_disk(tmp_path / "saved")
    assert texts(tmp_path / "saved") == ["one"]


def test_without_docstrings_files_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.data.text.docstrings import docstring_corpus

    monkeypatch.setattr("unmask.data.text.docstrings._extract", lambda chosen, processes: [])
    with pytest.raises(CorpusError, match="no docstring found in topics; give files with --input instead"):
        docstring_corpus(["topics"], cache=tmp_path)
    (tmp_path / "a.txt").write_text("one")
    assert texts(tmp_path / "a.txt") == ["one"]


def test_the_docstrings_of_what_is_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.data.text import docstrings

    found = docstrings._root
    monkeypatch.setattr(docstrings, "_root", lambda name: None if name in ("topics", "sympy") else found(name))
    monkeypatch.setattr(docstrings, "_extract", lambda chosen, processes: [chosen])
    monkeypatch.setattr(docstrings, "cache_folder", lambda: None)
    for name, way in (("topics", "leave it out, or use a Python of python.org"), ("sympy", "pip install sympy")):
        with pytest.raises(CorpusError, match=f"embedded source '{name}' is not installed; {way}"):
            docstrings.docstring_corpus([name, "numpy"])
    assert docstrings.docstring_corpus(["numpy"]) == [["numpy"]]
    monkeypatch.setattr(docstrings, "_root", found)
    assert docstrings.docstring_corpus(["topics"]) == [["topics"]]


CHINESE = "那只猫睡在磨坊旁边"
# bytes of EBCDIC, which no encoding that is tried reads
NEITHER = b"\x81\xff\x81\x8d\xff\x81\xf8\x81"
TYPED = {"a.txt": "müde mühle".encode(), "b.txt": "größe".encode()}


@pytest.mark.parametrize(
    ("files", "encoding", "says"),
    [
        ({"a.txt": TYPED["a.txt"]}, "ascii", "as UTF-8 the bytes there read 'müde mühle'; leave --encoding (data.enc"),
        (
            TYPED,
            "ascii",
            "2 of 2 files of text are not ASCII; as UTF-8 the bytes there read 'müde mühle'; leave --encoding",
        ),
        (
            {"a.txt": f"{CHINESE}é。".encode()},
            "gb18030",
            "as UTF-8 the bytes there read '那只猫睡在磨坊旁边é。'; leave",
        ),
    ],
)
def test_text_in_utf_8_is_read_without_the_encoding(
    files: dict[str, bytes], encoding: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    told = refusal(tmp_path, encoding=encoding)
    assert says in told and "(data.encoding of a run) out" in told
    assert texts(tmp_path) == [data.decode() for data in files.values()]


@pytest.mark.parametrize("undecoded", [1, 2])
@pytest.mark.parametrize("others", [1, 2, 7])
def test_text_beside_utf_8_is_converted_by_the_command(
    undecoded: int, others: int, shell: Callable[[str], None]
) -> None:
    for number in range(undecoded):
        Path(f"a {number}.txt").write_text(f"{CHINESE}é。", "utf-8")
    for number in range(others):
        Path(f"b {number}.txt").write_text(CHINESE, "gb18030")
    told = refusal(Path.cwd(), encoding="gb18030")
    assert "; leave --encoding (data.encoding of a run) out, and convert what is not UTF-8" in told
    assert (" and 2 more: iconv" in told) == (others == 7)
    command = told.partition(": iconv ")[2].partition("\n")[0]
    for number in range(others):
        shell(f"iconv {command}".replace("FILE", f"'b {number}.txt'"))
    assert texts(Path.cwd()) == [f"{CHINESE}é。"] * undecoded + [CHINESE] * others


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("way", ["named", "left out"])
def test_text_that_no_encoding_reads_is_named_or_left_out(count: int, way: str, tmp_path: Path) -> None:
    (tmp_path / "z.txt").write_text("one")
    for number in range(count):
        (tmp_path / f"{number}.txt").write_bytes(NEITHER)
    told = refusal(tmp_path)
    assert (
        "; give their encoding with --encoding (data.encoding of a run), for example utf-16 or cp1251; leave out what "
        "is "
        "no text" in told
    )
    if way == "named":
        (tmp_path / "z.txt").unlink()
        assert texts(tmp_path, encoding="cp037") == [NEITHER.decode("cp037").strip()] * count
    else:
        for number in range(count):
            (tmp_path / f"{number}.txt").unlink()
        assert texts(tmp_path) == ["one"]


@pytest.mark.parametrize(
    ("data", "encoding", "right"),
    [
        ("müde".encode("latin-1"), "utf-8", "latin-1"),
        (TYPED["a.txt"], "ascii", "utf-8"),
        (NEITHER, "utf-8", "cp037"),
    ],
)
def test_files_that_were_not_looked_at_are_counted(
    data: bytes, encoding: str, right: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.text import undecoded

    for name in "ab":
        (tmp_path / f"{name}.txt").write_bytes(data)
    monkeypatch.setattr(undecoded, "_LOOKED_BYTES", 0)
    told = refusal(tmp_path, encoding=encoding)
    assert "1 of 2 files of text are not" in told and "; 1 file was not looked at; " in told
    ways = {
        "latin-1": "--encoding latin-1 reads 'müde'; give the right one",
        "utf-8": "leave --encoding (data.encoding of a run) out",
        "cp037": "give their encoding with --encoding (data.encoding of a run)",
    }
    assert ways[right] in told
    assert texts(tmp_path, encoding=right) == [data.decode(right).strip()] * 2


def test_some_others_beside_files_that_were_not_looked_at_are_converted(
    shell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.text import undecoded

    monkeypatch.setattr(undecoded, "_LOOKED_BYTES", 0)
    for others in (1, 2, 7):
        Path("a.txt").write_text(f"{CHINESE}é。", "utf-8")
        for number in range(others):
            Path(f"b {number}.txt").write_text(CHINESE, "gb18030")
        told = refusal(Path.cwd(), encoding="gb18030")
        missed = "1 file was" if others == 1 else f"{others} files were"
        assert f"; {missed} not looked at; as UTF-8 the bytes there read '" in told
        command = told.partition(": iconv ")[2].partition("\n")[0]
        for number in range(others):
            shell(f"iconv {command}".replace("FILE", f"'b {number}.txt'"))
        assert len(texts(Path.cwd())) == others + 1


def test_a_package_a_device_or_a_name_that_is_missing_has_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["one"]}).save_to_disk(tmp_path / "saved")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "datasets", None)
        told = refusal(tmp_path / "saved")
    assert told == f"corpus: {tmp_path}/saved needs the package datasets; pip install 'unmask[datasets]' brings it"
    assert texts(tmp_path / "saved") == ["one"]
    path = tmp_path / "a.txt.zst"
    pa = pytest.importorskip("pyarrow")
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(b"one " * 99)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    told = refusal(path)
    assert "is not a whole zstd file (" in told and told.endswith("; copy or compress it again")
    path.write_bytes(whole)
    assert texts(path) == [("one " * 99).strip()]
    from unmask.data.text import docstrings

    monkeypatch.setattr(docstrings, "_extract", lambda chosen, processes: [chosen])
    monkeypatch.setattr(docstrings, "cache_folder", lambda: None)
    with pytest.raises(CorpusError, match=r"'nunpy' is unknown; there are topics, python, torch, numpy, ") as unknown:
        docstrings.docstring_corpus(["nunpy"])
    for name in str(unknown.value).partition("there are ")[2].split(", "):
        assert docstrings.docstring_corpus([name]) == [[name]]


def test_the_folder_of_the_store_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one")
    with pytest.raises(
        CorpusError, match="is where the store is made; give the text as input and another folder as the store"
    ):
        Corpus([tmp_path / "in"], ReadOptions(), out=tmp_path / "in")
    assert len(list(Corpus([tmp_path / "in"], ReadOptions(), out=tmp_path / "store"))) == 1


def test_an_address_that_cannot_be_read_is_checked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    with memory.open("/advice/b.txt", "wb") as out:
        out.write(b"one")

    def breaks(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("the connection broke")

    with monkeypatch.context() as patched:
        patched.setattr(type(memory), "_open", breaks)
        told = refusal("memory://advice/b.txt")
    assert told.endswith(
        "cannot be read (ConnectionError: the connection broke); check the address, the network and your rights, or "
        "copy "
        "the files"
    )
    assert texts("memory://advice/b.txt") == ["one"]
    memory.get("/advice/b.txt", str(tmp_path / "b.txt"))
    assert texts(tmp_path / "b.txt") == ["one"]
    memory.rm("/advice", recursive=True)
