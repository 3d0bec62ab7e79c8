"""A tuning: one contest after the other, each recorded when it is decided, within a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from ..machine_record import NotRecorded
from ..tuned import using_values
from .contest import Contest, hold
from .finding import Finding
from .race import Clock, DeviceClock
from .record import read_tuning, write_finding

__all__ = ["Session", "TuningProgress"]


class TuningProgress(NamedTuple):
    """How far a tuning is.

    Attributes:
        number: of the contest, from 0.
        contests: in all.
        contest: that is held now.
    """

    number: int
    contests: int
    contest: Contest


@dataclass(kw_only=True, slots=True)
class Session:
    """A tuning.

    A contest that is in the record with the same call is not held again: a second call of the command goes on where
    the first was interrupted. Values that are taken are in effect for the contests after them.

    Attributes:
        device: that is measured.
        minutes: after which no further contest begins.
        again: whether to hold those that are recorded, too.
        clock: measures a call. Default: that of the device.
        tell: is told how far it is.
        findings: what is decided, in order.
        known: how many of them were recorded before.
        left: contests that the time did not allow.
        asked: number of contests; None before they are known.
        not_recorded: why the findings could not be written; empty if they could.
    """

    device: torch.device
    minutes: float
    again: bool = False
    clock: Clock | None = None
    tell: Callable[[TuningProgress], None] = lambda progress: None
    findings: list[Finding] = field(default_factory=list)
    known: int = 0
    left: list[Contest] = field(default_factory=list)
    asked: int | None = None
    not_recorded: str = ""

    def hold(self, contests: Sequence[Contest]) -> None:
        """Hold the contests. An interruption loses only the one that is being held."""
        self.asked = len(contests)
        clock = self.clock or DeviceClock(self.device)
        until = time.monotonic() + 60.0 * self.minutes
        before = {} if self.again else read_tuning(self.device).findings
        with ExitStack() as stack:
            for number, contest in enumerate(contests):
                finding = before.get(contest.key)
                if finding is not None and (finding.asked, finding.default) == (contest.measured, contest.default):
                    self.known += 1
                elif self.findings[self.known :] and time.monotonic() >= until:
                    self.left.append(contest)
                    continue
                else:
                    self.tell(TuningProgress(number, len(contests), contest))
                    now = time.monotonic()
                    finding = hold(contest, clock, _after(now + max(0.0, until - now) / (len(contests) - number)))
                    self._record(finding)
                self.findings.append(finding)
                if finding.taken and not finding.advice:
                    stack.enter_context(using_values({finding.key: finding.best}))

    def _record(self, finding: Finding) -> None:
        if self.not_recorded:
            return
        try:
            write_finding(self.device, finding)
        except NotRecorded as error:
            self.not_recorded = str(error)


def _after(moment: float) -> Callable[[], bool]:
    return lambda: time.monotonic() >= moment
