"""The score loss by batched products: Gram matrices for long documents, tiles of scores for the others.

With A = [a Q_s, -b Q_t] and B = [K_s, K_t], (s, K + G), the difference of the scores is one product, and for a document
whose pairs are all seen neither the loss nor its gradients need it:

    D = a Q_s K_s^T - b Q_t K_t^T = A B^T           |D|^2 = <A^T A, B^T B>
    dQ_s = 2 a f D K_s = 2 a f A (B^T K_s)          dK_s = 2 f D^T (a Q_s) = 2 f B (A^T a Q_s)

f is the document's factor. The Gram matrices A^T A and B^T B have K + G rows, so the work is O(s (K + G)^2) instead of
O(s^2 (K + G)). Both ways hold nothing of s x s: D is computed in blocks that stay in cache, and never kept.

Where student and teacher nearly agree, <A^T A, B^T B> is a small sum of large terms. Heads whose loss is below 1/64 of
the teacher's squared scores are computed again in fp64, on a CPU; elsewhere Gram matrices are in fp64 at once, since
to look at the loss would be to wait for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..precision import accumulation_dtype
from ._torch_groups import blocks, groups
from .arguments import PairArguments, PairResults

__all__ = ["score_forward"]

_NEAR = 1 / 64


class _Of(NamedTuple):
    """What a way of computing returns: sums of squares, fp64 (n * H,), and D K_s and D^T (a Q_s), (n * H, s, K)."""

    squares: Tensor
    dq: Tensor
    dk: Tensor


def score_forward(arguments: PairArguments) -> PairResults:
    """The score loss and its gradients."""
    q = arguments.student_q
    heads, width = q.shape[1:]
    both = width + arguments.teacher_q.shape[2]
    wide = accumulation_dtype(q.dtype)
    kept = torch.float32 if q.dtype == torch.float16 else q.dtype
    wanted = arguments.with_gradients
    # documents that are skipped keep zeros
    dq, dk = (q.new_zeros(q.shape if wanted else (0,), dtype=kept) for _ in range(2))
    loss = torch.zeros((), dtype=torch.float64, device=q.device)
    for group in groups(arguments, heads * both):
        batch = len(group.documents) * heads
        A, B = (q.new_empty((batch, group.length, both), dtype=wide) for _ in range(2))
        for x, out in (
            (q, A[..., :width]),
            (arguments.teacher_q, A[..., width:]),
            (arguments.student_k, B[..., :width]),
            (arguments.teacher_k, B[..., width:]),
        ):
            group.take(x, out)
        A[..., :width] *= arguments.student_scale
        A[..., width:] *= -arguments.teacher_scale
        way = _by_gram if _gram_is_less(arguments, group.length, width, both) else _by_tiles
        found = way(A, B, width, arguments)
        factors = arguments.factors[group.documents].repeat_interleave(heads)
        loss += (found.squares * factors).sum()
        if wanted:
            factors = 2.0 * factors[:, None, None]
            group.give(dq, found.dq.mul_(factors * arguments.student_scale))
            group.give(dk, found.dk.mul_(factors))
    return PairResults(loss.to(wide), dq, dk)


def _gram_is_less(arguments: PairArguments, length: int, width: int, both: int) -> bool:
    """Whether Gram matrices take fewer operations than scores; they need every pair to be seen."""
    if arguments.causal or arguments.window >= 0:
        return False
    with_gradients = arguments.with_gradients
    return 4 * both * (both + width * with_gradients) < length * (2 * both + 4 * width * with_gradients)


def _by_gram(A: Tensor, B: Tensor, width: int, arguments: PairArguments) -> _Of:
    if A.device.type != "cpu":
        found = _in_dtype(A.double(), B.double(), width, arguments)
        return _Of(found[0], found[1].to(A.dtype), found[2].to(A.dtype))
    squares, dq, dk, teacher = _in_dtype(A, B, width, arguments)
    near = (squares < _NEAR * teacher).nonzero().flatten()
    if len(near) > 0 and A.dtype == torch.float32:
        again = _in_dtype(A[near].double(), B[near].double(), width, arguments)
        squares[near] = again[0]
        if arguments.with_gradients:
            dq[near], dk[near] = again[1].to(dq.dtype), again[2].to(dk.dtype)
    return _Of(squares, dq, dk)


def _in_dtype(A: Tensor, B: Tensor, width: int, arguments: PairArguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `_Of` has, and the sum of the teacher's squared scores, fp64 (n * H,)."""
    of_a, of_b = A.mT @ A, B.mT @ B  # (n * H, K + G, K + G)
    product = of_a.double() * of_b
    squares, teacher = product.sum((1, 2)), product[:, width:, width:].sum((1, 2))
    if not arguments.with_gradients:
        return squares, A, B, teacher
    return squares, _times_gram(A, of_b, width), _times_gram(B, of_a, width), teacher


def _times_gram(x: Tensor, gram: Tensor, width: int) -> Tensor:
    """Return x @ gram[..., :width]. The diagonal holds sums of squares, which are large: its part is added last."""
    large = gram.diagonal(dim1=1, dim2=2)[:, None, :width].clone()
    rest = gram[..., :width].clone()
    rest.diagonal(dim1=1, dim2=2).zero_()
    return (x @ rest).addcmul_(x[..., :width], large)


def _by_tiles(A: Tensor, B: Tensor, width: int, arguments: PairArguments) -> _Of:
    wanted = arguments.with_gradients
    squares = A.new_zeros(len(A), dtype=torch.float64)
    dq, dk = (torch.zeros_like(A[..., :width]) if wanted else A for _ in range(2))
    for part, rows, columns, unseen in blocks(arguments, len(A), A.shape[1]):
        a, b = A[part, rows], B[part, columns]
        D = a @ b.mT
        if unseen is not None:
            D.masked_fill_(unseen, 0.0)
        squares[part] += torch.linalg.vector_norm(D, dim=(1, 2), dtype=torch.float64).square_()
        if wanted:
            dq[part, rows] = D @ b[..., :width]
            dk[part, columns].baddbmm_(D.mT, a[..., :width])
    return _Of(squares, dq, dk)
