"""What only a GPU can show: the encoder's numbers, steps that never wait for the device, capture in a CUDA graph."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.batch import PackedBatch, assemble
from unmask.config import OptimizerConfig
from unmask.model import Encoder, EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives
from unmask.train.graphs import GraphedStep
from unmask.train.loss_scale import LossScale
from unmask.train.optim import build_optimizer, set_learning_rate
from unmask.train.side_stream import SideStream
from unmask.train.step import TrainingStep
from unmask_kernels import Documents, using
from unmask_kernels.testing.gpu import captured, no_waiting

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = "cuda"
CONFIG = EncoderConfig(
    vocab_size=97,
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    intermediate_size=128,
    max_positions=64,
    hidden_dropout=0.1,
    attention_dropout=0.1,
)


def batch(*documents: int) -> PackedBatch:
    """At most 64 tokens in 6 slots, four of them masked."""
    lengths = np.array(documents or (13, 40, 1, 7))
    ids = np.arange(lengths.sum()) % 90 + 5
    masked = np.array([2, 9, 20, 50])
    keys = np.arange(len(lengths))
    return assemble(ids, lengths, keys=keys, tokens=64, sequences=6, max_seqlen=64, masked=masked, labels=ids[masked])


@pytest.mark.parametrize("training", [False, True])
def test_encoder_gives_on_a_gpu_what_it_gives_on_a_cpu(training: bool) -> None:
    made = batch()
    encoder = Encoder(CONFIG, seed=1).train(training)
    hidden = encoder(made.ids, made.documents, made.segments)
    hidden.square().sum().backward()
    expected = {name: parameter.grad for name, parameter in encoder.named_parameters()}
    encoder.zero_grad(set_to_none=True)
    moved = made.to(DEVICE)
    ours = encoder.to(DEVICE)(moved.ids, moved.documents, moved.segments)
    ours.square().sum().backward()
    torch.testing.assert_close(ours.cpu(), hidden, rtol=1e-4, atol=1e-4)
    for name, parameter in encoder.named_parameters():
        reference = expected[name]
        assert (parameter.grad is None) == (reference is None), name
        if parameter.grad is not None and reference is not None:
            scale = max(1.0, float(reference.abs().max()))
            torch.testing.assert_close(parameter.grad.cpu() / scale, reference / scale, rtol=1e-4, atol=1e-4)


def test_documents_are_built_without_waiting() -> None:
    cu_seqlens = torch.tensor([0, 5, 5, 12], dtype=torch.int32)
    keys = torch.tensor([3, 4, 5])
    expected = Documents.build(cu_seqlens, keys)
    there, their_keys = cu_seqlens.to(DEVICE), keys.to(DEVICE)
    with no_waiting():
        documents = Documents.build(there, their_keys, tokens=12, max_seqlen=7)
    for name in ("positions", "document_ids", "row_keys", "order"):
        assert torch.equal(getattr(documents, name).cpu(), getattr(expected, name)), name


def test_a_batch_comes_to_the_device_while_it_is_busy() -> None:
    lengths = np.full(128, 512)
    made = assemble(np.arange(1 << 16), lengths, keys=np.arange(128), tokens=1 << 16, sequences=128, max_seqlen=512)
    made.to(DEVICE, non_blocking=True)  # page-locked memory is made once and kept
    torch.cuda.synchronize()
    torch.cuda._sleep(1 << 31)  # cycles, about a second
    ended = torch.cuda.Event()
    ended.record()
    moved = made.to(DEVICE, non_blocking=True)
    assert not ended.query()
    assert torch.equal(moved.ids.cpu(), made.ids) and torch.equal(moved.documents.tiles.cpu(), made.documents.tiles)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_training_step_has_a_finite_loss_and_moves_the_parameters(dtype: torch.dtype) -> None:
    model = PretrainingModel(CONFIG, heads=("mlm",), compute_dtype=dtype, seed=0).to(DEVICE).train()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step = TrainingStep(
        model=model,
        objectives=build_objectives({"mlm": 1.0}),
        optimizer=build_optimizer(model, OptimizerConfig(learning_rate=1e-4)),
    )
    report = step([batch().to(DEVICE)])
    assert bool(torch.isfinite(report.loss)) and bool(torch.isfinite(report.gradient_norm))
    assert float(report.counts) == 4 and float(report.skipped) == 0.0
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_training_step_waits_for_nothing(dtype: torch.dtype) -> None:
    model = PretrainingModel(CONFIG, heads=("mlm",), compute_dtype=dtype, seed=0).to(DEVICE).train()
    step = TrainingStep(
        model=model,
        objectives=build_objectives({"mlm": 1.0}),
        optimizer=build_optimizer(model, OptimizerConfig(learning_rate=1e-4)),
    )
    batches = [batch().to(DEVICE) for _ in range(2)]
    with using("triton"):
        step(batches)  # compiling may wait
        with no_waiting():
            set_learning_rate(step.optimizer, 1e-4)
            report = step(batches)
    assert bool(torch.isfinite(report.loss))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_encoder_is_captured_in_a_cuda_graph_and_takes_other_documents(dtype: torch.dtype) -> None:
    encoder = Encoder(CONFIG, compute_dtype=dtype, seed=1, pooler=False).to(DEVICE).train()
    parameters = list(encoder.parameters())
    held, other = batch().to(DEVICE), batch(5, 28, 22).to(DEVICE)
    incoming = torch.linspace(-1, 1, 64 * CONFIG.hidden_size, device=DEVICE).view(64, -1).to(dtype)

    def both() -> list[Tensor]:
        hidden = encoder(held.ids, held.documents, held.segments)
        return [hidden.detach(), *torch.autograd.grad(hidden, parameters, incoming)]

    with using("triton"):
        graph, replayed = captured(both)
        graph.replay()
        before = replayed[0].clone()
        fill(held, other)
        encoder.dropout_seed.add_(1)
        graph.replay()
        called = both()
    assert not torch.equal(before, called[0])
    for ours, expected in zip(replayed, called, strict=True):
        # libraries may choose another algorithm for a product inside a graph
        assert bool((ours.double() - expected.double()).norm() <= 1e-2 * expected.double().norm())


def make_step(dtype: torch.dtype, seed: int = 0) -> TrainingStep:
    model = PretrainingModel(CONFIG, heads=("mlm",), compute_dtype=dtype, seed=seed).to(DEVICE).train()
    return TrainingStep(
        model=model,
        objectives=build_objectives({"mlm": 1.0}),
        optimizer=build_optimizer(model, OptimizerConfig(learning_rate=1e-3)),
        loss_scale=LossScale(DEVICE) if dtype == torch.float16 else None,
    )


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_graphs_replay_a_thousand_mixes_of_documents_with_the_losses_of_eager_steps(
    dtype: torch.dtype, micro_batches: int
) -> None:
    generator = np.random.default_rng(0)
    eager, recorded = make_step(dtype), make_step(dtype)
    graphed = GraphedStep(recorded, required=True)
    with using("triton"):
        for number in range(1000 // micro_batches):
            batches = []
            for _ in range(micro_batches):
                lengths = generator.integers(11, 17, size=generator.integers(1, 5))
                lengths[0] = 64 - lengths[1:].sum() - generator.integers(0, 5)
                batches.append(batch(*lengths.tolist()).to(DEVICE))
            for step in (eager, recorded):
                # at a rate of 0 both keep their weights, and rounding does not add up
                set_learning_rate(step.optimizer, 1e-3 if number < 10 else 0.0)
                step.model.encoder.dropout_seed.fill_(number)
            theirs = eager(batches)
            if number < 5:
                ours = graphed(batches)
            else:
                with no_waiting():
                    ours = graphed(batches)
            tolerance = 1e-4 if dtype == torch.float32 else 1e-2
            assert torch.allclose(ours.loss, theirs.loss, rtol=tolerance, atol=0), number
            assert torch.equal(ours.skipped, theirs.skipped)


def test_a_batch_is_copied_while_a_step_runs() -> None:
    lengths = np.full(128, 512)
    made = assemble(np.arange(1 << 16), lengths, keys=np.arange(128), tokens=1 << 16, sequences=128, max_seqlen=512)
    side_stream = SideStream(torch.device(DEVICE))
    side_stream(made)  # page-locked memory is made once and kept
    torch.cuda.synchronize()
    torch.cuda._sleep(1 << 31)  # cycles, about a second
    ended = torch.cuda.Event()
    ended.record()
    moved = side_stream(made)
    side_stream._stream.synchronize()
    assert not ended.query()
    assert torch.equal(moved.ids.cpu(), made.ids)


def fill(held: PackedBatch, other: PackedBatch) -> None:
    """Another batch's contents in the memory of this one."""
    for old, new in ((held.documents, other.documents), (held, other)):
        for field in fields(old):
            value = getattr(old, field.name)
            if isinstance(value, Tensor):
                value.copy_(getattr(new, field.name))
