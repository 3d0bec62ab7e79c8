"""Compute the instructions of PTX that access no memory, for all threads at once.

Approximate functions (ex2, lg2, rsqrt, rcp, div.full) are NumPy's, which are slightly more exact than the hardware's.
Subnormal numbers stay as they are where the hardware replaces them by 0, except those that `ex2` gives. The fp64 `fma`
rounds twice, as the fp32 one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline.ptx.program import TYPES, narrowed, size, widened

__all__ = ["Read", "compute"]

Read = Callable[[int, str], NDArray[Any]]
"""(index of an operand, type) -> its values, (threads,)."""

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": np.equal,
    **dict.fromkeys(("lt", "lo"), np.less),
    **dict.fromkeys(("le", "ls"), np.less_equal),
    **dict.fromkeys(("gt", "hi"), np.greater),
    **dict.fromkeys(("ge", "hs"), np.greater_equal),
    "ne": lambda x, y: (x < y) | (x > y),
    # these five are also true where an operand is NaN
    "equ": lambda x, y: ~((x < y) | (x > y)),
    "neu": np.not_equal,
    "ltu": lambda x, y: ~(x >= y),
    "leu": lambda x, y: ~(x > y),
    "gtu": lambda x, y: ~(x <= y),
    "geu": lambda x, y: ~(x < y),
    "nan": lambda x, y: np.isnan(x) | np.isnan(y),
    "num": lambda x, y: ~(np.isnan(x) | np.isnan(y)),
}
_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    # of a number and NaN, the number
    "min": np.fmin,
    "max": np.fmax,
}
_ONE: dict[str, Callable[[Any], Any]] = {
    "mov": lambda x: x,
    "not": np.invert,
    "neg": np.negative,
    "abs": np.abs,
    "ex2": np.exp2,
    "lg2": np.log2,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: (1 / np.sqrt(x)).astype(np.float32),
    "rcp": lambda x: (1 / x).astype(np.float32),
    "popc": np.vectorize(lambda x: bin(int(x)).count("1"), otypes=[np.uint32]),
}
_ACROSS: dict[str, Callable[..., Any]] = {
    "add": np.sum,
    "min": np.min,
    "max": np.max,
    "and": np.bitwise_and.reduce,
    "or": np.bitwise_or.reduce,
}


def compute(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    """Return the values of operand 0, the result, (threads,).

    Raises:
        NotImplementedError: no kernel has used this instruction so far.
    """
    name, kind = opcode[0], opcode[-1]
    if name == "ex2" and "ftz" in opcode:
        power = np.exp2(read(1, kind))
        return np.where(power < np.finfo(np.float32).tiny, np.float32(0), power)
    if name in _ONE:
        return _ONE[name](read(1, kind))
    if name in _TWO:
        return _TWO[name](read(1, kind), read(2, kind))
    if name not in _OTHERS:
        raise NotImplementedError(f"ptx: {'.'.join(opcode)}")
    return _OTHERS[name](opcode, read)


def _setp(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    return _COMPARE[opcode[1]](read(1, opcode[-1]), read(2, opcode[-1]))


def _selp(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    return np.where(read(3, "pred"), read(1, opcode[-1]), read(2, opcode[-1]))


def _shift(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    kind = opcode[-1]
    value, amount, bits = read(1, kind), read(2, "u32").astype(np.int64), 8 * size(kind)
    shift = np.left_shift if opcode[0] == "shl" else np.right_shift
    shifted = shift(value, np.minimum(amount, bits - 1).astype(value.dtype))
    return shifted if kind[0] == "s" else np.where(amount >= bits, value.dtype.type(0), shifted)


def _bfe(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    value, first, length = (read(1, opcode[-1]).astype(np.int64), *(read(i, "u32").astype(np.int64) for i in (2, 3)))
    field = (value >> first) & ((1 << length) - 1)
    if opcode[-1][0] == "s":
        field = np.where((field >> (length - 1)) & 1, field - (1 << length), field)
    return field.astype(TYPES[opcode[-1]])


def _bfi(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    bits = np.uint64(8 * size(opcode[-1]))
    field, into, first, length = (read(i, opcode[-1] if i < 3 else "u32").astype(np.uint64) for i in (1, 2, 3, 4))
    mask = ((np.uint64(1) << length) - np.uint64(1)) << first
    result = (into & ~mask) | (field << first & mask)
    return (result & (~np.uint64(0) >> (np.uint64(64) - bits))).astype(TYPES[opcode[-1]])


def _prmt(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    low, high, choice = (read(i, "u32").astype(np.uint64) for i in (1, 2, 3))
    both, result = low | (high << np.uint64(32)), np.zeros_like(low)
    for i in range(4):
        chosen = (choice >> np.uint64(4 * i)) & np.uint64(15)
        byte = (both >> (8 * (chosen & np.uint64(7)))) & np.uint64(255)
        sign = np.where(byte >= 128, np.uint64(255), np.uint64(0))
        result |= np.where(chosen >= 8, sign, byte) << np.uint64(8 * i)
    return result.astype(np.uint32)


def _product(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    name, kind = opcode[0], opcode[-1]
    x, y = read(1, kind), read(2, kind)
    if kind[0] == "f":
        if name == "mul":
            return x * y
        if kind == "f64":
            return (x.astype(np.longdouble) * y + read(3, kind)).astype(np.float64)
        # fma rounds once; fp64 rounds the sum a second time in rare cases
        return (x.astype(np.float64) * y + read(3, kind)).astype(np.float32)
    wide = f"{kind[0]}{2 * 8 * size(kind)}"
    if opcode[1] == "wide":
        product: NDArray[Any] = x.astype(TYPES[wide]) * y.astype(TYPES[wide])
        return product if name == "mul" else product + read(3, wide)
    if opcode[1] == "hi":
        product = (x.astype(TYPES[wide]) * y.astype(TYPES[wide]) >> TYPES[wide](8 * size(kind))).astype(TYPES[kind])
    else:
        product = x * y
    return product if name == "mul" else product + read(3, kind)


def _quotient(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    x, y = read(1, opcode[-1]), read(2, opcode[-1])
    if opcode[-1][0] == "f":
        return x / y
    x, y = x.astype(np.int64), y.astype(np.int64)
    whole = np.sign(x) * np.sign(y) * (np.abs(x) // np.maximum(np.abs(y), 1))  # towards zero
    return (whole if opcode[0] == "div" else x - whole * y).astype(TYPES[opcode[-1]])


def _convert(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    to, of = opcode[-2], opcode[-1]
    if to in ("bf16x2", "f16x2"):
        high, low = (
            narrowed(x) if to == "bf16x2" else x.astype(np.float16).view(np.uint16) for x in (read(1, of), read(2, of))
        )
        return (high.astype(np.uint32) << 16) | low
    if to in ("bf16", "f16"):
        return narrowed(read(1, of)) if to == "bf16" else read(1, of).astype(np.float16).view(np.uint16)
    if of in ("bf16", "f16"):
        return widened(read(1, "b16"), half=of == "f16")
    value = read(1, of)
    if of[0] == "f" and "rni" in opcode:
        value = np.rint(value)
    return value.astype(TYPES[to])


def _test(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    """Say whether a number is of a kind."""
    value = read(1, opcode[-1])
    if opcode[1] == "finite":
        return np.isfinite(value)
    return np.isinf(value) if opcode[1] == "infinite" else np.isnan(value)


def _logic(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    """Compute a function of three bits, by its table of eight results."""
    a, b, c, table = read(1, "u32"), read(2, "u32"), read(3, "u32"), int(read(4, "u32")[0])
    result = np.zeros_like(a)
    for row in range(8):
        if table >> row & 1:
            bits = (part if row >> place & 1 else ~part for part, place in ((a, 2), (b, 1), (c, 0)))
            first, second, third = bits
            result |= first & second & third
    return result


def _shuffle(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    values, by, lane = read(1, "b32").reshape(-1, 32), read(2, "s32").reshape(-1, 32), np.arange(32)
    other = {"bfly": lane ^ by, "idx": by, "up": lane - by, "down": lane + by}[opcode[2]]
    other = np.where((other < 0) | (other > 31), lane, other)
    return np.take_along_axis(values, other, 1).ravel()


def _reduce(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    kind = opcode[-1]
    return np.repeat(_ACROSS[opcode[2]](read(1, kind).reshape(-1, 32), axis=1).astype(TYPES[kind]), 32)


def _vote(opcode: tuple[str, ...], read: Read) -> NDArray[Any]:
    votes = read(1, "pred").reshape(-1, 32)
    if opcode[2] == "ballot":
        return np.repeat((votes.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1).astype(np.uint32), 32)
    return np.repeat(votes.any(1) if opcode[2] == "any" else votes.all(1), 32)


_OTHERS: dict[str, Callable[[tuple[str, ...], Read], NDArray[Any]]] = {
    "setp": _setp,
    "selp": _selp,
    **dict.fromkeys(("shl", "shr"), _shift),
    "bfe": _bfe,
    "bfi": _bfi,
    "prmt": _prmt,
    **dict.fromkeys(("mul", "mad", "fma"), _product),
    **dict.fromkeys(("div", "rem"), _quotient),
    "cvt": _convert,
    "testp": _test,
    "lop3": _logic,
    "shfl": _shuffle,
    "redux": _reduce,
    "vote": _vote,
}
