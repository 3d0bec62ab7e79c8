"""Counted operations and the peaks that they are compared with."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unmask import EncoderConfig
from unmask.batch import PackedBatch, assemble
from unmask.train.logging.metrics import FlopCount, peak_flops

ENCODER = EncoderConfig(vocab_size=50, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)
SHAPE = FlopCount(encoder=ENCODER)


def test_forward_equals_what_pytorch_counts_for_the_same_products() -> None:
    d, f, v, tokens, masked = 16, 32, 50, 12, 3
    x, rows = torch.randn(tokens, d), torch.randn(masked, d)
    with FlopCounterMode(display=False) as counter:
        for read in (x, rows):  # the last of two layers goes on with the masked rows
            for _ in range(3):
                x @ torch.randn(d, d)
            for start, end in ((0, 5), (5, 12)):
                scores = x[start:end] @ x[start:end].T
                scores @ x[start:end]
            read @ torch.randn(d, d) @ torch.randn(d, f) @ torch.randn(f, d)
        rows @ torch.randn(d, d) @ torch.randn(d, v)
    assert SHAPE.forward(tokens, 2 * (5**2 + 7**2), masked) == counter.get_total_flops()


def batch_of(tokens: int, sequences: int, masked: int) -> PackedBatch:
    return assemble(
        np.arange(5, 17),
        np.array([5, 7]),
        keys=np.array([1, 2]),
        tokens=tokens,
        sequences=sequences,
        max_seqlen=8,
        masked=np.array([1, 6]),
        labels=np.array([9, 9]),
        masked_capacity=masked,
    )


def test_padding_and_unused_slots_are_not_counted() -> None:
    full, padded = SHAPE.training(batch_of(12, 2, 2)), SHAPE.training(batch_of(40, 9, 6))
    assert full == padded == 3 * SHAPE.forward(12, 2 * 74, 2)


@pytest.mark.parametrize("others", [(), ("nsp",)])
def test_masked_rows_are_counted_where_an_objective_reads_them(others: tuple[str, ...]) -> None:
    batch = batch_of(40, 9, 6)
    for name in ("mlm", "clm"):
        assert FlopCount(encoder=ENCODER, objectives=(name, *others)).training(batch) == SHAPE.training(batch)
    without = FlopCount(encoder=ENCODER, objectives=others)
    assert without.training(batch) == 3 * without.forward(12, 2 * 74, 0) < SHAPE.training(batch)


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_and_causality_count_what_a_token_sees(causal: bool) -> None:
    shape = replace(ENCODER, causal=causal, attention_window=2, global_every=2, num_layers=3)
    distance = [torch.arange(size)[:, None] - torch.arange(size) for size in (5, 7)]
    all_of_it = sum(int((one >= 0).sum()) if causal else one.numel() for one in distance)
    near = sum(int(((one >= (0 if causal else -2)) & (one <= 2)).sum()) for one in distance)
    count = FlopCount(encoder=shape)
    # layers 0 and 2 are global
    assert count.training(batch_of(40, 9, 6)) == 3 * count.forward(12, 2 * all_of_it + near, 2)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A40", 150e12),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("Graphics 9000", None),
    ],
)
def test_peak_is_known_by_the_whole_words_of_a_name(
    name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops("cuda") == peak
    assert peak_flops("cpu") is None
