"""Cases of `mlm_loss`: BERT's vocabularies and odd ones, no or one masked position, unused slots, gathered rows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .inputs import Case

__all__ = ["CASES", "mlm_loss_case", "plain_mlm_loss"]


def mlm_loss_case(
    name: str,
    *,
    tokens: int,
    width: int,
    vocabulary: int,
    masked: int,
    unused: int = 0,
    bias: bool = True,
    gathered: bool = False,
) -> Case:
    """Return a case with `masked` predicted rows and `unused` slots, whose label is -100.

    Logits have a standard deviation of about 3. If `gathered`, hidden holds the predicted rows only, and positions is
    None.
    """

    def build(generator: torch.Generator) -> dict[str, Any]:
        rows = torch.randperm(tokens, generator=generator)[:masked].sort().values
        slots = masked + unused
        positions, labels = torch.zeros(slots, dtype=torch.int64), torch.full((slots,), -100)
        positions[:masked] = rows
        labels[:masked] = torch.randint(0, vocabulary, (masked,), generator=generator)
        return {
            "hidden": torch.randn(slots if gathered else tokens, width, generator=generator),
            "positions": None if gathered else positions,
            "labels": labels,
            "weight": torch.randn(vocabulary, width, generator=generator) * (3 / width**0.5),
            "bias": torch.randn(vocabulary, generator=generator) if bias else None,
        }

    return Case(name=name, build=build, parameters=("weight", "bias"))


def plain_mlm_loss(
    hidden: Tensor, positions: Tensor | None, labels: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Compute mlm_loss as a PyTorch user writes it: logits in the tested dtype, cross-entropy in fp32 or wider."""
    rows = hidden if positions is None else hidden[positions]
    logits = F.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))
    wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
    return F.cross_entropy(logits.to(wide), labels, reduction="sum", ignore_index=-100)


CASES = [
    mlm_loss_case("bert", tokens=80, width=64, vocabulary=30522, masked=7, unused=2),
    mlm_loss_case("chinese", tokens=50, width=32, vocabulary=21128, masked=6),
    mlm_loss_case("modern", tokens=20, width=16, vocabulary=50368, masked=4),
    mlm_loss_case("prime", tokens=67, width=37, vocabulary=997, masked=31, unused=2),
    mlm_loss_case("one-slot", tokens=5, width=16, vocabulary=64, masked=1),
    mlm_loss_case("all-unused", tokens=9, width=16, vocabulary=64, masked=0, unused=3),
    mlm_loss_case("no-slots", tokens=9, width=16, vocabulary=64, masked=0),
    mlm_loss_case("full", tokens=33, width=16, vocabulary=61, masked=33),
    mlm_loss_case("one-id", tokens=6, width=8, vocabulary=1, masked=3),
    mlm_loss_case("groups", tokens=90, width=24, vocabulary=211, masked=71),
    mlm_loss_case("no-bias", tokens=40, width=24, vocabulary=300, masked=10, bias=False),
    mlm_loss_case("gathered", tokens=40, width=24, vocabulary=300, masked=10, unused=1, gathered=True),
]
"""BERT's vocabularies in English and Chinese, ModernBERT's, odd sizes, and no, one or all positions masked."""
