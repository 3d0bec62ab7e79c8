"""The activations of `gelu` and `linear_gelu` and their slopes, on elements in registers.

CUDA's erf and tanh take most of the instructions of a memory-bound kernel. So Phi(-|z|) is computed as the density
exp(-z**2 / 2), which the slope needs anyway, times a polynomial in 1 / (1 + 0.28 |z|). That is the form of Abramowitz
and Stegun's 7.1.26, of one degree more, fitted to 1e-8. The tanh form is z sigmoid(2 u), the same function without a
tanh.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["activate", "is_gated"]

# The largest fp32. What it does not change is finite, and times a tail of 0 it is 0.
_FINITE = tl.constexpr(3.4028234e38)


@triton.constexpr_function
def is_gated(activation):
    """Whether the activation reads a gate and a value."""
    return activation in ("geglu", "swiglu")


@triton.jit
def _normal_tail(z):
    # Phi(-|z|) within 1e-8, and exp(-z**2 / 2). A power of two and a reciprocal root are one instruction each, while an
    # exponential and a quotient are several.
    density = tl.exp2(z * z * -0.7213475204444817)
    root = 1.0 + 0.28 * tl.abs(z)
    t = tl.rsqrt(root * root)
    series = 0.26890661976452174 + t * (-0.2369888408763116 + t * (0.3898710099420605 + t * -0.10580747060185447))
    return t * (0.1165205780449377 + t * (0.06749809453832156 + t * series)) * density, density


@triton.jit
def _logistic_tail(u):
    # sigmoid(-|u|) and the derivative of sigmoid at u; the power cannot overflow.
    power = tl.exp2(tl.abs(u) * -1.4426950408889634)
    large = tl.rsqrt((1.0 + power) * (1.0 + power))
    tail = power * large
    return tail, tail * large


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """The function at z, fp32, and its slope. The compiler drops the one that a caller does not use.

    Each function is z times a share, which rises from 0 to 1 as z grows. With tail = share(-|z|), the share is tail for
    z < 0, else 1 - tail. So z share(z) = max(z, 0) - |z| tail, where nothing cancels far out, and the slopes at z and
    -z add up to 1. At infinities both have their limits.
    """
    size = tl.minimum(tl.abs(z), _FINITE)
    if ACTIVATION == "gelu" or ACTIVATION == "geglu":
        tail, density = _normal_tail(z)
        dshare = density * 0.3989422804014327
    elif ACTIVATION == "gelu_tanh":
        # sqrt(8 / pi) (z + 0.044715 z**3); beyond 100 the tail is 0, and a larger square would overflow
        square = tl.minimum(z * z, 1e4)
        tail, dsigmoid = _logistic_tail(z * (1.5957691216057308 + 0.07135481627260025 * square))
        dshare = dsigmoid * (1.5957691216057308 + 0.21406444881780076 * square)
    else:
        tail, dshare = _logistic_tail(z)
    slope = tail - size * dshare  # at -|z|
    return tl.maximum(z, 0.0) - size * tail, tl.where(z > 0.0, 1.0 - slope, slope)
