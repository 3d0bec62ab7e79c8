import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unmask.batch import assemble
from unmask.train.metrics import FlopCount, peak_flops

SHAPE = FlopCount(num_layers=2, hidden_size=16, intermediate_size=32, vocab_size=50)


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
    assert SHAPE.forward(tokens, 5**2 + 7**2, masked) == counter.get_total_flops()


def test_padding_and_unused_slots_are_not_counted() -> None:
    def batch(tokens: int, sequences: int, masked: int) -> float:
        packed = assemble(
            np.arange(5, 17),
            np.array([5, 7]),
            keys=np.array([1, 2]),
            tokens=tokens,
            sequences=sequences,
            longest=8,
            masked=np.array([1, 6]),
            labels=np.array([9, 9]),
            masked_capacity=masked,
        )
        return SHAPE.training(packed)

    assert batch(12, 2, 2) == batch(40, 9, 6) == 3 * SHAPE.forward(12, 74, 2)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
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
