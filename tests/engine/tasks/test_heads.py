"""Each output layer against the class of `transformers`: the same weights and texts, packed here and padded there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmask.batch import IGNORED, PackedBatch, assemble
from unmask.config import EncoderConfig
from unmask.config.head import HeadConfig
from unmask.interop.task_folder import ARCHITECTURES, task_layout
from unmask.model.task_model import TaskModel
from unmask.objectives import score_batch
from unmask.tasks.objectives import task_objective

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

CONFIG = EncoderConfig(
    vocab_size=90,
    hidden_size=48,
    num_layers=2,
    num_heads=4,
    intermediate_size=96,
    max_positions=40,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
DOCUMENTS = [[2, 5, 6, 7, 8, 3], [2, 11, 3, 9, 3], [2, *range(20, 50), 3], [2, 60, 61, 3]]
SEGMENTS = [[0] * 6, [0, 0, 0, 1, 1], [0] * 20 + [1] * 12, [0] * 4]
HEADS = {
    "classification": HeadConfig(task="classification", labels=("bad", "good", "neither"), dropout=0.0),
    "multi_label": HeadConfig(task="multi_label", labels=("a", "b", "c", "d"), dropout=0.0),
    "regression": HeadConfig(task="regression", dropout=0.0),
    "entities": HeadConfig(task="entities", labels=("O", "B-X", "I-X"), dropout=0.0),
    "qa": HeadConfig(task="qa"),
}
TARGETS: dict[str, Any] = {
    "classification": np.array([2, 0, 1, 1]),
    "multi_label": np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]], np.float32),
    "regression": np.array([0.5, -1.0, 4.25, 2.0], np.float32),
}
# the first tokens of words and their tags: (document, place in it, tag)
TAGS = [(0, 1, 0), (0, 2, 1), (0, 4, 2), (1, 1, 1), (2, 1, 0), (2, 9, 2), (2, 30, 1), (3, 2, 0)]


def models(task: str, folder: Path) -> tuple[TaskModel, Any]:
    """The same weights in both libraries, away from the initial zeros and ones; dropout off, gradients on."""
    ours = TaskModel(CONFIG, HEADS[task], seed=8)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    ours.save_pretrained(folder)
    theirs = getattr(transformers, ARCHITECTURES[task])  # type: ignore[index]
    return ours.train(), theirs.from_pretrained(folder).train()


def packed(task: str, documents: list[list[int]], segments: list[list[int]], targets: Any = None) -> PackedBatch:
    lengths = np.array([len(ids) for ids in documents])
    starts = np.cumsum(lengths) - lengths
    tagged = [(starts[document] + place, tag) for document, place, tag in TAGS] if task == "entities" else None
    return assemble(
        np.concatenate(documents),
        lengths,
        keys=np.arange(len(documents)),
        tokens=int(lengths.sum()),
        sequences=len(documents),
        max_seqlen=int(lengths.max()),
        segments=np.concatenate(segments),
        targets=TARGETS.get(task) if targets is None else targets,
        masked=None if tagged is None else np.array([row for row, _ in tagged]),
        labels=None if tagged is None else np.array([tag for _, tag in tagged]),
    )


def padded(documents: list[list[int]], segments: list[list[int]]) -> dict[str, torch.Tensor]:
    ids, kinds = (
        torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        for rows in (documents, segments)
    )
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "token_type_ids": kinds}


def expected_loss(task: str, theirs: Any) -> torch.Tensor:
    """The loss of transformers on the padded batch."""
    inputs = padded(DOCUMENTS, SEGMENTS)
    if task != "entities":
        loss: torch.Tensor = theirs(**inputs, labels=torch.from_numpy(TARGETS[task])).loss
        return loss
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    for document, place, tag in TAGS:
        labels[document, place] = tag
    found: torch.Tensor = theirs(**inputs, labels=labels).loss
    return found


def assert_same_step(task: str, ours: TaskModel, theirs: Any, batch: PackedBatch, expected: torch.Tensor) -> None:
    """Equal loss, and equal gradients of every parameter."""
    expected.backward()  # type: ignore[no-untyped-call]
    (tally,) = score_batch(ours, [(task_objective(ours.head.task), 1.0)], batch)
    loss = tally.loss_sum / tally.count
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    mine, others = dict(ours.named_parameters()), dict(theirs.named_parameters())
    layout = list(task_layout(CONFIG, ours.head))
    assert {parameter.ours for parameter in layout} == mine.keys()
    assert {name for parameter in layout for name in parameter.theirs} == others.keys()
    for parameter in layout:
        gradient = torch.cat([others[name].grad for name in parameter.theirs])
        torch.testing.assert_close(mine[parameter.ours].grad, gradient, rtol=1e-5, atol=1e-5, msg=parameter.ours)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("task", ["classification", "multi_label", "regression", "entities"])
def test_loss_and_every_gradient_are_those_of_transformers(task: str, tmp_path: Path) -> None:
    ours, theirs = models(task, tmp_path)
    assert_same_step(task, ours, theirs, packed(task, DOCUMENTS, SEGMENTS), expected_loss(task, theirs))


def test_answers_have_the_loss_of_transformers_where_nothing_is_padded(tmp_path: Path) -> None:
    """`BertForQuestionAnswering` takes the softmax over the padding too, so each document is asked by itself."""
    ours, theirs = models("qa", tmp_path)
    spans = np.array([[1, 3], [2, 2], [21, 30], [0, 0]])
    losses = [
        theirs(
            **padded([ids], [kinds]),
            start_positions=torch.tensor([start]),
            end_positions=torch.tensor([end]),
        ).loss
        for ids, kinds, (start, end) in zip(DOCUMENTS, SEGMENTS, spans, strict=True)
    ]
    batch = packed("qa", DOCUMENTS, SEGMENTS, spans)
    assert_same_step("qa", ours, theirs, batch, torch.stack(losses).mean())


def test_what_is_correct_is_counted(tmp_path: Path) -> None:
    for task in HEADS:
        ours, _ = models(task, tmp_path / task)
        targets = np.array([[1, 3], [2, 2], [21, 30], [0, 0]]) if task == "qa" else None
        batch = packed(task, DOCUMENTS, SEGMENTS, targets)
        (tally,) = score_batch(ours, [(task_objective(ours.head.task), 1.0)], batch)
        rows = ours.rows(batch)
        with torch.no_grad():
            logits = ours.logits(ours(batch, rows=rows), batch, rows)
        if task == "classification":
            assert int(tally.correct) == int((logits.argmax(-1) == batch.targets).sum())
        if task == "entities":
            assert int(tally.correct) == int((logits.argmax(-1) == batch.labels).sum())
            assert int(tally.count) == len(TAGS)
        if task == "multi_label":
            assert int(tally.count) == 16


@pytest.mark.parametrize("task", HEADS)
def test_a_saved_model_is_read_again_and_gives_the_logits_of_transformers(task: str, tmp_path: Path) -> None:
    ours, theirs = models(task, tmp_path)
    again = TaskModel.from_pretrained(tmp_path)
    assert again.head == ours.head and not again.training
    batch = packed(task, DOCUMENTS, SEGMENTS, TARGETS.get(task, np.zeros((4, 2), np.int64)))
    rows = again.rows(batch)
    with torch.no_grad():
        logits = again.logits(again(batch, rows=rows), batch, rows)
        expected = theirs.eval()(**padded(DOCUMENTS, SEGMENTS))
    if task == "qa":
        both = torch.stack([expected.start_logits, expected.end_logits], -1)
        found = torch.cat([row[: len(ids)] for row, ids in zip(both, DOCUMENTS, strict=True)])
    elif task == "entities":
        found = torch.stack([expected.logits[document, place] for document, place, _ in TAGS])
    else:
        found = expected.logits
    torch.testing.assert_close(logits, found, rtol=0, atol=1e-5)
    if again.head.labels:
        assert theirs.config.id2label == dict(enumerate(again.head.labels))


def test_dropout_in_front_of_the_layer_follows_the_document_and_not_the_batch() -> None:
    model = TaskModel(CONFIG, HeadConfig(labels=("a", "b"), dropout=0.5), seed=3).train()
    batch = packed("classification", DOCUMENTS, SEGMENTS)
    rows = model.rows(batch)
    hidden = model(batch, rows=rows)
    first, again = (model.logits(hidden, batch, rows) for _ in range(2))
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first, model.eval().logits(hidden, batch, rows))
    model.train()
    others = [DOCUMENTS[index] for index in (2, 0)]
    kinds = [SEGMENTS[index] for index in (2, 0)]
    lengths = np.array([len(ids) for ids in others])
    moved = assemble(
        np.concatenate(others),
        lengths,
        keys=np.array([2, 0]),
        tokens=int(lengths.sum()),
        sequences=2,
        max_seqlen=40,
        segments=np.concatenate(kinds),
    )
    rows = model.rows(moved)
    torch.testing.assert_close(model.logits(model(moved, rows=rows), moved, rows), first[[2, 0]], rtol=0, atol=1e-5)
    # another epoch has other keys, and drops other elements
    keyed = packed("classification", DOCUMENTS, SEGMENTS)
    with torch.no_grad():
        model.encoder.dropout_seed.add_(1)
        assert not torch.allclose(model.logits(hidden, keyed, model.rows(keyed)), first)
