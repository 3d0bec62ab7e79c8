"""On a GPU, no operation waits for the device, and CUDA graphs replay it; test_attention_gpu.py has attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import MLMLoss, embedding, gelu, layer_norm, linear_gelu, masking, mlm_loss
from unmask_kernels.testing.contracts import Target, targets
from unmask_kernels.testing.embedding import embedding_case
from unmask_kernels.testing.gelu import gelu_case
from unmask_kernels.testing.gpu import captured, no_waiting
from unmask_kernels.testing.inputs import Case, Inputs
from unmask_kernels.testing.layer_norm import layer_norm_case
from unmask_kernels.testing.linear_gelu import linear_gelu_case
from unmask_kernels.testing.masking import masking_case
from unmask_kernels.testing.mlm_loss import mlm_loss_case

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CASES: list[tuple[Callable[..., Any], Case]] = [
    (embedding, embedding_case([40, 7, 0, 24, 0], 48, vocabulary=11, p=0.1)),
    (gelu, gelu_case(33, 96)),
    (gelu, gelu_case(33, 48, activation="geglu", bias=False)),
    (layer_norm, layer_norm_case(33, 96, p=0.1, x_bias=True)),
    (layer_norm, layer_norm_case(33, 96, bias=False)),
    (linear_gelu, linear_gelu_case(130, 64, 136)),
    (linear_gelu, linear_gelu_case(130, 64, 72, activation="swiglu", bias=False)),
    (masking, masking_case("tokens", [40, 3, 0, 23, 0], padding=9, spare=5)),
    (masking, masking_case("words", [40, 3, 0, 23, 0], words=0.6, padding=9, spare=5)),
    (mlm_loss, mlm_loss_case("loss", tokens=40, width=32, vocabulary=301, masked=9, unused=3)),
]
RUNS = [
    pytest.param(operation, case, target, id=f"{operation.__name__}-{case}-{target}")
    for operation, case in CASES
    for target in targets(operation.__name__)
    if target.device == "cuda" and target.backend != "reference"
]
everything = pytest.mark.parametrize(("operation", "case", "target"), RUNS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def prepared(
    operation: Callable[..., Any], case: Case, target: Target, dtype: torch.dtype
) -> tuple[Inputs, Callable[[], list[Tensor]]]:
    """Return inputs on the device, and a call on them that returns all outputs and all gradients."""
    inputs = case.make(dtype, target.device)
    leaves = [inputs.arguments[name].requires_grad_() for name in inputs.differentiable]

    def both() -> list[Tensor]:
        made = operation(**inputs.arguments, backend=target.backend)
        if isinstance(made, MLMLoss):
            made = made.loss_sum, made.count, made.correct
        outputs = list(made) if isinstance(made, tuple) else [made]
        joined = [output for output in outputs if output.requires_grad]
        incoming = [torch.ones_like(output) for output in joined]
        gradients = torch.autograd.grad(joined, leaves, incoming) if joined else ()
        return [output.detach() for output in outputs] + list(gradients)

    return inputs, both


@each_dtype
@everything
def test_no_operation_waits_for_the_device(
    operation: Callable[..., Any], case: Case, target: Target, dtype: torch.dtype
) -> None:
    _, both = prepared(operation, case, target, dtype)
    both()  # compiles, which may wait
    with no_waiting():
        both()


@each_dtype
@everything
def test_a_cuda_graph_gives_what_a_call_gives(
    operation: Callable[..., Any], case: Case, target: Target, dtype: torch.dtype
) -> None:
    inputs, both = prepared(operation, case, target, dtype)
    graph, replayed = captured(both)
    graph.replay()
    before = [result.clone() for result in replayed]
    with torch.no_grad():
        for name, value in inputs.arguments.items():
            if isinstance(value, Tensor) and (value.is_floating_point() or name in ("ids", "keys")):
                value.copy_(value.flip(0))
    graph.replay()
    called = both()
    assert any(not torch.equal(old, new) for old, new in zip(before, called, strict=True))
    for ours, expected in zip(replayed, called, strict=True):
        # inside a graph libraries may choose another algorithm for a product
        difference = (ours.double() - expected.double()).norm()
        assert bool(difference <= 1e-2 * expected.double().norm())
