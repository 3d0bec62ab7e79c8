"""Forms of input beyond plain files: documents by heading, zstd, named sources, Hugging Face data sets."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unmask.data.prepare.inputs import Corpus
from unmask.data.text.corpus import Document, named_inputs
from unmask.data.text.options import ReadOptions
from unmask.errors import CorpusError

TEXTS = ["The first document.\nTwo lines.", "第二篇文章。", ""]
CHAPTER = "^\\s*(正文 )?第[一二三四五六七八九十百零〇]+回"


def _texts(given: object, **options: object) -> list[str]:
    return [document.text for document in _documents(given, **options)]


def _documents(*given: object, **options: object) -> Iterator[Document]:
    return Corpus(given, ReadOptions(**options)).documents()  # type: ignore[arg-type]


def _zst(path: Path, data: bytes) -> Path:
    pa = pytest.importorskip("pyarrow")
    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(data)
    return path


def test_headings_open_documents_and_a_title_joins_what_follows(tmp_path: Path) -> None:
    book = "by nobody\n# Title: T\n\n## Author: A\n\npreface\n## I\n\nfirst\n### not here\n## II\nsecond\n## III\n"
    path = tmp_path / "book.md"
    path.write_text(book)
    documents = list(_documents(path, split_at="^#{1,2} "))
    assert [document.text for document in documents] == [
        "by nobody\n",
        "# Title: T\n\n## Author: A\n\npreface\n",
        "## I\n\nfirst\n### not here\n",
        "## II\nsecond\n",
        "## III\n",
    ]
    assert [document.origin.rpartition(":")[2] for document in documents] == ["1", "2", "7", "11", "13"]
    assert "".join(document.text for document in documents) == book


def test_chinese_chapters_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "书.txt"
    path.write_text("《书》\n\n正文 第一回　甲\n\n话说第一回。\n\n第二十回　乙\n且说。\n", encoding="utf-8")
    assert _texts(path, split_at=CHAPTER) == [
        "《书》\n\n",
        "正文 第一回　甲\n\n话说第一回。\n\n",
        "第二十回　乙\n且说。\n",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_at": "("}, "split_at '\\(' is no regular expression"),
        ({"split_at": "^#", "blank_line_documents": True}, "not at both"),
    ],
)
def test_ways_of_cutting_that_make_no_sense_are_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CorpusError, match=message):
        _texts(tmp_path / "a.txt", **options)


@pytest.mark.parametrize("suffix", [".txt.zst", ".jsonl.zst", ".parquet.zst"])
def test_zstd_is_read_like_plain_files(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": text} for text in TEXTS]
    if "parquet" in suffix:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "plain")
        data = (tmp_path / "plain").read_bytes()
    elif "jsonl" in suffix:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    else:
        data = TEXTS[0].encode()
    assert _texts(_zst(tmp_path / f"docs{suffix}", data)) == (TEXTS[:1] if "txt" in suffix else TEXTS)


def test_frames_one_after_the_other_are_one_text(tmp_path: Path) -> None:
    both = b"".join(_zst(tmp_path / "part.zst", part).read_bytes() for part in (b"one\n", b"two"))
    (tmp_path / "a.txt.zst").write_bytes(both)
    assert _texts(tmp_path / "a.txt.zst") == ["one\ntwo"]


def test_damaged_zstd_and_a_pyarrow_without_it_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    path = _zst(tmp_path / "a.txt.zst", b"text " * 1000)
    whole = path.read_bytes()
    for damaged in (whole[:-8], b"no zstd at all" * 10):
        path.write_bytes(damaged)
        with pytest.raises(CorpusError, match=r"a\.txt\.zst is not a whole zstd file"):
            _texts(path)
    path.write_bytes(_zst(tmp_path / "b.zst", b"fine \xff").read_bytes())
    with pytest.raises(CorpusError, match="not UTF-8 at byte 5 of the decompressed text"):
        _texts(path)
    monkeypatch.setattr(pa, "Codec", _NoCodec)
    with pytest.raises(CorpusError, match="needs zstd, which this build of pyarrow leaves out; install pyarrow"):
        _texts(path)


class _NoCodec:
    @staticmethod
    def is_available(name: str) -> bool:
        return False


def test_an_input_may_name_its_source_and_several_may_share_it(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c=d.txt", "e.txt"):
        (tmp_path / name).write_text(name)
    inputs = [f"en={tmp_path}/a.txt", f"en={tmp_path}/b.txt", tmp_path / "c=d.txt", f"zh-书={tmp_path}/e.txt"]
    assert [given.source for given in named_inputs(inputs)] == ["en", "en", "c=d", "zh-书"]
    assert [(document.source, document.text) for document in _documents(*inputs)] == [
        ("en", "a.txt"),
        ("en", "b.txt"),
        ("c=d", "c=d.txt"),
        ("zh-书", "e.txt"),
    ]
    with pytest.raises(CorpusError, match=r"nowhere\.txt does not exist"):
        _documents(f"en={tmp_path}/nowhere.txt")


def test_a_saved_hugging_face_dataset_is_a_source(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"body": [*TEXTS, None], "id": [1, 2, 3, 4]})
    rows.save_to_disk(tmp_path / "plain")
    # what select leaves is what is read
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "split")
    assert _texts(tmp_path / "plain", text_field="body") == [*TEXTS, ""]
    assert _texts(tmp_path / "split", text_field="body") == [*TEXTS, "", TEXTS[1]]
    documents = list(_documents(f"wiki={tmp_path}/plain", text_field="body"))
    assert {document.source for document in documents} == {"wiki"}
    assert documents[1].origin == f"{tmp_path}/plain:row 1"
    with pytest.raises(CorpusError, match="has no field 'bodi', its fields are body, id; the nearest is 'body'"):
        _texts(tmp_path / "plain", text_field="bodi")
    with pytest.raises(CorpusError, match="row 0: column 'id' must hold strings, it holds int"):
        _texts(tmp_path / "plain", text_field="id")


def test_hf_streams_what_the_library_can_load(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    given = f"hf://{folder}:train"
    assert _texts(given) == TEXTS
    assert [document.source for document in _documents(given)][:1] == ["files"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(CorpusError, match=r"hf://.*/nothing cannot be loaded as a data set"):
        _texts(f"hf://{tmp_path}/nothing")


def test_without_datasets_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CorpusError, match=r"needs the package datasets; pip install 'unmask\[datasets\]'"):
        _texts(tmp_path)
