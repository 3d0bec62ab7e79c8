"""What Triton's interpreter does without a word and a GPU must not do: leave the tensors of a launch, and races.

The interpreter reads and writes any address, and runs programs one after the other. A mask that is missing or one too
wide then mostly gives right results, since what it reads is not used; and programs that share an element, which on a
GPU they reach in any order, give the results of one order. `guard_memory` refuses both at the load or store itself:

    an address that no tensor of the launch holds
    an element that two programs of a launch write, or that one reads after another wrote it
"""

from __future__ import annotations

from typing import Any

__all__ = ["guard_memory"]


def guard_memory() -> None:
    """Let interpreted kernels touch the tensors of their launch only, and each element from one program; idempotent.

    A kernel that does more raises triton's InterpreterError, which says how many addresses are wrong. Views count as
    what they span, not as the memory they were cut from.
    """
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    executor: Any = interpreter.GridExecutor
    if hasattr(executor._init_args_hst, "notes_tensors"):
        return
    launch = _Launch(())
    prepare, load, store = executor._init_args_hst, builder.create_masked_load, builder.create_masked_store

    def notes_tensors(self: Any, arguments: Any, named: Any) -> Any:
        nonlocal launch
        on_host = prepare(self, arguments, named)
        launch = _Launch((*on_host[0], *on_host[1].values()))
        return on_host

    def guarded_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        launch.check(self, pointers.data[mask.data], writes=False)
        return load(self, pointers, mask, *rest)

    def guarded_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        launch.check(self, pointers.data[mask.data], writes=True)
        return store(self, pointers, value, mask, *rest)

    notes_tensors.notes_tensors = True  # type: ignore[attr-defined]
    executor._init_args_hst = notes_tensors
    builder.create_masked_load, builder.create_masked_store = guarded_load, guarded_store


class _Launch:
    """The memory of one launch: where its tensors lie, and which program wrote what."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        import numpy as np

        tensors = [x for x in arguments if hasattr(x, "data_ptr") and x.numel() > 0]
        spans = np.array(sorted(map(_span, tensors)), np.int64).reshape(-1, 2)
        self.starts, self.ends = spans[:, 0], np.maximum.accumulate(spans[:, 1])
        # where each span begins in `writers`, which has a place for every byte: 0, or 1 and more for a program
        self.places = np.cumsum(self.ends - self.starts) - (self.ends - self.starts)
        self.writers = np.zeros(int((self.ends - self.starts).sum()), np.int32)

    def check(self, builder: Any, addresses: Any, *, writes: bool) -> None:
        """Raise IndexError unless the current program may read or write these addresses."""
        import numpy as np

        if addresses.size == 0:
            return
        at = addresses.astype(np.int64)
        # the first of overlapping spans that reach an address, so that an element has one place
        span = np.searchsorted(self.ends, at, side="right")
        stray = (span == len(self.ends)) | (at < np.append(self.starts, 0)[span])
        what = "writes" if writes else "reads"
        if stray.any():
            raise IndexError(f"{what} {int(stray.sum())} of {at.size} addresses outside the tensors of the launch")
        (x, y, z), (columns, rows, _) = builder.grid_idx, builder.grid_dim
        program = 1 + x + columns * (y + rows * z)
        place = self.places[span] + at - self.starts[span]
        writers = self.writers[place]
        others = (writers != 0) & (writers != program)
        if others.any():
            raise IndexError(f"{what} {int(others.sum())} of {at.size} addresses that another program wrote")
        if writes:
            self.writers[place] = program


def _span(x: Any) -> tuple[int, int]:
    """The addresses of a tensor's elements, from the first to behind the last."""
    elements = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + elements * x.element_size()
