"""gelu: against fp64 truth on every backend here, and the contracts every family keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels import gelu as public
from unmask_kernels.gelu import ACTIVATIONS, FAMILY, GATED, GeluCall, reference
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.gelu import CASES, gelu_case, plain_gelu
from unmask_kernels.testing.inputs import Case, Inputs, run

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SMALL = gelu_case(9, 40, activation="geglu")
PURE = gelu_case(6, 24, activation="gelu_tanh", bias=False)

everywhere = pytest.mark.parametrize("target", backends_here("gelu"))
every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def on(target: Target) -> Callable[..., Tensor]:
    return partial(public, backend=target.backend)


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_fp64_truth(case: Case, dtype: torch.dtype, target: Target) -> None:
    inputs = case.make(dtype, target.device)
    truth = run(reference.gelu, inputs.double())
    plain = run(plain_gelu, inputs)
    with contracts.poisoned_memory():
        ours = run(on(target), inputs)
    compare(ours, plain, truth)


@every_activation
def test_reference_is_the_formula_of_torch(activation: str) -> None:
    inputs = gelu_case(7, 24, activation=activation).make(torch.float64)
    expected = plain_gelu(**inputs.arguments)
    torch.testing.assert_close(reference.gelu(**inputs.arguments), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "pure"])
@every_activation
def test_gradients_are_the_numerical_ones(activation: str, bias: bool, backend: str) -> None:
    arguments = gelu_case(3, 4, activation=activation, bias=bias).make(torch.float64).arguments
    leaves = [arguments[name].requires_grad_() for name in ("x", "bias") if arguments[name] is not None]
    assert torch.autograd.gradcheck(partial(public, activation=activation, backend=backend), leaves)


@everywhere
@every_activation
def test_tails_are_finite_and_saturate(activation: str, target: Target) -> None:
    gate = torch.tensor([[-6e4, -1e4, -300.0, -20.0, 20.0, 300.0, 1e4, 6e4]], device=target.device)
    x = torch.cat((gate, torch.ones_like(gate)), dim=1) if activation in GATED else gate
    for dtype in (torch.float32, torch.float16):
        leaf = x.to(dtype).requires_grad_()
        y = on(target)(leaf, activation=activation)
        (dx,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
        passed = gate.to(dtype).relu()
        torch.testing.assert_close(y, passed, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(dx[:, :8], (passed > 0).to(dtype), rtol=1e-6, atol=1e-6)
        if activation in GATED:
            torch.testing.assert_close(dx[:, 8:], passed, rtol=1e-6, atol=1e-6)


@everywhere
@every_activation
def test_infinities_give_the_limits_or_in_pytorch_nan(activation: str, target: Target) -> None:
    gate = torch.tensor([[float("inf"), -float("inf"), float("nan")]], device=target.device)
    x = torch.cat((gate, torch.ones_like(gate)), dim=1) if activation in GATED else gate
    for dtype in DTYPES:
        leaf = x.to(dtype).requires_grad_()
        y = on(target)(leaf, activation=activation)
        (dx,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
        for got, limits in ((y, [float("inf"), 0.0]), (dx[:, :3], [1.0, 0.0])):
            limit = torch.tensor([limits], dtype=dtype, device=target.device)
            # PyTorch's own functions multiply an infinity by 0
            same = (got[:, :2] == limit) | (got[:, :2].isnan() & (target.backend != "triton"))
            assert same.all() and got[:, 2].isnan().all(), (dtype, got)


@everywhere
def test_the_gate_is_the_first_half_of_the_columns(target: Target) -> None:
    closed, open_ = torch.full((3, 16), -30.0), torch.full((3, 16), 30.0)
    value = torch.arange(48.0).view(3, 16)
    for activation in GATED:
        shut = on(target)(torch.cat((closed, value), dim=1).to(target.device), activation=activation)
        through = on(target)(torch.cat((open_, value), dim=1).to(target.device), activation=activation)
        assert shut.abs().max() < 1e-8
        torch.testing.assert_close(through.cpu(), 30 * value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_activation
def test_blocks_of_widened_rows_join_up(activation: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = gelu_case(37, 96, activation=activation).make(dtype)
    whole = run(partial(public, backend="torch"), inputs)
    columns = inputs.arguments["x"].shape[1]
    monkeypatch.setattr(FAMILY.module("torch"), "_BLOCK", 5 * columns // torch.get_num_threads())
    blocks = run(partial(public, backend="torch"), inputs)
    same_bits({k: blocks[k] for k in ("y", "dx")}, {k: whole[k] for k in ("y", "dx")}, "eight blocks and one")
    compare(blocks, whole, run(reference.gelu, inputs.double()))


@everywhere
@every_activation
def test_returns_exactly_the_gradients_asked_for(activation: str, target: Target) -> None:
    contracts.gradient_set(on(target), gelu_case(9, 40, activation=activation).make(torch.float32, target.device))


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_activation
def test_two_runs_agree_bit_for_bit(activation: str, dtype: torch.dtype, target: Target) -> None:
    contracts.deterministic(on(target), gelu_case(101, 96, activation=activation).make(dtype, target.device))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PURE, gelu_case(9, 40)], ids=str)
def test_accepts_any_strides(case: Case, target: Target) -> None:
    contracts.strides(on(target), case.make(torch.float32, target.device))


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_document_gives_what_it_gives_alone(dtype: torch.dtype, target: Target) -> None:
    packed = gelu_case(40, 136).make(dtype, target.device)

    def alone(tokens: slice, _index: int) -> Inputs:
        return packed.change(x=packed.arguments["x"][tokens])

    contracts.packed_as_alone(on(target), packed, alone, [17, 0, 1, 22], ("y", "dx"))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PURE, gelu_case(0, 24), gelu_case(5, 24, activation="swiglu")], ids=str)
def test_registration_is_sound(case: Case, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the reference is not registered: the compiler sees through it")
    a = case.make(torch.bfloat16, target.device).arguments
    shared = (a["x"], a["bias"], a["activation"], target.backend)
    contracts.opcheck(torch.ops.unmask.gelu_fwd.default, shared)
    y = torch.ops.unmask.gelu_fwd(*shared)
    contracts.opcheck(torch.ops.unmask.gelu_bwd.default, (y, *shared))
    dx, dbias = torch.ops.unmask.gelu_bwd(y, *shared)
    assert dx.shape == a["x"].shape
    assert dbias.shape == (0,) if a["bias"] is None else dbias.dtype == torch.float32


@everywhere
@pytest.mark.parametrize("case", [SMALL, PURE], ids=str)
def test_registration_is_sound_for_other_strides(case: Case, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the reference is not registered: the compiler sees through it")
    a = case.make(torch.float32, target.device).arguments
    shared = (a["x"].mT.contiguous().mT, a["bias"], a["activation"], target.backend)
    contracts.opcheck(torch.ops.unmask.gelu_fwd.default, shared)
    dy = torch.ops.unmask.gelu_fwd(*shared).mT.contiguous().mT
    contracts.opcheck(torch.ops.unmask.gelu_bwd.default, (dy, *shared))


@everywhere
@pytest.mark.parametrize("activation", ["gelu", "geglu"])
def test_compiles_as_one_graph_with_dynamic_lengths(activation: str, target: Target) -> None:
    one, other = (gelu_case(n, 40, activation=activation).make(torch.float32, target.device) for n in (9, 14))
    contracts.full_graph(on(target), one, other)


def test_inductor_compiles_the_automatic_choice() -> None:
    inputs = SMALL.make(torch.bfloat16)
    compiled = torch.compile(public, fullgraph=True)
    same_bits(run(compiled, inputs), run(public, inputs), "inductor and eager")


@everywhere
def test_foreign_autocast_casts_activations_once(target: Target) -> None:
    inputs = SMALL.make(torch.float32, target.device)
    expected = on(target)(**inputs.change(x=inputs.arguments["x"].bfloat16()).arguments)
    with torch.autocast(target.device, dtype=torch.bfloat16):
        got = on(target)(**inputs.arguments)
    same_bits({"y": got}, {"y": expected}, "under autocast and on bf16 activations")


def test_a_bias_in_16_bits_gets_its_gradient_in_16_bits() -> None:
    inputs = SMALL.make(torch.bfloat16)
    narrow = run(partial(public, backend="torch"), inputs.change(bias=inputs.arguments["bias"].bfloat16()))
    assert narrow["dbias"].dtype == narrow["y"].dtype == torch.bfloat16


def test_saves_nothing_beside_its_arguments() -> None:
    inputs = SMALL.make(torch.bfloat16)
    x, bias = inputs.arguments["x"].requires_grad_(), inputs.arguments["bias"]
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        public(x, bias, activation="geglu", backend="torch")
    assert [t.data_ptr() for t in saved] == [x.data_ptr(), bias.data_ptr()]


def test_double_backward_is_refused_rather_than_wrong() -> None:
    x = PURE.make(torch.float32).arguments["x"].requires_grad_()
    (dx,) = torch.autograd.grad(public(x, backend="torch").square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_refuses_fp64_in_triton_and_does_not_choose_it_unverified() -> None:
    reasons = FAMILY.backends["triton"].refuses(GeluCall("cuda", "sm_90", torch.float64))
    assert "activations must be fp16, bf16 or fp32, got float64" in reasons
    assert FAMILY.choose(None, GeluCall("cuda", "sm_90", torch.bfloat16)) == "torch"


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": torch.zeros(40)}, ValueError, "gelu: x must have shape (T, N), got (40,)"),
    ({"x": torch.zeros(9, 80, dtype=torch.int64)}, TypeError, "gelu: x must be float16"),
    ({"bias": torch.zeros(40)}, ValueError, "gelu: bias must have shape (80,), the last dimension of x, got (40,)"),
    ({"bias": torch.zeros(80, dtype=torch.int32)}, TypeError, "gelu: bias must be float16"),
    ({"bias": torch.zeros(80, device="meta")}, ValueError, "gelu: bias must be on cpu, the device of x, got meta"),
    ({"activation": "relu"}, ValueError, "gelu: activation must be one of 'gelu', 'gelu_tanh', 'geglu', 'swiglu'"),
    ({"x": torch.zeros(9, 81)}, ValueError, "gelu: x must have an even number of columns for activation 'geglu'"),
    ({"backend": "numpy"}, ValueError, "gelu: backend must be one of"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS, ids=[r[2][:60] for r in REFUSALS])
def test_refuses_bad_arguments_in_one_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    contracts.refuses(public, SMALL.make(torch.float32), change, error, message)
