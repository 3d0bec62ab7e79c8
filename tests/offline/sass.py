"""Read the listing of a compiled kernel (SASS): its instructions, and those of each innermost loop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Line", "inner_loops", "lines", "opcodes"]

# "/*0a40*/  @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;": an optional predicate, then opcode and modifiers, then operands
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]+)([^;]*)")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")


class Line(NamedTuple):
    """One instruction.

    Attributes:
        opcode: with modifiers, such as "LDG.E.128".
        operands: as they are written, such as " R4, desc[UR4][R2.64] ".
        predicated: whether a predicate decides which threads execute it.
    """

    opcode: str
    operands: str
    predicated: bool

    @property
    def text(self) -> str:
        """The instruction without its predicate."""
        return " ".join(f"{self.opcode}{self.operands}".split())


def lines(sass: str) -> tuple[list[Line], dict[str, int]]:
    """Return all instructions in order, and for each label the place of the instruction behind it."""
    labels: dict[str, int] = {}
    code: list[Line] = []
    for text in sass.splitlines():
        if label := _LABEL.match(text):
            labels[label[1]] = len(code)
        elif instruction := _INSTRUCTION.search(text):
            code.append(Line(instruction[2], instruction[3], instruction[1] is not None))
    return code, labels


def opcodes(sass: str) -> list[str]:
    """Return all opcodes in order, with modifiers, such as "LDG.E.128"."""
    return [line.opcode for line in lines(sass)[0]]


def inner_loops(sass: str) -> Iterator[list[str]]:
    """Yield the opcodes of each loop that contains no other loop.

    A loop goes from the target of a backward branch to that branch.
    """
    code, labels = lines(sass)
    loops = []
    for end, line in enumerate(code):
        target = re.search(r"\.L_x_\d+", line.operands) if line.opcode.startswith("BRA") else None
        # the branch to itself at the end of a kernel is no loop
        if target and labels.get(target[0], end) < end:
            loops.append((labels[target[0]], end))
    for first, last in loops:
        if not any((first, last) != other and first <= other[0] and other[1] <= last for other in loops):
            yield [line.opcode for line in code[first : last + 1]]
