from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.batch import PackedBatch, assemble
from unmask.config import OptimizerConfig
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives, score_batch
from unmask.train.optim import build_optimizer
from unmask.train.step import TrainingStep, take_gradients

CONFIG = EncoderConfig(vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=32)
# Lengths and masked tokens of the documents: uneven, so that a mean per micro-batch would be another gradient.
LENGTHS = np.array([12, 5, 30, 7, 3, 21, 9, 17])
MASKED = np.array([1, 1, 9, 2, 1, 2, 4, 1])


def batches_of(groups: Sequence[Sequence[int]]) -> list[PackedBatch]:
    """The eight documents, cut into micro-batches."""
    generator = np.random.default_rng(0)
    ids = [generator.integers(5, 50, size=length) for length in LENGTHS]
    rows = [np.sort(generator.permutation(length)[:count]) for length, count in zip(LENGTHS, MASKED, strict=True)]
    labels = [generator.integers(5, 50, size=count) for count in MASKED]
    made = []
    for group in groups:
        lengths = LENGTHS[list(group)]
        offsets = np.cumsum(lengths) - lengths
        made.append(
            assemble(
                np.concatenate([ids[d] for d in group]),
                lengths,
                keys=np.array([100 + d for d in group]),
                tokens=112,
                sequences=14,
                max_seqlen=32,
                masked=np.concatenate([rows[d] + offset for d, offset in zip(group, offsets, strict=True)]),
                labels=np.concatenate([labels[d] for d in group]),
                masked_capacity=24,
            )
        )
    return made


def make_step(*, clip_norm: float = 1.0, learning_rate: float = 1e-3) -> tuple[PretrainingModel, TrainingStep]:
    model = PretrainingModel(CONFIG, seed=3)
    model.train()
    step = TrainingStep(
        model=model,
        objectives=build_objectives({"mlm": 1.0}),
        optimizer=build_optimizer(model, OptimizerConfig(learning_rate=learning_rate)),
        clip_norm=clip_norm,
    )
    return model, step


def gradients(model: PretrainingModel) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "groups",
    [
        [[0, 1, 2, 3], [4, 5, 6, 7]],
        [[0], [1, 2, 3, 4, 5, 6], [7]],
        [[7], [6], [5], [4], [3], [2], [1], [0]],
    ],
    ids=["2 even", "3 uneven", "8 in another order"],
)
def test_the_gradient_does_not_depend_on_how_the_step_is_cut(groups: list[list[int]]) -> None:
    whole, whole_step = make_step()
    cut, cut_step = make_step()
    counts, sums, correct = whole_step.accumulate(batches_of([range(8)]))
    cut_counts, cut_sums, cut_correct = cut_step.accumulate(batches_of(groups))
    assert counts.tolist() == cut_counts.tolist() == [MASKED.sum()]
    assert correct.tolist() == cut_correct.tolist()
    assert torch.allclose(sums, cut_sums, rtol=1e-5)
    expected, got = gradients(whole), gradients(cut)
    assert expected.keys() == got.keys() == {name for name, _ in whole.named_parameters()}
    for name, gradient in expected.items():
        error = (got[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-3)
        assert error <= 1e-5, f"{name}: {error}"


def test_the_loss_is_the_mean_over_all_masked_tokens_of_the_step() -> None:
    model, step = make_step()
    batches = batches_of([[0, 1], [2, 3, 4, 5, 6, 7]])
    with torch.no_grad():
        tallies = [score_batch(model, step.objectives, batch)[0] for batch in batches]
    expected = sum(t.loss_sum for t in tallies) / sum(t.count for t in tallies)
    report = step(batches)
    assert float(report.loss) == pytest.approx(float(expected), rel=1e-6)
    assert float(report.counts) == MASKED.sum()


def test_weights_scale_an_objective() -> None:
    model, step = make_step()
    heavy_model, heavy = make_step()
    heavy = TrainingStep(model=heavy_model, objectives=build_objectives({"mlm": 2.0}), optimizer=heavy.optimizer)
    step.accumulate(batches_of([range(8)]))
    heavy.accumulate(batches_of([range(8)]))
    for name, gradient in gradients(model).items():
        assert torch.allclose(gradients(heavy_model)[name], 2 * gradient, atol=1e-7), name


def test_every_objective_is_reported_by_its_own_count_and_the_loss_by_weights() -> None:
    model = PretrainingModel(CONFIG, heads=("mlm", "nsp"), seed=3).eval()
    (batch,) = batches_of([range(8)])
    labels = torch.full((14,), -100)
    labels[:8] = torch.tensor([0, 1, 1, 0, -100, 1, 0, 0])
    batch = replace(batch, pair_labels=labels)
    objectives = build_objectives({"mlm": 2.0, "nsp": 0.5})
    tallies = score_batch(model, objectives, batch)
    assert [int(tally.count) for tally in tallies] == [int(MASKED.sum()), 7]
    report = TrainingStep(
        model=model, objectives=objectives, optimizer=build_optimizer(model, OptimizerConfig(learning_rate=1e-4))
    )([batch, batch])
    for place, tally in enumerate(tallies):
        assert report.counts[place] == 2 * tally.count
        assert torch.allclose(report.means[place], tally.loss_sum / tally.count)
        assert torch.allclose(report.accuracy[place], tally.correct / tally.count)
    assert torch.allclose(report.loss, 2.0 * report.means[0] + 0.5 * report.means[1])


@pytest.mark.parametrize("clip_norm", [0.01, 1e9])
def test_clipping_equals_pytorchs_own(clip_norm: float) -> None:
    ours, step = make_step(clip_norm=clip_norm)
    theirs, plain = make_step()
    batches = batches_of([range(8)])
    report = step(batches)
    plain.accumulate(batches)
    norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
    plain.optimizer.step()
    assert torch.allclose(report.gradient_norm, norm, rtol=1e-6)
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-6), name


def test_clipping_and_skipping_never_read_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    _, step = make_step()
    step.accumulate(batches_of([range(8)]))

    def refuse(*arguments: object) -> None:
        raise AssertionError("a tensor was read on the host")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, name, refuse)
    _, skipped = step.update()
    monkeypatch.undo()
    assert float(skipped) == 0.0


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(poison: float) -> None:
    model, step = make_step()
    batches = batches_of([range(8)])
    step(batches)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {p: {k: v.clone() for k, v in s.items()} for p, s in step.optimizer.state.items()}
    handle = model.mlm.bias.register_hook(lambda gradient: gradient * poison)
    report = step(batches)
    handle.remove()
    assert float(report.skipped) == 1.0
    assert not torch.isfinite(report.gradient_norm)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name
    for p, state in step.optimizer.state.items():
        assert all(torch.equal(value, moments[p][key]) for key, value in state.items())
    assert float(step(batches).skipped) == 0.0
    assert not torch.equal(model.mlm.bias, before["mlm.bias"])


def test_a_step_without_a_masked_token_has_no_loss_and_no_gradient() -> None:
    model, step = make_step()
    (batch,) = batches_of([[0]])
    assert batch.labels is not None
    batch.labels.fill_(-100)
    report = step([batch])
    assert (float(report.counts), float(report.gradient_norm), float(report.skipped)) == (0, 0, 0)
    assert torch.isnan(torch.stack([report.loss, *report.means, *report.accuracy])).all()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_gradients_are_fp32_under_bf16_activations() -> None:
    model = PretrainingModel(CONFIG, compute_dtype=torch.bfloat16, seed=3)
    step = TrainingStep(
        model=model,
        objectives=build_objectives({"mlm": 1.0}),
        optimizer=build_optimizer(model, OptimizerConfig(learning_rate=1e-4)),
    )
    report = step(batches_of([range(8)]))
    assert {gradient.dtype for gradient in gradients(model).values()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.isfinite(report.loss)


def test_repeating_one_batch_learns_it() -> None:
    _, step = make_step(learning_rate=1e-2)
    batches = batches_of([range(8)])
    losses = [float(step(batches).loss) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_that_one_call_adds_have_the_bits_of_those_that_autograd_adds(
    frozen: bool, checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = batches_of([[0], [1, 2, 3, 4, 5, 6], [7]])
    found = []
    for in_one_call in (False, True):
        monkeypatch.setattr("unmask.train.step._launches_cost", lambda device, answer=in_one_call: answer)
        model, step = make_step()
        model.encoder.layers[1].requires_grad_(not frozen)
        if checkpointed:
            model.activation_checkpointing_enable()
        for _ in range(2):  # the second time there are gradients to add to before the first micro-batch
            step.accumulate(batches)
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[1][name], gradient) for name, gradient in found[0].items())


def test_a_parameter_that_a_micro_batch_does_not_reach_keeps_its_sum() -> None:
    one, two, other = (torch.zeros(2, requires_grad=True) for _ in range(3))
    totals: dict[Tensor, Tensor] = {}
    for reached, value in (((one, two), 1.0), ((two,), 2.0), ((one, two), 4.0)):
        for parameter in reached:
            parameter.grad = torch.full((2,), value)
        take_gradients([one, two, other], totals)
        assert one.grad is two.grad is other.grad is None
    assert [int(totals[parameter][0]) for parameter in (one, two)] == [5, 7]
    assert other not in totals


def test_a_micro_batch_whose_gradient_is_not_finite_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.train.step._launches_cost", lambda device: True)
    model, step = make_step()
    factors = iter([1.0, float("nan"), 1.0])
    handle = model.mlm.bias.register_hook(lambda gradient: gradient * next(factors))
    report = step(batches_of([[0], [1, 2, 3, 4, 5, 6], [7]]))
    handle.remove()
    assert float(report.skipped) == 1.0
    assert float(step(batches_of([[0], [1, 2, 3, 4, 5, 6], [7]])).skipped) == 0.0
