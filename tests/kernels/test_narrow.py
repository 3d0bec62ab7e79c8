"""Copies of weights in 16 bits: written by the update, read by products, and not read where they do not hold."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unmask_kernels import LAMB, AdamW, narrow
from unmask_kernels.product import multiply, multiply_beside_residual
from unmask_kernels.testing.compare import same_bits

OPTIMIZERS = {"adamw": AdamW, "stable": lambda params, **rest: AdamW(params, clip_update=True, **rest), "lamb": LAMB}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((8, 6), (8,))]


def step(params: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> Tensor:
    """Train a linear layer once; return its output."""
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    optimizer.zero_grad()
    y, _ = multiply_beside_residual(x, params[0], params[1])
    y.float().square().sum().backward()
    optimizer.step()
    return y.detach()


def reads_the_copy(weight: Tensor) -> bool:
    """Whether a product keeps the very copy of the optimizer."""
    x = torch.zeros(5, 6, dtype=torch.bfloat16, requires_grad=True)
    y: Any = multiply(x, weight)
    kept = y.grad_fn.saved_tensors[1]
    assert torch.equal(kept, weight.bfloat16())
    return bool(kept.data_ptr() == narrow.keep(weight, torch.bfloat16).tensor.data_ptr())


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_with_copies_has_the_bits_of_training_without(name: str, backend: str) -> None:
    results = []
    for copies in (None, torch.bfloat16):
        params = parameters()
        optimizer = OPTIMIZERS[name](params, lr=0.1, weight_copies=copies, backend=backend)  # type: ignore[operator]
        outputs = [step(params, optimizer) for _ in range(4)]
        assert reads_the_copy(params[0]) == (copies is not None)
        results.append({"outputs": torch.stack(outputs), "weight": params[0].detach(), "bias": params[1].detach()})
    same_bits(*results, "with copies and without")


@pytest.mark.parametrize("change", ["in place", "loaded", "foreach"])
def test_a_weight_that_somebody_changed_is_cast_again_until_the_next_update(change: str) -> None:
    params = parameters()
    optimizer = AdamW(params, weight_copies=torch.bfloat16)
    step(params, optimizer)
    assert reads_the_copy(params[0])
    with torch.no_grad():
        if change == "in place":
            params[0].add_(1.0)
        elif change == "foreach":
            torch._foreach_mul_(params, 2.0)
        else:
            layer = nn.Linear(6, 8)
            layer.weight, layer.bias = params
            layer.load_state_dict({"weight": torch.ones(8, 6), "bias": torch.ones(8)})
    assert not reads_the_copy(params[0])
    step(params, optimizer)
    assert reads_the_copy(params[0])


def test_a_product_in_another_dtype_casts() -> None:
    params = parameters()
    step(params, AdamW(params, weight_copies=torch.bfloat16))
    assert narrow.narrowed(params[0], torch.float16).dtype == torch.float16
    assert narrow.narrowed(params[0], torch.float32) is params[0]


def test_a_skipped_update_leaves_copies_that_hold() -> None:
    params = parameters()
    optimizer = AdamW(params, weight_copies=torch.bfloat16)
    step(params, optimizer)
    before = params[0].detach().clone()
    optimizer.found_inf = torch.tensor(1.0)
    step(params, optimizer)
    assert torch.equal(params[0], before) and reads_the_copy(params[0])


def test_copies_are_no_state_and_go_with_their_weights() -> None:
    params = parameters()
    optimizer = AdamW(params, weight_copies=torch.bfloat16)
    step(params, optimizer)
    assert {*optimizer.state_dict()["state"][0]} == {"step", "exp_avg", "exp_avg_sq"}
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert again.weight_copies == torch.bfloat16
    held = weakref.ref(narrow.keep(params[0], torch.bfloat16).tensor)
    del params, optimizer, again
    gc.collect()
    assert held() is None


def test_an_optimizer_that_loads_a_state_keeps_copies_as_before() -> None:
    params = parameters()
    optimizer = AdamW(params, weight_copies=torch.bfloat16)
    step(params, optimizer)
    optimizer.load_state_dict(AdamW(params).state_dict() | {"state": optimizer.state_dict()["state"]})
    step(params, optimizer)
    assert optimizer.weight_copies == torch.bfloat16 and reads_the_copy(params[0])


def test_16_bit_parameters_have_master_weights_and_no_further_copies() -> None:
    params = [nn.Parameter(each.detach().bfloat16()) for each in parameters()]
    optimizer = AdamW(params, weight_copies=torch.bfloat16)
    step(params, optimizer)
    assert optimizer.state[params[0]]["master"].dtype == torch.float32


@pytest.mark.parametrize("optimizer", [AdamW, LAMB])
def test_a_dtype_that_is_not_narrow_is_refused(optimizer: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"{optimizer.__name__}: weight_copies must be torch\.bfloat16, torch\.float16"
    ):
        optimizer(parameters(), weight_copies=torch.float32)
    # None, the way out
    step(params := parameters(), optimizer(params, weight_copies=None))
