"""The table of reliability in docs/measured.md: what a run must stand, what was measured, and by which command.

A result file has `reliability`: {number: {"measured": text, "command": a script of bench/engine with its arguments}}.
Each row shows the newest file of the machine that has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench import machine

__all__ = ["REQUIREMENTS", "section"]

REQUIREMENTS = {
    "R1": "a run resumed at every step of 30, twice in a row, ends with the bits of an unbroken one",
    "R2": "order and masks after a resume are those of the unbroken run, for every micro-batch",
    "R3": "order and masks are the same for 1, 2 and 4 processes",
    "R4": "documents lost or repeated after crashes and changes of the number of processes: 0",
    "R5": "the time to seek does not grow with the position",
    "R6": "a stop asked for at a random moment saves the step and exits with 75",
    "R7": "after a kill at a random moment the run goes on from a whole checkpoint, at most two save intervals back",
    "R8": "truncated, altered and missing files are detected, and the checkpoint before is taken",
    "R9": "a save keeps training waiting for at most 50 ms at bert-mini, and costs less than 1% of a run",
    "R10": "a gradient that is not finite on one rank skips the update on all",
    "R12": "every checkpoint loads in transformers, with the same logits to 1e-5",
    "R13": "losses and gradients of 1, 2 and 4 processes, of fsdp, and of accumulation 1, 2 and 4 agree to 1e-5",
    "R17": "share of useful time in a run with failures: at least 95%",
    "disk": "a full disk in mid-save ends the run with a sentence, and making room continues it to the same bits",
    "hang": "a rank that hangs ends the run on all ranks within the timeout, and is named",
}
"""Each requirement by its number; the numbers are those of the project's list."""

_ELSEWHERE = {"R5": "in [seek](#seek)"}


def section(contents: Iterable[dict[str, Any]]) -> str:
    """Return the section of a machine; empty if nothing of it was measured there."""
    newest: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
    for content in sorted((c for c in contents if "reliability" in c), key=lambda c: str(c["datetime"])):
        newest |= {number: (content, row) for number, row in content["reliability"].items()}
    if not newest:
        return ""
    lines = ["### reliability\n"]
    lines += [f"{line}\n" for line in dict.fromkeys(machine.describe(content) for content, _ in newest.values())]
    lines += ["| number | requirement | measured | command |", "|---|---|---|---|"]
    for number, requirement in REQUIREMENTS.items():
        _, row = newest.get(number, (None, {"measured": _ELSEWHERE.get(number, "not measured"), "command": ""}))
        command = f"`{row['command']}`" if row["command"] else ""
        lines.append(f"| {number} | {requirement} | {row['measured']} | {command} |")
    return "\n".join([*lines, ""])
