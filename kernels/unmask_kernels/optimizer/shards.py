"""Parameters in shards (DTensor, as `fully_shard` makes them): what lies here, and sums over all shards.

An update of an element needs that element alone, so each process updates the part that it holds. What depends on a
whole parameter, or on all of them, is made of sums of squares: each process adds up its part, and one all-reduce adds
the parts of all parameters.

PyTorch's module for DTensor takes long to import. A parameter that is none is known without it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

__all__ = ["Shards", "is_sharded", "local"]


class Shards(NamedTuple):
    """How parameters that lie alike are cut.

    Attributes:
        groups: process groups over which the parts of a parameter lie.
        counts: elements of each parameter, over all parts.
    """

    groups: tuple[Any, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, params: list[Tensor]) -> Shards:
        """The shards of parameters with one mesh and one list of placements."""
        first: Any = params[0]
        names = range(first.device_mesh.ndim)
        groups = tuple(first.device_mesh.get_group(n) for n in names if first.placements[n].is_shard())
        return cls(groups, tuple(param.numel() for param in params))

    def norms(self, norms: Tensor) -> Tensor:
        """The norms of whole tensors, from those of the parts that lie here."""
        squares = norms.square()
        for group in self.groups:
            torch.distributed.all_reduce(squares, group=group)
        return squares.sqrt()


def is_sharded(x: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    return hasattr(x, "device_mesh")


def local(x: Tensor) -> Tensor:
    """The part of a tensor that lies here, in the same memory."""
    return cast(Any, x).to_local() if is_sharded(x) else x
