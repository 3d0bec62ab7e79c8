"""The model of how long multiprocessors wait: items by number beside items in turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.lengths import DISTRIBUTIONS

from offline import work_order
from offline.work_order import MULTIPROCESSORS, by_number, in_turn, waiting

PAGE = Path(__file__).parents[2] / "docs" / "kernels" / "attention.md"


def test_the_page_has_the_table_of_waiting() -> None:
    assert "\n".join(work_order.table()) in PAGE.read_text("utf-8"), (
        "PYTHONPATH=tests:. python -m offline.work_order prints the table of docs/kernels/attention.md"
    )


def test_both_ways_do_all_the_work() -> None:
    costs = [9, 7, 4, 4, 2, 1]
    assert in_turn(costs, 2) == [15, 12]
    assert sorted(by_number(costs, 2)) == [13, 14]
    assert waiting(costs, 2, in_turn) == pytest.approx(0.1)
    assert waiting([], 2, by_number) == 0.0


@pytest.mark.parametrize("tokens", [16_384, 65_536])
@pytest.mark.parametrize("name", ["lognormal-512", "uniform-16-512", "queries", "docstrings", "all-512"])
def test_by_number_programs_wait_no_longer_than_one_item_takes(name: str, tokens: int) -> None:
    lengths = sorted(DISTRIBUTIONS[name].fill(tokens), reverse=True)
    costs = [length * length for length in lengths for _ in range(12)]
    work = by_number(costs, MULTIPROCESSORS)
    assert max(work) - min(work) <= costs[0]
    assert waiting(costs, MULTIPROCESSORS, by_number) <= waiting(costs, MULTIPROCESSORS, in_turn)
