"""Make Triton's interpreter refuse accesses outside the tensors of a launch, and races between programs.

The interpreter reads and writes any address. If a mask is missing or one element too wide, the results are mostly right
all the same, since nothing uses what was read. It also runs programs one after the other, so a race gives the results
of that order. `guard_memory` refuses, at the load or store itself:

    an address that no tensor of the launch contains
    an element that two programs of a launch write, or that one reads after another wrote it
"""

from __future__ import annotations

from typing import Any

__all__ = ["guard_memory"]


def guard_memory() -> None:
    """Restrict interpreted kernels to the tensors of their launch, and each element to one program; idempotent.

    Other accesses raise Triton's InterpreterError, which says how many addresses are wrong. Of a view, the
    elements that it spans are allowed, not the whole tensor that it was made from.
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
    """The memory of one launch: the addresses of its tensors, and which program wrote which byte."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        import numpy as np

        tensors = [x for x in arguments if hasattr(x, "data_ptr") and x.numel() > 0]
        spans = np.array(sorted(map(_span, tensors)), np.int64).reshape(-1, 2)
        self.starts, self.ends = spans[:, 0], np.maximum.accumulate(spans[:, 1])
        # `writers` has for every byte of every span 0, or 1 + the index of the program that wrote it; `places` has the
        # index in `writers` of each span's first byte
        self.places = np.cumsum(self.ends - self.starts) - (self.ends - self.starts)
        self.writers = np.zeros(int((self.ends - self.starts).sum()), np.int32)

    def check(self, builder: Any, addresses: Any, *, writes: bool) -> None:
        """Check that the current program may access these addresses.

        Raises:
            IndexError: some lie outside the tensors of the launch, or another program wrote there.
        """
        import numpy as np

        if addresses.size == 0:
            return
        at = addresses.astype(np.int64)
        # of overlapping spans the first that contains an address, so an element has one place
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
    """Return the address of a tensor's first element, and the address after its last."""
    elements = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + elements * x.element_size()
