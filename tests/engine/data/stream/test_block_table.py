"""The table of blocks answers from what it was told."""

import pytest

from unmask.data.stream.block_table import BlockTable


def learned():
    table = BlockTable()
    for block, start in ((1, 10), (2, 25), (7, 90)):
        table.learn(block, start)
    return table


@pytest.mark.parametrize(("index", "expected"), [(0, (0, 0)), (9, (0, 0)), (10, (1, 10)), (60, (2, 25)), (90, (7, 90))])
def test_finds_the_last_known_block_before_an_index(index, expected):
    assert learned().at_or_before(index) == expected


def test_a_block_without_batches_is_passed_over():
    table = BlockTable()
    table.learn(1, 5)
    table.learn(2, 5)
    assert table.at_or_before(5) == (2, 5)


def test_learning_the_same_again_changes_nothing_and_a_contradiction_is_refused():
    table = learned()
    table.learn(2, 25)
    with pytest.raises(ValueError, match="block 2 must begin at micro-batch 25, was said to begin at 26"):
        table.learn(2, 26)
