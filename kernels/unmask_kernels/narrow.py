"""Copies of weights in 16 bits, which an optimizer writes in its update, so that products need not cast.

    optimizer = AdamW(parameters, weight_copies=torch.bfloat16)
    product.multiply(x, weight)                                     # reads the copy of weight, if it holds

PyTorch counts the changes of a tensor. A copy holds as long as the count of its weight is that of the last update. So a
weight that somebody else has changed is cast again, until the next update. Changes by `weight.data` are not counted.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Copy", "keep", "narrowed"]


class Copy:
    """A copy of a weight.

    Attributes:
        tensor: its values, in the shape of the weight.
        version: the count of changes of the weight when both were equal; -1 for never.
    """

    __slots__ = ("tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version = tensor, -1


_copies = WeakTensorKeyDictionary()


def narrowed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight in a dtype: its copy if that holds, else a new tensor, or the weight itself."""
    copy: Copy | None = _copies.get(weight)
    if copy is not None and copy.version == weight._version and copy.tensor.dtype == dtype:
        return copy.tensor
    return weight.to(dtype)


def keep(weight: Tensor, dtype: torch.dtype) -> Copy:
    """Return the copy of a weight in a dtype, made if there is none. Who writes its values sets its version."""
    copy: Copy | None = _copies.get(weight)
    if copy is None or copy.tensor.dtype != dtype or copy.tensor.device != weight.device:
        _copies[weight] = copy = Copy(torch.empty_like(weight, dtype=dtype, requires_grad=False))
    return copy
