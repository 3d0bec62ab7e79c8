"""A model and packed documents small enough to be compared with `transformers` number by number."""

from __future__ import annotations

import pytest

import unmask


@pytest.fixture(scope="session")
def config() -> unmask.EncoderConfig:
    return unmask.EncoderConfig(
        vocab_size=90,
        hidden_size=48,
        num_layers=2,
        num_heads=4,
        intermediate_size=96,
        max_positions=40,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )


@pytest.fixture(scope="session")
def documents() -> list[list[int]]:
    """Token ids of four documents of 6, 3, 32 and 4 tokens."""
    return [[2, 5, 6, 7, 8, 3], [2, 11, 3], [2, *range(20, 50), 3], [2, 60, 61, 3]]


@pytest.fixture(scope="session")
def segments() -> list[list[int]]:
    """Segments of their tokens."""
    return [[0, 0, 0, 1, 1, 1], [0, 0, 0], [0] * 16 + [1] * 16, [0, 1, 1, 1]]
