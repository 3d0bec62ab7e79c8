"""Sentence pairs from the stream, packed, against the same pairs padded in `transformers`: both losses agree."""

from __future__ import annotations

import os
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import unmask
from streams import make_stream
from unmask.batch import PackedBatch
from unmask.config import CompositionConfig, MaskingConfig
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.store.memory import MemoryStore
from unmask.objectives import build_objectives, score_batch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")


def batches(task: str, masking: str) -> list[PackedBatch]:
    """Micro-batches of pairs over a generated corpus of words and sentences."""
    rng = np.random.default_rng(4)
    lengths = rng.integers(2, 90, 60)
    total = int(lengths.sum())
    store = MemoryStore(
        rng.integers(5, 90, total).astype(np.uint16),
        lengths,
        vocab_size=90,
        word_starts=rng.random(total) < 0.7,
        sentence_starts=rng.random(total) < 0.15,
    )
    table = SimilarWords([((one,), (other,)) for one, other in pairwise(range(5, 90))]) if masking == "mac" else None
    stream = make_stream(
        store,
        max_length=40,
        micro_batch_tokens=400,
        held_out_fraction=0.0,
        composition=CompositionConfig(strategy="pairs"),
        pair_task=task,
        masking=MaskingConfig(strategy=masking),  # type: ignore[arg-type]
        similar_words=table,
    )
    return list(islice(stream.batches(), 3))


def padded(batch: PackedBatch) -> dict[str, torch.Tensor]:
    """The batch as `transformers` takes it: a row for each document."""
    assert batch.masked is not None and batch.labels is not None and batch.pair_labels is not None
    labels = torch.full_like(batch.ids, -100)
    used = batch.labels >= 0
    labels[batch.masked[used]] = batch.labels[used]
    edges = [(a, b) for a, b in pairwise(batch.documents.cu_seqlens.tolist()) if a < b <= batch.real_tokens]

    def rows(flat: torch.Tensor, fill: int) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([flat[a:b] for a, b in edges], batch_first=True, padding_value=fill)

    return {
        "input_ids": rows(batch.ids, 0),
        "token_type_ids": rows(batch.segments, 0),
        "attention_mask": rows(torch.ones_like(batch.ids), 0),
        "labels": rows(labels, -100),
        "next_sentence_label": batch.pair_labels[: len(edges)],
    }


@pytest.mark.parametrize(("task", "masking"), [("nsp", "whole_word"), ("sop", "mac")])
def test_packed_pairs_have_both_losses_of_padded_ones(
    tmp_path: Path, config: unmask.EncoderConfig, task: str, masking: str
) -> None:
    ours = unmask.PretrainingModel(config, heads=("mlm", "nsp"), seed=8)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    ours.save_pretrained(tmp_path)
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path).eval()
    objectives = build_objectives({"mlm": 1.0, task: 1.0})
    seen = set()
    for batch in batches(task, masking):
        with torch.no_grad():
            mlm, pairs = score_batch(ours.eval(), objectives, batch)
            inputs = padded(batch)
            out = theirs(**{name: value for name, value in inputs.items() if name != "labels"})
            expected_pairs = torch.nn.functional.cross_entropy(
                out.seq_relationship_logits, inputs["next_sentence_label"]
            )
            expected_mlm = torch.nn.functional.cross_entropy(
                out.prediction_logits.flatten(0, 1), inputs["labels"].flatten()
            )
        assert abs(float(mlm.loss_sum / mlm.count - expected_mlm)) < 1e-5
        assert abs(float(pairs.loss_sum / pairs.count - expected_pairs)) < 1e-5
        assert int(pairs.count) == len(inputs["input_ids"])
        right = (out.seq_relationship_logits.argmax(-1) == inputs["next_sentence_label"]).sum()
        assert int(pairs.correct) == int(right)
        seen.update(inputs["next_sentence_label"].tolist())
        assert set(inputs["token_type_ids"].unique().tolist()) == {0, 1}
    assert seen == {0, 1}
