"""Kernels under test on the host machine: how they are compiled, what they must compute, and which files mutate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from offline.host.device import Device, Machine
from offline.host.mutations import Mutation, Outcome, find, try_mutation

__all__ = ["Subject"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A set of kernels.

    Attributes:
        name: of the set.
        folder: its sources.
        files: those with kernels, below the folder.
        build: compiles the sources, or a changed copy of them in another folder.
        cases: each runs kernels on a device, and raises AssertionError if a result is wrong.
        equivalent: changed lines that mean the same as before, and why.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    build: Callable[[Path], Machine]
    cases: Mapping[str, Callable[[Device], None]]
    equivalent: Mapping[str, str]

    def noticed(self, folder: Path, schedules: Iterable[int], most_accesses: int = 3_000_000) -> str | None:
        """Say what the cases notice of the sources in a folder; None if all is right and the machine finds nothing."""
        machine = self.build(folder)
        for schedule in schedules:
            for name, case in self.cases.items():
                wrong = None
                with machine.device(schedule=schedule, most_accesses=most_accesses) as device:
                    try:
                        case(device)
                    except AssertionError as error:
                        wrong = str(error)
                if device.report.faults:
                    return f"{name}, schedule {schedule}: {device.report.faults[0]}"
                if wrong is not None:
                    return f"{name}, schedule {schedule}: wrong result: {wrong}"
        return None

    def mutations(self) -> list[Mutation]:
        """Return every mutation that is not known to be equivalent."""
        return [each for each in find(self.folder, self.files) if each.after.strip() not in self.equivalent]

    def outcome(self, mutation: Mutation, schedules: Iterable[int] = range(4)) -> Outcome:
        """Try a mutation with the cases in some schedules."""
        return try_mutation(mutation, self.folder, lambda folder: self.noticed(folder, schedules))
