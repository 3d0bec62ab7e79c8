"""Capacities follow from the longest piece where they are not given, and impossible ones are refused."""

import pytest

from unmask.data.stream_config import StreamConfig
from unmask.errors import ConfigError


@pytest.mark.parametrize("longest", [3, 16, 128, 512, 8192])
def test_defaults_follow_from_the_longest_piece(longest):
    room = StreamConfig(longest=longest).capacities()
    assert room.tokens == 32 * longest
    assert room.sequences >= room.tokens // 16
    assert 0.15 * room.tokens < room.masked <= 0.155 * room.tokens + 24


def test_what_is_given_is_kept():
    room = StreamConfig(longest=32, tokens=100, sequences=9, masked=7).capacities()
    assert (room.longest, room.tokens, room.sequences, room.masked) == (32, 100, 9, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"longest": 2}, "longest must be at least 3, .* got 2"),
        ({"tokens": 31}, r"tokens must be at least longest \(32\) to hold one piece, got 31"),
        ({"tokens": 128, "sequences": 4}, "sequences must be at least 5, .* got 4"),
        ({"held_out_fraction": 1.0}, r"held_out_fraction must lie in \[0, 1\), got 1.0"),
        ({"held_out_fraction": -0.1}, r"held_out_fraction must lie in \[0, 1\), got -0.1"),
    ],
)
def test_refuses_what_cannot_hold_a_piece(changes, message):
    with pytest.raises(ConfigError, match=message):
        StreamConfig(**({"longest": 32} | changes)).capacities()
