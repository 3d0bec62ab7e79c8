"""Read PTX, the text that Triton and nvcc hand to NVIDIA's assembler: instructions, labels, parameters, types.

A register holds 16, 32 or 64 bits, or a truth value. The opcode says which numbers the bits mean, as in "mul.lo.s32".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TYPES", "Instruction", "Program", "items", "narrowed", "register_type", "size", "widened"]

TYPES: dict[str, Any] = {
    **dict.fromkeys(("b8", "u8"), np.uint8),
    **dict.fromkeys(("b16", "u16", "bf16"), np.uint16),
    **dict.fromkeys(("b32", "u32"), np.uint32),
    **dict.fromkeys(("b64", "u64"), np.uint64),
    **{f"s{bits}": np.dtype(f"i{bits // 8}").type for bits in (8, 16, 32, 64)},
    **{f"f{bits}": np.dtype(f"f{bits // 8}").type for bits in (16, 32, 64)},
    "pred": np.bool_,
}
"""The NumPy type of each PTX type; bf16 has its bits, as uint16."""

_STATEMENT = re.compile(r"(?:@(!?)(%\w+)\s+)?([\w.:]+)\s*(.*)$", re.DOTALL)
_NO_CODE = re.compile(r"//[^\n]*|^\s*\.loc\b[^\n]*", re.MULTILINE)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{")
_SHARED = re.compile(r"\.extern\s+\.shared\b[^;]*?([\w$]+)\[\]")
# a statement up to its semicolon, a label, or a brace that opens or closes a block
_PART = re.compile(r"\s*([{}]|\$?[\w$]+:(?!:)|[^;]*;)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        guard: the register that selects the threads that execute the instruction; None for all threads.
        negated: whether the threads are those where the guard is false.
        opcode: its parts, such as ("ld", "global", "v4", "b32").
        operands: as they are written, such as "[%rd1+16]".
        text: the whole instruction, for messages.
    """

    guard: str | None
    negated: bool
    opcode: tuple[str, ...]
    operands: tuple[str, ...]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A kernel.

    Attributes:
        parameters: names in order.
        threads: of a program; 0 where only the launch tells.
        code: the instructions.
        labels: index in `code` of each label.
        shared: the names of the dynamic shared memory, which begins at address 0.
    """

    parameters: tuple[str, ...]
    threads: int
    code: tuple[Instruction, ...]
    labels: dict[str, int]
    shared: frozenset[str]

    @classmethod
    def read(cls, text: str) -> Program:
        """Read a module with one kernel."""
        (program,) = cls.read_all(text).values()
        return program

    @classmethod
    def read_all(cls, text: str) -> dict[str, Program]:
        """Read every kernel of a module, by its name."""
        text = _NO_CODE.sub("", text)
        shared = frozenset(_SHARED.findall(text))
        found = {}
        for entry in _ENTRY.finditer(text):
            name, parameters, directives = entry.groups()
            threads = re.search(r"\.reqntid\s+(\d+)", directives)
            code, labels = _body(text, entry.end())
            found[name] = cls(
                parameters=tuple(re.findall(r"([\w$]+_param_\d+)", parameters)),
                threads=int(threads[1]) if threads else 0,
                code=code,
                labels=labels,
                shared=shared,
            )
        return found


def _body(text: str, start: int) -> tuple[tuple[Instruction, ...], dict[str, int]]:
    """Return the instructions and labels of a kernel whose first line begins at `start`, up to its closing brace."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    depth = 1
    while depth > 0:
        part = _PART.match(text, start)
        if part is None:
            raise ValueError(f"ptx: cannot read {text[start : start + 80]!r}")
        start, word = part.end(), part[1]
        if word in "{}":
            depth += 1 if word == "{" else -1
        elif word.endswith(":"):
            labels[word[:-1]] = len(code)
        elif not word.startswith("."):
            code.append(_instruction(word[:-1]))
    return tuple(code), labels


def _instruction(text: str) -> Instruction:
    matched = _STATEMENT.match(text.strip())
    if matched is None:
        raise ValueError(f"ptx: cannot read {text!r}")
    negated, guard, opcode, operands = matched.groups()
    return Instruction(
        guard=guard, negated=bool(negated), opcode=tuple(opcode.split(".")), operands=items(operands), text=text.strip()
    )


def items(text: str) -> tuple[str, ...]:
    """Split a list at its commas, with or without braces around it, but not inside inner braces and brackets."""
    text = text.strip()
    if text.startswith("{") and text.endswith("}") and text.count("{") == 1:
        text = text[1:-1]
    return tuple(part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,])+", text) if part.strip())


def register_type(name: str) -> Any:
    """Return the type of a register from its name: %p is a truth value, %rs 16 bits, %r and %f 32, %rd and %fd 64.

    %tmp has 64 bits, in `__cvta_generic_to_shared`.
    """
    kind = re.match(r"%([a-z]+)", name)[1]  # type: ignore[index]
    wide = dict.fromkeys(("rd", "fd", "tmp"), np.uint64)
    return ({"p": np.bool_, "rs": np.uint16, "r": np.uint32, "f": np.uint32} | wide)[kind]


def size(kind: str) -> int:
    """Return the bytes of a value of a PTX type."""
    return np.dtype(TYPES[kind]).itemsize


def widened(bits: NDArray[Any], half: bool = False) -> NDArray[np.float32]:
    """Widen 16 bits to fp32: they are fp16 if `half`, else bf16."""
    return bits.view(np.float16).astype(np.float32) if half else (bits.astype(np.uint32) << 16).view(np.float32)


def narrowed(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to bf16, to nearest even, and return its bits."""
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded)
