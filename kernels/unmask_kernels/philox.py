"""Addressed randomness: Philox-4x32-10 (Salmon et al., SC 2011) in PyTorch, and the addresses of dropout.

A random number is a pure function of *where it is used*, never of how many were drawn before. An address is

    key      64 bits   (seed, layer, site), mixed by `dropout_keys`; an int64 tensor on the device
    counter  4 x 32    attention: ((row << 16) | column // 8, head, document key low, document key high)
                       rows:      (column // 8, 0, row key low, row key high)

Row and column count inside the document. A *document key* belongs to a piece of text for the whole run, and a *row key*
is `row_keys(document key, position)`. So a document drops the same elements wherever it is packed, on every backend.

One call gives 4 words of 32 bits = 8 lanes of 16 bits for 8 neighbouring columns; lane j of a group is the low
(j even) or high (j odd) half of word j // 2. An element is kept when lane >= round(65536 p).

This file is bit-equal to Triton's `tl.philox`. Words are int64 tensors, because PyTorch lacks uint32 arithmetic. A call
takes about 100 integer operations, 12 for each element. A GPU works on as many counters at a time as keep the
intermediate words below two gigabytes. On a CPU, the extension in C++ draws the masks of dropout (`philox_cpp`), or
NumPy where it is not built (`philox_numpy`).

Every public function that draws or makes keys is one operation to a compiler, which calls it and generates no code for
it, because generated code is not always exact: with vectors of 256 bits, Inductor of torch 2.13 gets
`seed + arange(12) * constant` wrong for a constant of 64 bits (decision 0010).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

__all__ = [
    "COLUMNS_PER_CALL",
    "dropout_keys",
    "keep_rows",
    "keep_scores",
    "mix64",
    "on_cpu",
    "packed",
    "philox_4x32",
    "row_keys",
    "threshold",
    "unpacked",
]

COLUMNS_PER_CALL = 8
_MASK32 = 0xFFFFFFFF
_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed 64-bit number
_COUNTERS = 1 << 24  # that PyTorch works on at a time

_LIBRARY = torch.library.Library("unmask", "FRAGMENT")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _opaque(schema: str, fake: Callable[..., Any]) -> Callable[[_Function], _Function]:
    """Make a function one operation to a compiler. `fake` returns empty results of the right shapes and dtypes."""

    def register(compute: _Function) -> _Function:
        name = schema.partition("(")[0]
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
        torch.library.register_fake(f"unmask::{name}", fake, lib=_LIBRARY)
        operation = getattr(torch.ops.unmask, name)
        return cast(_Function, wraps(compute)(lambda *arguments: operation(*arguments)))

    return register


@_opaque(
    "philox_4x32(Tensor c0, Tensor c1, Tensor c2, Tensor c3, Tensor k0, Tensor k1) -> (Tensor, Tensor, Tensor, Tensor)",
    lambda *words: tuple(words[0].new_empty(torch.broadcast_shapes(*(word.shape for word in words))) for _ in range(4)),
)
def philox_4x32(
    c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, k0: Tensor, k1: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox-4x32.

    Args:
        c0, c1, c2, c3: counter words, int64 in [0, 2**32), broadcastable shapes.
        k0, k1: key words, int64 in [0, 2**32), broadcastable shapes.
    Returns:
        Four words, int64 in [0, 2**32).
    """
    for _ in range(10):
        # The product of two 32-bit numbers wraps in int64, but shifted right it still ends in the upper word. Only
        # what is multiplied next must have no bits above 32.
        upper, lower = c0 * _ROUND_A, c2 * _ROUND_B
        c0 = ((lower >> 32) ^ c1 ^ k0).bitwise_and_(_MASK32)
        c2 = ((upper >> 32) ^ c3 ^ k1).bitwise_and_(_MASK32)
        c1, c3 = lower, upper
        k0 = (k0 + _KEY_A) & _MASK32
        k1 = (k1 + _KEY_B) & _MASK32
    return c0, c1 & _MASK32, c2, c3 & _MASK32


@_opaque("mix64(Tensor x) -> Tensor", torch.empty_like)
def mix64(x: Tensor) -> Tensor:
    """Scatter int64 numbers one to one: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@_opaque(
    "row_keys(Tensor document_keys, Tensor positions) -> Tensor",
    lambda keys, positions: positions.new_empty(torch.broadcast_shapes(keys.shape, positions.shape)),
)
def row_keys(document_keys: Tensor, positions: Tensor) -> Tensor:
    """Make a key for every token from the key of its document and its position there; all int64 (T,)."""
    return mix64(document_keys + (positions + 1) * _GOLDEN)


@_opaque(
    "dropout_keys(Tensor seed, int num_layers, int num_sites) -> Tensor",
    lambda seed, num_layers, num_sites: seed.new_empty((num_layers, num_sites)),
)
def dropout_keys(seed: Tensor, num_layers: int, num_sites: int) -> Tensor:
    """Make the keys of all dropout sites of a network.

    Args:
        seed: scalar int64 tensor on the device where the keys are used.
        num_layers, num_sites: layers, and places per layer that drop elements.
    Returns:
        int64 (num_layers, num_sites).
    """
    index = torch.arange(num_layers * num_sites, device=seed.device, dtype=torch.int64)
    return row_keys(mix64(seed), index).view(num_layers, num_sites)


def threshold(p: float) -> int:
    """Return the 16-bit bound of dropout probability p: a lane below it drops its element."""
    return round(65536 * p)


@_opaque(
    "keep_rows(Tensor key, Tensor row_keys, int columns, float p) -> Tensor",
    lambda key, row_keys, columns, p: row_keys.new_empty((row_keys.shape[0], columns), dtype=torch.bool),
)
def keep_rows(key: Tensor, keys_of_rows: Tensor, columns: int, p: float) -> Tensor:
    """Decide which elements of a (T, columns) activation survive dropout.

    Args:
        key: scalar int64, from `dropout_keys`.
        keys_of_rows: int64 (T,), `Documents.row_keys`.
        columns: width of a row.
        p: probability of dropping an element, in [0, 1).
    Returns:
        bool (T, columns), True where an element is kept.
    """
    if key.device.type == "cpu":
        return on_cpu().keep_rows(_unsigned(key), keys_of_rows.long(), columns, threshold(p), torch.get_num_threads())
    return _rows_by_torch(key, keys_of_rows, columns, p)


def _rows_by_torch(key: Tensor, keys_of_rows: Tensor, columns: int, p: float) -> Tensor:
    group = torch.arange(_groups(columns), device=key.device)
    rows_at_a_time = max(1, _COUNTERS // len(group))
    keep = torch.empty(len(keys_of_rows), columns, dtype=torch.bool, device=key.device)
    for some in _slices(len(keys_of_rows), rows_at_a_time):
        keep[some] = _keep(group, torch.zeros_like(group), keys_of_rows[some, None], key, columns, p)
    return keep


def keep_scores(key: Tensor, document_keys: Tensor, heads: int, rows: range, columns: int, p: float) -> Tensor:
    """Decide which attention probabilities survive dropout.

    Args:
        key: scalar int64, from `dropout_keys`.
        document_keys: int64 (N,), the keys of N documents of one length.
        heads: number of heads.
        rows: the rows of the score matrices to decide, positions in the document, one after the other.
        columns: width of the score matrices, which start at the document's first token.
        p: probability of dropping an element, in [0, 1).
    Returns:
        bool (N, heads, len(rows), columns), True where an element is kept.
    """
    return _keep_scores(key, document_keys, heads, rows.start, rows.stop, columns, p)


@_opaque(
    "keep_scores(Tensor key, Tensor document_keys, int heads, SymInt first_row, SymInt end_row, SymInt columns, "
    "float p) -> Tensor",
    lambda key, keys, heads, first, end, columns, p: keys.new_empty(
        (keys.shape[0], heads, end - first, columns), dtype=torch.bool
    ),
)
def _keep_scores(
    key: Tensor, document_keys: Tensor, heads: int, first_row: int, end_row: int, columns: int, p: float
) -> Tensor:
    if key.device.type == "cpu":
        rows, threads = range(first_row, end_row), torch.get_num_threads()
        return on_cpu().keep_scores(_unsigned(key), document_keys.long(), heads, rows, columns, threshold(p), threads)
    return _scores_by_torch(key, document_keys, heads, first_row, end_row, columns, p)


def _scores_by_torch(
    key: Tensor, document_keys: Tensor, heads: int, first_row: int, end_row: int, columns: int, p: float
) -> Tensor:
    group = torch.arange(_groups(columns), device=key.device)
    row = torch.arange(first_row, end_row, device=key.device)
    head = torch.arange(heads, device=key.device)[:, None, None]
    keep = torch.empty(len(document_keys), heads, len(row), columns, dtype=torch.bool, device=key.device)
    rows_at_a_time = min(max(1, _COUNTERS // (len(group) * heads)), len(row))
    documents_at_a_time = max(1, _COUNTERS // max(1, len(group) * heads * rows_at_a_time))
    for documents in _slices(len(document_keys), documents_at_a_time):
        address = document_keys[documents, None, None, None]
        for some in _slices(len(row), rows_at_a_time):
            first = (row[some, None] << 16) | group
            keep[documents, :, some] = _keep(first, head, address, key, columns, p)
    return keep


def on_cpu() -> ModuleType:
    """Return the module that draws masks on a CPU: `philox_cpp`, or `philox_numpy` where the extension is missing."""
    from . import philox_cpp, philox_numpy

    return philox_numpy if philox_cpp.fault() else philox_cpp


def packed(keep: Tensor) -> Tensor:
    """Put the last dimension of a mask on a CPU into bits, the first element into the lowest; uint8 (..., bytes)."""
    from . import philox_numpy

    return torch.from_numpy(philox_numpy.packed(keep.numpy()))


def unpacked(bits: Tensor, columns: int) -> Tensor:
    """Undo `packed`, bool (..., columns)."""
    from . import philox_numpy

    return torch.from_numpy(philox_numpy.unpacked(bits.numpy(), columns))


def _unsigned(key: Tensor) -> int:
    return int(key) & 0xFFFFFFFFFFFFFFFF


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, max(1, size))]


def _groups(columns: int) -> int:
    return -(-columns // COLUMNS_PER_CALL)


def _keep(c0: Tensor, c1: Tensor, address: Tensor, key: Tensor, columns: int, p: float) -> Tensor:
    """Compare the lanes of one Philox call for each group of columns with the threshold; bool (..., columns)."""
    shape = torch.broadcast_shapes(c0.shape, c1.shape, address.shape)
    low, high = address & _MASK32, (address >> 32) & _MASK32
    lanes = torch.empty((*shape, COLUMNS_PER_CALL), dtype=torch.int16, device=key.device)
    drawn = philox_4x32(c0.expand(shape), c1, low, high, key & _MASK32, (key >> 32) & _MASK32)
    for place, word in zip(lanes.view(torch.int32).unbind(-1), drawn, strict=True):
        place.copy_(word)
    # With the upper bit flipped, signed numbers are in the order of unsigned ones. None reaches a bound of 65,536.
    bound = threshold(p)
    kept = lanes.bitwise_xor_(-0x8000) >= min(bound, 0xFFFF) - 0x8000
    return (kept if bound <= 0xFFFF else kept.zero_()).flatten(-2)[..., :columns]
