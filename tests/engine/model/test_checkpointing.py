"""Activation checkpointing: the same bits with less memory, by the names that trainers call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask import Encoder, EncoderConfig, PretrainingModel, pack

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=4, num_heads=2, intermediate_size=64, max_positions=24)
BATCH = pack([[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]], keys=range(4))
ROWS, LABELS = torch.tensor([1, 7, 12]), torch.tensor([20, 21, 22])


def results(model: PretrainingModel) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model.mlm_loss(model(BATCH, rows=ROWS), LABELS).loss_sum
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}


@contextmanager
def counted() -> Iterator[list[int]]:
    """The elements of each tensor that autograd saves inside the block."""
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


def saved_by(model: PretrainingModel) -> int:
    with counted() as sizes:
        model(BATCH)
    return sum(sizes)


@pytest.mark.parametrize("options", [{}, {"every_n_layers": 2}, {"offload": True}], ids=str)
def test_loss_and_gradients_have_the_same_bits_and_fewer_tensors_are_saved(options: dict[str, Any]) -> None:
    model = PretrainingModel(CONFIG).train()
    expected, gradients = results(model)
    before = saved_by(model)
    model.activation_checkpointing_enable(**options)
    loss, found = results(model)
    assert torch.equal(loss, expected) and found.keys() == gradients.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, gradients[name]), name
    saved = saved_by(model)
    assert saved < (0.7 if "every_n_layers" in options else 0.3) * before
    model.activation_checkpointing_disable()
    assert saved_by(model) == before


@pytest.mark.parametrize("make", [Encoder, PretrainingModel])
def test_both_generations_of_names_switch_it_on_and_off(make: Any) -> None:
    model = make(CONFIG)
    assert model.supports_gradient_checkpointing and not model.is_gradient_checkpointing
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.is_gradient_checkpointing and model.is_activation_checkpointing
    model.gradient_checkpointing_disable()
    model.activation_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model.activation_checkpointing_disable()
    assert not model.is_activation_checkpointing


def test_evaluation_computes_each_layer_once() -> None:
    model = PretrainingModel(CONFIG).eval()
    calls: list[int] = []
    model.encoder.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    model.gradient_checkpointing_enable()
    results(model)
    assert len(calls) == 1
    results(model.train())
    assert len(calls) == 3


def test_reentrant_checkpointing_is_refused_and_the_advice_works() -> None:
    model = PretrainingModel(CONFIG)
    with pytest.raises(
        ValueError, match=r"use_reentrant must be False, got True; .* under LoRA; leave use_reentrant out"
    ):
        model.gradient_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="every_n_layers must be at least 1, got 0; 1 takes every layer"):
        model.gradient_checkpointing_enable(every_n_layers=0)
    model.gradient_checkpointing_enable({}, every_n_layers=1)
    results(model)


def test_frozen_embeddings_lose_no_gradient() -> None:
    model = PretrainingModel(CONFIG).train()
    model.encoder.embeddings.requires_grad_(False)
    _, expected = results(model)
    model.gradient_checkpointing_enable()
    _, found = results(model)
    assert found.keys() == expected.keys() and "encoder.layers.0.qkv.weight" in found
    assert all(torch.equal(found[name], expected[name]) for name in expected)
