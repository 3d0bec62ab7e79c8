"""Cleaning: exactly the characters that are said to go go, and each is counted."""

import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.text.cleaning import clean


def test_control_and_format_characters_and_replacement_marks_go_and_are_counted() -> None:
    cleaned = clean("a\x00b\x1b[1m\u00adc\u200bd\ufeff\ufffd\ufffde\n\tf")
    assert cleaned.text == "ab[1mcde\n\tf"
    assert cleaned.removed == (2, 3, 2)
    assert clean("深度 Learning – é 👍🏽") == ("深度 Learning – é 👍🏽", (0, 0, 0))


def test_half_of_a_surrogate_pair_goes_as_a_control_character() -> None:
    assert clean("a\ud800b\udfff\u00ad") == ("ab", (2, 1, 0))


def test_every_kind_of_line_end_becomes_one_line_break() -> None:
    text = "a\r\nb\rc\x0bd\x0ce\x85f\u2028g\u2029h\r\n\r\ni"
    assert clean(text) == ("a\nb\nc\nd\ne\nf\ng\nh\n\ni", (0, 0, 0))


def test_what_goes_is_what_unicode_calls_control_and_format() -> None:
    breaks = "\t\n\x0b\x0c\r\x85\u2028\u2029"
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    kept = np.frombuffer(clean(everything).text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    is_kept = np.zeros(sys.maxunicode + 1, dtype=bool)
    is_kept[kept] = True
    gone = set(map(chr, np.flatnonzero(~is_kept))) - set(breaks)
    expected = {c for c in everything if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in breaks} | {"\ufffd"}
    # Unicode gives format characters new code points from time to time
    assert {unicodedata.category(character) for character in gone ^ expected} <= {"Cn"}


@pytest.mark.parametrize(
    ("form", "expected"), [("none", "ＡＢ１ e\u0301 ﬁ"), ("NFC", "ＡＢ１ é ﬁ"), ("NFKC", "AB1 é fi")]
)
def test_normalisation_is_a_choice_and_off_by_default(form: str, expected: str) -> None:
    assert clean("ＡＢ１ e\u0301 ﬁ", form).text == expected  # type: ignore[arg-type]


@given(st.text())
def test_cleaning_twice_changes_nothing_and_the_counts_account_for_the_length(text: str) -> None:
    once = clean(text)
    assert clean(once.text) == (once.text, (0, 0, 0))
    breaks = text.count("\r\n")
    assert len(once.text) == len(text) - sum(once.removed) - breaks or "\r" in text
