"""A contest: one choice for one shape, its candidates compared with the reference first, and then timed side by side.

A candidate that fails the comparison, or two of whose runs differ in a bit, or that cannot run, is reported and never
taken, however fast it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

import torch

from ..testing.compare import same_bits
from ..tuned import Key, Value
from .finding import Finding
from .race import Clock, best_of, lead, noise, race

__all__ = ["Contest", "Contestant", "Prepared", "hold"]

_LONGEST_REASON = 300


class Contestant(NamedTuple):
    """A value that a choice may have.

    Attributes:
        value: the value.
        run: what is timed.
        check: returns what is wrong with its results, in a sentence; empty if nothing is.
        results: returns its results, to be compared bit for bit with the default's.
    """

    value: Value
    run: Callable[[], object]
    check: Callable[[], str]
    results: Callable[[], dict[str, torch.Tensor]]


class Prepared(NamedTuple):
    """The contestants of a contest, in memory."""

    default: Contestant
    others: list[Contestant]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """One choice for one shape.

    Attributes:
        key: the tunable and the shape.
        measured: in words, the call that is timed.
        default: value without a tuning.
        prepare: makes the inputs and the contestants.
        smaller: the same with half of the tokens; None if that is too few, or no less.
        advice: whether the result is only advice, which nothing reads by itself.
    """

    key: Key
    measured: str
    default: Value
    prepare: Callable[[], Prepared]
    smaller: Callable[[], Contest | None] = lambda: None
    advice: bool = False


def hold(contest: Contest, clock: Clock, is_over: Callable[[], bool] = lambda: False) -> Finding:
    """Compare the contestants with the reference, then time those that pass.

    If the memory of the device is too small, a contest of half the tokens is held.

    Args:
        contest: what to decide.
        clock: measures a call.
        is_over: asked after each round from the fifth on.
    """
    name, shape = contest.key
    finding = Finding(
        choice=name,
        shape=shape,
        asked=contest.measured,
        measured=contest.measured,
        default=contest.default,
        best=contest.default,
        taken=False,
        advice=contest.advice,
    )
    less = None
    try:
        return _compared_and_timed(finding, contest.prepare(), clock, is_over)
    except torch.OutOfMemoryError:
        less = contest.smaller()
    # the tensors of the call above are free by now
    if less is None:
        return replace(finding, wrong=(f"the memory of the device is too small for {contest.measured}",))
    return replace(hold(less, clock, is_over), asked=contest.measured)


def _compared_and_timed(finding: Finding, prepared: Prepared, clock: Clock, is_over: Callable[[], bool]) -> Finding:
    reasons = [_reason(one) for one in (prepared.default, *prepared.others)]
    wrong = [
        f"{one.value}: {reason}"
        for one, reason in zip((prepared.default, *prepared.others), reasons, strict=True)
        if reason
    ]
    finding = replace(finding, wrong=tuple(wrong))
    able = [one for one, reason in zip(prepared.others, reasons[1:], strict=True) if not reason]
    if reasons[0] or not able:
        return finding
    times = race(prepared.default.run, [one.run for one in able], clock, is_over=is_over)
    leads = [lead(times, number) for number in range(len(able))]
    apart = noise(times)
    number = best_of(leads, apart)
    fastest = max(range(len(able)), key=lambda number: leads[number].ratio) if number is None else number
    finding = replace(finding, noise=apart, seconds=median(times.default), rounds=len(times.default))
    if number is None and leads[fastest].ratio <= 1.0:
        return finding
    best = able[fastest]
    ratio, low, high = leads[fastest]
    return replace(
        finding,
        best=best.value,
        taken=number is not None,
        ratio=ratio,
        low=low,
        high=high,
        bits="same bits" if _same(prepared.default, best) else "within the criterion",
    )


def _reason(one: Contestant) -> str:
    """Why a contestant is not timed, in one line; empty if it may be."""
    try:
        return one.check()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # a compiler, a launch or a library refuses it: no candidate may end the tuning
        return f"cannot run: {type(error).__name__}: {' '.join(str(error).split())[:_LONGEST_REASON]}"


def _same(first: Contestant, second: Contestant) -> bool:
    try:
        same_bits(first.results(), second.results(), "")
    except AssertionError:
        return False
    return True
