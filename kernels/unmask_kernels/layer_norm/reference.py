"""Bias, dropout, residual and layer norm as one operation (Ba et al. 2016, arXiv:1607.06450).

    h = residual + keep * (x + x_bias) / (1 - p)          keep = philox.keep_rows(key, row_keys, D, p)
    y = (h - mean(h)) * rstd(h) * weight + bias      rstd = (var(h) + eps) ** -1/2, biased variance

Shapes: x, residual, h, y (T, D); x_bias, weight, bias (D,); row_keys (T,). Everything else between reading x and
writing y is in the accumulation dtype: fp32, or fp64 for fp64 input. This file is the definition: it is
differentiable by autograd, runs on any device and in fp64, and reads the same random stream as every other backend,
so results under dropout compare exactly.
"""

from __future__ import annotations

from torch import Tensor

from .. import philox
from ..precision import accumulation_dtype

__all__ = ["layer_norm"]


def layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    x_bias: Tensor | None = None,
    eps: float = 1e-12,
    p: float = 0.0,
    key: Tensor | None = None,
    row_keys: Tensor | None = None,
) -> Tensor:
    """The formula above, step by step; arguments as in `unmask_kernels.layer_norm`."""
    wide = accumulation_dtype(x.dtype)
    h = x.to(wide)
    if x_bias is not None:
        h = h + x_bias.to(wide)
    if p > 0.0:
        assert key is not None and row_keys is not None
        h = h * philox.keep_rows(key, row_keys, x.shape[-1], p) / (1.0 - p)
    if residual is not None:
        h = h + residual.to(wide)
    centred = h - h.mean(dim=-1, keepdim=True)
    rstd = (centred.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    y = centred * rstd * weight.to(wide)
    return (y if bias is None else y + bias.to(wide)).to(x.dtype)
