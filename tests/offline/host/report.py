"""What a launch on the host machine showed: faults with file and line, bank conflicts, counts of accesses."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Banks", "Counts", "Fault", "Report", "read_report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault of a kernel.

    Attributes:
        kind: such as "race in shared memory", "out of bounds", "deadlock".
        detail: what happened, in words.
        place: file and line, with the lines that it was inlined into.
        other_place: of a race, the earlier access; else empty.
        threads: the block and thread of both.
        count: how often the same places showed it.
    """

    kind: str
    detail: str
    place: str
    other_place: str
    threads: str
    count: int

    def __str__(self) -> str:
        other = f", there at {self.other_place}" if self.other_place else ""
        often = f", {self.count} times" if self.count > 1 else ""
        return f"{self.kind} at {self.place}: {self.detail}{other} ({self.threads}{often})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Banks:
    """Accesses of one line to shared memory, counted by warps.

    Attributes:
        place: file and line.
        accesses: how many accesses of a warp there were.
        passes: into how many passes the memory's 32 banks divided them.
        conflicts: passes beyond one for each 128 bytes.
    """

    place: str
    accesses: int
    passes: int
    conflicts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What the launches did.

    Attributes:
        loads: accesses to global memory that read, by bytes.
        stores: those that write.
        loaded_bytes: of global memory, all threads together; a byte counts each time that it is read.
        stored_bytes: likewise.
        launches: of kernels.
        accesses: to global and shared memory.
        barriers: of blocks or the grid that were passed.
        atomics: atomic and volatile accesses.
        switches: how often the machine went to another thread.
    """

    loads: dict[int, int]
    stores: dict[int, int]
    loaded_bytes: int
    stored_bytes: int
    launches: int
    accesses: int
    barriers: int
    atomics: int
    switches: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What the launches on a device showed."""

    faults: tuple[Fault, ...]
    banks: tuple[Banks, ...]
    counts: Counts

    def check(self) -> None:
        """Raise AssertionError with every fault, if there are any."""
        if self.faults:
            raise AssertionError("host machine:\n" + "\n".join(map(str, self.faults)))

    def kinds(self) -> set[str]:
        """The kinds of the faults."""
        return {fault.kind for fault in self.faults}

    @property
    def bank_conflicts(self) -> int:
        """Passes through shared memory beyond those that are needed."""
        return sum(each.conflicts for each in self.banks)


class _View(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_char_p),
        ("detail", ctypes.c_char_p),
        ("place", ctypes.c_uint64),
        ("other_place", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("block", "thread", "other_block", "other_thread")),
        ("count", ctypes.c_uint64),
    )


def read_report(library: ctypes.CDLL, path: Path) -> Report:
    """Read what the machine in a library has noted since it was cleared."""
    library.machine_faults.restype = library.machine_banks.restype = ctypes.c_uint64
    views = [_View() for _ in range(library.machine_faults())]
    for index, view in enumerate(views):
        library.machine_fault(ctypes.c_uint64(index), ctypes.byref(view))
    banks = [(ctypes.c_uint64 * 4)() for _ in range(library.machine_banks())]
    for index, each in enumerate(banks):
        library.machine_bank(ctypes.c_uint64(index), each)
    lines = _lines(
        path, {*(view.place for view in views), *(view.other_place for view in views)} | {b[0] for b in banks}
    )
    faults = (
        Fault(
            kind=view.kind.decode(),
            detail=view.detail.decode(),
            place=lines[view.place],
            other_place=lines[view.other_place] if view.other_place else "",
            threads=_threads(view),
            count=view.count,
        )
        for view in views
    )
    return Report(
        # one line may be several places of the compiled code, where a loop was unrolled
        faults=tuple(
            each for each in faults if not each.kind.startswith("threads meet") or each.place != each.other_place
        ),
        banks=tuple(_by_line((lines[each[0]], each[1], each[2], each[3]) for each in banks)),
        counts=_counts(library),
    )


def _counts(library: ctypes.CDLL) -> Counts:
    numbers = (ctypes.c_uint64 * 17)()
    library.machine_counters(numbers)
    widths = (1, 2, 4, 8, 16)
    names = ("loaded_bytes", "stored_bytes", "launches", "accesses", "barriers", "atomics", "switches")
    return Counts(
        loads=dict(zip(widths, numbers[:5], strict=True)),
        stores=dict(zip(widths, numbers[5:10], strict=True)),
        **dict(zip(names, numbers[10:], strict=True)),
    )


def _by_line(sites: Iterable[tuple[str, int, int, int]]) -> Iterable[Banks]:
    found: dict[str, list[int]] = {}
    for place, *numbers in sites:
        found[place] = [a + b for a, b in zip(found.get(place, (0, 0, 0)), numbers, strict=True)]
    for place, (accesses, passes, least) in sorted(found.items()):
        yield Banks(place=place, accesses=accesses, passes=passes, conflicts=passes - least)


def _threads(view: _View) -> str:
    nobody = 2**32 - 1
    names = [
        f"thread {thread} of block {block}"
        for block, thread in ((view.block, view.thread), (view.other_block, view.other_thread))
        if thread != nobody
    ]
    return " and ".join(names)


def _lines(path: Path, places: Iterable[int]) -> dict[int, str]:
    """Return file and line of places in a library; where code was inlined, also the line that called it."""
    # a place is where a call returns to, so the call is one byte before
    wanted = [place for place in places if place]
    if not wanted:
        return {}
    command = ["addr2line", "-e", str(path), "-i", "-a"]
    text = "\n".join(hex(place - 1) for place in wanted)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    found: dict[int, str] = {}
    frames: list[str] = []
    for line in done.splitlines():
        if line.startswith("0x") and ":" not in line:
            frames = []
            found[int(line, 16) + 1] = "?"
            last = int(line, 16) + 1
        else:
            frames.append(line.split(" (")[0])
            found[last] = _shown(frames)
    return found


def _shown(frames: list[str]) -> str:
    own = [frame for frame in frames if "/offline/host/include/" not in frame] or frames
    names = ["/".join(Path(frame).parts[-2:]) for frame in own]
    return names[0] if len(names) == 1 else f"{names[0]}, called at {names[1]}"
