"""The tuning of a machine: a file in the user's cache, read before a run and extended by `unmask tune`.

    ~/.cache/unmask/tuned/nvidia-h200-1f0a93c2.toml

    [machine]                                   for which it holds; see `machine_record`
    device = "NVIDIA H200"

    [[measured]]                                a `Finding`
    choice = "attention.fused_up_to"
    shape = "heads of 64, bfloat16, dropout"
    best = 256
    taken = true

A file is used only if each of its values is one that the choice may have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import torch

from ..machine_record import Record, read_records, this_machine, update_record
from ..tuned import Key, Value, why_not
from .finding import Finding

__all__ = ["KIND", "Tuning", "read_tuned", "read_tuning", "values_in", "write_finding"]

KIND = "tuned"
_ENTRIES = "measured"
_COMMENT = """What `unmask tune` measured on this machine. A value that is taken is used by every run here that does not
say --kernels.tuned never. Remove the file to forget it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What was measured on a machine.

    Attributes:
        findings: by key; the user's own before those of shared folders.
        dates: when each was measured, as in "2026-11-30".
    """

    findings: Mapping[Key, Finding]
    dates: Mapping[Key, str]

    def values(self) -> dict[Key, Value]:
        """The values that replace a default, without what is only advice."""
        return {key: one.best for key, one in self.findings.items() if _is_used(one)}


def read_tuned() -> list[Record]:
    """The records, each with the reason why it is ignored if it is; one with an entry that is none is damaged."""
    checked = []
    for record in read_records(KIND):
        reasons = [] if record.ignored else [_finding(entry)[1] for entry in _entries(record.contents)]
        if wrong := list(filter(None, reasons)):
            record = replace(record, contents={}, ignored=f"damaged: {wrong[0]}")
        checked.append(record)
    return checked


def values_in(record: Record) -> dict[Key, Value]:
    """The values that replace a default, of one record; none of one that is ignored."""
    found = [] if record.ignored else [_finding(entry)[0] for entry in _entries(record.contents)]
    return {one.key: one.best for one in found if one is not None and _is_used(one)}


def read_tuning(device: torch.device | str) -> Tuning:
    """Read the tuning of this machine with this device, from the user's folder and from shared ones."""
    records = read_tuned()
    # most machines have none, and the hash of the sources takes a moment
    here = this_machine(device) if records else None
    findings: dict[Key, Finding] = {}
    dates: dict[Key, str] = {}
    for record in records:
        if record.ignored or record.machine != here:
            continue
        for entry in _entries(record.contents):
            finding, _ = _finding(entry)
            if finding is not None and finding.key not in findings:
                findings[finding.key] = finding
                dates[finding.key] = str(entry.get("date", ""))[:10]
    return Tuning(findings=findings, dates=dates)


def write_finding(device: torch.device | str, finding: Finding) -> None:
    """Add a finding to the record of this machine, in place of an older one with the same key.

    Raises:
        NotRecorded: the user's folder cannot be written.
    """
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    entry = {name: _written(value) for name, value in asdict(finding).items()}

    def with_entry(contents: Mapping[str, Any]) -> dict[str, Any]:
        kept = [one for one in _entries(contents) if _finding(one)[0] is not None]
        others = [one for one in kept if (one["choice"], one["shape"]) != tuple(finding.key)]
        return {_ENTRIES: [*others, {**entry, "date": date}]}

    update_record(KIND, this_machine(device), with_entry, comment=_COMMENT)


def _is_used(finding: Finding) -> bool:
    return finding.taken and not finding.advice


def _entries(contents: Mapping[str, Any]) -> list[Any]:
    found = contents.get(_ENTRIES, [])
    return found if isinstance(found, list) else [found]


def _written(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return list(value) if isinstance(value, tuple) else value


def _finding(entry: object) -> tuple[Finding | None, str]:
    """A finding of a table of the file, or None and the reason."""
    if not isinstance(entry, dict):
        return None, "it is no table"
    values: dict[str, Any] = {field.name: entry.get(field.name) for field in fields(Finding)}
    for name, value in values.items():
        kinds = _KINDS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            return None, f"{name} is {value!r}"
        if isinstance(value, float) and not math.isfinite(value):
            return None, f"{name} is {value!r}"
    if not all(isinstance(one, str) for one in values["wrong"]):
        return None, f"wrong is {values['wrong']!r}"
    finding = Finding(**{**values, "wrong": tuple(values["wrong"])})
    reason = "" if finding.advice else why_not(finding.key, finding.best) or why_not(finding.key, finding.default)
    return (None, reason) if reason else (finding, "")


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("choice", "shape", "asked", "measured", "bits"), (str,)),
    **dict.fromkeys(("default", "best"), (int, str)),
    **dict.fromkeys(("ratio", "low", "high", "noise", "seconds"), (float, int)),
    **dict.fromkeys(("taken", "advice"), (bool,)),
    "rounds": (int,),
    "wrong": (list,),
}
