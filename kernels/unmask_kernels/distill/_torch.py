"""distill by PyTorch: batched products for the losses of attention, a few rows at a time for the others.

`_torch_score` and `_torch_relation` have the losses of attention. Hidden states are compared in the epilogue of the
product that projects them: `addmm` starts from the teacher's states, so the difference is what it writes. The rows of a
block stay in cache until their gradients are made.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from ._torch_relation import relation_forward
from ._torch_score import score_forward
from .arguments import HiddenArguments, HiddenResults, PredictionArguments, PredictionResults

__all__ = ["hidden_forward", "prediction_forward", "relation_forward", "score_forward"]

_CACHED = 1 << 19  # elements of a block of rows on a CPU
_WIDENED = 1 << 24  # and on a GPU, where it only bounds the copies in fp32


def hidden_forward(arguments: HiddenArguments) -> HiddenResults:
    """The hidden-state loss and its gradients."""
    student, teacher, weight, bias, factors, wanted = arguments
    wide = accumulation_dtype(student.dtype)
    kept = torch.float32 if student.dtype == torch.float16 else student.dtype
    loss = torch.zeros((), dtype=torch.float64, device=student.device)
    dstudent = student.new_empty(student.shape if wanted else (0,), dtype=kept)
    dweight = student.new_zeros((0,) if weight is None or not wanted else weight.shape, dtype=wide)
    dbias = student.new_zeros((0,) if bias is None or not wanted else bias.shape, dtype=wide)
    table = None if weight is None else weight.to(wide)
    for rows in _row_blocks(teacher):
        x, target = student[rows].to(wide), teacher[rows].to(wide)
        # x W^T - teacher in one product
        z = x - target if table is None else torch.addmm(target, x, table.mT, beta=-1.0)
        if bias is not None:
            z += bias
        loss += (torch.linalg.vector_norm(z, dim=1, dtype=torch.float64).square_() * factors[rows]).sum()
        if not wanted:
            continue
        z *= 2.0 * factors[rows, None]
        dstudent[rows] = z if table is None else z @ table
        if table is not None:
            dweight.addmm_(z.mT, x)
        if bias is not None:
            dbias += z.sum(0)
    return HiddenResults(loss.to(wide), dstudent, dweight, dbias)


def prediction_forward(arguments: PredictionArguments) -> PredictionResults:
    """The soft cross-entropy and its gradient."""
    student, teacher, factors, temperature, wanted = arguments
    wide = accumulation_dtype(student.dtype)
    kept = torch.float32 if student.dtype == torch.float16 else student.dtype
    loss = torch.zeros((), dtype=torch.float64, device=student.device)
    dstudent = student.new_empty(student.shape if wanted else (0,), dtype=kept)
    for rows in _row_blocks(student):
        log = (student[rows].to(wide) / temperature).log_softmax(-1)
        target = (teacher[rows].to(wide) / temperature).softmax(-1)
        loss -= ((target * log).sum(1, dtype=torch.float64) * factors[rows]).sum()
        if wanted:
            dstudent[rows] = log.exp_().sub_(target).mul_(factors[rows, None] / temperature).to(kept)
    return PredictionResults(loss.to(wide), dstudent)


def _row_blocks(x: Tensor) -> Iterator[slice]:
    count, columns = x.shape
    rows = max(1, (_CACHED if x.device.type == "cpu" else _WIDENED) // max(1, columns))
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))
