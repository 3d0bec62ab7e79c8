"""Every contract fails on a function that breaks it and no other contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask_kernels.testing import contracts
from unmask_kernels.testing.inputs import Inputs, run

INPUTS = Inputs(
    arguments={"x": torch.arange(1.0, 13.0).view(4, 3), "weight": torch.tensor([[1.0, -2.0, 3.0]])},
    differentiable=("x", "weight"),
)


def product(x: Tensor, weight: Tensor) -> Tensor:
    return x * weight


class _Product(torch.autograd.Function):
    """A product; `spoil` may change its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, spoil: Callable[..., Any]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.spoil = spoil
        return x * weight

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        dx, dweight = ctx.spoil(dy * weight, (dy * x).sum(0, keepdim=True), dy, ctx.needs_input_grad)
        return dx, dweight, None


def spoiled(spoil: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, weight: _Product.apply(x, weight, spoil)


def as_if_contiguous(x: Tensor) -> Tensor:
    """Read x as a kernel does that assumes contiguous strides."""
    return x.as_strided(x.shape, torch.empty(x.shape).stride()) if x.stride(0) else x.new_zeros(x.shape)


def test_a_function_that_keeps_them_passes_all() -> None:
    contracts.deterministic(product, INPUTS)
    contracts.gradient_set(product, INPUTS)
    contracts.strides(product, INPUTS)
    contracts.full_graph(product, INPUTS, INPUTS.change(x=torch.ones(7, 3)))
    halves(product)


def test_the_last_of_several_runs_may_not_differ() -> None:
    calls: list[int] = []

    def drifting(x: Tensor, weight: Tensor) -> Tensor:
        calls.append(1)
        return x * weight + (1e-7 if len(calls) == 3 else 0.0)

    with pytest.raises(AssertionError, match="two runs on the same inputs: y differs"):
        contracts.deterministic(drifting, INPUTS, runs=3)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda dx, dw, dy, needs: (dx if needs[1] else 2 * dx, dw), "gradient of x alone and with others"),
        (lambda dx, dw, dy, needs: (dx, dw if needs[0] else 2 * dw), "gradient of weight alone and with others"),
    ],
    ids=["x", "weight"],
)
def test_a_gradient_may_not_depend_on_what_else_is_asked_for(spoil: Callable[..., Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        contracts.gradient_set(spoiled(spoil), INPUTS)


def test_an_output_may_not_ask_for_gradients_that_no_argument_does() -> None:
    hidden = torch.zeros(1, requires_grad=True)
    with pytest.raises(AssertionError, match="requires a gradient although no argument does"):
        contracts.gradient_set(lambda x, weight: (x * weight, x + hidden), INPUTS)


def test_a_function_may_not_take_strides_for_granted() -> None:
    with pytest.raises(AssertionError, match="other strides and contiguous: y differs"):
        contracts.strides(lambda x, weight: as_if_contiguous(x) * weight, INPUTS)
    wrong = spoiled(lambda dx, dw, dy, needs: (dx if dy.is_contiguous() else as_if_contiguous(dy) * dx, dw))
    with pytest.raises(AssertionError, match="an expanded and a dense incoming gradient"):
        contracts.strides(wrong, INPUTS)


def test_a_graph_may_neither_break_nor_change_a_bit() -> None:
    def breaking(x: Tensor, weight: Tensor) -> Tensor:
        return x * weight * (1.0 if x.sum().item() > 0 else 2.0)

    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        contracts.full_graph(breaking, INPUTS, INPUTS)

    def other_when_compiled(x: Tensor, weight: Tensor) -> Tensor:
        return x * weight + (1e-6 if torch.compiler.is_compiling() and len(x) != 4 else 0.0)

    with pytest.raises(AssertionError, match="compiled and eager: y differs"):
        contracts.full_graph(other_when_compiled, INPUTS, INPUTS.change(x=torch.ones(7, 3)))


class _Narrower(ValueError):
    """A subclass of the error that is asked for."""


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (None, r"accepted \['x'\], wanted ValueError"),
        (ValueError("sum: x must be wide"), "wanted ValueError with 'x must be narrow'"),
        (_Narrower("sum: x must be narrow"), "wanted ValueError with"),
    ],
)
def test_a_refusal_is_of_the_type_and_in_the_words_asked_for(raised: Exception | None, said: str) -> None:
    def refusing(x: Tensor, weight: Tensor) -> Tensor:
        if raised is not None:
            raise raised
        return x

    with pytest.raises(AssertionError, match=said):
        contracts.refuses(refusing, INPUTS, {"x": torch.zeros(1)}, ValueError, "x must be narrow")


def halves(function: Callable[..., Any], tolerance: float = 0.0) -> None:
    """Check documents of 3, 0 and 1 tokens packed and alone."""

    def alone(tokens: slice, index: int) -> Inputs:
        return INPUTS.change(x=INPUTS.arguments["x"][tokens])

    contracts.packed_as_alone(function, INPUTS, alone, [3, 0, 1], ("y", "dx"), tolerance=tolerance)


@pytest.mark.parametrize("off", [1e-6, float("nan")])
def test_a_document_may_not_depend_on_what_stands_before_it(off: float) -> None:
    def by_row(x: Tensor, weight: Tensor) -> Tensor:
        return x * weight + torch.where(torch.arange(len(x)) == 3, off, 0.0)[:, None]

    with pytest.raises(AssertionError, match="document 2 packed and alone: y differs"):
        halves(by_row)
    with pytest.raises(AssertionError, match="document 2 packed and alone: y differs by"):
        halves(by_row, tolerance=1e-7)
    if off == 1e-6:
        halves(by_row, tolerance=1e-5)


def test_poison_ends_with_its_block() -> None:
    def poisoned() -> None:
        with contracts.poisoned_memory():
            raise KeyError("a failure inside")

    with pytest.raises(KeyError, match="a failure inside"):
        poisoned()
    assert not torch.are_deterministic_algorithms_enabled()


def test_gradients_come_back_and_are_not_left_in_the_leaves() -> None:
    class Writes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.leaf = x
            return x * 1

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> Tensor:
            ctx.leaf.grad = dy
            return dy

    with pytest.raises(AssertionError, match=r"gradients of \['x'\] were written into .grad"):
        run(lambda x, weight: Writes.apply(x) * weight, INPUTS)
