"""From text to store: every token of every document, counted by source, with the tokenizer beside it."""

import json
from pathlib import Path

import numpy as np
import pytest

from unmask.data.prepare import Progress, describe, prepare
from unmask.data.prepare.encoding import content_hash
from unmask.data.store import Store
from unmask.data.text.sentences import sentence_starts
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CorpusError, StoreError, TokenizerError

TEXTS = [
    "The encoder reads a tensor. It returns hidden states! Does it? Yes.",
    "\u200b \n",
    "One sentence without an end",
    "",
    "Élan vital; naïve café. 深度学习。模型！ The encoders re-encode tensors.",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 150)


def _ids(store: Store, index: int) -> list[int]:
    return [int(token) for token in store.gather([index], [0], [store.lengths[index]])[0]]


def test_every_document_with_a_token_is_stored_whole_in_order(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store = prepare([corpus], tmp_path / "store", tokenizer=tokenizer)
    texts = [TEXTS[0], TEXTS[2], TEXTS[4]]
    assert [_ids(store, index) for index in range(3)] == tokenizer.encode_batch(texts)
    assert store.content_hashes.tolist() == [content_hash(text) for text in texts]
    assert store.manifest["summary"]["empty_documents"] == 2
    assert store.special_ids == tokenizer.special_ids


def test_word_and_sentence_starts_are_stored(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = prepare([corpus], tmp_path / "store", tokenizer=tokenizer)
    for index, text in enumerate([TEXTS[0], TEXTS[2], TEXTS[4]]):
        span = ([index], [0], [store.lengths[index]])
        np.testing.assert_array_equal(store.gather(*span)[1], tokenizer.word_starts(_ids(store, index)))
        # a sentence starts after the tokens of the text before it
        expected = [len(tokenizer.encode_batch([text[:start]])[0]) for start in sentence_starts(text)]
        assert np.flatnonzero(store.gather_sentence_starts(*span)).tolist() == expected


def test_a_tokenizer_is_trained_when_none_is_given_and_kept_in_the_store(corpus: Path, tmp_path: Path) -> None:
    store = prepare([corpus], tmp_path / "store", vocab_size=120)
    tokenizer = store.load_tokenizer()
    assert tokenizer.vocab_size == store.vocab_size <= 120
    assert _ids(store, 1) == tokenizer.encode_batch([TEXTS[2]])[0]
    again = prepare([corpus], tmp_path / "again", vocab_size=120)
    assert again.fingerprint == store.fingerprint
    assert again.manifest == store.manifest


def test_a_tokenizer_folder_gives_the_same_store_as_the_tokenizer(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    stores = [
        prepare([corpus], tmp_path / name, tokenizer=given)
        for name, given in (("a", tokenizer), ("b", tmp_path / "tokenizer"))
    ]
    assert stores[0].fingerprint == stores[1].fingerprint


def test_batches_do_not_show_in_the_store(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare([corpus], tmp_path / "whole", tokenizer=tokenizer)
    monkeypatch.setattr("unmask.data.prepare.preparation._BATCH_CHARACTERS", 1)
    assert prepare([corpus], tmp_path / "split", tokenizer=tokenizer).fingerprint == whole.fingerprint


def test_a_tokenizer_that_does_not_split_punctuation_gets_the_text_uncut(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "好", "##。", "##是", "yes"]
    backend = Backend(models.WordPiece({token: index for index, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (tmp_path / "a.txt").write_text("好。是 yes", encoding="utf-8")
    store = prepare([tmp_path / "a.txt"], tmp_path / "store", tokenizer=Tokenizer(backend))
    assert _ids(store, 0) == [5, 6, 7, 8]


def test_the_summary_counts_lengths_and_unknown_tokens_by_source(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("tensor " * 40)
    (tmp_path / "strange.txt").write_text("ж й tensor tensor", encoding="utf-8")
    store = prepare([tmp_path / "known.txt", tmp_path / "strange.txt"], tmp_path / "store", tokenizer=tokenizer)
    summary = store.manifest["summary"]
    assert summary["unknown_tokens"] == {"known": 0, "strange": 2}
    assert sum(summary["lengths"].values()) == 2
    assert summary["lengths"]["1-16"] == 1
    lines = describe(store).splitlines()
    assert "  strange: 1 document, 4 tokens, 50.000% unknown" in lines
    [told] = [line for line in lines if line.startswith("more than")]
    assert told.startswith("more than 10% of strange is [UNK]")
    # from the shortest document on
    assert [line.split()[0] for line in lines[lines.index("tokens per document:") + 1 :]] == ["1-16", "17-32", "33-64"]


def test_the_histogram_begins_at_the_shortest_document_and_known_text_is_no_news(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "known.txt").write_text("tensor " * 40)
    text = describe(prepare([tmp_path / "known.txt"], tmp_path / "store", tokenizer=tokenizer))
    assert "more than" not in text
    assert text.splitlines()[-2:] == ["tokens per document:", f"  {'33-64':>17} {1:>12}"]


def test_progress_is_told_in_order_up_to_the_whole(corpus: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    prepare([corpus], tmp_path / "store", vocab_size=120, progress=seen.append)
    characters = sum(map(len, TEXTS))
    assert [step.stage for step in seen] == ["train tokenizer", "encode"]
    assert seen[-1] == Progress("encode", len(TEXTS), characters, characters)


def test_the_embedded_corpus_is_prepared_by_its_name(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.data.text.docstrings.SOURCES", ("topics",))
    cache = tmp_path / "cache"
    store = prepare(["docstrings:"], tmp_path / "store", tokenizer=tokenizer, allow_unknown=True, cache=cache)
    assert store.sources == ["topics"]
    assert store.num_documents > 50
    (tmp_path / "a.txt").write_text("the cat sat")
    inputs = ["python=docstrings:", tmp_path / "a.txt"]
    both = prepare(inputs, tmp_path / "both", tokenizer=tokenizer, allow_unknown=True, cache=cache)
    assert both.sources == ["python", "a"]
    with pytest.raises(CorpusError, match="give text with --input, or the embedded corpus with --input docstrings:"):
        prepare([], tmp_path / "none", tokenizer=tokenizer)


def test_an_existing_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="exists already"):
        prepare([tmp_path / "nowhere"], tmp_path)


def test_failures_leave_nothing_behind(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with corpus.open("ab") as stream:
        stream.write(b'{"text": "caf\xe9"}\n')
    out = tmp_path / "made" / "store"
    with pytest.raises(CorpusError, match="is not UTF-8 at byte"):
        prepare([corpus], out, tokenizer=tokenizer)
    corpus.write_text(json.dumps({"text": "\u200b"}))
    with pytest.raises(CorpusError, match="none of 1 document gives a token"):
        prepare([corpus], out, tokenizer=tokenizer)
    with pytest.raises(TokenizerError, match="vocab_size must be at least"):
        prepare([corpus.rename(tmp_path / "a.txt")], out, vocab_size=5)
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "told"), [(1, "1 document without a token was"), (2, "2 documents without a token were")]
)
def test_documents_without_a_token_are_told_by_their_number(
    tokenizer: Tokenizer, tmp_path: Path, number: int, told: str
) -> None:
    rows = [{"text": "tensor"}, *({"text": "\u200b"} for _ in range(number))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = prepare([tmp_path / "a.jsonl"], tmp_path / "store", tokenizer=tokenizer, workers=1)
    assert f"{told} left out" in describe(store).splitlines()
