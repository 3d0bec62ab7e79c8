"""What prepare takes and refuses: workers, stores among the inputs, sources without text, and difficult text."""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.data.prepare import describe, prepare
from unmask.data.prepare.inputs import Corpus
from unmask.data.store import Store
from unmask.data.text.options import ReadOptions
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError, StoreError, TokenizerError, UnmaskError

TEXTS = ["The cat sat. It left!", "深度学习。模型很好……走了", "one sentence", "a b\x00\x07 \ufffd c", ""]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 150)


def _write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def _tokens(store: Store) -> list[list[list[int]]]:
    rows = np.arange(store.num_documents)
    spans = (rows, np.zeros_like(rows), store.lengths)
    flat = [*store.gather(*spans), store.gather_sentence_starts(*spans)]
    return [[part.tolist() for part in np.split(array, np.cumsum(store.lengths)[:-1])] for array in flat]


@pytest.mark.parametrize("segmenter", [None, "spaces"])
def test_any_number_of_workers_gives_the_same_bytes(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segmenter: str | None
) -> None:
    monkeypatch.setattr("unmask.data.prepare.preparation._BATCH_CHARACTERS", 30)
    corpus = _write(tmp_path / "docs.jsonl", [*TEXTS, "Ｔｈｅ cat"] * 5)
    common: dict[str, Any] = {"tokenizer": tokenizer, "segmenter": segmenter, "normalisation": "NFKC"}
    one, many = (prepare([corpus], tmp_path / str(n), workers=n, **common) for n in (1, 3))
    assert many.manifest == one.manifest
    assert one.manifest["segmenter"] == (segmenter or "")


def test_what_fails_in_a_worker_fails_here(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_words.py").write_text("def cut(text):\n    print('noise')\n    return text.split()\n")
    (tmp_path / "deadly_words.py").write_text("import os\ndef cut(text):\n    os._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("unmask.data.prepare.preparation._BATCH_CHARACTERS", 30)
    corpus = _write(tmp_path / "docs.jsonl", ["深度 学习"] * 50)
    for module, error, message in (
        ("bad_words", CorpusError, "words of bad_words:cut must join up to the text"),
        ("deadly_words", UnmaskError, r"a worker process died \(status .*fewer --workers"),
    ):
        with pytest.raises(error, match=message):
            prepare([corpus], tmp_path / "store", tokenizer=tokenizer, segmenter=f"{module}:cut", workers=2)
        del sys.modules[module]
    assert not list(tmp_path.glob("store*"))


def test_stores_and_text_grow_into_one_store(tokenizer: Tokenizer, tmp_path: Path) -> None:
    common: dict[str, Any] = {"tokenizer": tokenizer, "segmenter": "spaces"}
    first, second = _write(tmp_path / "first.jsonl", TEXTS), _write(tmp_path / "second.jsonl", TEXTS[::-1])
    whole = prepare([f"first={first}", second, f"first={second}"], tmp_path / "whole", **common)
    prepare([first], tmp_path / "a", **common)
    prepare([second], tmp_path / "b", **common)
    # the tokenizer and the segmenter are those of the stores
    grown = prepare([tmp_path / "a", tmp_path / "b", f"first={tmp_path / 'b'}"], tmp_path / "grown")
    assert grown.fingerprint == whole.fingerprint
    mixed = prepare([tmp_path / "a", f"second={second}", f"first={tmp_path / 'b'}"], tmp_path / "mixed")
    assert mixed.fingerprint == whole.fingerprint
    # without a name of its own a store keeps its sources
    assert prepare([tmp_path / "whole"], tmp_path / "again").fingerprint == whole.fingerprint
    assert grown.manifest["summary"]["unknown_tokens"] == whole.manifest["summary"]["unknown_tokens"]


def test_stores_of_another_tokenizer_or_segmenter_are_not_mixed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = _write(tmp_path / "docs.jsonl", TEXTS)
    prepare([corpus], tmp_path / "plain", tokenizer=tokenizer)
    prepare([corpus], tmp_path / "spaces", tokenizer=tokenizer, segmenter="spaces")
    prepare([corpus], tmp_path / "cased", tokenizer=Tokenizer.train(TEXTS, 150, lowercase=False))
    advice = (
        f"cannot be mixed; prepare the text of {tmp_path / 'cased'} again with --tokenizer {tmp_path}/plain/tokenizer"
    )
    with pytest.raises(StoreError, match=re.escape(advice)):
        prepare([tmp_path / "plain", tmp_path / "cased"], tmp_path / "out")
    with pytest.raises(StoreError, match=r"cased again with the same --tokenizer$"):
        prepare([tmp_path / "cased"], tmp_path / "out", tokenizer=tokenizer)
    # the way out; a store stands for the tokenizer in it
    prepare(corpus, tmp_path / "mended", tokenizer=tmp_path / "plain")
    joined = prepare([tmp_path / "plain", tmp_path / "mended"], tmp_path / "joined")
    assert joined.num_documents == 2 * prepare(str(corpus), tmp_path / "one", tokenizer=tokenizer).num_documents
    assert repr(joined).startswith(f"<Store '{tmp_path}/joined': {joined.num_documents} documents, ")
    with pytest.raises(StoreError, match="spaces has words by spaces, the new store by no segmenter"):
        prepare([tmp_path / "plain", tmp_path / "spaces"], tmp_path / "out")
    with pytest.raises(StoreError, match="was made by tokenizer"):
        prepare([tmp_path / "plain"], tmp_path / "out", tokenizer=tmp_path / "cased" / "tokenizer")
    assert not list(tmp_path.glob("out*"))


def test_a_source_without_text_is_left_out_and_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    full, empty = _write(tmp_path / "full.jsonl", TEXTS), _write(tmp_path / "hollow.jsonl", ["", "\u200b"])
    store = prepare([empty, full], tmp_path / "store", tokenizer=tokenizer)
    assert store.sources == ["full"]
    assert "source hollow has no document with a token and is left out" in describe(store)
    assert store.manifest["summary"]["empty_documents"] == 3


def test_what_cleaning_removes_is_counted_and_its_form_is_a_setting(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = _write(tmp_path / "docs.jsonl", [*TEXTS, "Ｔｈｅ\u00ad cat"])
    plain = prepare([corpus], tmp_path / "plain", tokenizer=tokenizer)
    removed = {"control": {"docs": 2}, "format": {"docs": 1}, "replacement": {"docs": 1}}
    assert plain.manifest["summary"]["removed_characters"] == removed
    assert "control characters removed: docs 2" in describe(plain)
    wide = prepare([corpus], tmp_path / "wide", tokenizer=tokenizer, normalisation="NFKC")
    assert _tokens(wide)[0][-1] == tokenizer.encode_batch(["The cat"])[0] != _tokens(plain)[0][-1]
    # the split goes by the text as it was read
    np.testing.assert_array_equal(wide.content_hashes, plain.content_hashes)


@pytest.mark.parametrize("segmenter", [None, "rjieba", "jieba"])
@pytest.mark.parametrize("unit", ["cat sat ", "深度学习", "x", "cat深", "."])
def test_a_sentence_of_a_hundred_thousand_characters_is_stored_whole(
    tokenizer: Tokenizer, tmp_path: Path, unit: str, segmenter: str | None
) -> None:
    if segmenter is not None:
        pytest.importorskip(segmenter)
    text = unit * (100_000 // len(unit))
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    options: dict[str, Any] = {"tokenizer": tokenizer, "segmenter": segmenter, "allow_unknown": True}
    store = prepare([tmp_path / "long.txt"], tmp_path / "store", **options)
    ids, words, sentences = _tokens(store)
    assert ids == tokenizer.encode_batch([text])
    assert sum(sentences[0]) == 1
    assert sum(words[0]) > 0


def test_settings_that_cannot_be_are_refused_before_anything_is_written(tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = _write(tmp_path / "docs.jsonl", TEXTS)
    for options, error, message in (
        ({"segmenter": "pkuseg"}, CorpusError, "'pkuseg' is not known"),
        ({"split_at": "["}, CorpusError, "is no regular expression"),
        ({"workers": 0}, ValueError, "workers must be at least 1, got 0"),
        ({"shard_tokens": 0}, ValueError, "shard_tokens must be at least 1, got 0"),
        ({"tokenizer": tmp_path / "docs.jsonl"}, TokenizerError, "has no pad token"),
    ):
        with pytest.raises(error, match=message):
            prepare([corpus], tmp_path / "store", **({"tokenizer": tokenizer} | options))  # type: ignore[arg-type]
    assert not list(tmp_path.glob("store*"))


@pytest.mark.parametrize(
    "asked",
    [{"vocab_size": 150}, {"strip_accents": True}, {"keep_indentation": True}, {"sample_characters": 9}],
    ids=str,
)
def test_what_trains_a_vocabulary_is_refused_where_none_is_trained(
    tokenizer: Tokenizer, tmp_path: Path, asked: dict[str, Any]
) -> None:
    corpus = _write(tmp_path / "docs.jsonl", TEXTS)
    prepare([corpus], tmp_path / "store", tokenizer=tokenizer, workers=1)
    told = f"prepare: {next(iter(asked))} is .*, which keeps its own vocabulary; leave one of them out"
    for inputs, given in (([corpus], tokenizer), ([corpus, f"old={tmp_path / 'store'}"], None)):
        with pytest.raises(ValueError, match=told):
            prepare(inputs, tmp_path / "out", tokenizer=given, **asked)
    assert not list(tmp_path.glob("out*"))


def test_what_is_about_text_is_refused_where_no_input_holds_such_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = _write(tmp_path / "docs.jsonl", TEXTS)
    (tmp_path / "book.txt").write_text("one\ntext\n")
    store = tmp_path / "store"
    prepare([rows], store, tokenizer=tokenizer, workers=1)
    asked: list[tuple[Path, dict[str, Any], str]] = [
        (
            tmp_path / "book.txt",
            {"text_field": "body"},
            "text_field 'body' applies to .jsonl, .*, .parquet and data sets, but no input",
        ),
        (
            store,
            {"text_field": "body"},
            "text_field 'body' applies to .jsonl, .*, .parquet and data sets, but no input",
        ),
        (store, {"normalisation": "NFKC"}, "normalisation NFKC applies to text, but every input is a store"),
        (rows, {"cache": tmp_path}, "only the embedded corpus is kept"),
    ]
    for given, option, told in asked:
        with pytest.raises(CorpusError, match=told):
            prepare([given], tmp_path / "out", tokenizer=tokenizer, **option)
    # the option is left out
    assert prepare([tmp_path / "book.txt"], tmp_path / "book", tokenizer=tokenizer, allow_unknown=True, workers=1)
    assert prepare([store, rows], tmp_path / "both", normalisation="NFKC", workers=1).num_documents == 8


@pytest.mark.parametrize(("option", "value"), [("split_at", "^#"), ("blank_line_documents", True)])
def test_cutting_text_files_where_there_is_none_is_refused(tmp_path: Path, option: str, value: object) -> None:
    rows = _write(tmp_path / "docs.jsonl", TEXTS)
    settings: dict[str, Any] = {"vocab_size": 150, "workers": 1, option: value}
    with pytest.raises(CorpusError, match=f"{option} applies to .txt, .md.*, but no input is one; leave it out"):
        prepare([rows], tmp_path / "a", **settings)
    (tmp_path / "book.md").write_text("# one\ntext\n# two\ntext\n")
    store = prepare([rows, tmp_path / "book.md"], tmp_path / "b", **settings)
    assert store.sources == ["docs", "book"]


def test_options_that_are_not_used_leave_identities_as_they_were(tmp_path: Path) -> None:
    """A preparation that an earlier version began has to go on."""
    assert ReadOptions(split_at="^#").identity == {
        "text_field": "text",
        "blank_line_documents": False,
        "split_at": "^#",
    }
    used = {"encoding": "latin1", "delimiter": "tab"}
    assert set(ReadOptions(**used).identity.items()) - set(ReadOptions().identity.items()) == {
        ("encoding", "iso8859-1"),
        ("delimiter", "\t"),
    }
    path = tmp_path / "docs.txt"
    path.write_text("text")
    parts = [["docs", [[str(path), 4]]]]
    assert Corpus([path], ReadOptions()).identity == hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def test_the_embedded_corpus_alone_has_the_identity_of_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.data.prepare.inputs.docstring_corpus", lambda **_: [])
    identity = Corpus(["docstrings:"], ReadOptions()).identity
    assert identity == hashlib.sha256(b"[]").hexdigest()
    assert Corpus(["a=docstrings:"], ReadOptions()).identity != identity
