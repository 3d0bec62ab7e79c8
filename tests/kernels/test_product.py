"""The product of a linear layer: values and gradients of PyTorch's, with the residual's gradient added on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unmask_kernels import product
from unmask_kernels.product import grad_weight, multiply, multiply_beside_residual
from unmask_kernels.testing.compare import compare, same_bits

GPU = [pytest.param("cuda", marks=pytest.mark.gpu)] * torch.cuda.is_available()
on_device = pytest.mark.parametrize("device", ["cpu", *GPU])

Run = Callable[..., tuple[Tensor, Tensor]]


def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype)), x


def made(dtype: torch.dtype, device: str = "cpu", rows: int = 37) -> dict[str, Tensor]:
    """Values that the dtype holds exactly; the parameters are fp32."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"x": (rows, 24), "weight": (40, 24), "bias": (40,), "dy": (rows, 40), "dresidual": (rows, 24)}
    values = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    wide = {name: value.to(device, torch.float32) for name, value in values.items() if name in ("weight", "bias")}
    return {name: wide.get(name, value.to(device)) for name, value in values.items()}


def run(function: Run, values: dict[str, Tensor], *, residual: bool = True) -> dict[str, Tensor]:
    leaves = {name: values[name].detach().clone().requires_grad_() for name in ("x", "weight", "bias")}
    y, x = function(*leaves.values())
    incoming = [values["dy"].clone(), values["dresidual"].clone()]
    # the gradient of the residual comes from the backward of another operation, as from the norm's
    torch.autograd.backward([y, x * 1] if residual else [y], incoming if residual else incoming[:1])
    return {"y": y.detach(), "x": x.detach()} | {f"d{name}": leaf.grad for name, leaf in leaves.items()}  # type: ignore[dict-item]


@on_device
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_matches_fp64_truth(dtype: torch.dtype, residual: bool, device: str) -> None:
    values = made(dtype, device)
    truth = run(plain, {name: value.double() for name, value in values.items()}, residual=residual)
    compare(run(multiply_beside_residual, values, residual=residual), run(plain, values, residual=residual), truth)


@on_device
def test_gradients_of_parameters_are_not_rounded_to_16_bits(device: str) -> None:
    values = made(torch.bfloat16, device, rows=500)
    truth = run(plain, {name: value.double() for name, value in values.items()})
    ours, theirs = run(multiply_beside_residual, values), run(plain, values)
    for name in ("dweight", "dbias"):
        assert ours[name].dtype == torch.float32
        error, rounded = ((one[name] - truth[name]).norm() / truth[name].norm() for one in (ours, theirs))
        assert error < 1e-5 < 1e-3 < rounded, name


def test_gradients_are_the_numerical_ones() -> None:
    values = {name: value.double().requires_grad_() for name, value in made(torch.float64, rows=5).items()}
    for bias in (values["bias"], None):
        inputs = [values["x"], values["weight"], *([] if bias is None else [bias])]
        assert torch.autograd.gradcheck(
            lambda *given: tuple(part * 1 for part in multiply_beside_residual(*given)), inputs
        )


@on_device
def test_two_runs_agree_bit_for_bit(device: str) -> None:
    values = made(torch.bfloat16, device)
    same_bits(run(multiply_beside_residual, values), run(multiply_beside_residual, values), "two runs")


@on_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_alone_has_the_bits_of_one_beside_a_residual(dtype: torch.dtype, device: str) -> None:
    values = made(dtype, device)
    found = []
    for function in (multiply, lambda x, weight: multiply_beside_residual(x, weight)[0]):
        x, weight = values["x"].clone().requires_grad_(), values["weight"].clone().requires_grad_()
        y = function(x, weight)
        dx, dweight = torch.autograd.grad(y, (x, weight), values["dy"])
        found.append({"y": y.detach(), "dx": dx, "dweight": dweight})
    same_bits(*found, "alone and beside a residual")


@pytest.mark.parametrize("function", [multiply, lambda x, weight: multiply_beside_residual(x, weight)[0]])
def test_a_second_derivative_is_refused(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    values = made(torch.float32)
    x = values["x"].requires_grad_()
    dy = values["dy"].requires_grad_()
    (dx,) = torch.autograd.grad(function(x, values["weight"]), x, dy, create_graph=True)
    torch.testing.assert_close(dx, values["dy"] @ values["weight"])
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()  # type: ignore[no-untyped-call]


def test_the_gradient_of_the_residual_is_added_in_its_own_memory() -> None:
    values, kept = made(torch.float32), []
    x = values["x"].requires_grad_()
    y, residual = multiply_beside_residual(x, values["weight"])
    residual.register_hook(kept.append)
    (dx,) = torch.autograd.grad([y, residual * 1], x, [values["dy"], values["dresidual"]])
    assert dx.data_ptr() == kept[0].data_ptr()
    torch.testing.assert_close(dx, values["dy"] @ values["weight"] + values["dresidual"])


def test_a_gradient_that_cannot_be_written_to_is_left_alone() -> None:
    values = made(torch.float32)
    x = values["x"].requires_grad_()
    y, residual = multiply_beside_residual(x, values["weight"])
    one = torch.ones(())
    (dx,) = torch.autograd.grad([y, residual], x, [values["dy"], one.expand(37, 24)])
    torch.testing.assert_close(dx, values["dy"] @ values["weight"] + 1)
    assert one == 1


def test_each_result_alone_has_its_gradient() -> None:
    values = made(torch.float32)
    x, weight = values["x"].requires_grad_(), values["weight"].requires_grad_()
    y, residual = multiply_beside_residual(x, weight)
    dx, dweight = torch.autograd.grad(residual, (x, weight), values["dresidual"], retain_graph=True, allow_unused=True)
    assert torch.equal(dx, values["dresidual"]) and dweight is None
    for _ in range(2):
        dx, dweight = torch.autograd.grad(y, (x, weight), values["dy"], retain_graph=True)
        torch.testing.assert_close(dx, values["dy"] @ weight)
        torch.testing.assert_close(dweight, values["dy"].T @ x)


@pytest.mark.parametrize("wanted", ["x", "weight", "bias"])
def test_only_the_gradients_asked_for_are_computed(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = made(torch.float32)
    asked: list[str] = []
    monkeypatch.setattr(product, "grad_weight", lambda *call: asked.append("weight") or grad_weight(*call))  # type: ignore[func-returns-value]
    monkeypatch.setattr(product, "_grad_x", lambda dy, narrow, more: asked.append("x") or dy @ narrow)  # type: ignore[func-returns-value]
    leaf = values[wanted].requires_grad_()
    y, _ = multiply_beside_residual(values["x"], values["weight"], values["bias"])
    assert torch.autograd.grad(y, leaf, values["dy"])[0].shape == leaf.shape
    assert asked == ([] if wanted == "bias" else [wanted])


def test_nothing_is_kept_without_gradients_and_no_rows_give_zero_gradients() -> None:
    values = made(torch.bfloat16, rows=0)
    assert not multiply(values["x"], values["weight"]).requires_grad
    found = run(multiply_beside_residual, values)
    assert not found["dweight"].any() and not found["dbias"].any()
    assert found["dweight"].dtype == torch.float32


def test_under_autocast_both_results_have_its_dtype() -> None:
    values = made(torch.float32)
    weight = values["weight"].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, x = multiply_beside_residual(values["x"], weight)
        y.float().sum().backward()  # type: ignore[no-untyped-call]
    assert y.dtype == x.dtype == torch.bfloat16
    assert weight.grad is not None and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_gradient_of_a_weight_has_the_dtype_of_the_weight(dtype: torch.dtype) -> None:
    dy, x = torch.ones(3, 2, dtype=torch.bfloat16), torch.ones(3, 4, dtype=torch.bfloat16)
    assert torch.equal(grad_weight(dy, x, dtype), torch.full((2, 4), 3.0, dtype=dtype))


def test_it_is_for_training_on_gpus_and_left_to_the_compiler_when_compiling() -> None:
    assert not product.applies_to(torch.empty(1))
    assert product.applies_to(torch.empty(1, device="meta"))
    with torch.no_grad():
        assert not product.applies_to(torch.empty(1, device="meta"))
    seen = []

    @torch.compile(fullgraph=True, backend="eager")
    def compiled(x: Tensor) -> Tensor:
        seen.append(product.applies_to(x))
        return x + 1

    compiled(torch.empty(1, device="meta"))
    assert seen == [False]
