"""Sentence starts: the cases that a reader would cut by eye, and invariants on arbitrary text."""

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.text.sentences import BEFORE_A_START, sentence_starts


def _cut(text: str) -> list[str]:
    starts = [*sentence_starts(text), len(text)]
    return [text[a:b].strip() for a, b in pairwise(starts)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met J. R. Jones. He left.", ["Dr. Smith met J. R. Jones.", "He left."]),
        ("See Fig. 3, i.e. Table 2 etc. The value is 3.14 here.", None),
        ('"Go!" he said. (Really?) Yes…', ['"Go!" he said.', "(Really?)", "Yes…"]),
        ("It was I. Then we went to torch.nn and a.b.C too.", None),
        ("hard\nwrapped line. Next", ["hard\nwrapped line.", "Next"]),
        ("no stop here\n\nSecond block", ["no stop here", "Second block"]),
        ("ends with Mr.\n\nsecond block", ["ends with Mr.", "second block"]),
        ("no stop here\n \t\nthird block", ["no stop here", "third block"]),
        ("他说：“你好。”我走了！真的？是；好", ["他说：“你好。”", "我走了！", "真的？", "是；", "好"]),
        ("「走吧。」他说。（真的。）『是吗？！』好", ["「走吧。」", "他说。", "（真的。）", "『是吗？！』", "好"]),
        ("我想……他走了……。好", ["我想……", "他走了……。", "好"]),
        ("他等了…很久——一年，才走。对", ["他等了…很久——一年，才走。", "对"]),
        ('他说："走吧。"我说。"不。"好', ['他说："走吧。"', "我说。", '"不。"', "好"]),
        ("真的?好!我不信... 走", ["真的?", "好!", "我不信...", "走"]),
        ("BERT 很好。It works well.\n第二", ["BERT 很好。", "It works well.", "第二"]),
        ("《书名。》\n\n第一回\n\n话说", ["《书名。》", "第一回", "话说"]),
    ],
)
def test_cuts_where_a_reader_would(text: str, sentences: list[str] | None) -> None:
    expected = (
        sentences
        or {
            "S": ["See Fig. 3, i.e. Table 2 etc.", "The value is 3.14 here."],
            "I": ["It was I.", "Then we went to torch.nn and a.b.C too."],
        }[text[0]]
    )
    assert _cut(text) == expected


def test_text_without_characters_has_no_sentence() -> None:
    assert sentence_starts("") == sentence_starts(" \n\n ") == []


@pytest.mark.parametrize(
    ("before", "repeated", "after"),
    [
        ("", ".", ""),
        ("a", ".", "b"),
        ("", "字", ""),
        ("", "……", "字"),
        ("", '字。"', ""),
        ("", '!)"', ""),
        ("", "\n \t", "x"),
        ("", "word ", ""),
        ("", "a.b", ""),
    ],
)
def test_time_is_linear_in_the_text(before: str, repeated: str, after: str) -> None:
    seconds = []
    for times in (5_000, 40_000):
        text = before + repeated * times + after
        tried = []
        for _ in range(3):
            began = time.process_time()
            starts = sentence_starts(text)
            tried.append(time.process_time() - began)
        seconds.append(min(tried))
        assert starts[0] == len(text) - len(text.lstrip())
    # eight times the text: a quadratic rule takes 64 times as long
    assert seconds[1] < 30 * max(seconds[0], 1e-3), seconds


@given(st.text(alphabet=st.sampled_from("aB. \n!?。！”\"'…éI1字「"), max_size=60))
def test_starts_ascend_from_the_first_character_and_never_fall_on_white_space(text: str) -> None:
    starts = sentence_starts(text)
    assert starts == sorted(set(starts))
    assert bool(starts) == bool(text.strip())
    assert all(not text[start].isspace() for start in starts)
    assert not text[: starts[0]].strip() if starts else True


def test_every_start_is_behind_one_of_the_characters_that_may_come_before_one() -> None:
    chance = random.Random(3)
    for _ in range(2000):
        text = "".join(chance.choices([*" \n\t\u3000.!?;…⋯。！？；｡\"'”’»)]}」』）】》〉aB中文(", "\n\n", "……"], k=20))
        for start in sentence_starts(text)[1:]:
            assert BEFORE_A_START.fullmatch(text[start - 1]), (text, start)
