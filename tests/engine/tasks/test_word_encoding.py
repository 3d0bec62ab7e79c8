"""Words as inputs: every word has exactly one prediction, on its first piece, whatever the length."""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.tokenizer import Tokenizer
from unmask.tasks.examples import WordsExample
from unmask.tasks.word_encoding import encode_words

TOKENIZER = Tokenizer.train(["the cat sat on mats, unbelievable; 中国 café"] * 4, 120)
# among them words that a tokenizer reads as nothing, in several pieces, or not at all
WORDS = st.lists(
    st.one_of(
        st.sampled_from(["the", "catsat", "\u200b", "\u202f", "\x07", "中国", "café", "🙂", "a.b.c"]),
        st.text(max_size=6),
    ),
    max_size=30,
)


def sentence(*words: str, place: str = "a.conll, line 1") -> WordsExample:
    return WordsExample("0", words, None, place)


def test_a_word_is_predicted_on_its_first_piece() -> None:
    [one] = encode_words([sentence("the", "catsat", "sat")], TOKENIZER)
    pieces = [TOKENIZER.encode_batch([word])[0] for word in ("the", "catsat", "sat")]
    assert len(pieces[1]) > 1
    assert one.ids == [TOKENIZER.cls_id, *(token for word in pieces for token in word), TOKENIZER.sep_id]
    assert one.words == [0, 1, 2]
    assert [one.ids[row] for row in one.rows] == [piece[0] for piece in pieces]


@settings(deadline=None)
@given(st.lists(WORDS, max_size=3), st.integers(3, 24))
def test_every_word_has_one_prediction(sentences: list[list[str]], max_length: int) -> None:
    examples = [sentence(*words) for words in sentences]
    found = encode_words(examples, TOKENIZER, max_length=max_length)
    predicted = [(one.example, word) for one in found for word in one.words]
    assert sorted(predicted) == [(index, word) for index, words in enumerate(sentences) for word in range(len(words))]
    for one in found:
        assert len(one.ids) <= max_length
        for word, row in zip(one.words, one.rows, strict=True):
            pieces = TOKENIZER.encode_batch([examples[one.example].words[word]])[0] or [TOKENIZER.unk_id]
            assert one.ids[row] == pieces[0]


def test_a_long_sentence_is_read_in_windows_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = encode_words(
            [sentence("cat"), sentence(*["the"] * 12, place="a.conll, line 3")], TOKENIZER, max_length=8
        )
    assert [one.example for one in found] == [0, 1, 1, 1]
    # a word is predicted where most words stand around it
    assert [one.words for one in found[1:]] == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9, 10, 11]]
    assert (
        "sentences of more than 8 tokens, which are read in windows: 1 of 2, the first is a.conll, line 3"
        in caplog.text
    )
