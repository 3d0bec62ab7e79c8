"""layer_norm's further forms: a bias of x that joins in, and pre-norm, which returns the sum.

The comparison with fp64 truth and the contracts of all forms are in test_layer_norm.py.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from unmask_kernels import layer_norm as public
from unmask_kernels.testing.contracts import Tenant, backends_here
from unmask_kernels.testing.inputs import layer_norm_case, run

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

everywhere = pytest.mark.parametrize("tenant", backends_here("layer_norm"))


@everywhere
@pytest.mark.parametrize("p", [0.0, 0.25])
def test_a_bias_of_x_is_a_bias_added_before(p: float, tenant: Tenant) -> None:
    inputs = layer_norm_case(9, 40, p=p, x_bias=True).make(torch.float32, tenant.device)
    joined = run(partial(public, backend=tenant.backend), inputs)
    added = inputs.arguments["x"] + inputs.arguments["x_bias"]
    apart = run(partial(public, backend=tenant.backend), inputs.change(x=added, x_bias=None))
    torch.testing.assert_close(joined["y"], apart["y"])
    torch.testing.assert_close(joined["dx"], apart["dx"])
    torch.testing.assert_close(joined["dx_bias"], apart["dx"].sum(0))


@everywhere
def test_eps_is_added_to_the_variance(tenant: Tenant) -> None:
    # with the default nobody would miss it: here it is as large as the variance
    inputs = layer_norm_case(9, 40).make(torch.float32, tenant.device)
    arguments = {**inputs.arguments, "weight": torch.ones(40, device=tenant.device), "bias": None, "eps": 5.0}
    h = arguments["x"] + arguments["residual"]
    expected = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 5.0).sqrt()
    torch.testing.assert_close(public(**arguments, backend=tenant.backend), expected)


def test_gradients_of_many_rows_lose_no_digits() -> None:
    # one addition after the other would be off by a thousandth in fp32
    x, bias = torch.zeros(1 << 17, 4), torch.zeros(4, requires_grad=True)
    (dbias,) = torch.autograd.grad(public(x, None, torch.ones(4), bias, backend="torch"), bias, torch.full_like(x, 0.1))
    torch.testing.assert_close(dbias, torch.full((4,), 0.1 * (1 << 17)), rtol=1e-5, atol=0.0)


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_returned_sum_is_the_residual_stream_and_y_its_norm(dtype: torch.dtype, tenant: Tenant) -> None:
    arguments = layer_norm_case(9, 40, return_sum=True).make(dtype, tenant.device).arguments
    y, total = public(**arguments, backend=tenant.backend)
    # the interpreter cuts bf16 off where hardware rounds
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(total, arguments["x"] + arguments["residual"], rtol=eps, atol=0.0)
    again = public(total, None, arguments["weight"], arguments["bias"], backend=tenant.backend)
    assert torch.equal(again, y)


@pytest.mark.parametrize("unused", ["y", "sum"])
def test_either_result_of_pre_norm_may_go_unused(unused: str) -> None:
    inputs = layer_norm_case(9, 40, p=0.25, x_bias=True, return_sum=True).make(torch.float64)
    leaves = [inputs.arguments[name].requires_grad_() for name in inputs.differentiable]
    gradients = []
    for backend in ("torch", "reference"):
        y, total = public(**inputs.arguments, backend=backend)
        used = total if unused == "y" else y
        gradients.append(torch.autograd.grad(used.square().sum(), leaves, materialize_grads=True))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_pre_norm_saves_the_sum_and_not_what_was_added() -> None:
    arguments = layer_norm_case(9, 40, return_sum=True).make(torch.bfloat16).arguments
    x, residual = (arguments[name].requires_grad_() for name in ("x", "residual"))
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _, total = public(**arguments, backend="torch")
    assert total.data_ptr() in saved
    assert not {x.data_ptr(), residual.data_ptr()} & set(saved)
