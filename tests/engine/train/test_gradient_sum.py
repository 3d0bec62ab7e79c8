"""The sum of gradients over ranks, with ranks that run one after the other and hand on what they sum."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unmask.batch import PackedBatch, assemble
from unmask.config import OptimizerConfig
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives
from unmask.train import step as step_module
from unmask.train.gradient_sum import GradientSum
from unmask.train.optim import build_optimizer
from unmask.train.step import TrainingStep

CONFIG = EncoderConfig(vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=32)
MASKED = [1, 9, 2, 4]


class InTurn:
    """Ranks that run one after the other: each adds what those before it gave, so the last one has the sums.

    Args:
        counts: predictions of all ranks, which each needs before its forward pass.
        before: what the ranks before this one gave, in order.
    """

    def __init__(self, counts: Sequence[float], before: Sequence[Tensor]) -> None:
        self.given: list[Tensor] = []
        self.finished = 0
        self._counts = torch.tensor(counts)
        self._before = before

    def sum(self, tensor: Tensor) -> None:
        tensor.copy_(self._counts)

    def begin_sum(self, tensor: Tensor) -> int:
        place = len(self.given)
        if self._before:
            tensor += self._before[place]
        self.given.append(tensor.clone())
        return place

    def finish_sums(self, begun: Sequence[Any]) -> None:
        assert list(begun) == list(range(self.finished, len(self.given)))
        self.finished = len(self.given)


def batch_of(number: int) -> PackedBatch:
    generator = np.random.default_rng(number)
    lengths = np.array([12, 7, 30])
    rows = np.sort(generator.permutation(int(lengths.sum()))[: MASKED[number]])
    return assemble(
        generator.integers(5, 50, size=lengths.sum()),
        lengths,
        keys=np.arange(3) + 10 * number,
        tokens=56,
        sequences=6,
        max_seqlen=32,
        masked=rows,
        labels=generator.integers(5, 50, size=rows.size),
        masked_capacity=12,
    )


def make_step(ranks: InTurn | None, bucket_bytes: int = 4096) -> TrainingStep:
    model = PretrainingModel(CONFIG, seed=3).train()
    return TrainingStep(
        model=model,
        objectives=build_objectives({"mlm": 1.0}),
        optimizer=build_optimizer(model, OptimizerConfig(learning_rate=1e-3)),
        shared=None if ranks is None else GradientSum(model, ranks, bucket_bytes=bucket_bytes),
    )


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("on_gpu", [False, True], ids=["autograd adds", "one call adds"])
@pytest.mark.parametrize("shares", [[[0, 2], [1, 3]], [[0], [1], [2], [3]], [[0, 1, 2, 3]]], ids=["2", "4", "1"])
def test_the_sum_over_ranks_is_the_gradient_of_the_whole_step(
    shares: list[list[int]], on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, twice: the first step lays out the buckets, the second one sums during the backward pass."""
    monkeypatch.setattr(step_module, "_launches_cost", lambda device: on_gpu)
    whole = make_step(None)
    counts, sums, correct = whole.accumulate([batch_of(number) for number in range(4)])
    assert counts.tolist() == [sum(MASKED)]
    before: list[list[Tensor]] = [[], []]
    for share in shares:
        own = [batch_of(number) for number in share]
        model_step = None
        for turn in range(2):
            ranks = InTurn([float(sum(MASKED))], before[turn])
            model_step = model_step or make_step(ranks)
            assert model_step.shared is not None
            model_step.shared.ranks = ranks
            model_step.optimizer.zero_grad(set_to_none=True)
            found = model_step.accumulate(own)
            before[turn] = ranks.given
    assert model_step is not None
    assert found[0].tolist() == counts.tolist()
    assert found[2].tolist() == correct.tolist()
    assert torch.allclose(found[1], sums, rtol=1e-6)
    expected, got = gradients(whole.model), gradients(model_step.model)
    assert expected.keys() == got.keys()
    for name, gradient in expected.items():
        error = (got[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-3)
        assert error <= 1e-5, f"{name}: {error}"


def test_buckets_are_summed_while_the_backward_pass_goes_on() -> None:
    ranks = InTurn([float(MASKED[1])], [])
    step = make_step(ranks)
    step.accumulate([batch_of(1)])
    # the first step sums after its backward pass; the tallies come last
    buckets = len(ranks.given) - 1
    assert buckets > 3
    begun: list[int] = []
    first = next(parameter for parameter in step.model.parameters() if parameter.grad is not None)
    first.register_hook(lambda gradient: begun.append(len(ranks.given)))
    ranks.given.clear()
    ranks.finished = 0
    step.optimizer.zero_grad(set_to_none=True)
    step.accumulate([batch_of(1)])
    # the embeddings come last in a backward pass, and most sums had begun by then
    assert begun[0] >= buckets - 2
    assert len(ranks.given) == buckets + 1


def test_accumulation_sends_nothing_before_the_last_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = InTurn([float(sum(MASKED))], [])
    step = make_step(ranks)
    sent: list[int] = []
    original = step_module.score_batch

    def watched(*arguments: Any, **options: Any) -> Any:
        sent.append(len(ranks.given))
        return original(*arguments, **options)

    monkeypatch.setattr(step_module, "score_batch", watched)
    for _ in range(2):
        before = len(ranks.given)
        step.optimizer.zero_grad(set_to_none=True)
        step.accumulate([batch_of(number) for number in range(4)])
        assert sent[-4:] == [before] * 4
        ranks.finished = len(ranks.given)
