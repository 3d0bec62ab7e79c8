"""Distraction: zero inside documents, even for an untrained model, and the masses are those of the attention matrix."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch

from streams import make_stream
from unmask import EncoderConfig
from unmask.analysis.distraction import documents_of, measure_distraction, reference_masses
from unmask.batch import PackedBatch, pack
from unmask.config import CompositionConfig
from unmask.data.store.memory import MemoryStore
from unmask.model import Encoder

SEP = 3


def encoder(std: float = 0.02, **changes: object) -> Encoder:
    sizes = {
        "vocab_size": 60,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 32,
        "max_positions": 64,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
    }
    config = EncoderConfig(**(sizes | changes), initializer_range=std)  # type: ignore[arg-type]
    return Encoder(config, seed=1)


def batches(scope: str, count: int = 3) -> list[PackedBatch]:
    lengths = np.random.default_rng(0).integers(3, 40, 200)
    store = MemoryStore.generated(lengths, vocab_size=60)
    composition = CompositionConfig(strategy="mix", scope=scope)  # type: ignore[arg-type]
    stream = make_stream(store, max_length=64, micro_batch_tokens=256, held_out_fraction=0.0, composition=composition)
    return list(islice(stream.batches(), count))


@pytest.mark.parametrize("causal", [False, True])
def test_inside_documents_it_is_exactly_zero(causal: bool) -> None:
    found = measure_distraction(encoder(std=0.5, causal=causal), batches("document"), sep_id=SEP)
    assert found.layers == [0.0, 0.0]
    assert found.reference == 0.0


@pytest.mark.parametrize("causal", [False, True])
def test_an_untrained_model_across_documents_is_near_the_reference(causal: bool) -> None:
    found = measure_distraction(encoder(causal=causal), batches("sequence"), sep_id=SEP)
    assert found.reference > 0.2
    for layer in found.layers:
        assert abs(layer - found.reference) < 0.01
    assert found.tokens == sum(batch.real_tokens for batch in batches("sequence"))


@pytest.mark.parametrize("causal", [False, True])
def test_masses_are_those_of_the_attention_matrix(causal: bool) -> None:
    model = encoder(std=0.5, causal=causal).eval()
    batch = pack([[2, 7, 8, SEP, 9, 10, 11, SEP, 12, SEP], [2, 20, SEP]], tokens=16, max_seqlen=12)
    inputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for layer in model.layers]
    with torch.no_grad():
        model(batch.ids, batch.documents)
        for hook in hooks:
            hook.remove()
        expected = []
        own = documents_of(batch, SEP)
        for layer, x in zip(model.layers, inputs, strict=True):
            query, key, _ = layer.qkv(x).view(-1, 3, 2, 8).unbind(1)
            scores = torch.einsum("qhk,shk->hqs", query, key) / math.sqrt(8)
            sequence = batch.documents.document_ids
            seen = sequence[:, None] == sequence[None]
            if causal:
                seen &= torch.ones_like(seen).tril()
            share = scores.masked_fill(~seen, -math.inf).softmax(-1).mean(0)
            other = own[:, None] != own[None]
            expected.append(float((share * other)[:13].sum(1).mean()))
    found = measure_distraction(model, [batch], sep_id=SEP)
    assert found.layers == pytest.approx(expected, abs=1e-6)
    assert found.tokens == 13


def test_documents_end_with_their_separator_and_with_their_chunk() -> None:
    batch = pack([[2, 7, 8, SEP, 9, SEP], [2, 20, SEP]], tokens=11, max_seqlen=6)
    assert documents_of(batch, SEP).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    masses = reference_masses(batch, SEP).tolist()
    assert masses[:9] == pytest.approx([1 / 3] * 4 + [2 / 3] * 2 + [0] * 3)
    causal = reference_masses(batch, SEP, causal=True).tolist()
    assert causal[:9] == pytest.approx([0] * 4 + [4 / 5, 4 / 6] + [0] * 3)


def test_the_mode_of_the_model_is_left_alone_and_no_batch_is_refused() -> None:
    model = encoder().train()
    found = measure_distraction(model, batches("sequence", 1), sep_id=SEP)
    assert model.training
    # without its dropout
    assert measure_distraction(model.eval(), batches("sequence", 1), sep_id=SEP) == found
    with pytest.raises(ValueError, match="needs at least one micro-batch, got none"):
        measure_distraction(model, [], sep_id=SEP)
