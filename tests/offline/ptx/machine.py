"""Execute the PTX of one program of a kernel on the CPU, all threads at once: registers, branches, memory, copies.

All threads of a Triton program take the same branches, and predicates select what only some threads do, so one program
counter is enough. An asynchronous copy arrives when the program waits for it. Between its start and its end the
destination holds garbage, and both its source and its destination count as accessed at the start and at the end. A
register that was never written holds garbage too: the compiler leaves parts of a value undefined where nothing uses
them. `matrices` has the matrix instructions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.ptx.matrices import Matrices
from offline.ptx.memory import Memory
from offline.ptx.numbers import compute
from offline.ptx.program import TYPES, Instruction, Program, items, register_type, size

__all__ = ["Machine"]

_ADDRESS = re.compile(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\w+))?\s*\]")
_GARBAGE = 0xFF


class _Copy(NamedTuple):
    to: NDArray[np.int64]
    source: NDArray[np.int64]
    length: int
    read: NDArray[np.bool_]
    threads: NDArray[np.bool_]
    text: str


class Machine:
    """The state of one program.

    Attributes:
        program: its code.
        threads: 32 times its warps.
        warp: the warp of each thread, (threads,).
        memory: global memory.
        shared: the program's shared memory.
        registers: values by name, (threads,).
        barriers: how many barriers the program has passed.
        found: counts of faults, by description.
        now: the text of the current instruction, for messages.
    """

    def __init__(
        self,
        program: Program,
        arguments: Sequence[Any],
        memory: Memory,
        program_id: tuple[int, int, int],
        grid: tuple[int, int, int],
        shared_bytes: int,
    ) -> None:
        self.program, self.memory, self.found = program, memory, memory.found
        self.threads, self.warp = program.threads, np.arange(program.threads) // 32
        everywhere = np.ones(shared_bytes, np.bool_)
        self.shared = Memory("shared", np.full(shared_bytes, _GARBAGE, np.uint8), everywhere, self.found)
        self.registers: dict[str, NDArray[Any]] = {}
        self.barriers, self.now = 0, ""
        self._arguments = dict(zip(program.parameters, arguments, strict=True))
        self._special = {"%tid.x": np.arange(self.threads)}
        for axis, at, count in zip("xyz", program_id, grid, strict=True):
            self._special |= {
                f"%ctaid.{axis}": np.full(self.threads, at),
                f"%nctaid.{axis}": np.full(self.threads, count),
            }
        self._copies: list[_Copy] = []
        self._groups: list[list[_Copy]] = []
        self._matrices = Matrices(self)

    def run(self) -> None:
        """Execute the program from its first instruction to its end."""
        counter, all_threads = 0, np.ones(self.threads, np.bool_)
        while True:
            instruction = self.program.code[counter]
            self.now = instruction.text
            where = all_threads
            if instruction.guard:
                where = self.registers[instruction.guard] ^ instruction.negated
            counter += 1
            if instruction.opcode[0] in ("bra", "ret", "exit"):
                if where.any() and not where.all():
                    raise NotImplementedError(f"ptx: threads diverge at {self.now}")
                if where.all() and instruction.opcode[0] != "bra":
                    return
                if where.all():
                    counter = self.program.labels[instruction.operands[0]]
            else:
                # a GPU reports no overflow
                with np.errstate(all="ignore"):
                    self._execute(instruction, where)

    def read(self, name: str, kind: str) -> NDArray[Any]:
        """Return the values of a register or a constant as the type `kind`, (threads,)."""
        wanted = np.dtype(TYPES[kind])
        if name in self._special:
            return self._special[name].astype(wanted)
        if not name.startswith("%"):
            return self._constant(name, wanted)
        self._matrices.uses(name)
        value = self.registers[name] if name in self.registers else self._undefined(name)
        if value.dtype == wanted:
            return value
        if value.dtype.itemsize > wanted.itemsize:
            value = value.astype(f"u{wanted.itemsize}")
        return value.view(wanted) if value.dtype.itemsize == wanted.itemsize else value.astype(wanted)

    def write(self, name: str, value: NDArray[Any], where: NDArray[np.bool_] | None = None) -> None:
        """Set a register, for the threads of `where` if given; a signed number keeps its sign in a wider register."""
        if name == "_":
            return
        self._matrices.uses(name)
        kind = register_type(name)
        value = np.ascontiguousarray(value)
        if kind is np.bool_ or value.dtype == np.bool_:
            value = value.astype(kind)
        elif value.dtype.itemsize == np.dtype(kind).itemsize:
            value = value.view(kind)
        else:
            value = value.astype(f"{'i' if value.dtype.kind == 'i' else 'u'}{np.dtype(kind).itemsize}").view(kind)
        if where is not None and not where.all():
            value = np.where(where, value, self.registers.get(name, kind(0)))
        self.registers[name] = value

    def address(self, operand: str) -> NDArray[np.int64]:
        """Return the address that an operand in brackets names, for each thread."""
        base, offset = _ADDRESS.match(operand).groups()  # type: ignore[union-attr]
        start = np.zeros(self.threads, np.int64) if base == "global_smem" else self.registers[base].astype(np.int64)
        return start + (int(offset, 0) if offset else 0)

    def _undefined(self, name: str) -> NDArray[Any]:
        kind = np.dtype(register_type(name))
        return np.full(self.threads * kind.itemsize, _GARBAGE if kind != np.bool_ else 1, np.uint8).view(kind)

    def _constant(self, name: str, wanted: np.dtype[Any]) -> NDArray[Any]:
        if name.startswith("global_smem"):
            return np.zeros(self.threads, wanted)
        bits = int(name[2:], 16) if name.startswith(("0f", "0d")) else int(name.rstrip("U"), 0)
        if wanted == np.bool_:
            return np.full(self.threads, bits != 0)
        unsigned = np.dtype(f"u{wanted.itemsize}")
        return np.full(self.threads, bits % (1 << 8 * wanted.itemsize), unsigned).view(wanted)

    def _execute(self, instruction: Instruction, where: NDArray[np.bool_]) -> None:
        opcode, operands = instruction.opcode, instruction.operands
        name = opcode[0]
        if name in ("ld", "st"):
            self._access(opcode, operands, where)
        elif name == "atom":
            self._add_atomically(opcode, operands, where)
        elif name == "cp":
            self._copy(opcode, operands, where)
        elif name in ("bar", "barrier"):
            self.barriers += opcode[1] == "sync"
        elif name == "fence":
            if opcode[1:3] == ("proxy", "async"):
                self.shared.unfenced[:] = False
        elif name in ("mma", "wgmma", "ldmatrix", "stmatrix"):
            self._matrices.execute(opcode, operands)
        elif name == "mov" and "{" in "".join(operands):
            self._move(opcode[-1], operands)
        else:
            result = compute(opcode, lambda i, kind: self.read(operands[i], kind))
            self.write(operands[0].split("|")[0], result, where)

    def _access(self, opcode: tuple[str, ...], operands: tuple[str, ...], where: NDArray[np.bool_]) -> None:
        kind, length = opcode[-1], size(opcode[-1])
        if opcode[1] == "param":
            value = self._arguments[operands[1].strip("[]").split("+")[0]]
            number = np.float32(value).view(np.uint32) if isinstance(value, float) else TYPES[kind](value)
            return self.write(operands[0], np.full(self.threads, number))
        memory = self.shared if opcode[1].startswith("shared") else self.memory
        registers = items(operands[0] if opcode[0] == "ld" else operands[1])
        first = self.address(operands[1] if opcode[0] == "ld" else operands[0])[where]
        if opcode[0] == "ld":
            data = np.zeros((self.threads, length * len(registers)), np.uint8)
            data[where] = memory.load(first, data.shape[1], self.warp[where], self.barriers, self.now)
            for i, register in enumerate(registers):
                bits = np.ascontiguousarray(data[:, i * length : (i + 1) * length])
                self.write(register, bits.view(TYPES[kind])[:, 0], where)
            return None
        parts = [np.ascontiguousarray(self.read(each, kind)).view(np.uint8).reshape(-1, length) for each in registers]
        words = memory.store(first, np.concatenate(parts, 1)[where], self.warp[where], self.barriers, self.now)
        if memory is self.shared:
            self.note_store(words)
        return None

    def _add_atomically(self, opcode: tuple[str, ...], operands: tuple[str, ...], where: NDArray[np.bool_]) -> None:
        """Add to a word of global memory, one thread of `where` after the other; each gets the value before its own."""
        if opcode[1] != "global" or opcode[-2] != "add":
            raise NotImplementedError(f"ptx: {self.now}")
        kind, length = opcode[-1], size(opcode[-1])
        first, amounts = self.address(operands[1]), self.read(operands[2], kind)
        old = np.zeros_like(amounts)
        for thread in np.flatnonzero(where):
            at, warp = first[thread, None], self.warp[thread, None]
            old[thread] = self.memory.load(at, length, warp, self.barriers, self.now).view(amounts.dtype)[0, 0]
            total = np.array([[old[thread] + amounts[thread]]], amounts.dtype)
            self.memory.store(at, total.view(np.uint8), warp, self.barriers, self.now)
        self.write(operands[0], old, where)

    def note_store(self, words: NDArray[np.int64]) -> None:
        """Record a store to shared memory, a thread's or a copy's: wgmma may read it behind a fence."""
        self.shared.unfenced[words] = True
        self._matrices.overwrites(words)

    def _move(self, kind: str, operands: tuple[str, ...]) -> None:
        """Move between a register and the registers of its parts, the lowest bits first."""
        to, source = (items(operand) for operand in operands)
        if len(to) > 1:
            value, bits = self.read(source[0], kind).astype(np.uint64), 8 * size(kind) // len(to)
            for i, part in enumerate(to):
                self.write(part, ((value >> np.uint64(bits * i)) & np.uint64((1 << bits) - 1)).astype(f"u{bits // 8}"))
            return
        bits = 8 * size(kind) // len(source)
        parts = (self.read(part, f"b{bits}").astype(np.uint64) << np.uint64(bits * i) for i, part in enumerate(source))
        self.write(to[0], np.bitwise_or.reduce(list(parts)).astype(TYPES[kind]))

    def _copy(self, opcode: tuple[str, ...], operands: tuple[str, ...], where: NDArray[np.bool_]) -> None:
        if opcode[2] == "commit_group":
            self._groups.append(self._copies)
            self._copies = []
        elif opcode[2] == "wait_group":
            done = len(self._groups) - int(operands[0])
            for group in self._groups[: max(0, done)]:
                for copy in group:
                    self._arrive(copy)
            self._groups = self._groups[max(0, done) :]
        else:
            length = int(operands[2], 0)
            wanted = self.read(operands[3], "s32") if len(operands) > 3 else np.full(self.threads, length)
            if not np.isin(wanted[where], (0, length)).all():
                raise NotImplementedError(f"ptx: part of a copy in {self.now}")
            copy = _Copy(
                self.address(operands[0]), self.address(operands[1]), length, where & (wanted > 0), where, self.now
            )
            self._copies.append(copy)
            self._transfer(copy, arrived=False)

    def _arrive(self, copy: _Copy) -> None:
        now, self.now = self.now, copy.text
        self._transfer(copy, arrived=True)
        self.now = now

    def _transfer(self, copy: _Copy, arrived: bool) -> None:
        data = np.zeros((self.threads, copy.length), np.uint8)
        found = self.memory.load(copy.source[copy.read], copy.length, self.warp[copy.read], self.barriers, self.now)
        data[copy.read] = found
        if not arrived:
            data[:] = _GARBAGE
        words = self.shared.store(
            copy.to[copy.threads], data[copy.threads], self.warp[copy.threads], self.barriers, self.now
        )
        self.note_store(words)
