"""distill: the losses of attention beside scores that are materialised, forward and backward together.

T tokens in documents of N, 12 heads of K elements in the student and G in the teacher. "materialised" is what recipes
do: the scores of all documents, (documents, heads, N, N), by two batched products in PyTorch, and the loss of both; the
documents are equally long, so it has no padding. "near" is a student whose loss is 1e-4 of the teacher's squared
scores, where Gram matrices in fp32 would cancel. The floor of the score loss is its useful operations by the
way that takes less, at the measured rate of a large product. Before the timing, loss and gradients are compared with
the definition in fp64; the note has the errors of backend "torch" at N = 512.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from bench import machine
from bench.clock import PLAYBACK
from bench.roofline import matmul_rate
from bench.variants import checked, timed_calls
from torch import Tensor

from unmask_kernels.capability import architecture
from unmask_kernels.distill import FAMILY, DistillCall, cost
from unmask_kernels.documents import Documents
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.distill import plain_distill, reference_distill, relation_case, run_distill, score_case
from unmask_kernels.testing.inputs import Inputs, run

pytestmark = pytest.mark.benchmark(timer=PLAYBACK)

# a CPU without bf16 instructions multiplies in fp32, and cancellation is a matter of fp32
DTYPE = machine.fast_dtype() if torch.cuda.is_available() else torch.float32
ON_GPU = torch.cuda.is_available()
TOKENS = 16384 if ON_GPU else 256 if machine.DRY else 2048
HEADS = 12
ROUNDS = 50 if ON_GPU else 5
BACKENDS = tuple(name for name in FAMILY.backends if name != "reference")
NEAR = 1e-4


class Shape(NamedTuple):
    """A case: N, K, G, and whether the student is near the teacher."""

    loss: str
    length: int
    head_dim: int
    teacher_dim: int
    near: bool = False

    def __str__(self) -> str:
        near = ", near" if self.near else ""
        return f"N {self.length}, heads of {self.head_dim} and {self.teacher_dim}, {machine.SHORT[DTYPE]}{near}"


LENGTHS = (64, 128) if machine.DRY else (128, 512, 2048)
WIDTHS = ((26, 64), (32, 32), (64, 64))
SHAPES = [
    *(Shape("score", length, *widths) for length in LENGTHS for widths in WIDTHS),
    *(Shape("score", LENGTHS[1], width, width, near=True) for width in (32, 64)),
    *(Shape("relation", length, *widths) for length in LENGTHS[:2] for widths in ((26, 64), (64, 64))),
]


def _made(shape: Shape, tokens: int, device: torch.device) -> Inputs:
    lengths = [shape.length] * max(1, tokens // shape.length)
    make = score_case if shape.loss == "score" else relation_case
    case = make("bench", lengths, heads=HEADS, head_dim=shape.head_dim, teacher_dim=shape.teacher_dim)
    inputs = case.make(DTYPE, device)
    if not shape.near:
        return inputs
    a, keep = inputs.arguments, NEAR**0.5
    close = {f"student_{x}": a[f"teacher_{x}"].lerp(a[f"student_{x}"], keep / 2**0.5) for x in ("q", "k")}
    return inputs.change(**close)


def materialised(
    student_q: Tensor,
    student_k: Tensor,
    teacher_q: Tensor,
    teacher_k: Tensor,
    documents: Documents,
    *,
    loss: str,
    weights: None = None,
) -> Tensor:
    """Compute the loss of documents of equal lengths from their scores, (documents, heads, N, N)."""
    with torch.no_grad():
        teacher = _scores(teacher_q, teacher_k, documents)
    student = _scores(student_q, student_k, documents)
    if loss == "score":
        return F.mse_loss(student, teacher)
    logs = student.log_softmax(-1), teacher.log_softmax(-1)
    return F.kl_div(*logs, reduction="sum", log_target=True) / student[..., 0].numel()


def _scores(q: Tensor, k: Tensor, documents: Documents) -> Tensor:
    q, k = (x.unflatten(0, (-1, documents.max_seqlen)).transpose(1, 2) for x in (q, k))
    return q @ k.mT * q.shape[-1] ** -0.5


def _call(shape: Shape, device: torch.device) -> DistillCall:
    return DistillCall(
        device.type, architecture(torch.empty(0, device=device)), DTYPE, shape.loss, shape.head_dim, shape.teacher_dim
    )


@lru_cache
def _compared(shape: Shape, device: torch.device) -> tuple[dict[str, Callable[..., Tensor]], str]:
    """Compare every function with the truth on one document; the errors of backend "torch" in words."""
    small = _made(shape, 0, device)
    truth, plain = run(reference_distill, small.double()), run(plain_distill, small)
    call = _call(shape, device)
    functions: dict[str, Callable[..., Tensor]] = {"materialised": materialised}
    functions |= {
        name: partial(run_distill, backend=name) for name in BACKENDS if not FAMILY.backends[name].refuses(call)
    }
    errors = []
    for name, value in run(functions["torch"], small).items():
        error = torch.linalg.vector_norm(value - truth[name]) / torch.linalg.vector_norm(truth[name])
        errors.append(f"{'loss' if name == 'y' else name} {float(error):.1e}")

    def check(name: str, function: Callable[..., Tensor]) -> None:
        if not shape.near:
            compare(run(function, small), plain, truth)
            return
        for key, value in run(function, small).items():
            error = torch.linalg.vector_norm(value - truth[key]) / torch.linalg.vector_norm(truth[key])
            assert error < 1e-3, f"{key} is off by {float(error):.2g}"

    return checked(functions, check), f"N = {shape.length}: relative errors of torch: {', '.join(errors)}"


def _enter(shape: Shape, device: torch.device) -> dict[str, Callable[[int], object]]:
    return timed_calls(_compared(shape, device)[0], _made(shape, TOKENS, device), "both")


@pytest.mark.parametrize("variant", ["materialised", *BACKENDS])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.loss}, {shape}")
def bench_distill(benchmark: Any, side_by_side: Any, device: torch.device, shape: Shape, variant: str) -> None:
    if variant in BACKENDS and (reasons := FAMILY.backends[variant].refuses(_call(shape, device))):
        pytest.skip(f"{variant}: {'; '.join(reasons)}")
    lengths = [shape.length] * max(1, TOKENS // shape.length)
    flops_of = cost.flops_score if shape.loss == "score" else cost.flops_relation
    flops = flops_of(lengths, HEADS, shape.head_dim, shape.teacher_dim)
    rate = matmul_rate(str(device), DTYPE)
    side_by_side.run(
        benchmark,
        group=f"distill {shape.loss}",
        case=str(shape),
        variant=variant,
        enter=lambda: _enter(shape, device),
        rounds=ROUNDS,
        extra={
            "baseline": "materialised",
            "flops": flops,
            "floor_seconds": flops / rate,
            "ceiling": f"matrix product of this run, {rate / 1e12:,.2f} TFLOP/s",
            **({"note": _compared(shape, device)[1]} if shape.length == LENGTHS[1] else {}),
        },
    )
