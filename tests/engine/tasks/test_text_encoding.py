"""Texts and pairs as inputs: what is cut, and where."""

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advice import follow
from unmask.data.tokenizer import Tokenizer
from unmask.tasks.examples import TextExample
from unmask.tasks.text_encoding import LongTexts, _pair_lengths, encode_texts

TOKENIZER = Tokenizer.train(["a b c d e f g h i j k l m n o p q r s t u v w x y z"] * 4, 80)
CLS, SEP = TOKENIZER.cls_id, TOKENIZER.sep_id


def ids(letters: str) -> list[int]:
    return TOKENIZER.encode_batch([" ".join(letters)])[0]


def example(letters: str, pair: str | None = None, place: str = "a.tsv, line 2") -> TextExample:
    return TextExample("0", " ".join(letters), None if pair is None else " ".join(pair), None, place)


def test_a_single_text_and_a_pair_stand_between_cls_and_sep() -> None:
    single, pair = encode_texts([example("abc"), example("ab", "xyz")], TOKENIZER, max_length=10)
    assert (single.ids, single.segments) == ([CLS, *ids("abc"), SEP], [0] * 5)
    assert (pair.ids, pair.segments) == ([CLS, *ids("ab"), SEP, *ids("xyz"), SEP], [0] * 4 + [1] * 4)
    assert (single.example, pair.example) == (0, 1)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 40))
def test_tokens_of_a_pair_go_one_by_one_from_the_longer_text(first: int, second: int, room: int) -> None:
    if first + second <= room:
        return
    lengths = [first, second]
    while sum(lengths) > room:
        lengths[0 if lengths[0] > lengths[1] else 1] -= 1
    assert _pair_lengths(first, second, room) == lengths


@pytest.mark.parametrize(
    ("long_texts", "kept"),
    [
        ("head", ["abcdefgh"]),
        ("head_tail", ["abuvwxyz"]),
        ("windows", ["abcdefgh", "efghijkl", "ijklmnop", "mnopqrst", "qrstuvwx", "stuvwxyz"]),
    ],
)
def test_a_long_text_keeps_its_head_its_ends_or_all_of_it(
    long_texts: LongTexts, kept: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    examples = [example("abc"), example("abcdefghijklmnopqrstuvwxyz", place="a.tsv, line 3")]
    with caplog.at_level(logging.WARNING):
        short, *found = encode_texts(examples, TOKENIZER, max_length=10, long_texts=long_texts)
    assert short.ids == [CLS, *ids("abc"), SEP]
    assert [one.ids for one in found] == [[CLS, *ids(letters), SEP] for letters in kept]
    assert {one.example for one in found} == {1}
    assert "data: examples of more than 10 tokens, which " in caplog.text
    assert ": 1 of 2, the first is a.tsv, line 3" in caplog.text


def test_windows_of_a_pair_read_all_of_the_second_text(caplog: pytest.LogCaptureFixture) -> None:
    found = encode_texts([example("abcdefgh", "ijklmnopqr")], TOKENIZER, max_length=11, long_texts="windows")
    assert [one.ids for one in found] == [
        [CLS, *ids("abcd"), SEP, *ids(part), SEP] for part in ("ijkl", "klmn", "mnop", "opqr")
    ]


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), max_size=40), st.integers(5, 20))
def test_windows_hold_every_token_and_none_is_too_long(letters: list[str], max_length: int) -> None:
    text = "".join(letters)
    found = encode_texts([example(text)], TOKENIZER, max_length=max_length, long_texts="windows")
    assert all(len(one.ids) <= max_length for one in found)
    whole = ids(text) if text else []
    assert found[0].ids[1:-1] == whole[: max_length - 2]
    assert found[-1].ids[1:-1] == whole[-(max_length - 2) :]
    assert sum(len(one.ids) - 2 for one in found) >= len(whole)


def test_an_empty_text_is_named_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        [single, pair] = encode_texts([example("", place="b.tsv, line 9"), example("ab", "")], TOKENIZER)
    assert single.ids == [CLS, SEP] and pair.ids == [CLS, *ids("ab"), SEP, SEP]
    assert "data: examples with an empty text: 2 of 2, the first is b.tsv, line 9; the model sees [CLS]" in caplog.text


def test_a_length_without_room_for_a_pair_is_refused() -> None:
    follow(
        lambda: encode_texts([example("ab")], TOKENIZER, max_length=4),
        "texts: max_length must be at least 5, got 4",
        lambda: encode_texts([example("ab")], TOKENIZER, max_length=5),
    )
