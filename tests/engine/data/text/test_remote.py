"""Files of other machines, by fsspec and pyarrow, tested without a network; and patterns, here and there."""

import gzip
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from unmask.config import load_config
from unmask.data.prepare import prepare
from unmask.data.prepare.inputs import Corpus
from unmask.data.text import remote
from unmask.data.text.corpus import named_inputs
from unmask.data.text.options import ReadOptions
from unmask.errors import CorpusError

TRAINED: dict[str, Any] = {"vocab_size": 60, "workers": 1}


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Any]:
    """A bucket of fsspec in memory with texts of two topics, in each form."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    system = fsspec.filesystem("memory")
    pq.write_table(pa.table({"text": ["row one", "row two"]}), tmp_path / "a.parquet")
    for name, data in {
        "sport/a.txt": b"the cup was won",
        "sport/b.jsonl": b'{"text": "a late goal"}\n',
        "sport/README.md": b"about these texts",
        "sport/.cache/c.txt": b"hidden",
        "sport/d.png": b"",
        "economy/deep/a.txt.gz": gzip.compress(b"rates rise"),
        "economy/b.txt.zst": pa.compress(b"rates fall", codec="zstd", asbytes=True),
        "economy/c.parquet": (tmp_path / "a.parquet").read_bytes(),
    }.items():
        with system.open(f"/bucket/{name}", "wb") as stream:
            stream.write(data)
    yield system
    system.rm("/bucket", recursive=True)


def _documents(*inputs: str, **options: Any) -> list[tuple[str, str]]:
    return [(one.source, one.text) for one in Corpus(inputs, ReadOptions(**options)).documents()]


@pytest.mark.usefixtures("bucket")
def test_a_remote_folder_is_read_in_each_form_and_what_is_left_out_is_named(caplog: pytest.LogCaptureFixture) -> None:
    assert _documents("memory://bucket") == [
        ("bucket", text)
        for text in ("rates fall", "row one", "row two", "rates rise", "the cup was won", "a late goal")
    ]
    [told] = caplog.messages
    assert "sport/README.md (about the text, by the name; give such a file as an input to read it)" in told
    assert "files with other suffixes (.png 1)" in told
    assert _documents("memory://bucket/sport/README.md") == [("README", "about these texts")]


@pytest.mark.usefixtures("bucket")
def test_a_remote_pattern_makes_a_source_of_each_match() -> None:
    assert {source for source, _ in _documents("memory://bucket/*/")} == {"sport", "economy"}
    # as in a shell, a star stands for no leading dot
    assert _documents("memory://bucket/sport/.cache/*.txt") == [("c", "hidden")]
    assert [text for _, text in _documents("memory://bucket/**/*.txt")] == ["the cup was won"]
    assert _documents("n=memory://bucket/**/a.txt*") == [("n", "rates rise"), ("n", "the cup was won")]
    with pytest.raises(CorpusError, match=r"pattern 'memory://bucket/\*\.md' matches nothing; give one that matches"):
        _documents("memory://bucket/*.md")


@pytest.mark.usefixtures("bucket")
def test_a_store_of_remote_text_is_that_of_the_same_text_here(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cup was won")
    here = prepare([tmp_path / "a.txt"], tmp_path / "here", **TRAINED)
    there = prepare(["memory://bucket/sport/a.txt"], tmp_path / "there", **TRAINED)
    assert there.manifest == here.manifest


def test_a_remote_file_that_changes_is_refused(bucket: Any) -> None:
    corpus = Corpus(["memory://bucket/sport"], ReadOptions())
    with bucket.open("/bucket/sport/b.jsonl", "wb") as stream:
        stream.write(b"{}")
    with pytest.raises(CorpusError, match=r"sport/b\.jsonl has changed since it was listed \(24 bytes then, 2 now\)"):
        list(corpus.documents())


def test_a_failure_while_a_remote_file_is_read_names_it(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise RuntimeError("connection lost")

        def seek(self, offset: int, whence: int) -> int:
            return 0

        def tell(self) -> int:
            return 0

        def close(self) -> None:
            pass

    monkeypatch.setattr(type(bucket), "open", lambda *words: Broken())
    for name in ("sport/a.txt", "economy/b.txt.zst", "economy/deep/a.txt.gz", "economy/c.parquet"):
        with pytest.raises(
            CorpusError, match=f"{name} cannot be read .*RuntimeError: connection lost.*; check the addr"
        ):
            _documents(f"memory://bucket/{name}")


def test_the_file_systems_of_pyarrow_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What opens s3:// and gs://, tried with pyarrow's file system for this machine."""
    monkeypatch.setattr(remote, "_ARROW", frozenset({"file"}))
    for name in ("sport/a.txt", "sport/b.txt.gz", "economy/a.txt"):
        path = tmp_path / "news" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"zipped") if path.suffix == ".gz" else name.encode())
    assert type(remote.remote_path(f"file://{tmp_path}").system).__name__ == "ArrowFSWrapper"
    assert _documents(f"file://{tmp_path}/news") == [
        ("news", "economy/a.txt"),
        ("news", "sport/a.txt"),
        ("news", "zipped"),
    ]
    assert {source for source, _ in _documents(f"file://{tmp_path}/news/*/")} == {"sport", "economy"}
    with pytest.raises(CorpusError, match=r"nowhere cannot be read \(FileNotFoundError"):
        _documents(f"file://{tmp_path}/nowhere")


def test_addresses_of_a_bucket_keep_its_options() -> None:
    root = remote.RemotePath(None, "bucket/texts", "s3://key@bucket/texts?region=eu")
    inner = root._beside("bucket/texts/a.txt")
    assert inner.uri == "s3://key@bucket/texts/a.txt?region=eu"
    # names, messages and identities show no key
    assert str(inner) == "s3://bucket/texts/a.txt"
    given = named_inputs(["s3://key@bucket/a/x?region=eu", "s3://key@bucket/b/x", "s3://key@bucket"])
    assert [one.source for one in given] == ["s3://bucket/a/x", "s3://bucket/b/x", "bucket"]


def test_the_bucket_of_an_address_is_found_beside_options_with_slashes(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(remote, "_arrow_system", lambda bucket: (opened.append(bucket), "bucket"))
    for given, key in (
        ("s3://bucket", "bucket"),
        ("s3://bucket/a/*.txt", "bucket/a/*.txt"),
        ("s3://bucket/", "bucket"),
    ):
        assert remote.remote_path(f"{given}?endpoint_override=http://host:1").key == key
    assert {address.rstrip("/").replace("/?", "?") for address in opened} == {
        "s3://bucket?endpoint_override=http://host:1"
    }


@pytest.mark.parametrize(
    ("location", "is_remote"),
    [
        ("s3://bucket/a.txt", True),
        ("hf://datasets/owner/name/a.jsonl", True),
        ("hf://datasets/owner", False),
        ("hf://owner/name:train", False),
        ("hf:///a/folder:train", False),
        ("texts/a.txt", False),
        ("docstrings:", False),
        (f"https://host/a.csv?rights={'x' * 300}", True),
    ],
)
def test_an_address_is_known_by_its_protocol_and_a_data_set_is_none(location: str, is_remote: bool) -> None:
    assert remote.is_remote(location) is is_remote
    if location.startswith("hf://"):
        assert named_inputs([location])[0].kind == ("files" if is_remote else "data set")


def test_the_source_of_a_remote_input_has_the_name_of_its_file_or_folder() -> None:
    given = ["s3://bucket/news.jsonl.gz", "gs://bucket/sport/", "s3://bucket?region=eu", "en=https://host/a.csv?raw=1"]
    assert [one.source for one in named_inputs(given)] == ["news", "sport", "bucket", "en"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("foo://bucket/a.txt", r"cannot be opened \(Protocol not known: foo\); give an address of s3://, gs://"),
        ("memory://bucket/a.pdf", r"a\.pdf cannot be read \(FileNotFoundError: /bucket/a\.pdf\); check the address"),
        ("hf://datasets/a/b/c.txt", r"needs a package .*; pip install 'unmask\[datasets\]' brings it"),
    ],
)
def test_an_address_that_cannot_be_read_names_the_way_out(
    given: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CorpusError, match=message):
        _documents(given)
    if "needs a package" in message:
        # as after its installation; fsspec keeps what it has loaded, so it does not load here
        monkeypatch.delitem(sys.modules, "huggingface_hub")
        assert hasattr(importlib.import_module("huggingface_hub"), "HfFileSystem")


def test_a_pattern_stands_for_what_it_matches_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("news/sport/a.txt", "news/economy/b.txt", "news/economy/deep/README.md", "news/[x].txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    assert _documents("news/*/") == [("economy", "news/economy/b.txt"), ("sport", "news/sport/a.txt")]
    assert _documents("all=news/**/*.txt") == [
        ("all", name) for name in ("news/[x].txt", "news/economy/b.txt", "news/sport/a.txt")
    ]
    # a file of that name comes first, and a README by its name is text
    assert _documents("news/[x].txt") == [("[x]", "news/[x].txt")]
    assert _documents("news/**/README.md") == [("README", "news/economy/deep/README.md")]
    with pytest.raises(CorpusError, match=r"pattern 'news/\*\.md' matches nothing; give one that matches"):
        _documents("news/*.md")
    # the settings of a run know it too
    config = load_config(None, {"data": {"input": ["topics=news/*/"], "text_field": "text"}})
    assert [one.source for one in named_inputs(config.data.input)] == ["topics", "topics"]


def test_about_files_are_left_out_of_a_folder_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in (
        "a.txt",
        "README.md",
        "readme_de.txt",
        "LICENSE.txt",
        "Licence-MIT.md",
        "readmes.txt",
        "metadata.json",
    ):
        (tmp_path / name).write_text(name)
    assert [text for _, text in _documents(str(tmp_path))] == ["a.txt", "readmes.txt"]
    [told] = caplog.messages
    for name in ("README.md", "readme_de.txt", "LICENSE.txt", "Licence-MIT.md", "metadata.json"):
        assert name in told
    assert [text for _, text in _documents(str(tmp_path), str(tmp_path / "README.md"))][-1] == "README.md"
    (tmp_path / "a.txt").unlink()
    (tmp_path / "readmes.txt").unlink()
    with pytest.raises(
        CorpusError, match=r"holds no file to read.*README\.md.*give such a file as an input to read it"
    ):
        _documents(str(tmp_path))
    assert len(_documents(f"{tmp_path}/[rR]*")) == 2
