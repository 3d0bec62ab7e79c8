"""How long multiprocessors wait at the end of attention's launches: a model of how programs share the items.

    PYTHONPATH=tests:. python -m offline.work_order          the table of docs/kernels/attention.md

An item costs the elements of its tiles, plus what it costs to begin one. A program that has no item left waits until
the launch ends, that is, for the program with the most work. Two ways to share items, which are sorted by length:

    in turn      program i of n takes items i, i + n, ...
    by number    a program that is done takes the next item that nobody has (Graham 1969, longest processing time first)
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

from bench.lengths import DISTRIBUTIONS

__all__ = ["MULTIPROCESSORS", "by_number", "in_turn", "table", "waiting"]

MULTIPROCESSORS = 132
HEADS = 12
_BEGIN = 2000  # elements in the time that an item takes to begin
_CASES = [("lognormal-512", 16_384), ("lognormal-512", 65_536), ("queries", 16_384), ("all-512", 16_384)]
_CASES += [("all-128", 16_384)]

Share = Callable[[Sequence[int], int], list[int]]


def in_turn(costs: Sequence[int], programs: int) -> list[int]:
    """Return the work of each program."""
    return [sum(costs[first::programs]) for first in range(programs)]


def by_number(costs: Sequence[int], programs: int) -> list[int]:
    """Return the work of each program."""
    work = [0] * programs
    for cost in costs:
        heapq.heappush(work, heapq.heappop(work) + cost)
    return work


def _rounded(length: int, size: int) -> int:
    return -(-length // size) * size


def _forward(lengths: Sequence[int]) -> list[int]:
    """Return the costs of the tiles of 128 rows and 64 columns of a tile, two programs a multiprocessor."""
    return [
        128 * _rounded(length, 64) + _BEGIN
        for length in lengths
        if length > 64
        for _ in range(HEADS * (-(-length // 128)))
    ]


def _fused(lengths: Sequence[int], longer_than: int) -> list[int]:
    """Return the costs of the documents of the fused backward, with tiles of 64 rows and 128 columns."""
    return [
        _rounded(length, 64) * _rounded(length, 128) + _BEGIN
        for length in lengths
        if length > longer_than
        for _ in range(HEADS)
    ]


def waiting(costs: Sequence[int], programs: int, share: Share) -> float:
    """Return the share of a launch in which programs wait for the last one."""
    work = share(costs, programs)
    return 1.0 - sum(work) / (programs * max(work)) if costs else 0.0


def table() -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| documents | tokens | forward, in turn | by number | fused backward, in turn | by number |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, tokens in _CASES:
        lengths = sorted(DISTRIBUTIONS[name].fill(tokens), reverse=True)
        cells = [
            f"{waiting(costs, programs, share):.0%}" if costs else ""
            for costs, programs in ((_forward(lengths), 2 * MULTIPROCESSORS), (_fused(lengths, 64), MULTIPROCESSORS))
            for share in (in_turn, by_number)
        ]
        yield f"| {name} | {tokens:,} | {' | '.join(cells)} |"


if __name__ == "__main__":
    for line in table():
        print(line)
