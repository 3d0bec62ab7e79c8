"""The layers as on a GPU, where products add the gradients of residual connections: the results of called layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unmask.model.layer as layer_module
from unmask import EncoderConfig, PretrainingModel, pack
from unmask.model.layer import Linear
from unmask_kernels import product, using

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=24)
BATCH = pack([[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]], keys=range(4))
ROWS, LABELS = torch.tensor([1, 7, 12]), torch.tensor([20, 21, 22])
PARTS = ("qkv", "attention_output", "attention_norm", "up", "down", "norm")


def a_model(p: float = 0.1, **options: Any) -> PretrainingModel:
    config = replace(CONFIG, hidden_dropout=p, attention_dropout=p)
    return PretrainingModel(config, seed=3, **options).train()


def results(model: PretrainingModel, rows: Tensor | None = ROWS) -> dict[str, Tensor]:
    model.zero_grad()
    hidden = model(BATCH, rows=rows)
    loss = model.mlm_loss(hidden if rows is not None else hidden[ROWS], LABELS).loss_sum
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Take the paths of a GPU; return the list of the weights that the products multiply by."""
    multiplied: list[Tensor] = []
    alone, beside = product.multiply, product.multiply_beside_residual

    def noted(x: Tensor, weight: Tensor) -> Tensor:
        multiplied.append(weight)
        return alone(x, weight)

    def noted_beside(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        multiplied.append(weight)
        return beside(x, weight, bias)

    def outside(linear: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if not (product.applies_to(x) and layer_module.is_plain(linear, Linear)):
            return linear(x), None
        assert isinstance(linear, Linear)
        return product.multiply(x, linear.weight), linear.bias

    monkeypatch.setattr(product, "applies_to", lambda x: not torch.compiler.is_compiling())
    monkeypatch.setattr(product, "multiply", noted)
    monkeypatch.setattr(product, "multiply_beside_residual", noted_beside)
    monkeypatch.setattr(layer_module, "product_and_bias", outside)
    return multiplied


def agree(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def called(model: PretrainingModel) -> PretrainingModel:
    """Have every module called, by a hook that does nothing."""
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("rows", [None, ROWS], ids=["all rows", "rows"])
@pytest.mark.parametrize("p", [0.0, 0.2])
@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_loss_and_gradients_are_those_of_called_layers(
    backend: str, p: float, rows: Tensor | None, as_on_a_gpu: list[Tensor]
) -> None:
    with using(backend, linear_gelu="torch"):
        found = results(a_model(p), rows)
        assert len(as_on_a_gpu) == 4 * 2
        agree(found, results(called(a_model(p)), rows))
    assert len(as_on_a_gpu) == 4 * 2


def test_a_layer_that_is_computed_again_has_the_same_bits(as_on_a_gpu: list[Tensor]) -> None:
    model = a_model()
    expected = results(model)
    model.activation_checkpointing_enable()
    found = results(model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(as_on_a_gpu) == 3 * 4 * 2


@pytest.mark.parametrize("name", PARTS)
def test_a_gradient_that_a_hook_keeps_is_not_changed(name: str, as_on_a_gpu: list[Tensor]) -> None:
    model, plain = a_model(p=0.0), results(a_model(p=0.0))
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> None:
        kept.extend((each, each.clone()) for each in (*inputs, *outputs) if each is not None)

    for layer in model.encoder.layers:
        getattr(layer, name).register_full_backward_hook(keep)
    agree(results(model), plain)
    assert kept and all(torch.equal(now, then) for now, then in kept)


def test_an_adapter_that_reads_a_gradient_late_reads_the_right_one(as_on_a_gpu: list[Tensor]) -> None:
    class Detached(Linear):
        """Adds a product whose gradient flows to the added weight alone, when everything else may be done."""

        def __init__(self, linear: Linear) -> None:
            super().__init__(32, 32)
            self.load_state_dict(linear.state_dict())
            self.more = nn.Parameter(torch.zeros(32, 32))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + F.linear(x.detach(), self.more)

    adapted, plain = a_model(p=0.0), a_model(p=0.0)
    for layer in adapted.encoder.layers:
        layer.attention_output = Detached(layer.attention_output)
    found, expected = results(adapted), results(plain)
    for index in range(2):
        path = f"encoder.layers.{index}.attention_output"
        torch.testing.assert_close(found[f"{path}.more"], expected[f"{path}.weight"], rtol=1e-4, atol=1e-5)


def test_frozen_layers_pass_gradients_on(as_on_a_gpu: list[Tensor]) -> None:
    model, plain = a_model(), a_model()
    for frozen in (model, plain):
        for parameter in frozen.encoder.layers[1].parameters():
            parameter.requires_grad = False
    agree(results(model), results(called(plain)))


def test_bf16_activations_give_fp32_gradients_that_differ_by_rounding(as_on_a_gpu: list[Tensor]) -> None:
    found = results(a_model(compute_dtype=torch.bfloat16))
    expected = results(a_model())
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        assert (found[name] - value).norm() <= 0.05 * value.norm() + 1e-3, name


def test_under_autocast_gradients_are_those_of_called_layers(as_on_a_gpu: list[Tensor]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = results(a_model()), results(called(a_model()))
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 0.05 * value.norm() + 1e-3, name


def test_the_model_compiles_as_one_graph_with_pytorchs_products(as_on_a_gpu: list[Tensor]) -> None:
    model = a_model()
    expected = results(model)
    eager = len(as_on_a_gpu)
    whole: Callable[..., Tensor] = torch.compile(
        lambda: model.mlm_loss(model(BATCH, rows=ROWS), LABELS).loss_sum, fullgraph=True, backend="aot_eager"
    )
    model.zero_grad()
    whole().backward()  # type: ignore[no-untyped-call]
    assert len(as_on_a_gpu) == eager
    agree(
        {name: x.grad for name, x in model.named_parameters() if x.grad is not None},
        {name: value for name, value in expected.items() if name != "loss"},
    )
