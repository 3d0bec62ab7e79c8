"""One training step against `transformers`: the same weights and masked batch give the same loss and gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import unmask
from unmask.batch import PackedBatch, assemble
from unmask.interop import hf
from unmask.interop.names import Parameter
from unmask.objectives import MLM, NSP, score_batch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")


def pair_of_models(
    config: unmask.EncoderConfig, heads: tuple[str, ...], folder: Path
) -> tuple[unmask.PretrainingModel, torch.nn.Module]:
    """The same weights in both libraries, away from the initial zeros and ones; dropout off, gradients on."""
    ours = unmask.PretrainingModel(config, heads=heads, seed=8)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    ours.save_pretrained(folder)
    kind = transformers.BertForPreTraining if "nsp" in heads else transformers.BertForMaskedLM
    return ours, kind.from_pretrained(folder).train()


def masked_batch(
    documents: list[list[int]], segment_ids: list[list[int]]
) -> tuple[PackedBatch, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The documents with some tokens masked: packed for us, padded with labels for transformers."""
    random = np.random.default_rng(3)
    max_seqlen = max(map(len, documents))
    padded = torch.zeros(len(documents), max_seqlen, dtype=torch.int64)
    segments = torch.zeros_like(padded)
    labels = torch.full_like(padded, -100)
    flat, rows, originals, start = [], [], [], 0
    for index, (one, segment) in enumerate(zip(documents, segment_ids, strict=True)):
        ids = np.array(one)
        chosen = random.choice(np.arange(1, len(ids) - 1), max(1, len(ids) // 6), replace=False)
        labels[index, chosen] = torch.from_numpy(ids[chosen])
        originals += ids[chosen].tolist()
        rows += (chosen + start).tolist()
        ids[chosen] = 4
        flat.append(ids)
        padded[index, : len(ids)] = torch.from_numpy(ids)
        segments[index, : len(ids)] = torch.tensor(segment)
        start += len(ids)
    batch = assemble(
        np.concatenate(flat),
        np.array([len(one) for one in documents]),
        keys=np.arange(len(documents)),
        tokens=start + 6,
        sequences=len(documents) + 2,
        max_seqlen=max_seqlen,
        segments=np.concatenate(segment_ids),
        masked=np.array(rows),
        labels=np.array(originals),
        masked_capacity=len(rows) + 3,
    )
    return batch, padded, segments, labels


def check_gradients(ours: torch.nn.Module, theirs: torch.nn.Module, parameters: Iterator[Parameter]) -> None:
    """Every gradient of theirs within 1e-5 of ours, relative to the largest one of the tensor."""
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    seen = set()
    for name, parts, _ in parameters:
        gradient = mine[name].grad
        expected = torch.cat([others[part].grad for part in parts])
        torch.testing.assert_close(
            gradient / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=1e-5, msg=name
        )
        seen.update(parts)
    assert seen == set(others)


def test_one_mlm_step_has_the_loss_and_the_gradients_of_transformers(
    tmp_path: Path, config: unmask.EncoderConfig, documents: list[list[int]], segments: list[list[int]]
) -> None:
    ours, theirs = pair_of_models(config, ("mlm",), tmp_path)
    batch, padded, padded_segments, labels = masked_batch(documents, segments)
    expected = theirs(padded, attention_mask=(padded > 0).long(), token_type_ids=padded_segments, labels=labels).loss
    expected.backward()
    (tally,) = score_batch(ours, [(MLM(), 1.0)], batch)
    loss = tally.loss_sum / tally.count
    loss.backward()
    assert int(tally.count) == int((labels >= 0).sum())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    check_gradients(ours, theirs, hf._model_parameters(config, ("mlm",), "bert."))


def test_mlm_and_next_sentence_together_have_the_losses_of_transformers(
    tmp_path: Path, config: unmask.EncoderConfig, documents: list[list[int]], segments: list[list[int]]
) -> None:
    ours, theirs = pair_of_models(config, ("mlm", "nsp"), tmp_path)
    batch, padded, padded_segments, labels = masked_batch(documents, segments)
    pairs = torch.tensor([0, 1, 1, 0])
    expected = theirs(
        padded,
        attention_mask=(padded > 0).long(),
        token_type_ids=padded_segments,
        labels=labels,
        next_sentence_label=pairs,
    ).loss
    expected.backward()
    labelled = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    labelled["pair_labels"] = torch.cat([pairs, torch.full((2,), -100)])
    both = PackedBatch(**labelled)
    mlm, nsp = score_batch(ours, [(MLM(), 1.0), (NSP(), 1.0)], both)
    loss = mlm.loss_sum / mlm.count + nsp.loss_sum / nsp.count
    loss.backward()
    assert int(nsp.count) == 4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    check_gradients(ours, theirs, hf._model_parameters(config, ("mlm", "nsp", "pooler"), "bert."))
