"""The relation loss by batched products, one block of rows at a time.

With S the scaled scores, L = log_softmax(S) and P = exp(L) of a row, for student and teacher:

    KL = sum over columns of P_t (L_t - L_s) + P_s - P_t        dS_s = P_s - P_t

P_s and P_t both sum to 1, so their difference adds nothing; but with it each term is at least 0 and small where the two
agree, and the sum loses no digits. A block holds whole rows, so a softmax is one pass; nothing of s x s is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from ._torch_groups import Group, blocks, groups
from .arguments import PairArguments, PairResults

__all__ = ["relation_forward"]

# Below every score, and finite: the difference of two infinities is not a number.
_LOWEST = -1e30


def relation_forward(arguments: PairArguments) -> PairResults:
    """The relation loss and its gradients."""
    q = arguments.student_q
    heads, width = q.shape[1:]
    wide = accumulation_dtype(q.dtype)
    kept = torch.float32 if q.dtype == torch.float16 else q.dtype
    wanted = arguments.with_gradients
    # documents that are skipped keep zeros
    dq, dk = (q.new_zeros(q.shape if wanted else (0,), dtype=kept) for _ in range(2))
    loss = torch.zeros((), dtype=torch.float64, device=q.device)
    for group in groups(arguments, heads * (width + arguments.teacher_q.shape[2])):
        batch = len(group.documents) * heads
        student, teacher = (
            [_taken(group, x, batch, wide) for x in pair]
            for pair in ((q, arguments.student_k), (arguments.teacher_q, arguments.teacher_k))
        )
        student[0] *= arguments.student_scale
        teacher[0] *= arguments.teacher_scale
        padding = None if group.real is None else (~group.real).repeat_interleave(heads, 0)[:, None]  # (n * H, 1, s)
        sums, found_q, found_k = _divergence(student, teacher, padding, arguments)
        factors = arguments.factors[group.documents].repeat_interleave(heads)
        loss += (sums * factors).sum()
        if wanted:
            group.give(dq, found_q.mul_(factors[:, None, None] * arguments.student_scale))
            group.give(dk, found_k.mul_(factors[:, None, None]))
    return PairResults(loss.to(wide), dq, dk)


def _taken(group: Group, x: Tensor, batch: int, wide: torch.dtype) -> Tensor:
    out = x.new_empty((batch, group.length, x.shape[2]), dtype=wide)
    group.take(x, out)
    return out


def _divergence(
    student: list[Tensor], teacher: list[Tensor], padding: Tensor | None, arguments: PairArguments
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows, fp64 (n * H,), and dS K and dS^T Q, (n * H, s, K)."""
    wanted = arguments.with_gradients
    q, k = student
    sums = q.new_zeros(len(q), dtype=torch.float64)
    dq, dk = (torch.zeros_like(x) if wanted else x for x in (q, k))
    for part, rows, columns, unseen in blocks(arguments, len(q), q.shape[1]):
        logs = []
        for of_rows, of_columns in (student, teacher):
            S = of_rows[part, rows] @ of_columns[part, columns].mT
            if unseen is not None:
                S.masked_fill_(unseen, _LOWEST)
            if padding is not None:
                S.masked_fill_(padding[part, :, columns], _LOWEST)
            logs.append(S.log_softmax(-1))
        of_student, of_teacher = logs
        P = of_teacher.exp()
        dS = of_student.exp() - P
        sums[part] += (P * of_teacher.sub_(of_student)).add_(dS).sum((1, 2), dtype=torch.float64)
        if wanted:
            dq[part, rows] = dS @ k[part, columns]
            dk[part, columns].baddbmm_(dS.mT, q[part, rows])
    return sums, dq, dk
