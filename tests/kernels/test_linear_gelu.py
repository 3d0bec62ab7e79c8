"""linear_gelu: against fp64 truth on every backend here, and the contracts every family keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels import gelu, using
from unmask_kernels import linear_gelu as public
from unmask_kernels.gelu import ACTIVATIONS
from unmask_kernels.linear_gelu import FAMILY, LinearGeluCall, reference
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.inputs import Case, Inputs, run
from unmask_kernels.testing.linear_gelu import CASES, MODELS, linear_gelu_case, plain_linear_gelu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SMALL = linear_gelu_case(9, 24, 40, activation="geglu")
PURE = linear_gelu_case(6, 13, 24, activation="gelu_tanh", bias=False)

everywhere = pytest.mark.parametrize("target", backends_here("linear_gelu"))
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def on(target: Target) -> Callable[..., Tensor]:
    return partial(public, backend=target.backend)


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_fp64_truth(case: Case, dtype: torch.dtype, target: Target) -> None:
    inputs = case.make(dtype, target.device)
    truth = run(reference.linear_gelu, inputs.double())
    plain = run(plain_linear_gelu, inputs)
    with contracts.poisoned_memory():
        ours = run(on(target), inputs)
    compare(ours, plain, truth)


@everywhere
@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", MODELS, ids=str)
def test_matches_fp64_truth_in_the_models_shapes(case: Case, dtype: torch.dtype, target: Target) -> None:
    test_matches_fp64_truth(case, dtype, target)


@every_activation
def test_reference_is_the_formula_of_torch(activation: str) -> None:
    inputs = linear_gelu_case(7, 12, 24, activation=activation).make(torch.float64)
    expected = plain_linear_gelu(**inputs.arguments)
    torch.testing.assert_close(reference.linear_gelu(**inputs.arguments), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "pure"])
@every_activation
def test_gradients_are_the_numerical_ones(activation: str, bias: bool, backend: str) -> None:
    inputs = linear_gelu_case(3, 5, 4, activation=activation, bias=bias).make(torch.float64)
    leaves = [inputs.arguments[name].requires_grad_() for name in inputs.differentiable]
    assert torch.autograd.gradcheck(partial(public, activation=activation, backend=backend), leaves)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_activation
def test_the_automatic_choice_is_the_product_and_gelu_bit_for_bit(activation: str, dtype: torch.dtype) -> None:
    inputs = linear_gelu_case(37, 24, 40, activation=activation).make(dtype)

    def apart(x: Tensor, weight: Tensor, bias: Tensor, *, activation: Any) -> Tensor:
        return gelu(F.linear(x, weight.to(x.dtype), bias.to(x.dtype)), activation=activation)

    same_bits(run(public, inputs), run(apart, inputs), "linear_gelu and its parts")


def test_a_backend_of_gelu_asked_for_by_name_runs_inside_the_automatic_choice() -> None:
    inputs = linear_gelu_case(37, 24, 40, activation="gelu").make(torch.bfloat16)
    asked: list[str] = []
    with (
        using(gelu="reference"),
        torch.autograd.graph.saved_tensors_hooks(lambda t: asked.append("") or t, lambda t: t),
    ):
        run(public, inputs)
        through_reference = len(asked)
    asked.clear()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: asked.append("") or t, lambda t: t):
        run(public, inputs)
    assert through_reference > len(asked) > 0


@everywhere
@pytest.mark.parametrize("case", [SMALL, PURE, linear_gelu_case(9, 24, 40)], ids=str)
def test_returns_exactly_the_gradients_asked_for(case: Case, target: Target) -> None:
    contracts.gradient_set(on(target), case.make(torch.float32, target.device))


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_activation
def test_two_runs_agree_bit_for_bit(activation: str, dtype: torch.dtype, target: Target) -> None:
    case = linear_gelu_case(101, 40, 96, activation=activation)
    contracts.deterministic(on(target), case.make(dtype, target.device))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PURE, linear_gelu_case(9, 24, 40)], ids=str)
def test_accepts_any_strides(case: Case, target: Target) -> None:
    contracts.strides(on(target), case.make(torch.float32, target.device))


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_document_gives_what_it_gives_alone(dtype: torch.dtype, target: Target) -> None:
    packed = linear_gelu_case(140, 48, 40).make(dtype, target.device)

    def alone(tokens: slice, _index: int) -> Inputs:
        return packed.change(x=packed.arguments["x"][tokens])

    # a product of the library may sum in another order for another number of rows; Triton's forward does not
    tolerance = 16 * torch.finfo(dtype).eps
    contracts.packed_as_alone(on(target), packed, alone, [17, 0, 1, 122], ("y", "dx"), tolerance=tolerance)
    if target.backend == "triton":
        contracts.packed_as_alone(on(target), packed, alone, [17, 0, 1, 122], ("y",))


@everywhere
@pytest.mark.parametrize(
    "case", [SMALL, PURE, linear_gelu_case(0, 13, 24), linear_gelu_case(5, 13, 24, activation="swiglu")], ids=str
)
def test_registration_is_sound(case: Case, target: Target) -> None:
    if target.backend != "triton":
        pytest.skip("the others are not registered: the compiler sees through them")
    a = case.make(torch.bfloat16, target.device).arguments
    x, weight, narrow, bias = a["x"], a["weight"], a["weight"].bfloat16(), a["bias"]
    settings = (a["activation"], weight.dtype)
    for with_z in (False, True):
        forward = (x, weight, narrow, bias, *settings, with_z, target.backend)
        contracts.opcheck(torch.ops.unmask.linear_gelu_fwd.default, forward)
    y, z = torch.ops.unmask.linear_gelu_fwd(*forward)
    for wanted in ((True, True), (True, False), (False, True)):
        backward = (y, x, narrow, bias, z, *settings, *wanted, target.backend)
        contracts.opcheck(torch.ops.unmask.linear_gelu_bwd.default, backward)


@everywhere
@pytest.mark.parametrize("activation", ["gelu", "geglu"])
def test_compiles_as_one_graph_with_dynamic_lengths(activation: str, target: Target) -> None:
    one, other = (
        linear_gelu_case(n, 24, 40, activation=activation).make(torch.float32, target.device) for n in (9, 14)
    )
    contracts.full_graph(on(target), one, other)


@everywhere
def test_foreign_autocast_casts_activations_once(target: Target) -> None:
    inputs = SMALL.make(torch.float32, target.device)
    expected = on(target)(**inputs.change(x=inputs.arguments["x"].bfloat16()).arguments)
    with torch.autocast(target.device, dtype=torch.bfloat16):
        got = on(target)(**inputs.arguments)
    same_bits({"y": got}, {"y": expected}, "under autocast and on bf16 activations")


@everywhere
def test_parameters_in_16_bits_get_their_gradients_in_16_bits(target: Target) -> None:
    inputs = SMALL.make(torch.bfloat16, target.device)
    narrow = {name: inputs.arguments[name].bfloat16() for name in ("weight", "bias")}
    results = run(on(target), inputs.change(**narrow))
    assert {value.dtype for value in results.values()} == {torch.bfloat16}


@everywhere
@pytest.mark.parametrize("case", [SMALL, PURE, linear_gelu_case(9, 24, 40)], ids=str)
def test_keeps_the_product_for_the_backward_and_nothing_without_gradients(case: Case, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the definition keeps what autograd of it needs")
    inputs = case.make(torch.bfloat16, target.device)
    a = {**inputs.arguments, **{n: inputs.arguments[n].requires_grad_() for n in inputs.differentiable}}
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = on(target)(**a)
        assert y.requires_grad
        activations = {t.data_ptr(): tuple(t.shape) for t in saved if t.dim() == 2 and len(t) == len(a["x"])}
        assert sorted(activations.values()) == sorted([tuple(a["x"].shape), (len(a["x"]), len(a["weight"]))])
        saved.clear()
        with torch.no_grad():
            same_bits({"y": on(target)(**a)}, {"y": y.detach()}, "without and with gradients")
    assert saved == []


def test_double_backward_is_refused_rather_than_wrong() -> None:
    x, weight = PURE.make(torch.float32).arguments["x"].requires_grad_(), PURE.make(torch.float32).arguments["weight"]
    (dx,) = torch.autograd.grad(public(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_the_epilogue_is_asked_for_by_name_and_refuses_fp64() -> None:
    reasons = FAMILY.backends["triton"].refuses(LinearGeluCall("cuda", "sm_90", torch.float64))
    assert "activations must be fp16, bf16 or fp32, got float64" in reasons
    assert FAMILY.choose(None, LinearGeluCall("cuda", "sm_90", torch.bfloat16)) == "torch"


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": torch.zeros(24)}, ValueError, "linear_gelu: x must have shape (T, D), got (24,)"),
    ({"x": torch.zeros(9, 24, dtype=torch.int64)}, TypeError, "linear_gelu: x must be float16"),
    ({"x": torch.zeros(9, 25)}, ValueError, "linear_gelu: weight must have 25 columns, the last dimension of x, got"),
    (
        {"x": torch.zeros(9, 0), "weight": torch.zeros(80, 0)},
        ValueError,
        "linear_gelu: x must have at least one column",
    ),
    ({"weight": torch.zeros(80)}, ValueError, "linear_gelu: weight must have shape (N, D), got (80,)"),
    ({"weight": torch.zeros(80, 24, dtype=torch.int8)}, TypeError, "linear_gelu: weight must be float16"),
    ({"weight": torch.zeros(80, 24, device="meta")}, ValueError, "linear_gelu: weight must be on cpu"),
    (
        {"weight": torch.zeros(81, 24), "bias": None},
        ValueError,
        "linear_gelu: weight must have an even number of rows for activation 'geglu'",
    ),
    (
        {"bias": torch.zeros(40)},
        ValueError,
        "linear_gelu: bias must have shape (80,), one entry per row of weight, got",
    ),
    ({"bias": torch.zeros(80, dtype=torch.int32)}, TypeError, "linear_gelu: bias must be float16"),
    (
        {"bias": torch.zeros(80, device="meta")},
        ValueError,
        "linear_gelu: bias must be on cpu, the device of x, got meta",
    ),
    ({"activation": "relu"}, ValueError, "linear_gelu: activation must be one of 'gelu', 'gelu_tanh', 'geglu'"),
    ({"backend": "numpy"}, ValueError, "linear_gelu: backend must be one of"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS, ids=[r[2][:60] for r in REFUSALS])
def test_refuses_bad_arguments_in_one_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    contracts.refuses(public, SMALL.make(torch.float32), change, error, message)
