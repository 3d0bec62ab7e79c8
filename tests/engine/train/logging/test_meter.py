import math

import pytest
import torch

from unmask.train.logging.metrics import Meter
from unmask.train.step import StepReport


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
