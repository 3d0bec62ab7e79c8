"""The table of windows answers from what it was told, survives in a file, and never depends on that file."""

import os

import numpy as np
import pytest

from unmask.data.window_table import WindowTable


def learned(file=None):
    table = WindowTable(file)
    for window, start in ((1, 10), (2, 25), (7, 90)):
        table.learn(window, start)
    return table


@pytest.mark.parametrize(("index", "expected"), [(0, (0, 0)), (9, (0, 0)), (10, (1, 10)), (60, (2, 25)), (90, (7, 90))])
def test_finds_the_last_known_window_before_an_index(index, expected):
    assert learned().at_or_before(index) == expected


def test_a_window_without_batches_is_passed_over():
    table = WindowTable()
    table.learn(1, 5)
    table.learn(2, 5)
    assert table.at_or_before(5) == (2, 5)


def test_learning_the_same_again_changes_nothing_and_a_contradiction_is_refused():
    table = learned()
    table.learn(2, 25)
    with pytest.raises(ValueError, match="window 2 must begin at micro-batch 25, was said to begin at 26"):
        table.learn(2, 26)


def test_a_file_keeps_the_table(tmp_path):
    learned(tmp_path / "table.npy")
    assert [file.name for file in tmp_path.iterdir()] == ["table.npy"]
    assert WindowTable(tmp_path / "table.npy").at_or_before(60) == (2, 25)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "shape", "disorder"])
def test_a_damaged_file_is_passed_over_and_replaced(tmp_path, damage):
    file = tmp_path / "table.npy"
    learned(file)
    whole = file.read_bytes()
    if damage in ("shape", "disorder"):
        np.save(file, np.zeros((3, 4)) if damage == "shape" else np.array([[0, 5, 2], [0, 9, 4]]))
    else:
        file.write_bytes({"empty": b"", "text": b"not a table", "cut": whole[:-9]}[damage])
    assert WindowTable(file).at_or_before(60) == (0, 0)
    learned(file)
    assert file.read_bytes() == whole


def test_a_file_that_cannot_be_written_is_done_without(tmp_path):
    assert learned(tmp_path / "missing" / "table.npy").at_or_before(60) == (2, 25)


def test_only_the_process_that_opened_the_table_writes_it(tmp_path):
    table = WindowTable(tmp_path / "table.npy")
    child = os.fork()
    if not child:
        table.learn(1, 10)
        os._exit(0)
    os.waitpid(child, 0)
    assert list(tmp_path.iterdir()) == []
