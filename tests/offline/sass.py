"""Read the listing of a compiled kernel (SASS): its instructions, and those of each innermost loop."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["inner_loops", "opcodes"]

# "/*0a40*/  @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;": an optional predicate, then opcode and modifiers, then operands
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)(.*)")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")


def opcodes(sass: str) -> list[str]:
    """Return all opcodes in order, with modifiers, such as "LDG.E.128"."""
    return [opcode for opcode, _ in _INSTRUCTION.findall(sass)]


def inner_loops(sass: str) -> Iterator[list[str]]:
    """Yield the opcodes of each loop that contains no other loop.

    A loop goes from the target of a backward branch to that branch.
    """
    labels: dict[str, int] = {}
    code: list[tuple[str, str]] = []
    for line in sass.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif instruction := _INSTRUCTION.search(line):
            code.append((instruction[1], instruction[2]))
    loops = []
    for end, (opcode, operands) in enumerate(code):
        target = re.search(r"\.L_x_\d+", operands) if opcode.startswith("BRA") else None
        # the branch to itself at the end of a kernel is no loop
        if target and labels.get(target[0], end) < end:
            loops.append((labels[target[0]], end))
    for first, last in loops:
        if not any((first, last) != other and first <= other[0] and other[1] <= last for other in loops):
            yield [opcode for opcode, _ in code[first : last + 1]]
