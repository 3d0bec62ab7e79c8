"""What happened since the last row of the log: means over steps, real tokens per second, waiting, MFU.

Device scalars are added up on the device; reading them is the only moment at which the host waits. Time spent in
evaluations and saves is left out of the rates.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unmask.errors import CheckpointError
from unmask.train.logging.metrics import TOKEN_OBJECTIVES, perplexity
from unmask.train.step import StepReport

__all__ = ["Meter"]


class Meter:
    """Collects the reports of steps and turns them into one row.

    Args:
        names: of the objectives, in their order; `mlm` names its accuracy `masked_accuracy`.
        peak: FLOP/s of the device, or None when unknown: then no `mfu` is reported.
    """

    def __init__(self, names: Sequence[str], *, peak: float | None = None) -> None:
        self.names = list(names)
        self.peak = peak
        self._sums: Tensor | None = None
        self._steps = self._timed_steps = self._tokens = 0
        self._flops = self._waited_before = 0.0
        self.start()

    def start(self) -> None:
        """Time counts from here; what came before was preparation."""
        self._begun, self._away = time.perf_counter(), 0.0

    def add(self, report: StepReport, *, tokens: int, flops: float) -> None:
        """Account for one step of `tokens` real tokens and `flops` operations."""
        predicted, used = report.counts > 0, report.skipped == 0
        both = torch.stack([predicted.all(), torch.ones_like(used)])
        # A number counts where there is one: not of a skipped step, nor of an objective that predicted nothing.
        there = torch.cat([both, predicted, predicted]) & used
        row = torch.cat([torch.stack([report.loss, report.gradient_norm]), report.means, report.accuracy])
        rows = torch.stack([torch.where(there, row, torch.zeros_like(row)), there.float()])
        self._sums = rows if self._sums is None else self._sums + rows
        self._steps += 1
        self._timed_steps += 1
        self._tokens += tokens
        self._flops += flops

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside does not count."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._away += time.perf_counter() - begun

    def open_window(self) -> list[float]:
        """Sums since the last reading, the steps that each is over and, last, all steps: what a checkpoint keeps, exact
        in fp32.
        """
        return [] if self._sums is None else [*self._sums.flatten().tolist(), float(self._steps)]

    def reopen_window(self, window: Sequence[float], device: torch.device | str) -> None:
        """Continue the means of `open_window`, so that the log of a resumed run equals that of an unbroken one."""
        if window and len(window) != 2 * (2 + 2 * len(self.names)) + 1:
            raise CheckpointError(
                f"checkpoint: the open log row has {len(window)} numbers, not those of this run; put "
                "config.yaml of the run back as it was, or start a new run"
            )
        if window:
            self._sums = torch.tensor(window[:-1], dtype=torch.float32, device=device).view(2, 2 + 2 * len(self.names))
            self._steps = int(window[-1])

    def read(self, *, waited_seconds: float) -> dict[str, Any]:
        """The row since the last reading; `waited_seconds` is the loader's running total. Starts anew.

        Means are over the steps that were not skipped and in which the objective predicted something, and None where
        there is no such step; `perplexity` is exp(mean loss) of the tokens; `data_wait` is the share of the time spent
        waiting for data, in [0, 1].
        """
        if self._sums is None:
            raise ValueError("meter: read needs at least one step since the last reading, got none")
        sums, used = self._sums.tolist()
        elapsed = max(time.perf_counter() - self._begun - self._away, 1e-9)
        mean = [value / steps if steps else None for value, steps in zip(sums, used, strict=True)]
        row: dict[str, Any] = {"loss": mean[0], "gradient_norm": mean[1]}
        count = len(self.names)
        for position, name in enumerate(self.names):
            if count > 1:
                row[f"{name}_loss"] = mean[2 + position]
            row["masked_accuracy" if name == "mlm" else f"{name}_accuracy"] = mean[2 + count + position]
            if name in TOKEN_OBJECTIVES:
                loss = mean[2 + position]
                row["perplexity"] = None if loss is None else perplexity(loss)
        row["tokens_per_second"] = self._tokens / elapsed
        row["data_wait"] = min(max((waited_seconds - self._waited_before) / elapsed, 0.0), 1.0)
        if self.peak is not None:
            row["mfu"] = self._flops / elapsed / self.peak
        row["seconds_per_step"] = elapsed / max(self._timed_steps, 1)
        row["skipped"] = self._steps - round(used[1])
        self._sums, self._steps, self._timed_steps = None, 0, 0
        self._tokens, self._flops, self._away = 0, 0.0, 0.0
        self._waited_before, self._begun = waited_seconds, time.perf_counter()
        return row
