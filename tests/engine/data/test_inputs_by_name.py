"""What may be given as text by name: folders by what they hold, files by suffix, sources by name."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from unmask.config import load_config
from unmask.data.listing import list_files
from unmask.data.prepare import prepare
from unmask.data.prepare_inputs import Inputs
from unmask.data.readers import ReadOptions
from unmask.errors import ConfigError, CorpusError

SENTENCE = "The mill by river {} turns slowly. Nobody repairs the lantern."
TRAINED: dict[str, Any] = {"vocab_size": 120, "workers": 1}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three texts; the folder around it is the current one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "corpus"
    _texts(folder, 3)
    return folder


def _texts(folder: Path, count: int, prefix: str = "d") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{prefix}{number}.txt").write_text(SENTENCE.format(f"{prefix}{number}"))


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("a.json", r"one object a line, for example with jq"),
        ("a.CSV", r"convert it to \.jsonl or \.parquet"),
        ("a.tsv", "convert it"),
        ("a.jsonl.bz2", "decompress it, or compress it with gzip or zstd"),
        ("a.jsonl.xz", "decompress it"),
        ("a.ndjson", r"suffix \.jsonl"),
        ("a.pdf", "take the text out"),
        ("corpus.gz", "both suffixes"),
        ("a.txt~", r"suffix \.txt if it is plain text"),
        ("README", r"suffix \.txt if it is plain text"),
    ],
)
def test_a_suffix_that_is_not_read_is_refused_with_what_to_do(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / name).write_text("text")
    with pytest.raises(CorpusError, match=rf"has the suffix .*; files read are \.txt, .*{way}"):
        Inputs([tmp_path / name], ReadOptions())


def test_a_folder_of_nothing_but_such_files_says_what_to_do(tmp_path: Path) -> None:
    for name in ("a.json", "b.JSON", "c.png"):
        (tmp_path / name).touch()
    with pytest.raises(CorpusError, match=r"suffixes \(\.json 2, \.png 1\); \.json files: write it as \.jsonl"):
        Inputs([tmp_path], ReadOptions())


def test_a_pipe_given_by_name_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.txt")
    for given, what in ((tmp_path / "p.txt", "a pipe"), (Path("/dev/null"), "a device")):
        with pytest.raises(CorpusError, match=f"{given} is {what}, and text is read more than once"):
            Inputs([given], ReadOptions())


def test_names_that_mislead(corpus: Path) -> None:
    """A folder called like a file, one inside a store, a hidden one given by name, and `=` in a path."""
    _texts(corpus / "folder.jsonl", 1, "in")
    (corpus / "kept.txt~").write_text("backup")
    assert [str(file.path.relative_to(corpus)) for file in list_files(corpus).files][3:] == ["folder.jsonl/in0.txt"]
    store = prepare([corpus], "store", **TRAINED)
    _texts(store.folder / "texts", 2)
    assert len(list_files(store.folder / "texts").files) == 2
    _texts(corpus.parent / ".hidden", 1)
    assert len(list_files(corpus.parent / ".hidden").files) == 1
    _texts(corpus.parent / "a=b", 1)
    for given, source in (("a=b", "a=b"), ("n=a=b", "n"), (".hidden/d0.txt", "d0")):
        assert [document.source for document in Inputs([given], ReadOptions()).documents()] == [source]
    (corpus / ".txt").write_text("no stem")
    assert [document.source for document in Inputs([corpus / ".txt"], ReadOptions()).documents()] == [".txt"]
    with pytest.raises(CorpusError, match="my corpus=a=b does not exist; name a source with letters"):
        Inputs(["my corpus=a=b"], ReadOptions())
    with pytest.raises(CorpusError, match="'' does not exist"):
        Inputs(["name="], ReadOptions())


def test_the_folder_in_which_the_store_grows_is_no_input(corpus: Path) -> None:
    _texts(corpus.parent / "x.partial", 2)
    with pytest.raises(CorpusError, match=r"x\.partial is where the store is made; give the text as input"):
        prepare([corpus.parent / "x.partial"], "x", **TRAINED)
    assert len(list((corpus.parent / "x.partial").glob("*.txt"))) == 2


def test_the_configuration_asks_the_same_question(corpus: Path) -> None:
    (corpus / "manifest.json").write_text(json.dumps({"files": 3}))
    changes = {"data": {"input": [str(corpus)], "vocab_size": 100}}
    assert load_config(None, changes).data.vocab_size == 100
    prepare([corpus], "store", **TRAINED)
    for given in ("store", "s=store"):
        with pytest.raises(ConfigError, match="where a store keeps its own vocabulary"):
            load_config(None, {"data": {"input": [given], "vocab_size": 100}})


@pytest.mark.parametrize(
    ("file", "content", "kind"),
    [
        ("config.yaml", "data:\nmodel:\nobjective:\ntrain:\nkernels:\n", "a run"),
        ("config.json", '{"architectures": ["BertModel"]}', "a model"),
        ("tokenizer_config.json", '{"do_lower_case": true}', "a tokenizer"),
        ("unfinished.json", '{"settings": {}, "shards": []}', "an unfinished store"),
    ],
)
def test_such_a_folder_given_as_text_is_refused_by_its_kind(corpus: Path, file: str, content: str, kind: str) -> None:
    (corpus / file).write_text(content)
    with pytest.raises(CorpusError, match=f"corpus is {kind}, which is not read as text; "):
        prepare([corpus], "store", **TRAINED)
    # the way out
    assert prepare(sorted(corpus.glob("*.txt")), "store", **TRAINED).num_documents == 3
