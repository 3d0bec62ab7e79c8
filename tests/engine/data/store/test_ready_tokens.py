"""A store of ready tokens with its tokenizer: it trains as it is; what is missing is said with a way out that works."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unmask.config import DataConfig, RunConfig
from unmask.data.prepare import prepare
from unmask.data.prepare.encoding import content_hash
from unmask.data.store import Store, StoredDocument, write_store
from unmask.data.tokenizer import Tokenizer
from unmask.errors import StoreError
from unmask.train.store import open_store

TEXTS = ["the mill turns", "the river turns by the mills", "river"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the mill turns by the river"], 60)


def documents(tokenizer: Tokenizer, **flags: Any) -> list[StoredDocument]:
    encoded = zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True)
    return [
        StoredDocument(ids=np.array(ids), source="tales", content_hash=content_hash(text), **flags)
        for text, ids in encoded
    ]


@pytest.mark.parametrize("as_folder", [False, True])
def test_it_is_the_store_that_prepare_makes_of_the_text(tokenizer: Tokenizer, tmp_path: Path, as_folder: bool) -> None:
    (tmp_path / "tales.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in TEXTS))
    whole = prepare([tmp_path / "tales.jsonl"], tmp_path / "whole", tokenizer=tokenizer, workers=1)
    tokenizer.save(tmp_path / "folder")
    given = tmp_path / "folder" if as_folder else tokenizer
    store = write_store(tmp_path / "store", documents(tokenizer), tokenizer=given)
    assert store.fingerprint == whole.fingerprint
    names = [path.name for path in sorted((whole.folder / "tokenizer").iterdir())]
    for name in names:
        assert (store.folder / "tokenizer" / name).read_bytes() == (whole.folder / "tokenizer" / name).read_bytes()
    opened, found = open_store(RunConfig(data=DataConfig(store=str(store.folder))), tmp_path)
    assert (opened.fingerprint, found.hash) == (store.fingerprint, tokenizer.hash)


def test_words_that_a_document_brings_count(tokenizer: Tokenizer, tmp_path: Path) -> None:
    [one, *_] = documents(tokenizer)
    starts = np.zeros(len(one.ids), np.bool_)
    given = StoredDocument(ids=one.ids, source="tales", content_hash=1, word_starts=starts)
    store = write_store(tmp_path / "store", [given], tokenizer=tokenizer)
    assert not store.gather([0], [0], store.lengths)[1].any()


def test_an_id_outside_the_vocabulary_is_refused_and_leaves_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    strange = StoredDocument(ids=np.array([tokenizer.vocab_size]), source="a", content_hash=1)
    with pytest.raises(ValueError, match=rf"ids must be in \[0, {tokenizer.vocab_size}\)"):
        write_store(tmp_path / "store", [strange], tokenizer=tokenizer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "beside",
    [{"tokenizer_hash": "abc"}, {"vocab_size": 60}, {"special_ids": {"pad": 0}}, {"added_special_ids": [7]}],
    ids=str,
)
def test_what_the_tokenizer_says_is_not_said_twice(
    tokenizer: Tokenizer, tmp_path: Path, beside: dict[str, Any]
) -> None:
    told = f"write_store: {next(iter(beside))} is given beside a tokenizer, which says it; leave it out"
    with pytest.raises(ValueError, match=told):
        write_store(tmp_path / "store", documents(tokenizer), tokenizer=tokenizer, **beside)
    write_store(tmp_path / "store", documents(tokenizer), tokenizer=tokenizer)


def test_without_a_tokenizer_its_three_facts_are_needed(tokenizer: Tokenizer, tmp_path: Path) -> None:
    told = "tokenizer must be given, or tokenizer_hash, vocab_size and special_ids in its place, got "
    with pytest.raises(ValueError, match=f"{told}none of them"):
        write_store(tmp_path / "store", documents(tokenizer))
    with pytest.raises(ValueError, match=f"{told}vocab_size"):
        write_store(tmp_path / "store", documents(tokenizer), vocab_size=60)


def test_a_run_on_a_store_without_a_tokenizer_names_two_ways_out_that_work(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    facts: dict[str, Any] = {
        "tokenizer_hash": tokenizer.hash,
        "vocab_size": tokenizer.vocab_size,
        "special_ids": tokenizer.special_ids,
    }
    store = write_store(tmp_path / "store", documents(tokenizer), **facts)
    config = RunConfig(data=DataConfig(store=str(store.folder)))
    place = store.folder / "tokenizer"
    told = rf"holds no tokenizer, which a run needs; copy the folder of the one that made its ids to {place}, or write"
    with pytest.raises(StoreError, match=told):
        open_store(config, tmp_path)
    tokenizer.save(tmp_path / "folder")
    shutil.copytree(tmp_path / "folder", place)
    assert open_store(config, tmp_path)[1].hash == tokenizer.hash
    Tokenizer.train(["another text"], 40).save(place)
    with pytest.raises(StoreError, match="was made by tokenizer"):
        open_store(config, tmp_path)
    write_store(tmp_path / "again", documents(tokenizer), tokenizer=tmp_path / "folder")
    assert Store.open(tmp_path / "again").load_tokenizer().hash == tokenizer.hash
