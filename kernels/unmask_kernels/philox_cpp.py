"""The dropout masks of `philox` on a CPU, drawn by the extension in C++: the same elements, faster than by NumPy.

`csrc/cpu/philox.cpp` has the arithmetic. An installation lacks the extension where no C++ compiler was found;
`philox_numpy` draws then.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from .extension import staleness

__all__ = ["fault", "keep_rows", "keep_scores"]

_NAME = "unmask_kernels._cpu"


@cache
def fault() -> str:
    """Return why the extension cannot be used, or ""."""
    if importlib.util.find_spec(_NAME) is None:
        return f"{_NAME} is not built"
    try:
        module = _module()
    except ImportError as error:
        return f"{_NAME} cannot be imported: {error}"
    # a file of that name need not be ours
    version, sources = (str(getattr(module, name, "unknown")) for name in ("version", "sources"))
    return staleness(_NAME, version, sources, "csrc/cpu")


def keep_rows(key: int, keys_of_rows: Tensor, columns: int, bound: int, threads: int) -> Tensor:
    """Decide which elements of a (T, columns) activation survive dropout, as `philox_numpy.keep_rows` does."""
    keys = keys_of_rows.contiguous()
    keep = torch.empty(len(keys), columns, dtype=torch.bool)
    _module().keep_rows(key, keys.data_ptr(), len(keys), columns, bound, threads, keep.data_ptr())
    return keep


def keep_scores(
    key: int, document_keys: Tensor, heads: int, rows: range, columns: int, bound: int, threads: int
) -> Tensor:
    """Decide which attention probabilities of N documents survive dropout, as `philox_numpy.keep_scores` does."""
    keys = document_keys.contiguous()
    keep = torch.empty(len(keys), heads, len(rows), columns, dtype=torch.bool)
    shape = len(keys), heads, rows.start, len(rows), columns
    _module().keep_scores(key, keys.data_ptr(), *shape, bound, threads, keep.data_ptr())
    return keep


def _module() -> ModuleType:
    return importlib.import_module(_NAME)
