"""Cases of `layer_norm`: the models' widths, with and without dropout, residual and biases."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels import philox

from .inputs import Case

__all__ = ["CASES", "layer_norm_case", "plain_layer_norm"]


def layer_norm_case(
    tokens: int,
    width: int,
    *,
    p: float = 0.0,
    residual: bool = True,
    bias: bool = True,
    x_bias: bool = False,
    offset: float = 0.0,
) -> Case:
    """Return a case: x and residual (tokens, width) with mean `offset`, weight and bias away from 1 and 0."""

    def build(generator: torch.Generator) -> dict[str, Any]:
        normal = partial(torch.randn, generator=generator)
        return {
            "x": normal(tokens, width) * 2 + offset,
            "residual": normal(tokens, width) + offset if residual else None,
            "weight": 1 + normal(width) / 4,
            "bias": normal(width) / 4 if bias else None,
            "x_bias": normal(width) / 2 if x_bias else None,
            "p": p,
            "key": torch.tensor(0x0123456789ABCDEF),
            "row_keys": philox.mix64(torch.arange(tokens)),
        }

    parts = [f"{tokens}x{width}", f"p{math.floor(100 * p)}" * (p > 0.0), "plain" * (not residual)]
    parts += ["unbiased" * (not bias), "x_bias" * x_bias, f"offset{offset:g}" * (offset != 0.0)]
    return Case(name="-".join(filter(None, parts)), build=build, parameters=("weight", "bias", "x_bias"))


def plain_layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    x_bias: Tensor | None,
    p: float,
    key: Tensor,
    row_keys: Tensor,
    eps: float = 1e-12,
) -> Tensor:
    """Compute layer_norm with PyTorch's own functions in the parameters' dtype; only the result is rounded."""
    h = x.to(weight.dtype)
    if x_bias is not None:
        h = h + x_bias
    if p > 0.0:
        h = torch.where(philox.keep_rows(key, row_keys, x.shape[1], p), h * (1 / (1 - p)), 0)
    if residual is not None:
        h = residual + h
    return F.layer_norm(h, (x.shape[1],), weight, bias, eps).to(x.dtype)


CASES = [
    layer_norm_case(64, 768),  # BERT-base
    layer_norm_case(48, 1024, p=0.1),  # BERT-large
    layer_norm_case(37, 312, p=0.1),  # TinyBERT, a prime number of rows, a width that is no power of two
    layer_norm_case(33, 256, residual=False),
    layer_norm_case(31, 384, p=0.5, residual=False),
    layer_norm_case(1, 768, p=0.1),
    layer_norm_case(0, 768),
    layer_norm_case(0, 768, p=0.1),
    layer_norm_case(5, 3),
    layer_norm_case(7, 13, p=0.3),
    layer_norm_case(3, 4096, p=0.1),
    layer_norm_case(19, 768, offset=8.0),  # a mean far above the standard deviation
    layer_norm_case(40, 768, p=0.1, x_bias=True),  # BERT on a GPU, with the linear layer's bias
    layer_norm_case(29, 312, x_bias=True),
    layer_norm_case(23, 40, p=0.3, residual=False, x_bias=True),
    layer_norm_case(17, 24, residual=False, x_bias=True, bias=False),
    layer_norm_case(26, 768, bias=False),  # ModernBERT
    layer_norm_case(33, 136, p=0.2, x_bias=True),
    layer_norm_case(0, 40, x_bias=True),
]
"""The models' shapes, prime sizes, one row, no rows, the narrowest and the widest, with and without a bias of x."""
