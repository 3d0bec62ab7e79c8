"""The matrix instructions of PTX: fragments through shared memory, mma.sync of sm_80, and wgmma of sm_90.

A product of wgmma runs while its warps go on. Until the program waits for it, the program must neither touch the
registers of its result nor write the operands that it reads from shared memory. These operands must have been written
before a fence and a barrier, by a store or by a copy that has arrived. The machine records violations in `found`.
Shapes: m16n8k16 and m64nNk16, 16-bit operands, fp32 sums. Layouts: PTX ISA, "Matrix Fragments for mma.m16n8k16" and the
canonical layouts of wgmma.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.ptx.program import items, widened

if TYPE_CHECKING:
    from offline.ptx.machine import Machine

__all__ = ["Matrices"]

_LANE = np.arange(32)
_DEPTH = 16
_SWIZZLES = {0: 16, 3: 32, 2: 64, 1: 128}  # bytes of a row of the swizzle pattern, by the descriptor's field


class _Pending(NamedTuple):
    words: NDArray[np.int64]
    results: frozenset[str]


class Matrices:
    """The tensor cores of a machine, and the groups of wgmma products that still run."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._warps = machine.threads // 32
        self._open: list[_Pending] = []
        self._groups: list[list[_Pending]] = []
        self._busy: frozenset[str] = frozenset()

    def execute(self, opcode: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """Execute a matrix instruction."""
        lanes = self._machine.active.reshape(-1, 32)
        if (lanes.any(1) != lanes.all(1)).any():
            self._machine.found[f"lanes of a warp do not take part: {self._machine.now}"] += 1
        if opcode[0] in ("ldmatrix", "stmatrix"):
            self._fragments(opcode, operands)
        elif opcode[0] == "mma":
            self._mma(opcode, operands)
        elif opcode[1] == "mma_async":
            self._wgmma(opcode, operands)
        elif opcode[1] == "commit_group":
            self._groups.append(self._open)
            self._open = []
        elif opcode[1] == "wait_group":
            left = int(operands[0])
            self._groups = self._groups[max(0, len(self._groups) - left) :]
            self._busy = frozenset().union(*(each.results for group in self._groups for each in group))

    def uses(self, register: str) -> None:
        """Record a fault if a running product still writes this register."""
        if register in self._busy:
            self._machine.found[f"register {register} of a pending wgmma is touched: {self._machine.now}"] += 1

    def overwrites(self, words: NDArray[np.int64]) -> None:
        """Record a fault if a running product still reads these words of shared memory."""
        for each in (pending for group in (*self._groups, self._open) for pending in group):
            if np.isin(words, each.words).any():
                self._machine.found[f"operand of a pending wgmma is written: {self._machine.now}"] += 1

    def _fragments(self, opcode: tuple[str, ...], operands: tuple[str, ...]) -> None:
        """Move 8 x 8 16-bit matrices between shared memory, an address a row, and registers, two elements a lane."""
        machine, load, transposed = self._machine, opcode[0] == "ldmatrix", "trans" in opcode
        registers = items(operands[0] if load else operands[1])
        addresses = machine.address(operands[1] if load else operands[0]).reshape(self._warps, 32)
        active = machine.active.reshape(-1, 32)[:, 0]
        warps = np.repeat(np.flatnonzero(active), 8)
        row, column = _LANE // 4, 2 * (_LANE % 4)
        for i, register in enumerate(registers):
            rows = addresses[active, 8 * i : 8 * i + 8].ravel()
            if load:
                tile = np.zeros((self._warps, 8, 8), np.uint16)
                data = machine.shared.load(rows, 16, warps, machine.barriers, machine.now)
                tile[active] = data.view(np.uint16).reshape(-1, 8, 8)
                tile = (tile.mT if transposed else tile).astype(np.uint32)
                machine.write(register, (tile[:, row, column] | (tile[:, row, column + 1] << 16)).ravel())
            else:
                value = machine.read(register, "b32").reshape(self._warps, 32)
                tile = np.zeros((self._warps, 8, 8), np.uint16)
                tile[:, row, column], tile[:, row, column + 1] = value & 0xFFFF, value >> 16
                tile = tile[active]
                data = np.ascontiguousarray(tile.mT if transposed else tile).view(np.uint8).reshape(-1, 16)
                machine.note_store(machine.shared.store(rows, data, warps, machine.barriers, machine.now))

    def _left(self, registers: tuple[str, ...], half: bool) -> NDArray[np.float32]:
        """Return a fragment of the left operand, (warps, 16, 16), from four registers."""
        result = np.zeros((self._warps, 16, _DEPTH), np.float32)
        for i, register in enumerate(registers):
            value = self._machine.read(register, "b32").reshape(self._warps, 32)
            for j in range(2):
                column = 2 * (_LANE % 4) + j + 8 * (i // 2)
                result[:, _LANE // 4 + 8 * (i % 2), column] = widened((value >> (16 * j)).astype(np.uint16), half)
        return result

    def _mma(self, opcode: tuple[str, ...], operands: tuple[str, ...]) -> None:
        if "m16n8k16" not in opcode or opcode[-1] != "f32":
            raise NotImplementedError(f"ptx: {'.'.join(opcode)}")
        half = opcode[-2] == "f16"
        results, left, right, added = (items(operand) for operand in operands)
        factor = np.zeros((self._warps, _DEPTH, 8), np.float32)
        for i, register in enumerate(right):
            value = self._machine.read(register, "b32").reshape(self._warps, 32)
            for j in range(2):
                row = 2 * (_LANE % 4) + j + 8 * i
                factor[:, row, _LANE // 4] = widened((value >> (16 * j)).astype(np.uint16), half)
        product = self._left(left, half) @ factor
        sums = [
            self._machine.read(register, "f32").reshape(self._warps, 32)
            + product[:, _LANE // 4 + 8 * (i // 2), 2 * (_LANE % 4) + i % 2]
            for i, register in enumerate(added)
        ]
        for register, value in zip(results, sums, strict=True):
            self._machine.write(register, value.ravel())

    def _wgmma(self, opcode: tuple[str, ...], operands: tuple[str, ...]) -> None:
        shape = re.match(r"m64n(\d+)k16", opcode[4])
        if shape is None or opcode[5] != "f32":
            raise NotImplementedError(f"ptx: {'.'.join(opcode)}")
        machine, width, half = self._machine, int(shape[1]), opcode[-1] == "f16"
        results, busy = items(operands[0]), self._busy
        # products that add to the same registers run one after the other
        self._busy = busy - set(results)
        words: list[NDArray[np.int64]] = []
        if operands[1].startswith("{"):
            left = self._left(items(operands[1]), half)
        else:
            left = self._from_memory(operands[1], 64, int(operands[-2]) == 1, half, words)
        right = self._from_memory(operands[2], width, int(operands[-1]) == 1, half, words)
        product = np.einsum("gmk,gnk->gmn", left.reshape(-1, 64, _DEPTH), right).reshape(self._warps, 16, width)
        adds = machine.read(operands[3], "pred") if operands[3].startswith("%") else np.array(operands[3] != "0")
        for i, register in enumerate(results):
            value = product[:, _LANE // 4 + 8 * (i // 2 % 2), 8 * (i // 4) + 2 * (_LANE % 4) + i % 2].ravel()
            if adds.any():
                value = value + np.where(adds, machine.read(register, "f32"), np.float32(0))
            machine.write(register, value.astype(np.float32))
        self._busy = busy | set(results)
        self._open.append(_Pending(np.unique(np.concatenate(words)), frozenset(results)))

    def _from_memory(
        self, descriptor: str, rows: int, transposed: bool, half: bool, words: list[NDArray[Any]]
    ) -> NDArray[np.float32]:
        """Read an operand (warpgroups, rows, 16) from shared memory; its rows are contiguous unless `transposed`."""
        machine = self._machine
        of_warpgroups = machine.read(descriptor, "u64").reshape(-1, 128)
        if (of_warpgroups != of_warpgroups[:, :1]).any():
            raise ValueError(f"ptx: a descriptor differs within a warpgroup: {machine.now}")
        result = np.zeros((len(of_warpgroups), rows, _DEPTH), np.float32)
        for group, value in enumerate(int(each) for each in of_warpgroups[:, 0]):
            addresses = _addresses(value, rows, transposed)
            machine.shared.check(addresses + 1, machine.now)
            used = np.unique(addresses // 2)
            if machine.shared.unfenced[used].any():
                machine.found[f"wgmma reads what was stored without a fence: {machine.now}"] += 1
            if (machine.shared.written[used] == machine.barriers).any():
                machine.found[f"wgmma reads what was written without a barrier: {machine.now}"] += 1
            machine.shared.read_by_all(used, machine.barriers)
            low, high = (machine.shared.data[addresses + i].astype(np.uint16) for i in range(2))
            result[group] = widened(low | (high << 8), half)
            words.append(used)
        return result


def _addresses(descriptor: int, rows: int, transposed: bool) -> NDArray[np.int64]:
    """Return the addresses (rows, 16) of an operand of 16-bit numbers, from its descriptor."""
    start, leading, stride = ((descriptor >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    pattern = _SWIZZLES[descriptor >> 62]
    row, depth = np.arange(rows, dtype=np.int64)[:, None], np.arange(_DEPTH, dtype=np.int64)[None, :]
    if transposed:
        across = pattern // 2
        addresses = start + row // across * leading + row % across * 2 + depth // 8 * stride + depth % 8 * pattern
    elif pattern == 16:
        addresses = start + row // 8 * stride + row % 8 * 16 + depth // 8 * leading + depth % 8 * 2
    else:
        addresses = start + row // 8 * stride + row % 8 * pattern + depth * 2
    return addresses ^ (addresses >> 7 & (pattern // 16 - 1)) << 4
