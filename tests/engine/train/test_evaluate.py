import math
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from streams import make_stream
from unmask.batch import PackedBatch
from unmask.data.stream import Stream
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives, score_batch
from unmask.train.evaluate import Score, as_row, score_model

OBJECTIVES = build_objectives({"mlm": 1.0})


@pytest.fixture
def stream(tiny: ModuleType) -> Stream:
    store, tokenizer = tiny.text()
    settings = {"max_length": 32, "micro_batch_tokens": 128, "held_out_fraction": 0.2, "split": "held_out"}
    return make_stream(store, **settings, ordinary_ids=tokenizer.ordinary_ids)


@pytest.fixture
def model(tiny: ModuleType) -> PretrainingModel:
    store, _ = tiny.text()
    config = EncoderConfig(
        vocab_size=store.vocab_size, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_positions=32
    )
    return PretrainingModel(config, seed=1)


def test_two_evaluations_of_the_same_weights_agree(stream: Stream, model: PretrainingModel) -> None:
    first = score_model(model, OBJECTIVES, stream.batches(), tokens=10**9)
    again = score_model(model, OBJECTIVES, stream.batches(), tokens=10**9)
    assert first == again


def test_an_untrained_model_hesitates_between_all_tokens(stream: Stream, model: PretrainingModel) -> None:
    (score,) = score_model(model, OBJECTIVES, stream.batches(), tokens=10**9)
    assert score.loss == pytest.approx(math.log(model.config.vocab_size), abs=0.3)
    assert score.perplexity == pytest.approx(math.exp(score.loss))


def test_the_mean_is_over_masked_tokens_and_not_over_batches(stream: Stream, model: PretrainingModel) -> None:
    model.eval()
    batches = list(stream.batches())
    with torch.no_grad():
        tallies = [score_batch(model, OBJECTIVES, batch)[0] for batch in batches]
    (result,) = score_model(model, OBJECTIVES, batches, tokens=10**9)
    count = sum(int(tally.count) for tally in tallies)
    assert len({int(tally.count) for tally in tallies}) > 1
    assert result.count == count
    assert result.loss == pytest.approx(sum(float(tally.loss_sum) for tally in tallies) / count, rel=1e-6)
    assert result.accuracy == pytest.approx(sum(int(tally.correct) for tally in tallies) / count)


@pytest.mark.parametrize(("tokens", "used"), [(1, 1), (127, 1), (128, 1), (255, 1), (256, 2), (10**9, None)])
def test_at_most_so_many_tokens_are_read_and_one_batch_at_least(
    stream: Stream, model: PretrainingModel, tokens: int, used: int | None
) -> None:
    taken: list[PackedBatch] = []

    def watched() -> object:
        for batch in stream.batches():
            taken.append(batch)
            yield batch

    score_model(model, OBJECTIVES, watched(), tokens=tokens)  # type: ignore[arg-type]
    total = len(list(stream.batches()))
    assert total > 2
    assert len(taken) == (total if used is None else used)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_comes_back(stream: Stream, model: PretrainingModel, training: bool) -> None:
    model.train(training)
    score_model(model, OBJECTIVES, stream.batches(), tokens=1)
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_held_out_gives_no_score(model: PretrainingModel) -> None:
    assert score_model(model, OBJECTIVES, (), tokens=100) == []


def test_text_without_a_prediction_has_no_score_rather_than_a_perfect_one(
    stream: Stream, model: PretrainingModel
) -> None:
    nothing = [replace(batch, labels=torch.full_like(batch.labels, -100)) for batch in stream.batches()]  # type: ignore[arg-type]
    (score,) = score_model(model, OBJECTIVES, nothing, tokens=10**9)
    assert score.count == 0
    assert math.isnan(score.loss)
    assert math.isnan(score.accuracy)
    assert str(score) == "mlm: nothing to predict, no score"
    row = as_row([score], [1.0])
    assert all(math.isnan(row[name]) for name in ("loss", "perplexity", "masked_accuracy"))


def test_the_row_of_several_objectives_has_their_weighted_sum_and_each() -> None:
    scores = [Score(name="mlm", loss=1.0, accuracy=0.5, count=4), Score(name="nsp", loss=0.5, accuracy=1.0, count=2)]
    assert as_row(scores, [1.0, 2.0]) == {
        "loss": 2.0,
        "mlm_loss": 1.0,
        "perplexity": math.e,
        "masked_accuracy": 0.5,
        "masked_tokens": 4,
        "nsp_loss": 0.5,
        "nsp_accuracy": 1.0,
        "nsp_count": 2,
    }


def test_the_row_of_a_causal_model_has_its_loss_where_curves_are_drawn_from() -> None:
    row = as_row([Score(name="clm", loss=1.0, accuracy=0.5, count=4)], [1.0])
    assert row == {"loss": 1.0, "perplexity": math.e, "clm_accuracy": 0.5, "clm_count": 4}


def test_the_line_of_a_score_tells_the_perplexity_of_tokens_only() -> None:
    assert (
        str(Score(name="clm", loss=0.0, accuracy=0.5, count=4)) == "clm loss 0.000, perplexity 1.0, accuracy 50.0% of 4"
    )
    assert str(Score(name="sop", loss=0.5, accuracy=0.5, count=4)) == "sop loss 0.500, accuracy 50.0% of 4"
