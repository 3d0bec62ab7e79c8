"""The sum of the gradients over all ranks, while the last backward pass of a step still computes.

    gradient of the step = sum over ranks of (sum over the rank's micro-batches of the gradients)

The loss of a step is divided by the counts of all ranks before the forward pass, so gradients add up and are never
averaged. The parameters lie in buckets of 25 MB, in the reverse of their order in the model, which is about the order
in which a backward pass finishes them. When the last gradient of a bucket is there, the bucket is copied into one flat
tensor and its sum over the ranks begins; the backward pass goes on meanwhile. Only the last micro-batch of a step does
so: accumulation before it stays within the rank. Buckets begin in the same order on all ranks.

The first step finds out which parameters have a gradient, and sums after its backward pass. Every rank computes the
same graph, so these are the same on all of them.

Cost of a step: a copy of all gradients, and 4 bytes a parameter over the network in each direction and per rank.
Why this is not DistributedDataParallel: docs/decisions/0024-many-processes.md.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["GradientSum", "Sums"]

BUCKET_BYTES = 25 * 2**20


class Sums(Protocol):
    """What sums tensors over ranks, in place; `parallel.Ranks` is one."""

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks."""

    def begin_sum(self, tensor: Tensor) -> Any:
        """Begin to replace a tensor by its sum; the result is given to `finish_sums`."""

    def finish_sums(self, begun: Sequence[Any]) -> None:
        """Wait until sums that were begun are there."""


@dataclass(slots=True)
class _Bucket:
    """Parameters whose gradients are summed together.

    Attributes:
        parameters: in a fixed order.
        missing: number of them whose gradient is not there yet.
        flat: their gradients side by side, (elements,); None before.
    """

    parameters: list[nn.Parameter]
    missing: int = 0
    flat: Tensor | None = None


@dataclass(slots=True)
class GradientSum:
    """Sums the gradients of a model over ranks.

    Attributes:
        model: its parameters are the same on all ranks.
        ranks: the ranks.
        bucket_bytes: size of a bucket.
    """

    model: nn.Module
    ranks: Sums
    bucket_bytes: int = BUCKET_BYTES
    _buckets: list[_Bucket] = field(default_factory=list)
    _bucket_of: dict[Tensor, _Bucket] = field(default_factory=dict)
    _totals: dict[Tensor, Tensor] | None = None
    _begun: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._ready)

    def counts(self, counts: Tensor) -> None:
        """Replace the counts of the objectives by those of all ranks, in place."""
        self.ranks.sum(counts)

    @contextmanager
    def last_backward(self, totals: dict[Tensor, Tensor]) -> Iterator[None]:
        """Sum gradients over ranks during the backward pass inside this context.

        Args:
            totals: gradients of earlier micro-batches that are not in `.grad`.
        """
        for bucket in self._buckets:
            bucket.missing, bucket.flat = len(bucket.parameters), None
        self._totals, self._begun = totals, []
        try:
            yield
        finally:
            self._totals = None

    def finish(self, totals: dict[Tensor, Tensor], *tallies: Tensor) -> None:
        """Wait for the sums, and put them into `.grad`. Sum the small fp32 tensors `tallies` too, in place."""
        if not self._buckets:
            self._lay_out(totals)
        for bucket in self._buckets:
            if bucket.flat is None:
                self._begin(bucket, totals)
        flat = torch.cat([tally.flatten() for tally in tallies])
        self._begun.append(self.ranks.begin_sum(flat))
        self.ranks.finish_sums(self._begun)
        self._begun = []
        for tally, summed in zip(tallies, flat.split([tally.numel() for tally in tallies]), strict=True):
            tally.copy_(summed.view_as(tally))
        for bucket in self._buckets:
            assert bucket.flat is not None
            pieces = bucket.flat.split([parameter.numel() for parameter in bucket.parameters])
            for parameter, piece in zip(bucket.parameters, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)
            bucket.flat = None

    def _lay_out(self, totals: dict[Tensor, Tensor]) -> None:
        """Put the parameters that have a gradient into buckets."""
        size = self.bucket_bytes
        for parameter in reversed(list(self.model.parameters())):
            if parameter.grad is None and parameter not in totals:
                continue
            if size >= self.bucket_bytes:
                self._buckets.append(_Bucket([]))
                size = 0
            self._buckets[-1].parameters.append(parameter)
            self._bucket_of[parameter] = self._buckets[-1]
            size += parameter.numel() * parameter.element_size()

    def _ready(self, parameter: Tensor) -> None:
        """Note that a gradient is there, and begin the sums of the buckets that are whole, in their order."""
        bucket = self._bucket_of.get(parameter)
        if self._totals is None or bucket is None:
            return
        bucket.missing -= 1
        for one in self._buckets:
            if one.flat is not None:
                continue
            if one.missing > 0:
                return
            self._begin(one, self._totals)

    def _begin(self, bucket: _Bucket, totals: dict[Tensor, Tensor]) -> None:
        gradients = [parameter.grad for parameter in bucket.parameters]
        before = [totals.get(parameter) for parameter in bucket.parameters]
        both = [(new, old) for new, old in zip(gradients, before, strict=True) if new is not None and old is not None]
        if both:
            torch._foreach_add_([new for new, _ in both], [old for _, old in both])
        found = [new if new is not None else old for new, old in zip(gradients, before, strict=True)]
        with torch.no_grad():
            bucket.flat = torch.cat([one.flatten() for one in found if one is not None])
        self._begun.append(self.ranks.begin_sum(bucket.flat))
