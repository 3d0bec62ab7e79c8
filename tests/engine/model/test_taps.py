"""Taps: the states that an encoder hands out are those that it computes with, and its results keep their bits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from unmask import Encoder, EncoderConfig, pack
from unmask.model.taps import Taps

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=64, max_positions=24)
BATCH = pack([[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3]], keys=range(3))


def hidden_of(encoder: Encoder, rows: torch.Tensor | None = None) -> torch.Tensor:
    return encoder(BATCH.ids, BATCH.documents, BATCH.segments, rows=rows)


def test_the_states_are_those_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from transformers import BertModel

    encoder = Encoder(CONFIG).eval()
    encoder.save_pretrained(tmp_path / "model")
    theirs = BertModel.from_pretrained(tmp_path / "model").eval()
    encoder.taps = Taps(hidden=range(4), attention=[2])
    with torch.no_grad():
        hidden_of(encoder)
        ends = BATCH.documents.cu_seqlens.tolist()
        for begin, end in pairwise(ends):
            states = theirs(BATCH.ids[None, begin:end], output_hidden_states=True).hidden_states
            for layer, state in enumerate(states):
                torch.testing.assert_close(encoder.taps.hidden_states[layer][begin:end], state[0], rtol=0, atol=1e-5)
            attention = theirs.encoder.layer[1].attention.self
            for part, name in enumerate(("query", "key", "value")):
                expected = getattr(attention, name)(states[1])[0].view(end - begin, 4, 8)
                torch.testing.assert_close(encoder.taps.qkv[2][begin:end, part], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_results_and_gradients_have_the_same_bits_with_taps(again: bool) -> None:
    found = []
    for taps in (None, Taps(hidden=range(4), attention=range(1, 4))):
        encoder = Encoder(CONFIG, seed=3).train()
        if again:
            encoder.activation_checkpointing_enable()
        encoder.taps = taps
        hidden = hidden_of(encoder)
        hidden.square().sum().backward()  # type: ignore[no-untyped-call]
        found.append([hidden.detach(), *(p.grad for p in encoder.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_gradients_flow_through_the_states_also_of_layers_that_are_computed_again() -> None:
    gradients = []
    for again in (False, True):
        encoder = Encoder(CONFIG, seed=3).train()
        if again:
            encoder.activation_checkpointing_enable()
        taps = encoder.taps = Taps(hidden=[1], attention=[2])
        hidden_of(encoder)
        (taps.hidden_states[1].square().sum() + taps.qkv[2].square().sum()).backward()
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert "layers.1.qkv.weight" in gradients[0] and "layers.2.qkv.weight" not in gradients[0]
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_forward_pass_keeps_what_is_wanted_and_lets_go_of_the_last_one() -> None:
    encoder = Encoder(CONFIG).eval()
    taps = encoder.taps = Taps(hidden=[0, 3], attention=[1])
    rows = torch.tensor([0, 5, 8])
    found = hidden_of(encoder, rows)
    first = taps.hidden_states[0]
    assert taps.hidden_states.keys() == {0, 3} and taps.qkv.keys() == {1}
    # of the last layer the rows that the caller asked for
    assert torch.equal(taps.hidden_states[3], found) and taps.qkv[1].shape == (17, 3, 4, 8)
    hidden_of(encoder)
    assert taps.hidden_states[0] is not first and len(taps.hidden_states[3]) == 17
    taps.clear()
    assert not taps.hidden_states and not taps.qkv


def test_taps_stay_inside_one_graph_of_a_compiler() -> None:
    encoder = Encoder(replace(CONFIG, hidden_dropout=0.0, attention_dropout=0.0)).eval()
    encoder.taps = Taps(hidden=[1], attention=[2])

    def states(ids: torch.Tensor) -> torch.Tensor:
        hidden = encoder(ids, BATCH.documents)
        assert encoder.taps is not None
        return F.mse_loss(hidden, encoder.taps.hidden_states[1]) + encoder.taps.qkv[2].square().mean()

    expected = states(BATCH.ids)
    compiled = torch.compile(states, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(BATCH.ids), expected)
