"""The error criterion: at most twice the error of plain PyTorch, on the maximum and on the root mean square.

    error(ours, truth) <= 2 * (error(plain, truth) + band)

`truth` is the reference in fp64 and `plain` the same formula in the dtype under test. The band covers a plain result
that happens to be exact: it is eps of the dtype times max|truth| for the maximum, and times rms(truth) for the RMS. The
maximum finds one wrong element, the RMS a scale that is slightly wrong. NaN and each infinity must first be at the same
positions. Sources: flash-attention has the rule "at most twice the error of PyTorch", attention-gym the band, and
flash-linear-attention compares RMS as well as maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FACTOR", "Measure", "OverBudget", "compare", "same_bits"]

FACTOR = 2.0


class Measure(NamedTuple):
    """An error beside the largest one that is allowed.

    Attributes:
        result: name of the tensor, such as "dx".
        kind: "max" or "RMS".
        error: of ours.
        budget: that the criterion allows.
    """

    result: str
    kind: str
    error: float
    budget: float

    @property
    def share(self) -> float:
        """The error as a share of its budget."""
        return self.error / self.budget if self.budget else float(self.error > 0.0)


class OverBudget(AssertionError):
    """A comparison failed; `worst` is its largest error, or None if the results cannot be compared at all."""

    def __init__(self, message: str, worst: Measure | None) -> None:
        super().__init__(message)
        self.worst = worst


def compare(
    ours: Mapping[str, Tensor],
    plain: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    *,
    factor: float = FACTOR,
) -> Measure | None:
    """Compare every tensor of `ours` by the criterion.

    Args:
        ours: results under test, by name, as `inputs.run` returns them.
        plain: the plain formula in the tested dtype; the same names and dtypes.
        truth: the reference in fp64; the same names.
        factor: how many times plain's error is allowed.
    Returns:
        The error that is the largest share of its budget; None if every tensor is empty.
    Raises:
        OverBudget: names, shapes or dtypes differ, or an error is over its budget; lists every failure.
    """
    if not ours.keys() == plain.keys() == truth.keys():
        raise OverBudget(f"results differ in name: ours {[*ours]}, plain {[*plain]}, truth {[*truth]}", None)
    failures: list[str] = []
    measures: list[Measure] = []
    for name in ours:
        _compare_one(name, ours[name], plain[name], truth[name], factor, failures, measures)
    worst = max(measures, key=lambda measure: measure.share, default=None)
    if failures:
        raise OverBudget("\n".join(failures), worst)
    return worst


def same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor], what: str) -> None:
    """Check that two results are equal bit for bit; two NaN are equal.

    Args:
        first: tensors by name, as `inputs.run` returns them.
        second: the same names, shapes and dtypes.
        what: which two results these are, for the message, such as "two runs on the same inputs".
    Raises:
        AssertionError: they differ; tells in how many elements, and shows the first of them.
    """
    if first.keys() != second.keys():
        raise AssertionError(f"{what}: results differ in name: {[*first]} and {[*second]}")
    for name, one in first.items():
        other = second[name]
        if one.dtype != other.dtype or one.shape != other.shape:
            raise AssertionError(f"{what}: {name} is {_kind(one)} and {_kind(other)}")
        different = (one != other) & ~(one.isnan() & other.isnan())
        if different.any():
            index = tuple(different.nonzero()[0].tolist())
            raise AssertionError(
                f"{what}: {name} differs in {int(different.sum())} of {one.numel()} elements, "
                f"first at {index}: {one[index].item()!r} and {other[index].item()!r}"
            )


def _kind(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"


def _compare_one(
    name: str,
    ours: Tensor,
    plain: Tensor,
    truth: Tensor,
    factor: float,
    failures: list[str],
    measures: list[Measure],
) -> None:
    """Append what is wrong with a tensor, and its two errors."""
    if ours.dtype != plain.dtype or not ours.shape == plain.shape == truth.shape:
        failures.append(f"{name}: ours is {_kind(ours)}, plain {_kind(plain)}, truth {_kind(truth)}")
        return
    if ours.numel() == 0:
        return
    eps = torch.finfo(ours.dtype).eps
    a, b, t = (x.detach().to("cpu", torch.float64) for x in (ours, plain, truth))
    # compared with plain: where the tested dtype overflows, the truth in fp64 may still be finite
    for kind, of in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        wrong = of(a) != of(b)
        if wrong.any():
            index = tuple(wrong.nonzero()[0].tolist())
            failures.append(
                f"{name}: {kind} at other places than plain in {int(wrong.sum())} of {a.numel()} elements, "
                f"first at {index}: ours {a[index]:.6g}, plain {b[index]:.6g}, truth {t[index]:.6g}"
            )
            return
    finite = torch.isfinite(a) & torch.isfinite(t)
    zero = torch.zeros((), dtype=torch.float64)
    size = torch.where(finite, t.abs(), zero)
    error = torch.where(finite, (a - t).abs(), zero)
    plain_error = torch.where(finite, (b - t).abs(), zero)
    index = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    for kind, measure in (("max", torch.amax), ("RMS", _rms)):
        got, base, band = (float(measure(x)) for x in (error, plain_error, size))
        budget = factor * (base + eps * band)
        measures.append(Measure(name, kind, got, budget))
        if got > budget:
            failures.append(
                f"{name}: {kind} error {got:.3g} is over its budget {budget:.3g} = {factor:g} x "
                f"(plain {base:.3g} + band {eps * band:.3g}); worst at {index}: "
                f"ours {a[index]:.6g}, plain {b[index]:.6g}, truth {t[index]:.6g}"
            )


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
