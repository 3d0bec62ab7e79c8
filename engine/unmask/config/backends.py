"""The backends of each operation by name, for help texts and errors: without importing PyTorch, which takes seconds.

`unmask_kernels.FAMILIES` is what runs; `tests/engine/config/test_backends.py` holds this table to it.
"""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["BACKENDS"]

_COMMON = ("triton", "torch", "reference")

BACKENDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "attention": ("triton", "flash", "torch", "reference"),
        "distill": _COMMON,
        "embedding": _COMMON,
        "gelu": _COMMON,
        "layer_norm": _COMMON,
        "linear_gelu": _COMMON,
        "masking": _COMMON,
        "mlm_loss": _COMMON,
        "optimizer": ("cuda", "torch", "reference"),
    }
)
"""Backends of each operation in the order of choice; the operations are the settings of `kernels` that name one."""
