"""layer_norm: against fp64 truth on every backend here, and the contracts every family keeps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels import BackendUnavailable, philox, using
from unmask_kernels import layer_norm as public
from unmask_kernels.layer_norm import FAMILY, LayerNormCall, reference
from unmask_kernels.testing import contracts
from unmask_kernels.testing.compare import compare, same_bits
from unmask_kernels.testing.contracts import Target, backends_here
from unmask_kernels.testing.inputs import Case, Inputs, run
from unmask_kernels.testing.layer_norm import CASES, layer_norm_case, plain_layer_norm

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SMALL = layer_norm_case(9, 40, p=0.25)
PLAIN = layer_norm_case(6, 24, residual=False)
JOINED = layer_norm_case(9, 40, p=0.25, x_bias=True)
UNBIASED = layer_norm_case(9, 40, p=0.25, x_bias=True, bias=False)

everywhere = pytest.mark.parametrize("target", backends_here("layer_norm"))


def on(target: Target) -> Callable[..., Tensor]:
    return partial(public, backend=target.backend)


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_fp64_truth(case: Case, dtype: torch.dtype, target: Target) -> None:
    inputs = case.make(dtype, target.device)
    truth = run(reference.layer_norm, inputs.double())
    plain = run(plain_layer_norm, inputs)
    with contracts.poisoned_memory():
        ours = run(on(target), inputs)
    compare(ours, plain, truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("case", [layer_norm_case(37, 96), layer_norm_case(37, 96, p=0.2, x_bias=True)], ids=str)
def test_blocks_of_rows_join_up(case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case.make(dtype)
    whole = run(partial(public, backend="torch"), inputs)
    monkeypatch.setattr(FAMILY.module("torch"), "_BLOCK", 5 * 96 // torch.get_num_threads())
    blocks = run(partial(public, backend="torch"), inputs)
    rows = [name for name in whole if name.startswith("y") or name in ("dx", "dresidual")]
    same_bits({k: blocks[k] for k in rows}, {k: whole[k] for k in rows}, "eight blocks and one")
    compare(blocks, whole, run(reference.layer_norm, inputs.double()))


@pytest.mark.parametrize("case", [layer_norm_case(7, 24), PLAIN], ids=str)
def test_reference_is_torch_layer_norm(case: Case) -> None:
    inputs = case.make(torch.float64)
    arguments = dict(inputs.arguments)
    summed = arguments["x"] if arguments["residual"] is None else arguments["x"] + arguments["residual"]
    expected = F.layer_norm(summed, (24,), arguments["weight"], arguments["bias"], 1e-12)
    torch.testing.assert_close(reference.layer_norm(**arguments), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(
    "case",
    [
        layer_norm_case(3, 5),
        layer_norm_case(3, 5, p=0.25, x_bias=True),
        layer_norm_case(3, 5, residual=False, bias=False, x_bias=True),
    ],
    ids=str,
)
def test_gradients_are_the_numerical_ones(case: Case, backend: str) -> None:
    inputs = case.make(torch.float64)
    arguments = dict(inputs.arguments)
    leaves = [arguments[name].requires_grad_() for name in inputs.differentiable]

    def call(*tensors: Tensor) -> Tensor:
        return public(**{**arguments, **dict(zip(inputs.differentiable, tensors, strict=True))}, backend=backend)

    assert torch.autograd.gradcheck(call, leaves)


@everywhere
def test_drops_the_elements_the_reference_drops(target: Target) -> None:
    inputs = layer_norm_case(33, 312, p=0.4, residual=False).make(torch.float32, target.device)
    # A huge x of one sign: a dropped element ends below the mean of its row, a kept one above.
    inputs = inputs.change(
        x=torch.full_like(inputs.arguments["x"], 1000.0),
        weight=torch.ones(312, device=target.device),
        bias=torch.zeros(312, device=target.device),
    )
    kept = on(target)(**inputs.arguments) > 0
    expected = philox.keep_rows(inputs.arguments["key"], inputs.arguments["row_keys"], 312, 0.4)
    assert torch.equal(kept, expected)


@everywhere
def test_dropout_gradient_is_zero_exactly_where_an_element_was_dropped(target: Target) -> None:
    inputs = layer_norm_case(21, 72, p=0.4).make(torch.float32, target.device)
    dx = run(on(target), inputs)["dx"]
    expected = philox.keep_rows(inputs.arguments["key"], inputs.arguments["row_keys"], 72, 0.4)
    assert torch.equal(dx != 0, expected)


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN, JOINED, UNBIASED], ids=str)
def test_returns_exactly_the_gradients_asked_for(case: Case, target: Target) -> None:
    contracts.gradient_set(on(target), case.make(torch.float32, target.device))


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_two_runs_agree_bit_for_bit(dtype: torch.dtype, target: Target) -> None:
    for case in (layer_norm_case(101, 96, p=0.1), layer_norm_case(37, 40, x_bias=True)):
        contracts.deterministic(on(target), case.make(dtype, target.device))


@everywhere
@pytest.mark.parametrize("case", [SMALL, PLAIN, UNBIASED], ids=str)
def test_accepts_any_strides(case: Case, target: Target) -> None:
    contracts.strides(on(target), case.make(torch.float32, target.device))


@everywhere
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_packed_document_gives_what_it_gives_alone(dtype: torch.dtype, target: Target) -> None:
    packed = layer_norm_case(40, 136, p=0.2).make(dtype, target.device)

    def alone(tokens: slice, _index: int) -> Inputs:
        return packed.change(**{name: packed.arguments[name][tokens] for name in ("x", "residual", "row_keys")})

    contracts.packed_as_alone(on(target), packed, alone, [17, 0, 1, 22], ("y", "dx", "dresidual"))


@everywhere
@pytest.mark.parametrize(
    "case", [SMALL, PLAIN, JOINED, UNBIASED, layer_norm_case(40, 24, p=0.3, residual=False)], ids=str
)
def test_registration_is_sound(case: Case, target: Target) -> None:
    if target.backend == "reference":
        pytest.skip("the reference is not registered: the compiler sees through it")
    a = case.make(torch.float32, target.device).arguments
    random = (a["key"], a["row_keys"]) if a["p"] else (None, None)
    forward = (a["x"], a["residual"], a["x_bias"], a["weight"], a["bias"], *random, 1e-12, a["p"], target.backend)
    contracts.opcheck(torch.ops.unmask.layer_norm_fwd.default, forward)
    y, *saved = torch.ops.unmask.layer_norm_fwd(*forward)
    backward = (y, a["x"], a["residual"], a["x_bias"], a["weight"], *saved, *random, a["p"], target.backend)
    contracts.opcheck(torch.ops.unmask.layer_norm_bwd.default, backward)
    dx, dresidual, dx_bias, *_ = torch.ops.unmask.layer_norm_bwd(*backward)
    # written are the gradients that somebody reads
    assert (len(dresidual) > 0) == (a["residual"] is not None or a["p"] == 0.0)
    assert (len(dx) > 0) == (a["p"] > 0.0)
    assert (len(dx_bias) > 0) == (a["x_bias"] is not None)


@everywhere
@pytest.mark.parametrize("x_bias", [False, True])
def test_compiles_as_one_graph_with_dynamic_lengths(x_bias: bool, target: Target) -> None:
    one, other = (layer_norm_case(n, 40, p=0.25, x_bias=x_bias).make(torch.float32, target.device) for n in (9, 14))
    contracts.full_graph(on(target), one, other)


def test_inductor_compiles_the_automatic_choice() -> None:
    inputs = SMALL.make(torch.bfloat16)
    compiled = torch.compile(public, fullgraph=True)
    same_bits(run(compiled, inputs), run(public, inputs), "inductor and eager")


@everywhere
@pytest.mark.parametrize("narrow", [(), ("x",), ("residual",)], ids=["both wide", "x narrow", "residual narrow"])
def test_foreign_autocast_casts_activations_once(target: Target, narrow: tuple[str, ...]) -> None:
    inputs = SMALL.make(torch.float32, target.device)
    rounded = {name: inputs.arguments[name].bfloat16() for name in ("x", "residual")}
    expected = on(target)(**inputs.change(**rounded).arguments)
    with torch.autocast(target.device, dtype=torch.bfloat16):
        # a product is narrow already, and what it is added to may come from outside autocast's reach
        got = on(target)(**inputs.change(**{name: rounded[name] for name in narrow}).arguments)
    same_bits({"y": got}, {"y": expected}, "under autocast and on bf16 activations")


def test_parameters_in_16_bits_get_gradients_in_16_bits() -> None:
    inputs = SMALL.make(torch.bfloat16)
    narrow = inputs.change(weight=inputs.arguments["weight"].bfloat16(), bias=inputs.arguments["bias"].bfloat16())
    gradients = run(partial(public, backend="torch"), narrow)
    assert gradients["dweight"].dtype == gradients["dbias"].dtype == torch.bfloat16
    assert gradients["y"].dtype == torch.bfloat16


def test_double_backward_is_refused_rather_than_wrong() -> None:
    arguments = dict(PLAIN.make(torch.float32).arguments)
    arguments["x"].requires_grad_()
    y = public(backend="torch", **arguments)
    (dx,) = torch.autograd.grad(y.square().sum(), arguments["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


REFUSALS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"weight": torch.ones(32)},
        ValueError,
        "layer_norm: weight must have shape (40,), the last dimension of x, got (32,)",
    ),
    ({"bias": torch.zeros(40, 1)}, ValueError, "layer_norm: bias must have shape (40,)"),
    ({"x_bias": torch.zeros(39)}, ValueError, "layer_norm: x_bias must have shape (40,)"),
    ({"x_bias": torch.zeros(40).long()}, TypeError, "layer_norm: x_bias must be float16"),
    ({"x": torch.zeros(40)}, ValueError, "layer_norm: x must have shape (T, D), got (40,)"),
    ({"x": torch.zeros(9, 40, dtype=torch.int64)}, TypeError, "layer_norm: x must be float16"),
    (
        {"residual": torch.zeros(8, 40)},
        ValueError,
        "layer_norm: residual must have shape (9, 40), the shape of x",
    ),
    ({"residual": torch.zeros(9, 40).half()}, TypeError, "layer_norm: residual must be float32, got float16"),
    ({"p": 1.0}, ValueError, "layer_norm: p must be at least 0 and below 1, got 1.0"),
    ({"key": None}, ValueError, "layer_norm: p is 0.25, so key is needed to address the random numbers"),
    ({"row_keys": None}, ValueError, "layer_norm: p is 0.25, so row_keys is needed"),
    (
        {"row_keys": torch.zeros(8, dtype=torch.int64)},
        ValueError,
        "layer_norm: row_keys must have shape (9,)",
    ),
    (
        {"key": torch.zeros(2, dtype=torch.int64)},
        ValueError,
        "layer_norm: key must be a scalar tensor, got shape",
    ),
    ({"eps": 0.0}, ValueError, "layer_norm: eps must be above 0, got 0.0"),
    ({"backend": "numpy"}, ValueError, "layer_norm: backend must be one of 'triton', 'torch', 'reference'"),
]


@pytest.mark.parametrize(("change", "error", "message"), REFUSALS, ids=[r[2][:60] for r in REFUSALS])
def test_refuses_bad_arguments_in_one_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    contracts.refuses(public, SMALL.make(torch.float32), change, error, message)


def test_asking_for_triton_on_cpu_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    if contracts.INTERPRETING:
        pytest.skip("the interpreter runs Triton on CPU tensors")
    arguments = SMALL.make(torch.float32).arguments
    with pytest.raises(BackendUnavailable, match="needs a CUDA tensor, got cpu"):
        public(backend="triton", **arguments)
    with using("triton"), pytest.raises(BackendUnavailable, match="backend 'triton' cannot run this call"):
        public(**arguments)


def test_refuses_wide_rows_and_fp64_in_triton_with_a_reason() -> None:
    call = LayerNormCall("cuda", "sm_90", torch.float64, 8200)
    reasons = FAMILY.backends["triton"].refuses(call)
    assert "activations must be fp16, bf16 or fp32, got float64" in reasons
    assert "rows up to 4096 wide stay in registers, got 8200; use backend 'torch'" in reasons


def test_an_unverified_backend_is_not_chosen_by_itself() -> None:
    assert FAMILY.choose(None, LayerNormCall("cuda", "sm_90", torch.bfloat16, 768)) == "torch"
