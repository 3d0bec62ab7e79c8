"""What only a GPU can show: the encoder's numbers, steps that never wait for the device, capture in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.batch import PackedBatch, assemble
from unmask.model import Encoder, EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives
from unmask.train.optim import adamw, set_learning_rate
from unmask.train.step import TrainingStep
from unmask_kernels import Documents, layer_norm, masking, mlm_loss, using

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


def batch() -> PackedBatch:
    lengths = np.array([13, 40, 1, 7])
    ids = np.arange(lengths.sum()) % 90 + 5
    masked = np.array([2, 9, 20, 50])
    return assemble(
        ids, lengths, keys=np.arange(4), tokens=64, sequences=6, longest=64, masked=masked, labels=ids[masked]
    )


@contextmanager
def no_waiting() -> Iterator[None]:
    """Any call inside that waits for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
        documents = Documents.build(there, their_keys, tokens=12, longest=7)
    for name in ("positions", "document_ids", "row_keys", "order"):
        assert torch.equal(getattr(documents, name).cpu(), getattr(expected, name)), name


def test_a_batch_comes_to_the_device_while_it_is_busy() -> None:
    lengths = np.full(128, 512)
    made = assemble(np.arange(1 << 16), lengths, keys=np.arange(128), tokens=1 << 16, sequences=128, longest=512)
    made.to(DEVICE, non_blocking=True)  # page-locked memory is made once and kept
    torch.cuda.synchronize()
    torch.cuda._sleep(1 << 31)  # cycles, about a second
    ended = torch.cuda.Event()
    ended.record()
    moved = made.to(DEVICE, non_blocking=True)
    assert not ended.query()
    assert torch.equal(moved.ids.cpu(), made.ids) and torch.equal(moved.documents.tiles.cpu(), made.documents.tiles)


BACKENDS = ["triton", "torch"]


def row_call(backend: str) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """A layer norm with dropout whose inputs are ready on the device, forward and backward."""
    generator = torch.Generator().manual_seed(3)
    x, residual = (torch.randn(33, 96, generator=generator).to(DEVICE).requires_grad_() for _ in range(2))
    weight, bias = (torch.randn(96, generator=generator).to(DEVICE).requires_grad_() for _ in range(2))
    leaves = [x, residual, weight, bias]
    key, row_keys = torch.tensor(11, device=DEVICE), torch.arange(33, device=DEVICE)

    def call() -> Tensor:
        y = layer_norm(x, residual, weight, bias, p=0.1, key=key, row_keys=row_keys, backend=backend)
        for leaf, gradient in zip(leaves, torch.autograd.grad(y, leaves, torch.ones_like(y)), strict=True):
            leaf.grad = gradient
        return y.detach()

    return call, leaves


@pytest.mark.parametrize("backend", BACKENDS)
def test_layer_norm_does_not_wait(backend: str) -> None:
    call, _ = row_call(backend)
    call()
    with no_waiting():
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_mlm_loss_does_not_wait(backend: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(40, 32, generator=generator).to(DEVICE, dtype).requires_grad_()
    weight = torch.randn(301, 32, generator=generator).to(DEVICE).requires_grad_()
    positions, labels = torch.arange(9, device=DEVICE), torch.arange(9, device=DEVICE)

    def call() -> None:
        mlm_loss(hidden, positions, labels, weight, z_loss=1e-4, backend=backend).loss_sum.backward()

    call()
    with no_waiting():
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_training_step_has_a_finite_loss_and_moves_the_parameters(dtype: torch.dtype) -> None:
    model = PretrainingModel(CONFIG, heads=("mlm",), compute_dtype=dtype, seed=0).to(DEVICE).train()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step = TrainingStep(model=model, objectives=build_objectives({"mlm": 1.0}), optimizer=adamw(model))
    report = step([batch().to(DEVICE)])
    assert bool(torch.isfinite(report.loss)) and bool(torch.isfinite(report.gradient_norm))
    assert float(report.counts) == 4 and float(report.skipped) == 0.0
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_training_step_waits_for_nothing(dtype: torch.dtype) -> None:
    model = PretrainingModel(CONFIG, heads=("mlm",), compute_dtype=dtype, seed=0).to(DEVICE).train()
    step = TrainingStep(model=model, objectives=build_objectives({"mlm": 1.0}), optimizer=adamw(model))
    batches = [batch().to(DEVICE) for _ in range(2)]
    with using("triton"):
        step(batches)  # compiling may wait
        with no_waiting():
            set_learning_rate(step.optimizer, 1e-4)
            report = step(batches)
    assert bool(torch.isfinite(report.loss))


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_masking_does_not_wait(backend: str, whole_words: bool) -> None:
    made = batch().to(DEVICE)
    starts = torch.ones(64, dtype=torch.bool, device=DEVICE) if whole_words else None
    special, ordinary = torch.arange(97, device=DEVICE) < 5, torch.arange(5, 97, device=DEVICE)
    keys = torch.tensor([1, 2], device=DEVICE)

    def call() -> Tensor:
        return masking(
            made.ids, made.documents, starts, special, ordinary,
            keys=keys, rate=0.15, split=(0.8, 0.1, 0.1), mask_id=4, capacity=16, backend=backend,
        ).labels  # fmt: skip

    call()
    with no_waiting():
        labels = call()
    assert int((labels >= 0).sum()) > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_layer_norm_is_captured_in_a_cuda_graph(backend: str) -> None:
    call, leaves = row_call(backend)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    replayed_gradients = [leaf.grad for leaf in leaves]
    with torch.no_grad():
        leaves[0].copy_(leaves[0].flip(0))
    graph.replay()
    expected = call()
    assert torch.equal(captured, expected)
    for ours, leaf in zip(replayed_gradients, leaves, strict=True):
        assert ours is not None and leaf.grad is not None
        assert torch.equal(ours, leaf.grad)
