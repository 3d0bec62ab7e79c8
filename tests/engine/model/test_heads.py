"""Pre-training heads: their initial weights, and where those come from."""

from __future__ import annotations

import pytest
import torch

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
