"""Options that may be repeated."""

from __future__ import annotations

import pytest

from unmask.cli._arguments import join_repeated


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        (["--input", "a", "--out", "s", "--input", "b"], ["--out", "s", "--input", "a", "b"]),
        (["--input", "a", "b", "--input=c", "--out", "s"], ["--out", "s", "--input", "a", "b", "c"]),
        (["recipe", "--out", "s"], ["recipe", "--out", "s"]),
        (["--input"], ["--input"]),
    ],
)
def test_values_of_a_repeated_option_are_joined(given: list[str], joined: list[str]) -> None:
    assert join_repeated(given, "--input") == joined
