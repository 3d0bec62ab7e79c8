"""Projections: what widens the states of a student to those of its teacher (Jiao et al. 2020, section 3.1).

    paper    E_S W_e and H_S W_h: a matrix for the embeddings, and one for all layers
    code     H_S W^T + b for both; the code published with the paper has this layer also where the widths agree

The layers of the student learn together with them, and no folder of a student holds them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Projections"]


class Projections(nn.Module):
    """The learned matrices between the widths D of a student and E of its teacher.

    Args:
        student: width of the student, D.
        teacher: width of the teacher, E.
        losses: "embedding" and "hidden", those that need one.
        kind: `distillation.projection`.
    """

    def __init__(
        self, student: int, teacher: int, *, losses: Collection[str], kind: Literal["separate", "shared"]
    ) -> None:
        super().__init__()
        names = ["shared"] if kind == "shared" and losses else list(losses)
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.empty(teacher, student)) for name in names})
        self.bias = nn.Parameter(torch.empty(teacher)) if names == ["shared"] else None

    def of(self, loss: str) -> tuple[Tensor, Tensor | None]:
        """Return the matrix (E, D) and the bias (E,) or None of a loss."""
        return self.weights["shared" if self.bias is not None else loss], self.bias
