"""Words of any length: time linear in the text, and no trace in the vocabulary of those that can only be [UNK]."""

import json
import random
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.data.prepare import describe, prepare
from unmask.data.prepare.encoding import TextEncoder
from unmask.data.text.cleaning import clean
from unmask.data.tokenizer import Tokenizer
from unmask.data.tokenizer.bert import LONGEST_WORD
from unmask.data.tokenizer.vocabulary import sample_by_hash, train_vocabulary
from unmask.errors import TokenizerError

PLAIN = "The mill turns by the river, and nobody carries the lantern home. Ein naïver Satz 😀 ไทย 深度学习."
# of seconds of the processor; what is quadratic takes ten times as long, what is linear less than a tenth
ENOUGH = 30.0


def _word(letters: str, length: int) -> str:
    draw = random.Random(length)
    return "".join(draw.choice(letters) for _ in range(length))


LONG: dict[str, Callable[[int], str]] = {
    "genome": lambda n: _word("ACGT", n),
    "base64": lambda n: _word("ABCDEFGHabcdefgh0123456789", n),
    "emoji": lambda n: "\U0001f600\U0001f601" * (n // 2),
    "thai": lambda n: "ภาษาไทย" * (n // 7),
    "one letter": lambda n: "a" * n,
    "unknown": lambda n: "\U0001f3fb" * n,
    "many": lambda n: " ".join(_word("abcdefgh", 101 + number % 7) for number in range(n // 100)),
    "marks": lambda n: "e" + "\u0d4d\u1b44" * (n // 2),
}


def _train(texts: list[str], **options: Any) -> dict[str, int]:
    asked: dict[str, Any] = {"vocab_size": 120, "lowercase": True, **options}
    return train_vocabulary(texts, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], **asked)


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("lowercase", [True, False])
def test_long_words_leave_no_trace_in_the_vocabulary(name: str, lowercase: bool) -> None:
    word = LONG[name](3000)
    plain = _train([PLAIN, f"{PLAIN} {PLAIN}"], lowercase=lowercase)
    counted: list[int] = []
    texts = [f"{PLAIN} {word} {word},", f"{word}. {PLAIN} {PLAIN}"]
    # the comma and the point come once more and stay where they are by number
    assert set(_train(texts, lowercase=lowercase, long_words=counted.append)) == set(plain)
    assert counted == [3 * len(word.split())]


def test_a_word_counts_as_long_as_bert_counts_it() -> None:
    counted: list[int] = []
    fits, over = "x" * LONGEST_WORD, "y" * (LONGEST_WORD + 1)
    # joined by punctuation each is a word of its own, and an accent that is dropped is no character
    vocabulary = _train(
        [f"{PLAIN} {fits}-{over}/{fits} {'é' * LONGEST_WORD} " * 9], vocab_size=400, long_words=counted.append
    )
    assert counted == [9]
    assert {fits, "e" * LONGEST_WORD} <= vocabulary.keys()
    assert not any("y" * 3 in token for token in vocabulary)
    tokenizer = Tokenizer.train([f"{PLAIN} {fits}"], 200)
    assert [tokenizer.encode_batch([text]) == [[tokenizer.unk_id]] for text in (fits, f"{fits}x")] == [False, True]


def test_a_text_of_nothing_but_long_words_says_what_to_do() -> None:
    with pytest.raises(TokenizerError, match=r"each of the 2 words of this text is longer than 100 characters"):
        _train(["x" * 101, "ภาษาไทย" * 20])
    with pytest.raises(TokenizerError, match=r"there is no text to train on, every document is empty; give text"):
        _train(["\ufffd\u200b", " "])


def test_pieces_of_a_long_text_are_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is looked at in pieces, which end where words end: the vocabulary is that of the text as a whole."""
    import re

    texts = [f"{PLAIN} well-known,it's...a.b (c)" * 40 + "x" * 99 + "," + "z" * 101]
    whole = _train(texts, vocab_size=300)
    monkeypatch.setattr("unmask.data.tokenizer.vocabulary._PART", re.compile(r"(?s).{1,7}[^\s!-/:-@\[-`{-~]*+"))
    assert _train(texts, vocab_size=300) == whole


@pytest.mark.parametrize("asked", range(1, 40, 9))
def test_the_smallest_vocabulary_that_is_named_will_do(asked: int) -> None:
    texts = [f"{number} {PLAIN}" for number in range(12)]
    with pytest.raises(TokenizerError, match=f"vocab_size must be at least .*, got {asked}") as refused:
        _train(texts, vocab_size=asked)
    smallest = int(str(refused.value).partition("at least ")[2].partition(" ")[0])
    assert len(_train(texts, vocab_size=smallest)) <= smallest
    with pytest.raises(TokenizerError, match=f"at least {smallest} "):
        _train(texts, vocab_size=smallest - 1)


def test_the_summary_counts_them_also_when_a_run_goes_on(tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    texts = [f"{PLAIN} {'ACGT' * 50}", PLAIN, PLAIN]
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    common: dict[str, Any] = {"vocab_size": 200, "workers": 1, "shard_tokens": 5}

    def killed(progress: object) -> None:
        if (tmp_path / "again.partial" / "unfinished.json").exists():
            raise KeyboardInterrupt

    store = prepare([corpus], tmp_path / "store", **common)
    assert store.manifest["summary"]["long_words"] == 1
    assert "1 words of more than 100 characters can only become [UNK]" in describe(store)
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "again", progress=killed, **common)
    assert prepare([corpus], tmp_path / "again", **common).manifest == store.manifest
    # of ordinary text the summary says nothing of the kind
    corpus.write_text(json.dumps({"text": PLAIN}))
    plain = prepare([corpus], tmp_path / "plain", **common)
    assert "long_words" not in plain.manifest["summary"]
    assert "[UNK]" not in describe(plain)


@pytest.mark.parametrize("name", LONG)
def test_training_and_encoding_take_time_linear_in_the_text(name: str) -> None:
    text = LONG[name](100_000)
    tokenizer = Tokenizer.train([PLAIN], 200)
    start = time.process_time()
    _train([PLAIN, text])
    for normalisation in ("none", "NFC", "NFKC"):
        TextEncoder(tokenizer=tokenizer, normalisation=normalisation)([text])  # type: ignore[arg-type]
    assert time.process_time() - start < ENOUGH
    assert sample_by_hash([text, text], 10) == [text]


def test_marks_beyond_number_are_normalised_as_python_does() -> None:
    marks = [chr(code) for code in range(0x300, 0x1E95F) if unicodedata.combining(chr(code))]
    draw = random.Random(1)
    # the last of them have no class of their own and fall apart into marks that have
    characters = [*marks, *"eé가각\u1161ﬁ①…😀", "\u0f73", "\u0f75", "\u0f81", "\u0344"]
    for _ in range(300):
        text = clean("".join(draw.choice(characters) for _ in range(draw.randrange(1, 150)))).text
        assert clean(text, "NFC").text == unicodedata.normalize("NFC", text)
        assert clean(text, "NFKC").text == unicodedata.normalize("NFKC", text)
    start = time.process_time()
    for text in ("e" + "\u0301\u0323" * 100_000, "é" + "\u0f73" * 100_000):
        assert unicodedata.is_normalized("NFD", clean(text, "NFC").text[2:])
    assert time.process_time() - start < ENOUGH
