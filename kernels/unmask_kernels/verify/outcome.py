"""What became of a check, and of all of them: the outcomes, and the table of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..dispatch import known

__all__ = ["Outcome", "Verification"]

Verdict = Literal["passed", "failed", "not run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a check.

    Attributes:
        family, backend: by name.
        call: as a table of a record.
        verdict: passed, failed, or not run.
        cases: that were run.
        error, budget: the largest error as a share of what is allowed, and that; 0 where bits were compared.
        result: the tensor with that error, such as "dqkv".
        problem: what went wrong, or why it was not run; empty if it has passed.
        case: where it went wrong.
        note: what else is to be known, such as smaller cases for want of memory.
        seconds: that it took.
    """

    family: str
    backend: str
    call: Mapping[str, Any]
    verdict: Verdict
    cases: int = 0
    error: float = 0.0
    budget: float = 0.0
    result: str = ""
    problem: str = ""
    case: str = ""
    note: str = ""
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """The largest error as a share of its budget."""
        return self.error / self.budget if self.budget else 0.0

    def to_json(self) -> dict[str, Any]:
        """The outcome as values of JSON; `Outcome(**values)` is the way back."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a verification has found.

    Attributes:
        machine: what it holds for, by name.
        outcomes: of every check.
        notes: sentences about the machine, such as a Triton that is newer than any tested.
        record: the file that keeps what has passed; None if none was written.
        finding: the file that describes the failures; None without one.
        seconds: that it took.
    """

    machine: Mapping[str, str]
    outcomes: Sequence[Outcome] = field(default_factory=list)
    notes: Sequence[str] = field(default_factory=list)
    record: Path | None = None
    finding: Path | None = None
    seconds: float = 0.0

    @property
    def failed(self) -> list[Outcome]:
        """The checks that found a wrong result."""
        return [outcome for outcome in self.outcomes if outcome.verdict == "failed"]

    @property
    def passed(self) -> list[Outcome]:
        """The checks that found nothing wrong."""
        return [outcome for outcome in self.outcomes if outcome.verdict == "passed"]

    def to_json(self) -> dict[str, Any]:
        """The report as values of JSON."""
        files = {name: None if path is None else str(path) for name, path in self._files().items()}
        return {
            "machine": dict(self.machine),
            "outcomes": [outcome.to_json() for outcome in self.outcomes],
            "notes": list(self.notes),
            **files,
            "seconds": self.seconds,
        }

    def _files(self) -> dict[str, Path | None]:
        return {"record": self.record, "finding": self.finding}

    def lines(self) -> Iterator[str]:
        """The table, a family and backend a line, and then what to know besides."""
        rows = [("family", "backend", "cases", "worst error / bound", "verdict")]
        pairs = dict.fromkeys((outcome.family, outcome.backend) for outcome in self.outcomes)
        for pair in pairs:
            rows.append(self._row([each for each in self.outcomes if (each.family, each.backend) == pair]))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        if pairs:
            yield from ("   ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        for family, backend in pairs:
            if known[family].backends[backend].must_win and _all_passed(self.outcomes, family, backend):
                yield (
                    f"{family} {backend} is right here. It is chosen only where it is faster too, which `unmask tune` "
                    "measures."
                )
        for outcome in self.failed:
            yield f"{_named(outcome)}, case {outcome.case}: {outcome.problem}"
        yield from dict.fromkeys(f"{each.family} {each.backend}: {each.note}" for each in self.outcomes if each.note)
        yield from self.notes
        if self.finding is not None:
            yield (
                f"What failed is in {self.finding}: please open an issue with this file in the repository of unmask. "
                "Until it is mended, the plain backends run there."
            )

    def _row(self, outcomes: Sequence[Outcome]) -> tuple[str, str, str, str, str]:
        run = [outcome for outcome in outcomes if outcome.verdict != "not run"]
        worst = max(run, key=lambda outcome: outcome.share, default=None)
        if worst is None:
            bound = "-"
        elif not worst.budget:
            bound = "equal bits" if all(outcome.verdict == "passed" for outcome in run) else "-"
        else:
            bound = f"{worst.error:.2g} / {worst.budget:.2g} ({worst.result})"
        cases = str(sum(outcome.cases for outcome in outcomes))
        return outcomes[0].family, outcomes[0].backend, cases, bound, _verdict(outcomes)


def _all_passed(outcomes: Sequence[Outcome], family: str, backend: str) -> bool:
    return all(one.verdict == "passed" for one in outcomes if (one.family, one.backend) == (family, backend))


def _named(outcome: Outcome) -> str:
    call = ", ".join(f"{name} {value}" for name, value in outcome.call.items() if name != "captured")
    return f"{outcome.family} {outcome.backend} ({call})"


def _verdict(outcomes: Sequence[Outcome]) -> str:
    counts = {verdict: sum(each.verdict == verdict for each in outcomes) for verdict in ("passed", "failed", "not run")}
    if counts["passed"] == len(outcomes):
        return "passed"
    parts = [f"{count} of {len(outcomes)} calls {verdict}" for verdict, count in counts.items() if count]
    if len(parts) == 1:
        parts = [next(verdict for verdict, count in counts.items() if count)]
    whys = dict.fromkeys(each.problem for each in outcomes if each.verdict == "not run" and each.problem)
    # one that says another and more is left out
    short = [why for why in whys if not any(other != why and other in why for other in whys)]
    text = ", ".join(parts).replace("failed", "FAILED")
    return f"{text} ({'; '.join(short)})" if short else text
