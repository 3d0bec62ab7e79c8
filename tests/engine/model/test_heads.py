"""Pre-training heads: their initial weights, and where those come from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from unmask import Encoder, EncoderConfig, PretrainingModel

CONFIG = EncoderConfig(vocab_size=60, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_positions=24)


def first_draws(module: torch.nn.Module) -> torch.Tensor:
    return next(p for p in module.parameters() if p.dim() == 2).detach().flatten()[:16]


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_heads_draw_what_no_encoder_of_a_neighbouring_seed_draws(seed: int) -> None:
    model = PretrainingModel(CONFIG, heads=("mlm", "nsp"), seed=seed)
    assert model.nsp is not None
    drawn = [first_draws(module) for module in (model.encoder, model.mlm, model.nsp)]
    drawn += [first_draws(Encoder(CONFIG, seed=(seed + step) % 2**63)) for step in (1, 2, 3)]
    for place, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[place + 1 :])


def test_the_same_seed_gives_the_same_heads() -> None:
    first, again = (PretrainingModel(CONFIG, heads=("mlm", "nsp"), seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_heads_follow_the_sizes_and_constants_of_their_encoder() -> None:
    narrow = PretrainingModel(CONFIG, heads=("mlm", "nsp"), seed=3)
    wide = PretrainingModel(replace(CONFIG, initializer_range=0.1, layer_norm_eps=1e-3), heads=("mlm", "nsp"), seed=3)
    assert narrow.nsp is not None
    assert wide.nsp is not None
    for one, other in ((narrow.mlm.dense, wide.mlm.dense), (narrow.nsp.classifier, wide.nsp.classifier)):
        torch.testing.assert_close(other.weight, 5 * one.weight)
    assert wide.mlm.norm.eps == 1e-3


def test_logits_and_loss_are_of_the_same_projection_with_its_bias() -> None:
    model = PretrainingModel(replace(CONFIG, activation="gelu_tanh", initializer_range=1.0))
    generator = torch.Generator().manual_seed(1)
    torch.nn.init.normal_(model.mlm.bias, generator=generator)
    rows, labels = torch.randn(4, 16, generator=generator), torch.tensor([5, 9, -100, 7])
    loss = model.mlm_loss(rows, labels).loss_sum
    torch.testing.assert_close(loss, F.cross_entropy(model.mlm_logits(rows), labels, reduction="sum"))
    hidden = F.gelu(model.mlm.dense(rows), approximate="tanh")
    hidden = F.layer_norm(hidden, (16,), model.mlm.norm.weight, model.mlm.norm.bias, eps=CONFIG.layer_norm_eps)
    table = model.encoder.embeddings.word.weight
    torch.testing.assert_close(model.mlm_logits(rows), hidden @ table.T + model.mlm.bias, rtol=0, atol=1e-4)
    exact = F.layer_norm(F.gelu(model.mlm.dense(rows)), (16,), eps=CONFIG.layer_norm_eps)
    assert (exact @ table.T + model.mlm.bias - model.mlm_logits(rows)).abs().max() > 1e-3
    loss.backward()
    assert table.grad is not None
    assert table.grad.abs().sum() > 0


@pytest.mark.parametrize("heads", [(), ("nsp",), ("mlm", "sop")])
def test_heads_that_make_no_model_are_refused(heads: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"heads must be \('mlm',\) or \('mlm', 'nsp'\), got"):
        PretrainingModel(CONFIG, heads=heads)
