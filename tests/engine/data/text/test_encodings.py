"""Text in other encodings: read by the option, refused with the option without it, and never guessed."""

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from unmask.data.prepare.inputs import Corpus
from unmask.data.text import decoding
from unmask.data.text.options import ReadOptions
from unmask.errors import CorpusError

FRENCH = "Un café à Orléans, où l'été dure.\r\nVoilà."
CHINESE = "话说天下大势，分久必合。\n合久必分。\r\n"


def _texts(*given: object, **options: Any) -> list[str]:
    return [document.text for document in Corpus([str(one) for one in given], ReadOptions(**options)).documents()]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("latin-1", FRENCH),
        ("gb18030", CHINESE),
        ("utf-16", FRENCH + CHINESE),
        ("utf-32-le", CHINESE),
        ("cp1252", FRENCH),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_the_option_reads_each_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, size: int
) -> None:
    """Also if a character lies across two blocks."""
    monkeypatch.setattr(decoding, "_BLOCK_BYTES", size)
    for name, content in (
        ("a.txt", text),
        ("b.txt.gz", text),
        ("c.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\n"),
        ("d.json", json.dumps([text], ensure_ascii=False)),
        ("e.csv", f'text\r\n"{text}"\r\n'),
    ):
        data = content.encode(encoding)
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        assert _texts(tmp_path / name, encoding=encoding) == [text]


def test_utf8_is_the_default_by_each_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CHINESE, "utf-8", newline="")
    for name in ("utf-8", "UTF8", "utf_8"):
        assert _texts(tmp_path / "a.txt", encoding=name) == [CHINESE]
        assert ReadOptions(encoding=name).identity == ReadOptions().identity
    assert ReadOptions(encoding="latin1").identity == ReadOptions(encoding="ISO-8859-1").identity


@pytest.mark.parametrize(
    ("encoding", "text", "reads"),
    [
        ("latin-1", FRENCH, "'Un café à Orléan'"),
        ("gb18030", CHINESE, "'话说天下大势，分久必合。'"),
        ("utf-16", FRENCH, ""),
    ],
)
def test_the_error_names_the_option_that_reads_the_file(tmp_path: Path, encoding: str, text: str, reads: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(CorpusError) as error:
        _texts(path)
    assert f"--encoding {encoding} " + (f"reads {reads}" if reads else "") in str(error.value)
    assert _texts(path, encoding=encoding) == [text]


def test_the_command_of_the_error_converts_one_file_among_others(tmp_path: Path) -> None:
    if not shutil.which("iconv"):
        pytest.skip("needs iconv")
    (tmp_path / "a.txt").write_text(CHINESE, "utf-8", newline="")
    (tmp_path / "b c.txt").write_bytes(FRENCH.encode("latin-1"))
    with pytest.raises(CorpusError) as error:
        _texts(tmp_path)
    command = str(error.value).partition("convert: ")[2]
    assert command.startswith("iconv -f ISO-8859-1 -t UTF-8 '")
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    assert _texts(tmp_path) == [CHINESE, FRENCH]


@pytest.mark.parametrize("utf8", [1, 4])
def test_utf8_beside_one_file_in_the_given_encoding_is_read_without_the_option(tmp_path: Path, utf8: int) -> None:
    if not shutil.which("iconv"):
        pytest.skip("needs iconv")
    text = CHINESE.replace("\r\n", "\n话")
    for number in range(utf8):
        (tmp_path / f"{number}.txt").write_text(text, "utf-8", newline="")
    (tmp_path / "o n e.txt").write_bytes(text.encode("gbk"))
    with pytest.raises(CorpusError, match=r"GBK.*; as UTF-8 the bytes there read .*; leave --encoding") as error:
        _texts(tmp_path, encoding="gbk")
    command = str(error.value).partition("not UTF-8: ")[2].splitlines()[0]
    assert command.startswith("iconv -f GBK -t UTF-8 '")
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    assert _texts(tmp_path) == [text] * (utf8 + 1)
    with pytest.raises(CorpusError, match=r"leave --encoding \(data\.encoding of a run\) out(\n|$)"):
        _texts(tmp_path, encoding="gbk")


def test_a_byte_order_mark_does_not_hide_the_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(("\ufeff" + CHINESE).encode("gb18030"))
    with pytest.raises(CorpusError, match="--encoding gb18030 reads '话说天下大势，"):
        _texts(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(CHINESE.encode("gbk"))
    with pytest.raises(CorpusError, match="--encoding gb18030 reads '话说天下大势，"):
        _texts(tmp_path)
    assert _texts(tmp_path, encoding="gb18030") == [CHINESE, CHINESE]


def test_all_files_that_cannot_be_decoded_are_listed_at_once(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"bad{number}.txt").write_bytes(b"fine\n" * number + CHINESE.encode("gb18030"))
    (tmp_path / "good.txt").write_text("fine")
    (tmp_path / "damaged.txt.gz").write_bytes(b"no gzip")
    (tmp_path / "also.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(CorpusError) as error:
        _texts(tmp_path)
    first, *listed = str(error.value).splitlines()
    assert first.startswith("corpus: 5 of 7 files of text are not UTF-8; ")
    places = [(f"bad{number}.txt", 5 * number) for number in range(4)]
    assert [line.partition(" (")[0] for line in listed] == [
        f"  {tmp_path / name} at byte {byte}" for name, byte in [("also.jsonl", 10), *places]
    ]
    (tmp_path / "also.jsonl").unlink()
    with pytest.raises(
        CorpusError, match=r"4 of 6 files of text .*--encoding gb18030 reads '话说天下大势，分久必合。'"
    ):
        _texts(tmp_path)
    (tmp_path / "damaged.txt.gz").unlink()
    assert _texts(tmp_path, encoding="gb18030")[:1] == [CHINESE]


def test_a_file_that_is_cut_inside_a_character_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é".encode()[:1])
    with pytest.raises(CorpusError, match=r"a\.txt is not UTF-8 at byte 0 \(0xc3, unexpected end of data\)"):
        _texts(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes("话".encode("gb18030")[:1])
    with pytest.raises(CorpusError, match=r"b\.txt is not GB18030 at byte 0 \(0xbb, incomplete multibyte sequence\)"):
        _texts(tmp_path / "b.txt", encoding="gb18030")


def test_utf8_read_as_something_else_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text(FRENCH, "utf-8")
    (tmp_path / "b.txt").write_bytes(FRENCH.encode("latin-1"))
    (tmp_path / "c.txt").write_text("plain")
    assert _texts(tmp_path, encoding="latin-1")[0].startswith("Un cafÃ©")
    [told] = caplog.messages
    assert told == (
        f"corpus: encoding is latin-1, but these files seem to be UTF-8: {tmp_path / 'a.txt'}; leave the encoding out "
        "if they are"
    )


@pytest.mark.parametrize(
    ("name", "nearest"), [("latin-11", "latin"), ("gb1803", "gb18030"), ("base64", ""), ("\0", "")]
)
def test_an_encoding_that_python_does_not_know_is_refused_with_one_that_it_does(name: str, nearest: str) -> None:
    with pytest.raises(CorpusError, match=re.escape(f"no encoding of text called {name!r}; give {nearest}")) as error:
        ReadOptions(encoding=name)
    ReadOptions(encoding=re.split(r"; give |, | or ", str(error.value))[1])


def test_a_byte_that_is_binary_is_binary_in_any_encoding_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\0b")
    with pytest.raises(CorpusError, match="is binary: NUL at byte 1"):
        _texts(tmp_path / "a.txt", encoding="latin-1")


def test_utf16_without_a_byte_order_mark_is_read_by_the_encoding_that_the_error_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(FRENCH.encode("utf-16-le"))
    for options in ({}, {"encoding": "utf-16"}):
        with pytest.raises(CorpusError, match="such as --encoding utf-16-le"):
            _texts(tmp_path / "a.txt", **options)
    assert _texts(tmp_path / "a.txt", encoding="utf-16-le") == [FRENCH]
