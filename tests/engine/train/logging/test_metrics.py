"""The numbers of a log row: counted operations and their peaks, means and rates."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from unmask import EncoderConfig
from unmask.batch import PackedBatch, assemble
from unmask.train.logging.metrics import FlopCount, Meter, peak_flops
from unmask.train.step import StepReport

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


def report(loss: float, *, norm: float = 1.0, skipped: float = 0.0, accuracy: float = 0.5) -> StepReport:
    return StepReport(
        loss=torch.tensor(loss),
        means=torch.tensor([loss]),
        accuracy=torch.tensor([accuracy]),
        counts=torch.tensor([8.0]),
        gradient_norm=torch.tensor(norm),
        skipped=torch.tensor(skipped),
    )


def two(*, means: list[float], counts: list[float]) -> StepReport:
    return StepReport(
        loss=torch.tensor(sum(means)),
        means=torch.tensor(means),
        accuracy=torch.tensor([0.5 if count else float("nan") for count in counts]),
        counts=torch.tensor(counts),
        gradient_norm=torch.tensor(1.0),
        skipped=torch.tensor(0.0),
    )


def test_means_are_over_the_steps_since_the_last_reading() -> None:
    meter = Meter(["mlm"])
    meter.add(report(4.0, accuracy=0.25), tokens=10, flops=0)
    meter.add(report(2.0, accuracy=0.75), tokens=10, flops=0)
    row = meter.read(waited_seconds=0.0)
    assert (row["loss"], row["masked_accuracy"], row["skipped"]) == (3.0, 0.5, 0)
    meter.add(report(1.0), tokens=10, flops=0)
    assert meter.read(waited_seconds=0.0)["loss"] == 1.0


def test_a_skipped_step_is_counted_and_kept_out_of_the_means() -> None:
    meter = Meter(["mlm"])
    meter.add(report(2.0), tokens=10, flops=0)
    meter.add(report(float("nan"), norm=float("inf"), skipped=1.0), tokens=10, flops=0)
    row = meter.read(waited_seconds=0.0)
    assert (row["loss"], row["gradient_norm"], row["skipped"]) == (2.0, 1.0, 1)


def test_an_interval_of_skipped_steps_has_no_mean() -> None:
    meter = Meter(["mlm"])
    meter.add(report(float("nan"), skipped=1.0), tokens=10, flops=0)
    assert meter.read(waited_seconds=0.0)["loss"] is None


def test_a_step_that_predicted_nothing_is_in_no_mean_of_its_objective() -> None:
    meter, nothing = Meter(["mlm", "nsp"]), float("nan")
    whole = two(means=[2.0, 1.0], counts=[8.0, 2.0])
    meter.add(whole, tokens=1, flops=0)
    meter.add(two(means=[4.0, nothing], counts=[8.0, 0.0]), tokens=1, flops=0)
    row = meter.read(waited_seconds=0.0)
    assert (row["mlm_loss"], row["nsp_loss"], row["nsp_accuracy"], row["loss"]) == (3.0, 1.0, 0.5, 3.0)
    assert (row["gradient_norm"], row["skipped"]) == (1.0, 0)
    meter.add(two(means=[nothing, 1.0], counts=[0.0, 2.0]), tokens=1, flops=0)
    row = meter.read(waited_seconds=0.0)
    assert (row["loss"], row["mlm_loss"], row["masked_accuracy"], row["perplexity"]) == (None,) * 4
    assert row["nsp_loss"] == 1.0


def test_rates_leave_out_pauses_and_count_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("unmask.train.logging.metrics.time.perf_counter", lambda: clock[0])
    meter = Meter(["mlm"], peak=1000.0)
    clock[0] += 2.0
    meter.add(report(1.0), tokens=600, flops=500.0)
    with meter.paused():
        clock[0] += 60.0
    row = meter.read(waited_seconds=0.5)
    assert (row["tokens_per_second"], row["data_wait"], row["mfu"]) == (300.0, 0.25, 0.25)
    clock[0] += 1.0
    meter.add(report(1.0), tokens=100, flops=0.0)
    row = meter.read(waited_seconds=0.5)
    assert (row["tokens_per_second"], row["data_wait"], row["seconds_per_step"]) == (100.0, 0.0, 1.0)


def test_rates_leave_out_the_first_step_which_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("unmask.train.logging.metrics.time.perf_counter", lambda: clock[0])
    meter = Meter(["mlm"], peak=1000.0)
    clock[0] += 60.0
    meter.add(report(4.0), tokens=600, flops=500.0)
    # alone in its row, it is all there is
    assert meter.glance(waited_seconds=0.0)["seconds_per_step"] == 60.0
    for _ in range(2):
        clock[0] += 2.0
        meter.add(report(1.0), tokens=600, flops=500.0)
    row = meter.glance(waited_seconds=16.0)
    assert (row["tokens_per_second"], row["mfu"], row["seconds_per_step"]) == (300.0, 0.25, 2.0)
    assert (row["loss"], row["data_wait"]) == (2.0, 0.25)
    # a glance leaves the interval as it is
    assert meter.read(waited_seconds=16.0) == row
    clock[0] += 1.0
    meter.add(report(1.0), tokens=600, flops=500.0)
    assert meter.read(waited_seconds=16.0)["tokens_per_second"] == 600.0


def test_rates_begin_with_the_loop_and_not_with_the_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("unmask.train.logging.metrics.time.perf_counter", lambda: clock[0])
    meter = Meter(["mlm"])
    with meter.paused():
        clock[0] += 20.0
    clock[0] += 10.0
    meter.start()
    clock[0] += 2.0
    meter.add(report(1.0), tokens=600, flops=0.0)
    assert meter.read(waited_seconds=0.0)["tokens_per_second"] == 300.0


def test_an_open_interval_continues_exactly() -> None:
    spike = report(float("nan"), norm=float("inf"), skipped=1.0)
    reports = [report(0.1), spike, report(0.7), report(1.3)]
    whole, first, second = Meter(["mlm"]), Meter(["mlm"]), Meter(["mlm"])
    for one in reports:
        whole.add(one, tokens=1, flops=0)
    for one in reports[:2]:
        first.add(one, tokens=1, flops=0)
    second.resume_interval(first.open_interval(), "cpu")
    for one in reports[2:]:
        second.add(one, tokens=1, flops=0)
    expected, got = whole.read(waited_seconds=0.0), second.read(waited_seconds=0.0)
    assert (got["loss"], got["gradient_norm"], got["skipped"]) == (expected["loss"], expected["gradient_norm"], 1)


def test_several_objectives_have_a_loss_each() -> None:
    meter = Meter(["mlm", "nsp"])
    both = two(means=[2.0, 1.0], counts=[8.0, 2.0])._replace(accuracy=torch.tensor([0.5, 0.75]))
    meter.add(both, tokens=1, flops=0)
    row = meter.read(waited_seconds=0.0)
    assert (row["loss"], row["mlm_loss"], row["nsp_loss"]) == (3.0, 2.0, 1.0)
    assert (row["masked_accuracy"], row["nsp_accuracy"]) == (0.5, 0.75)
    assert row["perplexity"] == pytest.approx(math.exp(2.0))
    assert "nsp_perplexity" not in row


def test_a_loss_of_next_tokens_has_its_perplexity() -> None:
    meter = Meter(["clm"])
    meter.add(report(1.5), tokens=1, flops=0)
    row = meter.read(waited_seconds=0.0)
    assert (row["loss"], row["perplexity"]) == (1.5, pytest.approx(math.exp(1.5)))
    assert "clm_accuracy" in row
