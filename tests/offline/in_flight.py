"""Find registers that code touches while a wgmma uses them, in the listing of a kernel for sm_90.

A wgmma (HGMMA) runs while its warps go on. Until they wait for it (WARPGROUP.DEPBAR), its sums may be neither read nor
written, and neither may the registers of its left operand, if it has them: the result would depend on time. Triton and
NVIDIA's assembler both move instructions over products in flight, and assemblers before 13.3 are known to give such a
register to another value (https://github.com/triton-lang/triton/pull/11781).

    HGMMA.64x64x16.F32.BF16 R88, R56, gdesc[UR28].tnspB, R88, gsb0     sums in R88 to R119, left operand in R56 to R59
    WARPGROUP.DEPBAR.LE gsb0, 0x1                                      all groups but the last one have ended

`gsb0` ends a group of products. The code is followed along every branch, so a product may end in a later round of its
loop. Products in flight may share all of their sums, which they add to in order, and a left operand, which they read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from offline.sass import Line, lines

__all__ = ["touched_in_flight"]

_SHAPE = re.compile(r"HGMMA\.(?:SP\.)?64x(\d+)x\d+\.(F32|F16)\b")
_REGISTER = re.compile(r"(?<![\w.])R(\d+)(\.64)?")
_LEFT_REGISTERS = 4  # a thread's part of 64 rows and 32 bytes
_WIDTHS = {".64": 2, ".128": 4, ".WIDE": 2, ".M88.2": 2, ".M88.4": 4, ".MT88.2": 2, ".MT88.4": 4}


class _Product(NamedTuple):
    """The registers of a product: of its sums, and of its left operand unless that is in shared memory."""

    sums: frozenset[int]
    left: frozenset[int]


class _InFlight(NamedTuple):
    """Products that the warps have issued and not waited for, as places in the code, by group."""

    groups: tuple[frozenset[int], ...] = ()
    open: frozenset[int] = frozenset()


def touched_in_flight(listing: str) -> list[str]:
    """Return a sentence for each instruction that touches a register of a wgmma in flight."""
    code, labels = lines(listing)
    products = {place: _product(line) for place, line in enumerate(code) if line.opcode.startswith("HGMMA")}
    registers = [_registers(line) for line in code] if products else []
    found: dict[int, str] = {}
    seen: set[tuple[int, _InFlight]] = set()
    ahead = [(0, _InFlight())] if products else []
    while ahead:
        place, flying = ahead.pop()
        if place >= len(code) or (place, flying) in seen:
            continue
        seen.add((place, flying))
        for other in flying.open.union(*flying.groups):
            if place in products:
                shared = _clash(products[place], products[other])
            else:
                shared = registers[place] & (products[other].sums | products[other].left)
            if shared:
                found[place] = f"{code[place].text} touches R{min(shared)} of {code[other].text}, which is in flight"
        after = _step(code[place], place, flying)
        ahead += [(next_place, after) for next_place in _successors(code[place], place, labels)]
    return [found[place] for place in sorted(found)]


def _clash(one: _Product, other: _Product) -> frozenset[int]:
    """The registers that keep two products from running at once."""
    sums = frozenset() if one.sums == other.sums else one.sums & other.sums
    return sums | one.sums & other.left | one.left & other.sums


def _step(line: Line, place: int, flying: _InFlight) -> _InFlight:
    """What is in flight after an instruction."""
    if line.opcode.startswith("HGMMA"):
        products = flying.open | {place}
        if "gsb0" in line.operands:
            return _InFlight((*flying.groups, products))
        return flying._replace(open=products)
    if line.opcode.startswith("WARPGROUP.DEPBAR"):
        left = int(line.operands.split(",")[1].strip(" ;"), 0)
        return flying._replace(groups=flying.groups[len(flying.groups) - left :] if left else ())
    return flying


def _successors(line: Line, place: int, labels: dict[str, int]) -> Iterator[int]:
    """The places that may come next; a call goes into its function and also past it."""
    leaves = line.opcode in ("EXIT", "BRA") or line.opcode.startswith("RET")
    if not leaves or line.predicated or "P" in line.operands.split("`")[0]:
        yield place + 1
    target = re.search(r"`\((\.L_x_\d+)\)", line.operands)
    if target and target[1] in labels:
        yield labels[target[1]]


def _product(line: Line) -> _Product:
    shape = _SHAPE.match(line.opcode)
    if shape is None:
        raise ValueError(f"in_flight: cannot read the shape of {line.text}")
    operands = [operand.strip() for operand in line.operands.split(",")]
    sums, first = int(shape[1]) // (2 if shape[2] == "F32" else 4), int(operands[0][1:])
    left = _REGISTER.match(operands[1])
    return _Product(
        frozenset(range(first, first + sums)),
        frozenset(range(int(left[1]), int(left[1]) + _LEFT_REGISTERS)) if left else frozenset(),
    )


def _registers(line: Line) -> frozenset[int]:
    """The registers that an instruction reads or writes, with those that a wide access adds to the one named."""
    width = max((size for suffix, size in _WIDTHS.items() if suffix in line.opcode), default=1)
    if line.opcode == "CS2R":
        width = 2
    found: set[int] = set()
    # in brackets there are addresses, of one register, or of two with ".64"
    for outside, inside in re.findall(r"([^\[\]]+)|\[([^\[\]]*)\]", line.operands):
        for number, pair in _REGISTER.findall(inside):
            found |= {*range(int(number), int(number) + (2 if pair else 1))}
        for place, operand in enumerate(outside.split(",")):
            # a wide product: two factors of one register, a result and a summand of two
            narrow = ".WIDE" in line.opcode and place in (1, 2)
            for number, _ in _REGISTER.findall(operand):
                found |= {*range(int(number), int(number) + (1 if narrow else width))}
    return frozenset(found)
