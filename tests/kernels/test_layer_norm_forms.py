"""layer_norm's further forms: a bias of x that joins in, another eps, many rows.

The comparison with fp64 truth and the contracts of all forms are in test_layer_norm.py.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from unmask_kernels import layer_norm as public
from unmask_kernels.layer_norm import FAMILY, reference
from unmask_kernels.testing.compare import compare
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.inputs import run
from unmask_kernels.testing.layer_norm import layer_norm_case, plain_layer_norm

everywhere = pytest.mark.parametrize("target", backends_here("layer_norm"))


@everywhere
@pytest.mark.parametrize("p", [0.0, 0.25])
def test_a_bias_of_x_is_a_bias_added_before(p: float, target: Target) -> None:
    inputs = layer_norm_case(9, 40, p=p, x_bias=True).make(torch.float32, target.device)
    joined = run(partial(public, backend=target.backend), inputs)
    added = inputs.arguments["x"] + inputs.arguments["x_bias"]
    apart = run(partial(public, backend=target.backend), inputs.change(x=added, x_bias=None))
    torch.testing.assert_close(joined["y"], apart["y"])
    torch.testing.assert_close(joined["dx"], apart["dx"])
    torch.testing.assert_close(joined["dx_bias"], apart["dx"].sum(0))


@everywhere
def test_the_sums_of_more_programs_than_are_added_at_a_time_join_up(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    if target.backend == "triton":
        # even the interpreter has three programs
        monkeypatch.setattr(FAMILY.module("triton"), "_SUMMED_ROWS", 2)
    inputs = layer_norm_case(260, 40, p=0.25, x_bias=True).make(torch.float32, target.device)
    ours = run(partial(public, backend=target.backend), inputs)
    compare(ours, run(plain_layer_norm, inputs), run(reference.layer_norm, inputs.double()))


@everywhere
def test_eps_is_added_to_the_variance(target: Target) -> None:
    # with the default nobody would miss it: here it is as large as the variance
    inputs = layer_norm_case(9, 40).make(torch.float32, target.device)
    arguments = {**inputs.arguments, "weight": torch.ones(40, device=target.device), "bias": None, "eps": 5.0}
    h = arguments["x"] + arguments["residual"]
    expected = (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 5.0).sqrt()
    torch.testing.assert_close(public(**arguments, backend=target.backend), expected)


def test_gradients_of_many_rows_lose_no_digits() -> None:
    # one addition after the other would be off by a thousandth in fp32
    x, bias = torch.zeros(1 << 17, 4), torch.zeros(4, requires_grad=True)
    (dbias,) = torch.autograd.grad(public(x, None, torch.ones(4), bias, backend="torch"), bias, torch.full_like(x, 0.1))
    torch.testing.assert_close(dbias, torch.full((4,), 0.1 * (1 << 17)), rtol=1e-5, atol=0.0)
