"""Execute the PTX of one block of a kernel on the CPU, threads together: registers, branches, memory, copies.

Threads that are at the same instruction execute it together (`groups`). All threads of a Triton program take the same
branches, so there it is one group. An asynchronous copy arrives when the program waits for it. Between its start and
its end the destination holds garbage, and both its source and its destination count as accessed at the start and at the
end. A register that was never written holds garbage too: the compiler leaves parts of a value undefined where nothing
uses them. `matrices` has the matrix instructions.

A generic address is one of global memory, or, from SHARED on, one of shared memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.ptx.groups import Groups, Mask
from offline.ptx.matrices import Matrices
from offline.ptx.memory import Memory
from offline.ptx.numbers import compute
from offline.ptx.program import TYPES, Instruction, Program, items, register_type, size

__all__ = ["SHARED", "Deadlock", "Machine"]

SHARED = 1 << 60
"""Where shared memory begins among generic addresses."""

_SPACES = ("global", "shared", "param")
_ADDRESS = re.compile(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\w+))?\s*\]")
_GARBAGE = 0xFF
# instructions whose `.sync` waits for no lanes, or for all of the warps that multiply
_NOT_OF_LANES = ("mma", "wgmma", "ldmatrix", "stmatrix", "cp", "fence", "griddepcontrol")


# groups of a copy in a thread that has not made one yet, and in one where it has arrived or that takes no part
_OPEN, _ARRIVED = 1 << 60, 1 << 61


class _Copy(NamedTuple):
    """An asynchronous copy of `length` bytes, of which `bytes` are read; `group` counts those of each thread."""

    to: NDArray[np.int64]
    source: NDArray[np.int64]
    length: int
    bytes: NDArray[np.int32]
    group: NDArray[np.int64]
    text: str


class Deadlock(Exception):
    """Threads wait for others that never come."""


class Machine:
    """The state of one block.

    Attributes:
        program: its code.
        threads: 32 times its warps.
        active: which of them execute the current instruction, (threads,).
        warp: the warp of each thread, (threads,); in `launch_warp` as all blocks of the launch count them.
        memory: global memory.
        shared: the program's shared memory.
        registers: values by name, (threads,).
        barriers: how many barriers the block has passed.
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
        *,
        threads: int = 0,
        first_warp: int = 0,
    ) -> None:
        self.program, self.memory, self.found = program, memory, memory.found
        size_of_block = threads or program.threads
        self._groups_of_threads = Groups(size_of_block)
        self.active = self._groups_of_threads.everybody
        self.threads = len(self.active)
        self.warp = np.arange(self.threads) // 32
        self.launch_warp = self.warp + first_warp
        everywhere = np.ones(shared_bytes, np.bool_)
        self.shared = Memory("shared", np.full(shared_bytes, _GARBAGE, np.uint8), everywhere, self.found)
        self.registers: dict[str, NDArray[Any]] = {}
        self.barriers, self.now = 0, ""
        self._arguments = dict(zip(program.parameters, arguments, strict=True))
        self._special = {"%tid.x": np.arange(self.threads), "%ntid.x": np.full(self.threads, size_of_block)}
        for axis, at, count in zip("xyz", program_id, grid, strict=True):
            self._special |= {
                f"%ctaid.{axis}": np.full(self.threads, at),
                f"%nctaid.{axis}": np.full(self.threads, count),
            }
        self._copies: list[_Copy] = []
        self._commits = np.zeros(self.threads, np.int64)
        self._matrices = Matrices(self)

    def run(self) -> None:
        """Execute the block from its first instruction to its end, while no other block runs.

        Raises:
            Deadlock: threads wait for others that never come.
        """
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        """Execute the block; yield wherever it matters which block goes next: at barriers, counters and pauses.

        Raises:
            Deadlock: as for `run`.
        """
        groups = self._groups_of_threads
        while group := groups.first():
            position, self.active = group
            instruction = self.program.code[position]
            self.now = instruction.text
            where = self.active
            if instruction.guard:
                where = where & (self.registers[instruction.guard] ^ instruction.negated)
            name = instruction.opcode[0]
            if name == "bra":
                self._branch(position, where, instruction)
            elif name in ("ret", "exit"):
                rest = self.active & ~where
                if where.any():
                    groups.end(position, where)
                if rest.any():
                    groups.go(position, rest, position + 1)
            elif name in ("bar", "barrier") and instruction.opcode[1] in ("sync", "cta"):
                self._reach_barrier(position)
                yield
            elif "sync" not in instruction.opcode or name in _NOT_OF_LANES or self._meet(position, instruction):
                # a GPU reports no overflow
                with np.errstate(all="ignore"):
                    self._execute(instruction, where)
                groups.go(position, self.active, position + 1)
                if name in ("atom", "red", "nanosleep") or "acquire" in instruction.opcode:
                    yield
        if places := groups.waiting():
            texts = ", ".join(self.program.code[place].text for place in places)
            raise Deadlock(f"deadlock: threads wait for others that never come, at {texts}")

    def _branch(self, position: int, where: Mask, instruction: Instruction) -> None:
        groups, target = self._groups_of_threads, self.program.labels[instruction.operands[0]]
        if where is self.active or where.all():
            return groups.go(position, self.active, target)
        rest = self.active & ~where
        if "uni" in instruction.opcode and where.any() and (self.warp[where][:, None] == self.warp[rest]).any():
            self.found[f"a branch that is said to be uniform is not: {self.now}"] += 1
        if rest.any():
            groups.go(position, rest, position + 1)
        if where.any():
            # the rest has left the group, or everybody goes
            groups.go(position, where, target)
        return None

    def _reach_barrier(self, position: int) -> None:
        """Let the active threads arrive at a barrier of the block, and all go on if they are the last."""
        met = self._groups_of_threads.arrive(position, self.active)
        if met is None:
            return
        if self._groups_of_threads.ended.any():
            self.found[f"threads have ended that a barrier waits for: {self.now}"] += 1
        for place, threads in met.items():
            others = [each for other, each in met.items() if other != place]
            if any(np.isin(self.warp[threads], self.warp[each]).any() for each in others):
                self.found[f"threads of a warp meet at several barriers: {self.now}"] += 1
        self.barriers += 1
        self.memory.barrier(np.unique(self.launch_warp))

    def _meet(self, position: int, instruction: Instruction) -> bool:
        """Say whether all lanes have come to an instruction that its mask of lanes names; others are kept until then.

        Afterwards only the warps that are complete are active.
        """
        mask = self.read(instruction.operands[-1], "u32").reshape(-1, 32)
        active = self.active.reshape(-1, 32)
        bits = (mask >> np.arange(32, dtype=np.uint32) & 1).astype(np.bool_)
        if (active & ~bits).any():
            self.found[f"a lane is not in the mask that it gives: {self.now}"] += 1
        named = (mask[:, :, None] >> np.arange(32, dtype=np.uint32) & 1).astype(np.bool_)
        wanted = (named & active[:, :, None]).any(1)
        complete = np.repeat(~(wanted & ~active).any(1), 32)
        if complete.all():
            return True
        short = self.active & ~complete
        if short.any():
            self._groups_of_threads.hold(position, short)
        self.active = self.active & complete
        return bool(self.active.any())

    def read(self, name: str, kind: str) -> NDArray[Any]:
        """Return the values of a register or a constant as the type `kind`, (threads,)."""
        wanted = np.dtype(TYPES[kind])
        if name in self._special:
            return self._special[name].astype(wanted)
        if name == "%laneid":
            return (np.arange(self.threads) % 32).astype(wanted)
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
        """Set a register for the active threads, or for those of `where`.

        A signed number keeps its sign in a wider register.
        """
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
        where = self.active if where is None else where
        if not where.all():
            value = np.where(where, value, self.registers.get(name, kind(0)))
        self.registers[name] = value

    def address(self, operand: str) -> NDArray[np.int64]:
        """Return the address that an operand in brackets names, for each thread."""
        base, offset = _ADDRESS.match(operand).groups()  # type: ignore[union-attr]
        if base in self.program.shared or base in self._arguments:
            start = np.zeros(self.threads, np.int64)
        else:
            start = self.read(base, "u64").astype(np.int64)
        return start + (int(offset, 0) if offset else 0)

    def _undefined(self, name: str) -> NDArray[Any]:
        kind = np.dtype(register_type(name))
        return np.full(self.threads * kind.itemsize, _GARBAGE if kind != np.bool_ else 1, np.uint8).view(kind)

    def _constant(self, name: str, wanted: np.dtype[Any]) -> NDArray[Any]:
        if name in self.program.shared or name in self._arguments:
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
        elif name in ("atom", "red"):
            self._add_atomically(opcode, operands, where)
        elif name == "cp":
            self._copy(opcode, operands, where)
        elif name in ("bar", "barrier", "nanosleep"):
            # a barrier of lanes that have come; the threads of a warp count as one
            return
        elif name == "cvta":
            self._convert_address(opcode, operands, where)
        elif name == "isspacep":
            shared = self.read(operands[1], "u64") >= SHARED
            self.write(operands[0], shared if "shared" in opcode[1] else ~shared, where)
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
        registers = items(operands[0] if opcode[0] == "ld" else operands[1])
        if opcode[1].startswith("param"):
            return self._load_argument(registers, kind, operands[1], where)
        memory, first = self._place(opcode, operands[1] if opcode[0] == "ld" else operands[0], where)
        if (first % (length * len(registers))).any():
            raise IndexError(f"ptx: misaligned address in {self.now}")
        if "acquire" in opcode:
            return self._load_acquire(registers[0], kind, first, where)
        if "release" in opcode or "relaxed" in opcode:
            raise NotImplementedError(f"ptx: {self.now}")
        warps = (self.warp if memory is self.shared else self.launch_warp)[where]
        if opcode[0] == "ld":
            data = np.zeros((self.threads, length * len(registers)), np.uint8)
            data[where] = memory.load(first, data.shape[1], warps, self.barriers, self.now)
            for i, register in enumerate(registers):
                bits = np.ascontiguousarray(data[:, i * length : (i + 1) * length])
                self.write(register, bits.view(TYPES[kind])[:, 0], where)
            return None
        parts = [np.ascontiguousarray(self.read(each, kind)).view(np.uint8).reshape(-1, length) for each in registers]
        words = memory.store(first, np.concatenate(parts, 1)[where], warps, self.barriers, self.now)
        if memory is self.shared:
            self.note_store(words)
        return None

    def _place(
        self, opcode: tuple[str, ...], operand: str, where: NDArray[np.bool_]
    ) -> tuple[Memory, NDArray[np.int64]]:
        """Return the memory that an operand in brackets names, and the address there for each thread of `where`."""
        first = self.address(operand)[where]
        space = next((part.split("::")[0] for part in opcode if part.split("::")[0] in _SPACES), "")
        if space:
            return self.shared if space == "shared" else self.memory, first
        in_shared = first >= SHARED
        if in_shared.any() and not in_shared.all():
            raise NotImplementedError(f"ptx: addresses of two kinds of memory in {self.now}")
        return (self.shared, first - SHARED) if in_shared.any() else (self.memory, first)

    def _load_argument(self, registers: tuple[str, ...], kind: str, operand: str, where: NDArray[np.bool_]) -> None:
        """Load from an argument of the launch: a number, or the bytes of a structure."""
        base = _ADDRESS.match(operand)[1]  # type: ignore[index]
        value = self._arguments[base] if base in self._arguments else next(iter(self._arguments.values()))
        if not isinstance(value, bytes):
            number = np.float32(value).view(np.uint32) if isinstance(value, float) else TYPES[kind](value)
            return self.write(registers[0], np.full(self.threads, number), where)
        if base not in self._arguments and len(self._arguments) > 1:
            raise NotImplementedError(f"ptx: the address of one of several arguments in {self.now}")
        length = size(kind)
        first = np.where(where, self.address(operand), 0)
        if (first + length * len(registers) > len(value)).any() or (first < 0).any():
            raise IndexError(f"ptx: an argument is accessed out of bounds by {self.now}")
        data = np.frombuffer(value, np.uint8)
        for i, register in enumerate(registers):
            bits = data[first[:, None] + np.arange(i * length, (i + 1) * length)]
            self.write(register, np.ascontiguousarray(bits).view(TYPES[kind])[:, 0], where)
        return None

    def _load_acquire(self, register: str, kind: str, first: NDArray[np.int64], where: NDArray[np.bool_]) -> None:
        values = np.zeros(self.threads, TYPES[kind])
        for thread, address in zip(np.flatnonzero(where), first, strict=True):
            warp = int(self.launch_warp[thread])
            data = self.memory.load_atomically(int(address), size(kind), warp, self.now)
            self.memory.acquire(int(address), warp)
            values[thread] = data.view(TYPES[kind])[0]
        self.write(register, values, where)

    def _add_atomically(self, opcode: tuple[str, ...], operands: tuple[str, ...], where: NDArray[np.bool_]) -> None:
        """Add to a word of global memory, one thread of `where` after the other; each gets the value before its own."""
        kind, returns = opcode[-1], opcode[0] == "atom"
        memory, addresses = self._place(opcode, operands[1 if returns else 0], where)
        if memory is self.shared or "add" not in opcode:
            raise NotImplementedError(f"ptx: {self.now}")
        amounts = self.read(operands[2 if returns else 1], kind)
        old = np.zeros_like(amounts)
        both = "acq_rel" in opcode
        for thread, address in zip(np.flatnonzero(where), addresses, strict=True):
            at, warp = int(address), int(self.launch_warp[thread])
            old[thread] = memory.load_atomically(at, size(kind), warp, self.now).view(amounts.dtype)[0]
            if both or "acquire" in opcode:
                memory.acquire(at, warp)
            memory.store_atomically(at, np.array([old[thread] + amounts[thread]]).view(np.uint8), warp, self.now)
            if both or "release" in opcode:
                memory.release(at, warp)
        if returns:
            self.write(operands[0], old, where)

    def _convert_address(self, opcode: tuple[str, ...], operands: tuple[str, ...], where: NDArray[np.bool_]) -> None:
        """Convert between an address of a kind of memory and a generic one."""
        value = self.read(operands[1], "u64")
        if "shared" in opcode:
            value = value - np.uint64(SHARED) if "to" in opcode else value + np.uint64(SHARED)
        elif "global" not in opcode:
            raise NotImplementedError(f"ptx: {self.now}")
        self.write(operands[0], value, where)

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
            for copy in self._copies:
                copy.group[where & (copy.group == _OPEN)] = self._commits[where & (copy.group == _OPEN)]
            self._commits[where] += 1
        elif opcode[2] == "wait_group":
            last = self._commits - int(operands[0])
            for copy in self._copies:
                self._arrive(copy, where & (copy.group < last))
            self._copies = [copy for copy in self._copies if (copy.group < _ARRIVED).any()]
        else:
            length = int(operands[2], 0)
            wanted = self.read(operands[3], "s32") if len(operands) > 3 else np.full(self.threads, length)
            if ((wanted[where] < 0) | (wanted[where] > length)).any():
                raise IndexError(f"ptx: more bytes are read than copied in {self.now}")
            group = np.where(where, _OPEN, _ARRIVED)
            copy = _Copy(self.address(operands[0]), self.address(operands[1]), length, wanted, group, self.now)
            self._copies.append(copy)
            self._transfer(copy, where, arrived=False)

    def _arrive(self, copy: _Copy, threads: NDArray[np.bool_]) -> None:
        if not threads.any():
            return
        now, self.now = self.now, copy.text
        self._transfer(copy, threads, arrived=True)
        copy.group[threads] = _ARRIVED
        self.now = now

    def _transfer(self, copy: _Copy, threads: NDArray[np.bool_], arrived: bool) -> None:
        data = np.zeros((self.threads, copy.length), np.uint8)
        for count in np.unique(copy.bytes[threads]):
            some = threads & (copy.bytes == count)
            if count:
                warps = self.launch_warp[some]
                data[some, :count] = self.memory.load(copy.source[some], int(count), warps, self.barriers, self.now)
        if not arrived:
            data[:] = _GARBAGE
        words = self.shared.store(copy.to[threads], data[threads], self.warp[threads], self.barriers, self.now)
        self.note_store(words)
