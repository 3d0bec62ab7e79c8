"""Objectives: how they are chosen and what they need of a batch."""

from __future__ import annotations

import pytest
import torch

from unmask import EncoderConfig, PretrainingModel, pack
from unmask.batch import PackedBatch
from unmask.config import load_config
from unmask.errors import ConfigError
from unmask.objectives import MLM, NSP, build_objectives, score_batch

MODEL = EncoderConfig(vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_positions=8)


def test_objectives_with_a_weight_are_built_in_order() -> None:
    chosen = build_objectives({"mlm": 0.5, "nsp": 2.0})
    assert [(objective.name, weight) for objective, weight in chosen] == [("mlm", 0.5), ("nsp", 2.0)]
    assert [objective.name for objective, _ in build_objectives({"mlm": 1.0, "nsp": 0.0})] == ["mlm"]


def test_unknown_or_absent_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="objectives: 'rtd' is not known; there are mlm, clm, nsp, sop"):
        build_objectives({"rtd": 1.0})
    with pytest.raises(ValueError, match="at least one objective needs a weight above 0"):
        build_objectives({"mlm": 0.0})


@pytest.mark.parametrize(("one", "other"), [("nsp", "sop"), ("clm", "mlm"), ("clm", "nsp"), ("clm", "sop")])
def test_objectives_that_read_one_label_in_two_ways_are_refused_by_configuration_and_library(
    one: str, other: str
) -> None:
    with pytest.raises(ValueError, match=f"objectives: {one!r} and {other!r} cannot be summed"):
        build_objectives({other: 1.0, one: 0.5})
    weights = {"mlm": 0, one: 1, other: 1}
    with pytest.raises(ConfigError, match=rf"objective\.{one} and objective\.{other} are both above 0"):
        load_config(None, {"objective": weights, "composition.strategy": "pairs", "model.causal": True})


def test_a_batch_without_labels_is_refused() -> None:
    batch = pack([[1, 2, 3]])
    with pytest.raises(ValueError, match="mlm: the batch must carry masked rows and labels"):
        MLM().count(batch)
    with pytest.raises(ValueError, match="nsp: the batch must carry pair_labels"):
        NSP().count(batch)


def test_a_model_without_the_head_says_so() -> None:
    model = PretrainingModel(MODEL)
    batch = pack([[1, 2, 3]])
    with pytest.raises(ValueError, match="it has no next-sentence head; make or read it with heads="):
        model.nsp_logits(model(batch)[batch.documents.first_rows()])
    with pytest.raises(ValueError, match=r"heads must be \('mlm',\) or \('mlm', 'nsp'\), got \('nsp',\)"):
        PretrainingModel(MODEL, heads=("nsp",))


def test_the_last_layer_on_the_rows_that_are_read_gives_the_loss_of_all_rows() -> None:
    model = PretrainingModel(MODEL, heads=("mlm", "nsp"), seed=5)
    objectives = build_objectives({"mlm": 1.0, "nsp": 1.0})
    documents = pack([[1, 2, 3, 4], [5, 6, 7], [8, 9]], tokens=12, max_seqlen=8)
    fields = {name: getattr(documents, name) for name in documents.__dataclass_fields__}
    fields |= {"masked": torch.tensor([1, 5, 0]), "labels": torch.tensor([2, 6, -100])}
    batch = PackedBatch(**fields | {"pair_labels": torch.tensor([0, 1, 1, -100])})
    results = []
    for all_rows in (False, True):
        model.zero_grad()
        tallies = score_batch(model, objectives, batch, all_rows=all_rows)
        torch.stack([tally.loss_sum for tally in tallies]).sum().backward()
        results.append((tallies, {name: one.grad.clone() for name, one in model.named_parameters()}))
    (few, gradients), (everything, expected) = results
    for one, other in zip(few, everything, strict=True):
        assert int(one.count) == int(other.count) > 0
        assert int(one.correct) == int(other.correct)
        torch.testing.assert_close(one.loss_sum, other.loss_sum)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-6, msg=name)
