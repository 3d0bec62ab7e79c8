"""half(), bfloat16(), float() and to(dtype): parameters and activations, near the results in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unmask import Encoder, EncoderConfig, PretrainingModel, pack

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=24)
BATCH = pack([[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 3]], keys=range(3))
CONVERSIONS: dict[str, tuple[Callable[[Any], Any], torch.dtype]] = {
    "half": (lambda model: model.half(), torch.float16),
    "bfloat16": (lambda model: model.bfloat16(), torch.bfloat16),
    "to(dtype)": (lambda model: model.to(torch.bfloat16), torch.bfloat16),
    "to(device, dtype)": (lambda model: model.to("cpu", torch.float16), torch.float16),
    "double": (lambda model: model.double(), torch.float64),
    "float": (lambda model: model.half().float(), torch.float32),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_a_conversion_sets_parameters_activations_and_gradients(name: str) -> None:
    convert, dtype = CONVERSIONS[name]
    model = PretrainingModel(CONFIG, heads=("mlm", "nsp")).eval()
    rows, labels = torch.tensor([1, 6]), torch.tensor([20, 21])
    expected = model(BATCH), model.nsp_logits(model(BATCH)[:2]), model.mlm_loss(model(BATCH)[rows], labels).loss_sum
    assert convert(model) is model
    assert {x.dtype for x in model.parameters()} == {dtype} and model.encoder.compute_dtype == dtype
    hidden = model(BATCH)
    found = hidden, model.nsp_logits(hidden[:2]), model.mlm_loss(hidden[rows], labels).loss_sum
    assert hidden.dtype == found[1].dtype == model.mlm_logits(hidden[rows]).dtype == dtype
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.05)
    found[2].backward()
    gradient = model.encoder.embeddings.word.weight.grad
    assert gradient is not None and gradient.dtype == dtype and gradient.isfinite().all()


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_moving_a_model_leaves_its_dtypes(compute: torch.dtype) -> None:
    encoder = Encoder(CONFIG, compute_dtype=compute)
    for moved in (encoder.to("cpu"), encoder.cpu(), encoder.share_memory()):
        assert moved.compute_dtype == compute and moved.embeddings.word.weight.dtype == torch.float32
    assert encoder.to("meta").compute_dtype == compute


def test_float_ends_computing_in_another_dtype() -> None:
    encoder = Encoder(CONFIG, compute_dtype=torch.bfloat16).float()
    assert encoder.compute_dtype == torch.float32
    assert encoder(BATCH.ids, BATCH.documents).dtype == torch.float32


def test_a_model_around_the_encoder_converts_it() -> None:
    around = nn.Sequential(Encoder(CONFIG), nn.Linear(32, 2)).half()
    assert around[0].compute_dtype == torch.float16


def test_a_converted_model_is_saved_and_read(tmp_path: Path) -> None:
    model = PretrainingModel(CONFIG).half().eval()
    model.save_pretrained(tmp_path)
    again = PretrainingModel.from_pretrained(tmp_path, compute_dtype=torch.float16)
    assert again.encoder.embeddings.word.weight.dtype == torch.float32
    torch.testing.assert_close(again(BATCH), model(BATCH), rtol=0, atol=1e-2)
