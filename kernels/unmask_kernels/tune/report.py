"""The table of a tuning, and the sentences under it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .finding import Finding
from .session import Session

__all__ = ["conclusion", "table"]

_HEAD = ("choice", "shape", "default", "best", "ratio", "spread", "taken")


def table(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines of the table: a choice a line, and after it what is wrong with candidates.

    The ratio is default's time / best's; the spread is its quartiles.
    """
    rows = [_HEAD, *map(_row, findings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "   ".join(map(str.ljust, row, widths)).rstrip()
    for finding in findings:
        for sentence in finding.wrong:
            yield f"{finding.choice}, {finding.shape}: not chosen: {sentence}"


def _row(finding: Finding) -> tuple[str, ...]:
    names = finding.choice, finding.shape, str(finding.default)
    if not finding.rounds:
        return *names, "-", "-", "-", "no: nothing was timed"
    if finding.best == finding.default:
        return *names, "-", "-", "-", "no: the default is the fastest"
    measured = str(finding.best), f"{finding.ratio:.2f}", f"{finding.low:.2f}-{finding.high:.2f}"
    if not finding.taken:
        return *names, *measured, f"no: within the noise of {finding.noise:.2f}"
    if finding.advice:
        return *names, *measured, f"advice: --{finding.choice} {finding.best}"
    return *names, *measured, f"yes, {finding.bits}"


def conclusion(session: Session, command: str) -> Iterator[str]:
    """Yield what to know of a tuning that is over, a sentence each.

    Args:
        session: the tuning.
        command: that goes on with it.
    """
    if session.asked == 0:
        yield "nothing to tune: no choice is inside a backend that runs these calls here"
    if session.known:
        yield f"{session.known} of {len(session.findings)} were measured before; --again measures them anew"
    if session.left:
        names = ", ".join(dict.fromkeys(contest.key.name for contest in session.left))
        yield f"the time was too short for {names}; run `{command}` again to go on"
    taken = [one for one in session.findings if one.taken and not one.advice]
    if session.not_recorded:
        yield session.not_recorded
    elif taken:
        rounded = any(one.bits != "same bits" for one in taken)
        yield "runs on this machine use what is taken from now on; --kernels.tuned never leaves it out" + (
            ", since results round differently, within the criterion" if rounded else ""
        )
