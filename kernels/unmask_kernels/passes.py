"""What has passed `unmask verify` on this machine: read once, when the kernels are imported, and given to the families.

The record "verified" of a machine (`machine_record`) has an entry for each call that was run, as the choice sees it:

    [[passed]]                     or [[failed]]
    family = "attention"
    backend = "triton"
    call = { dtype = "bfloat16", head_dim = 64, causal = false, window = -1, p = 0.1, max_seqlen = 512, ... }

A call that has failed takes back every pass that covers it, in its own record and in those of shared folders.

The files are read at the import, because a choice is traced by the compiler, which must not read any. It needs no CUDA:
a record names its device, and `Family.has_passed` asks for the devices that are here.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .dispatch import Call, Family, Pass, known
from .machine_record import Machine, NotRecorded, Record, read_records, update_record

__all__ = ["KIND", "Entry", "call_from", "entries_of", "keep_passes", "note_passes", "read_verified", "table_of"]

KIND = "verified"
"""The kind of the record."""

_OF_THE_MACHINE = ("device", "architecture")


class Entry(NamedTuple):
    """A call of a family that was run on a backend; `Pass` is what a choice keeps of it."""

    family: str
    backend: str
    call: Any


def note_passes() -> None:
    """Read the records, and give every family what has passed and failed with this driver and software."""
    passed: dict[str, list[Pass]] = {name: [] for name in known}
    failed: list[tuple[str, Entry]] = []
    for device, good, bad in [*_kept_here, *_recorded()]:
        failed += [(device, entry) for entry in bad]
        for entry in good:
            taken_back = any(device == where and contradicts(entry, other) for where, other in failed)
            if not taken_back:
                passed[entry.family].append(Pass(entry.backend, device, entry.call))
    for name, family in known.items():
        # compiled functions are guarded on the tuple: one that is equal stays
        if (new := tuple(dict.fromkeys(passed[name]))) != family.passed:
            family.passed = new
        family.failed = tuple(
            dict.fromkeys(Pass(entry.backend, device, entry.call) for device, entry in failed if entry.family == name)
        )


def keep_passes(
    machine: Machine, passed: Sequence[Entry], failed: Sequence[Entry], *, comment: str = "", folder: Path | None = None
) -> Path:
    """Add what has passed and failed to the record of a machine; this process chooses by it at once.

    Args:
        machine: on which it was run.
        passed, failed: the calls. A pass replaces an earlier failure of the calls that it covers, and a failure every
            earlier pass that covers it.
        comment: lines for a reader, at the head of the record.
        folder: of the record. Default: the user's own.
    Raises:
        NotRecorded: the record cannot be written; it holds in this process all the same.
    """

    def change(old: Mapping[str, Any]) -> dict[str, Any]:
        try:
            before, wrong = (list(entries_of(old, name, machine)) for name in ("passed", "failed"))
        except ValueError:
            before, wrong = [], []
        good = [one for one in before if not any(contradicts(one, other) for other in failed)]
        bad = [one for one in wrong if not any(contradicts(other, one) for other in passed)]
        return {
            name: [table_of(entry) for entry in dict.fromkeys(entries)]
            for name, entries in (("passed", [*good, *passed]), ("failed", [*bad, *failed]))
        }

    try:
        return update_record(KIND, machine, change, comment=comment, folder=folder)
    except NotRecorded:
        _kept_here.append((machine.device, list(passed), list(failed)))
        raise
    finally:
        note_passes()


_kept_here: list[tuple[str, list[Entry], list[Entry]]] = []
"""What this process has found and could not record: device, what has passed, what has failed."""


def _recorded() -> Iterator[tuple[str, list[Entry], list[Entry]]]:
    for record in read_verified():
        if not record.ignored and record.machine is not None:
            good, bad = (list(entries_of(record.contents, name, record.machine)) for name in ("passed", "failed"))
            yield record.machine.device, good, bad


def read_verified() -> list[Record]:
    """The records, each with the reason why it is ignored if it is; one with an entry that is none is damaged."""
    checked = []
    for record in read_records(KIND):
        if not record.ignored and record.machine is not None:
            try:
                for name in ("passed", "failed"):
                    list(entries_of(record.contents, name, record.machine))
            except ValueError as error:
                record = Record(path=record.path, machine=record.machine, contents={}, ignored=f"damaged: {error}")
        checked.append(record)
    return checked


def contradicts(passed: Entry, failed: Entry) -> bool:
    """Whether a pass says of a call that has failed that it is right."""
    return (passed.family, passed.backend) == (failed.family, failed.backend) and (
        known[passed.family].covers(passed.call, failed.call)
    )


def entries_of(contents: Mapping[str, Any], name: str, machine: Machine) -> Iterable[Entry]:
    """The entries of "passed" or "failed" in a record.

    Raises:
        ValueError: one of them is none.
    """
    tables = contents.get(name, [])
    if not isinstance(tables, list):
        raise ValueError(f"machine_record: {name} must be a list, got {tables!r}; run `unmask verify` again")
    for table in tables:
        family = known.get(str(table.get("family"))) if isinstance(table, dict) else None
        if family is None or table.get("backend") not in family.backends:
            raise ValueError(
                f"machine_record: an entry of {name} names no backend, got {table!r}; run `unmask verify` again"
            )
        yield Entry(family.name, table["backend"], call_from(table.get("call"), family, machine))


def table_of(entry: Entry) -> dict[str, Any]:
    """An entry as a table of a record."""
    call = {
        name: str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value
        for name, value in entry.call._asdict().items()
        if name not in _OF_THE_MACHINE
    }
    return {"family": entry.family, "backend": entry.backend, "call": call}


def call_from(table: Any, family: Family, machine: Machine) -> Call:
    """The call of a table.

    Raises:
        ValueError: the table is not that of a call of this family.
    """
    kind: Any = type(family.example("cpu", "cpu", torch.float32))
    hints = {name: hint for name, hint in typing.get_type_hints(kind).items() if name not in _OF_THE_MACHINE}
    found = dict(table) if isinstance(table, dict) else {}
    if "dtype" in hints:
        found["dtype"] = getattr(torch, str(found.get("dtype")), None)
    fits = found.keys() == hints.keys() and all(
        type(found[name]) is hint or (hint is float and type(found[name]) is int) for name, hint in hints.items()
    )
    if not fits:
        raise ValueError(
            f"machine_record: a call of {family.name} must have {', '.join(hints)}, got {table!r}; "
            "run `unmask verify` again"
        )
    device = "cuda" if machine.architecture.startswith("sm_") else machine.architecture
    call: Call = kind(device=device, architecture=machine.architecture, **found)
    return call
