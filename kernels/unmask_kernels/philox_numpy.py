"""The dropout masks of `philox` on a CPU, drawn by NumPy: the same elements, several times faster than by PyTorch.

    a round     c0, c1, c2, c3  ->  high(c2 B) ^ c1 ^ k0, low(c2 B), high(c0 A) ^ c3 ^ k1, low(c0 A)

A and B are constants, k0 and k1 the key of the round. Four things make it fast:

- NumPy multiplies 64-bit numbers in vector registers. PyTorch takes them out one by one with AVX2.
- A block of counters stays in the L2 cache of a core, and every pass writes to the same few buffers.
- What does not change within a row, or from head to head, is computed once. In attention the first two rounds and half
  of the third do not depend on the head: 15 products for each counter are left of 20. Rows save three.
- Each thread draws a share of the mask. NumPy lets other threads run while it computes.

A product is 64 bits wide. The upper half of a word that is only added (^) may hold anything, so only what is multiplied
next is cut to 32 bits. The words 0 and 2 of all counters of a block lie in one array (2, counters), and a round is five
calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["keep_rows", "keep_scores", "packed", "unpacked"]

_Words = npt.NDArray[np.uint64]
_Mask = npt.NDArray[np.bool_]
_Lanes = npt.NDArray[np.uint16]

_COLUMNS_PER_CALL = 8
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_A, _B = _MULTIPLIERS[:, 0]
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_BLOCK = 3 << 12  # counters worked on at a time by each thread; best of 4,096 to 32,768
_WORTH_A_THREAD = 1 << 16  # counters, about 2 ms


def keep_rows(key: int, keys_of_rows: Tensor, columns: int, bound: int, threads: int) -> Tensor:
    """Decide which elements of a (T, columns) activation survive dropout.

    Args:
        key: of the random stream, as a number of 64 bits without a sign.
        keys_of_rows: int64 (T,).
        columns: width of a row.
        bound: a lane of 16 bits below it drops its element.
        threads: threads that may work.
    Returns:
        bool (T, columns), True where an element is kept.
    """
    keys = _without_sign(keys_of_rows)
    groups = -(-columns // _COLUMNS_PER_CALL)
    keep = np.empty((len(keys), groups, _COLUMNS_PER_CALL), dtype=np.bool_)

    def draw(rows: slice) -> None:
        _draw_rows(keep[rows], _schedule(key), keys[rows], bound)

    _share(draw, len(keys), groups, threads)
    return _cut(keep.reshape(len(keys), groups * _COLUMNS_PER_CALL), columns)


def keep_scores(
    key: int, document_keys: Tensor, heads: int, rows: range, columns: int, bound: int, threads: int
) -> Tensor:
    """Decide which attention probabilities of N documents survive dropout.

    Args:
        key, bound, threads: as above.
        document_keys: int64 (N,).
        heads: number of heads.
        rows: positions in the document, one after the other.
        columns: width of the score matrices, which start at the document's first token.
    Returns:
        bool (N, heads, len(rows), columns), True where an element is kept.
    """
    keys = _without_sign(document_keys)
    groups = -(-columns // _COLUMNS_PER_CALL)
    shape = len(keys), heads, len(rows)
    keep = np.empty((*shape, groups, _COLUMNS_PER_CALL), dtype=np.bool_)
    many = len(keys) >= threads

    def draw(some: slice) -> None:
        if many:
            _draw_scores(keep[some], _schedule(key), keys[some], rows.start, bound)
        else:
            _draw_scores(keep[:, :, some], _schedule(key), keys, rows.start + some.start, bound)

    _share(draw, shape[0] if many else shape[2], heads * groups * (shape[2] if many else shape[0]), threads)
    return _cut(keep.reshape(*shape, groups * _COLUMNS_PER_CALL), columns)


def packed(keep: _Mask) -> npt.NDArray[np.uint8]:
    """Put the last dimension into bits, the first element into the lowest bit of a byte."""
    return np.packbits(keep, axis=-1, bitorder="little")


def unpacked(bits: npt.NDArray[np.uint8], columns: int) -> _Mask:
    """Undo `packed`, (..., columns)."""
    return np.unpackbits(bits, axis=-1, count=columns, bitorder="little").view(np.bool_)


def _share(draw: Callable[[slice], None], count: int, counters_of_each: int, threads: int) -> None:
    """Call `draw` for all of `count` things: in this thread, or for a share of them in each of several."""
    if count * counters_of_each == 0:
        return
    shares = max(1, min(threads, count, count * counters_of_each // _WORTH_A_THREAD))
    slices = [slice(count * share // shares, count * (share + 1) // shares) for share in range(shares)]
    if shares == 1:
        draw(slices[0])
        return
    # made for each call, because a process that forks later would copy a pool without its threads
    with ThreadPoolExecutor(shares) as pool:
        list(pool.map(draw, slices))


def _without_sign(keys: Tensor) -> _Words:
    return keys.contiguous().numpy().view(np.uint64)


def _cut(keep: _Mask, columns: int) -> Tensor:
    return torch.from_numpy(keep if keep.shape[-1] == columns else np.ascontiguousarray(keep[..., :columns]))


def _schedule(key: int) -> _Words:
    """The keys of the rounds, (10, 2)."""
    words = (key & 0xFFFFFFFF, key >> 32)
    steps = [[(word + r * step) & 0xFFFFFFFF for word, step in zip(words, _KEY_STEPS, strict=True)] for r in range(10)]
    return np.array(steps, dtype=np.uint64)


class _Work:
    """A block of counters in work, with room for `counters` of them.

    Attributes:
        words: words 0 and 2 of each counter, (2, ...).
        products, previous: what these were multiplied to in this round and in the one before, (2, ...).
    """

    words: _Words
    products: _Words
    previous: _Words

    def __init__(self, counters: int) -> None:
        self._room = [np.empty(2 * counters, dtype=np.uint64) for _ in range(3)]
        self._lanes = np.empty(4 * counters, dtype=np.uint32)

    def begin(self, *shape: int) -> None:
        """Work on counters of this shape."""
        size = 2 * math.prod(shape)
        self.words, self.products, self.previous = (each[:size].reshape(2, *shape) for each in self._room)

    def finish(self, word_3: _Words, keys: _Words, done: int) -> _Lanes:
        """Do the rounds that are left after `done` of them.

        In words[0], words[1] and the lower half of previous[1] are words 0, 2 and 1. `word_3` is broadcast to each
        counter, and the key of the round is added already.

        Returns:
            The lanes, (..., 8), until the next call.
        """
        np.multiply(self.words, _MULTIPLIERS.reshape(2, *[1] * (self.words.ndim - 1)), out=self.products)
        even = self.words[0]
        np.right_shift(self.products[1], _32, out=even)
        np.bitwise_xor(even, self.previous[1], out=even)
        np.bitwise_xor(even, keys[done, 0], out=even)
        np.bitwise_and(even, _LOW, out=even)
        np.right_shift(self.products[0], _32, out=self.words[1])
        np.bitwise_xor(self.words[1], word_3, out=self.words[1])
        words, products, previous = (each.reshape(2, -1) for each in (self.words, self.previous, self.products))
        for key in keys[done + 1 :, :, None]:
            np.multiply(words, _MULTIPLIERS, out=products)
            # the upper half of each product goes to the other word
            np.right_shift(products[::-1], _32, out=words)
            np.bitwise_xor(words, previous[::-1], out=words)
            np.bitwise_xor(words, key, out=words)
            np.bitwise_and(words, _LOW, out=words)
            products, previous = previous, products
        lanes = self._lanes[: 2 * words.size].reshape(-1, 4)
        for place, word in enumerate((words[0], previous[1], words[1], previous[0])):
            lanes[:, place] = word.view(np.uint32)[::2]
        return lanes.view(np.uint16).reshape(*self.words.shape[1:], _COLUMNS_PER_CALL)


def _draw_rows(keep: Any, keys: _Words, keys_of_rows: _Words, bound: int) -> None:
    """Fill keep (T, groups, 8). The counter is (group, 0, low, high), with the halves of the key of the row."""
    groups = keep.shape[1]
    rows = min(len(keep), max(1, _BLOCK // groups))
    work = _Work(rows * groups)
    first = np.arange(groups, dtype=np.uint64) * _A
    first_high, first_low = first >> _32, first & _LOW
    for start in range(0, len(keep), rows):
        of_rows = keys_of_rows[start : start + rows, None]
        low, high = (of_rows & _LOW) * _B, of_rows >> _32
        work.begin(len(of_rows), groups)
        # after the first round, words 0 and 1 belong to the row, and word 3 to the group
        second = ((low >> _32) ^ keys[0, 0]) * _A
        np.bitwise_xor(first_high, high ^ keys[0, 1], out=work.words[1])
        np.multiply(work.words[1], _B, out=work.previous[1])
        np.right_shift(work.previous[1], _32, out=work.words[0])
        np.bitwise_xor(work.words[0], (low & _LOW) ^ keys[1, 0], out=work.words[0])
        np.bitwise_xor(first_low, (second >> _32) ^ keys[1, 1], out=work.words[1])
        lanes = work.finish((second & _LOW) ^ keys[2, 1], keys, 2)
        _compare(lanes, bound, keep[start : start + rows])


def _draw_scores(keep: Any, keys: _Words, document_keys: _Words, first_row: int, bound: int) -> None:
    """Fill keep (N, heads, rows, groups, 8). The counter is (row << 16 | group, head, low, high)."""
    count, heads, length, groups = keep.shape[:4]
    rows = min(length, max(1, _BLOCK // groups))
    documents = min(count, max(1, _BLOCK // (rows * groups)))
    some_heads = min(heads, max(1, _BLOCK // (documents * rows * groups)))
    work = _Work(some_heads * documents * rows * groups)
    group = np.arange(groups, dtype=np.uint64)
    for at in range(0, count, documents):
        of_documents = document_keys[at : at + documents, None]
        low, high = (of_documents & _LOW) * _B, of_documents >> _32
        for start in range(0, length, rows):
            end = min(start + rows, length)
            # (documents, rows x groups) or (1, rows x groups): what does not depend on the head
            row = np.arange(first_row + start, first_row + end, dtype=np.uint64)
            first = ((row[:, None] << np.uint64(16)) | group).reshape(1, -1) * _A
            second = ((first >> _32) ^ high ^ keys[0, 1]) * _B
            third = ((second >> _32) ^ ((low & _LOW) ^ keys[1, 0])) * _A
            word_3, word_1 = (first & _LOW) ^ keys[1, 1], (second & _LOW) ^ keys[2, 0]
            third_high, third_low = (third >> _32) ^ keys[2, 1], (third & _LOW) ^ keys[3, 1]
            for head in range(0, heads, some_heads):
                of_heads = np.arange(head, min(head + some_heads, heads), dtype=np.uint64)[:, None, None]
                by_head = ((low >> _32) ^ of_heads ^ keys[0, 0]) * _A
                work.begin(len(of_heads), len(of_documents), (end - start) * groups)
                np.bitwise_xor(word_3, by_head >> _32, out=work.words[1])
                np.multiply(work.words[1], _B, out=work.previous[1])
                np.right_shift(work.previous[1], _32, out=work.words[0])
                np.bitwise_xor(work.words[0], word_1, out=work.words[0])
                np.bitwise_xor(third_high, by_head & _LOW, out=work.words[1])
                lanes = work.finish(third_low, keys, 3)
                block = keep[at : at + documents, head : head + some_heads, start:end].swapaxes(0, 1)
                _compare(lanes.reshape(block.shape), bound, block)


def _compare(lanes: _Lanes, bound: int, keep: Any) -> None:
    if bound > 0xFFFF:
        keep[...] = False
    else:
        np.greater_equal(lanes, np.uint16(bound), out=keep)
