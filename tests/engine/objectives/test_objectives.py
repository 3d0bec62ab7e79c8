"""Objectives: how they are chosen and what they need of a batch."""

from __future__ import annotations

import pytest

from unmask import EncoderConfig, PretrainingModel, pack
from unmask.objectives import MLM, NSP, build_objectives

MODEL = EncoderConfig(vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_positions=8)


def test_objectives_with_a_weight_are_built_in_order() -> None:
    chosen = build_objectives({"mlm": 0.5, "nsp": 2.0})
    assert [(objective.name, weight) for objective, weight in chosen] == [("mlm", 0.5), ("nsp", 2.0)]
    assert [objective.name for objective, _ in build_objectives({"mlm": 1.0, "nsp": 0.0})] == ["mlm"]


def test_unknown_or_absent_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="objectives: 'sop' is not one of 'mlm', 'nsp'"):
        build_objectives({"sop": 1.0})
    with pytest.raises(ValueError, match="at least one objective needs a weight above 0"):
        build_objectives({"mlm": 0.0})


def test_a_batch_without_labels_is_refused() -> None:
    batch = pack([[1, 2, 3]])
    with pytest.raises(ValueError, match="mlm: the batch must carry masked rows and labels"):
        MLM().count(batch)
    with pytest.raises(ValueError, match="nsp: the batch must carry pair_labels"):
        NSP().count(batch)


def test_a_model_without_the_head_says_so() -> None:
    model = PretrainingModel(MODEL)
    batch = pack([[1, 2, 3]])
    with pytest.raises(ValueError, match="made without a next-sentence head"):
        model.nsp_logits(model(batch), batch.documents)
    with pytest.raises(ValueError, match=r"heads must be 'mlm' or 'mlm' and 'nsp', got \('nsp',\)"):
        PretrainingModel(MODEL, heads=("nsp",))
