"""The numbers of a log row: mean losses, perplexity, real tokens per second, waiting time, and MFU.

`Meter` adds up device scalars on the device. The host waits for the device where it reads them, and after the first
step. Rates leave out the time of evaluations and saves, and the first step, in which kernels are compiled.

`FlopCount` counts the useful operations of a step. The forward pass, with a multiply-add as two operations, takes for
T real tokens, M of them masked, and P pairs of a token and a token that it attends to, over all layers:

    layers * 6 D^2 T + 4 D P + ((layers - 1) T + M) (2 D^2 + 4 D F) + M (2 D^2 + 2 D V)

The terms are: the three projections; the scores and their product with the values; output projection and feed-forward,
in the last layer for the M rows that the head reads; the dense layer and the decoder of the MLM head. If no objective
predicts tokens, M is 0. The rows of [CLS] and the small heads on them are not counted, and padding is not counted at
all. A global layer has s^2 pairs in a document of s tokens; causal layers and layers with a window have fewer. The
backward pass costs twice the forward pass. MFU, the share of the peak, refers to the dense bf16 throughput of tensor
cores in the vendors' data sheets.
"""

import math
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unmask.batch import PackedBatch
from unmask.errors import CheckpointError
from unmask.model import EncoderConfig
from unmask.objectives import STATE_OBJECTIVES, TOKEN_OBJECTIVES
from unmask.train.loss_scale import LossScale
from unmask.train.sharded import whole
from unmask.train.step import StepReport
from unmask_kernels.attention.cost import pairs

__all__ = ["FlopCount", "GradientNorms", "Meter", "peak_flops", "peak_memory_bytes", "perplexity"]

# Dense bf16 with fp32 accumulation, TFLOP/s. The first name that occurs, as whole words, in the device's name counts.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.0,
    "RTX A6000": 155.0,
    "A40": 150.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}


def perplexity(loss: float) -> float:
    """Return exp(loss) of a loss in nats: the number of equally likely tokens with the same loss; inf on overflow."""
    return math.inf if loss >= 700 else math.exp(loss)


class Meter:
    """Collects the reports of steps and turns them into one log row.

    Args:
        names: names of the objectives, in their order. The accuracy of `mlm` is called `masked_accuracy`.
        peak: peak FLOP/s of the device. None: unknown, and rows have no `mfu`.
    """

    def __init__(self, names: Sequence[str], *, peak: float | None = None) -> None:
        self.names = list(names)
        self.peak = peak
        self._sums: Tensor | None = None
        self._steps = self._timed_steps = self._tokens = 0
        self._flops = self._waited_before = 0.0
        self._first = _First()
        self._begins = True
        self.start()

    def start(self) -> None:
        """Start the clock; the time before was preparation."""
        self._begun, self._away = time.perf_counter(), 0.0

    def add(self, report: StepReport, *, tokens: int, flops: float) -> None:
        """Add one step of `tokens` real tokens and `flops` operations."""
        if self._begins:
            self._begins = False
            if report.loss.device.type == "cuda":
                torch.cuda.synchronize(report.loss.device)
            self._first = _First(seconds=self._elapsed(), steps=1, tokens=tokens, flops=flops)
        predicted, used = report.counts > 0, report.skipped == 0
        both = torch.stack([predicted.all(), torch.ones_like(used)])
        # A skipped step has no numbers, and an objective that predicted nothing has no loss and no accuracy.
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
        """Leave out the time spent inside this context."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._away += time.perf_counter() - begun

    def open_interval(self) -> list[float]:
        """Return the sums of the unfinished log interval, which a checkpoint keeps; exact in fp32.

        The list holds the sums since the last row, then the number of steps in each sum, and last the number of steps.
        It is empty right after a row.
        """
        return [] if self._sums is None else [*self._sums.flatten().tolist(), float(self._steps)]

    def resume_interval(self, interval: Sequence[float], device: torch.device | str) -> None:
        """Continue the sums of `open_interval`, so that the log of a resumed run equals that of an unbroken one."""
        if interval and len(interval) != 2 * (2 + 2 * len(self.names)) + 1:
            raise CheckpointError(
                f"checkpoint: the open log row has {len(interval)} numbers, not those of this run; put "
                "config.yaml of the run back as it was, or start a new run"
            )
        if interval:
            sums = torch.tensor(interval[:-1], dtype=torch.float32, device=device)
            self._sums = sums.view(2, 2 + 2 * len(self.names))
            self._steps = int(interval[-1])

    def read(self, *, waited_seconds: float) -> dict[str, Any]:
        """Return the row of the steps since the last row, and start a new interval.

        Args:
            waited_seconds: total time that the loader has kept the trainer waiting, since the start of the run.
        """
        row = self.glance(waited_seconds=waited_seconds)
        self._sums, self._steps, self._timed_steps = None, 0, 0
        self._tokens, self._flops, self._away = 0, 0.0, 0.0
        self._first = _First()
        self._waited_before, self._begun = waited_seconds, time.perf_counter()
        return row

    def glance(self, *, waited_seconds: float) -> dict[str, Any]:
        """Return the row of the steps since the last row, and go on with the interval.

        Means are over the steps that were not skipped and in which the objective predicted something; without such a
        step they are None. `perplexity` is exp(mean loss) of the tokens. `data_wait` is the share of the time spent
        waiting for data, in [0, 1].

        Args:
            waited_seconds: total time that the loader has kept the trainer waiting, since the start of the run.
        """
        if self._sums is None:
            raise ValueError("meter: read needs at least one step since the last reading, got none")
        sums, used = self._sums.tolist()
        whole = max(self._elapsed(), 1e-9)
        # a row of the first step alone has its rates
        first = self._first if self._timed_steps > self._first.steps else _First()
        elapsed, steps = max(whole - first.seconds, 1e-9), self._timed_steps - first.steps
        mean = [value / steps if steps else None for value, steps in zip(sums, used, strict=True)]
        row: dict[str, Any] = {"loss": mean[0], "gradient_norm": mean[1]}
        count = len(self.names)
        for position, name in enumerate(self.names):
            if count > 1:
                row[f"{name}_loss"] = mean[2 + position]
            if name not in STATE_OBJECTIVES:
                row["masked_accuracy" if name == "mlm" else f"{name}_accuracy"] = mean[2 + count + position]
            if name in TOKEN_OBJECTIVES:
                loss = mean[2 + position]
                row["perplexity"] = None if loss is None else perplexity(loss)
        row["tokens_per_second"] = (self._tokens - first.tokens) / elapsed
        row["data_wait"] = min(max((waited_seconds - self._waited_before) / whole, 0.0), 1.0)
        if self.peak is not None:
            row["mfu"] = (self._flops - first.flops) / elapsed / self.peak
        row["seconds_per_step"] = elapsed / max(steps, 1)
        row["skipped"] = self._steps - round(used[1])
        return row

    def _elapsed(self) -> float:
        return time.perf_counter() - self._begun - self._away


@dataclass(frozen=True, kw_only=True, slots=True)
class _First:
    """The first step of a process, in the interval that it is in; zeros in any other."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FlopCount:
    """Counts the operations of a batch.

    Attributes:
        encoder: sizes of the encoder.
        mask_rate: share of the tokens that are masked, for batches that are masked later, on the device.
        objectives: names of the objectives.
    """

    encoder: EncoderConfig
    mask_rate: float = 0.15
    objectives: Collection[str] = ("mlm",)

    @property
    def predicts_tokens(self) -> bool:
        """Whether an objective reads the masked rows."""
        return any(name in TOKEN_OBJECTIVES for name in self.objectives)

    def training(self, batch: PackedBatch) -> float:
        """Return the operations of forward and backward on one micro-batch, which must be on the CPU."""
        ends = batch.documents.cu_seqlens
        lengths, counts = ends.diff()[ends[1:] <= batch.real_tokens].unique(return_counts=True)
        seen = sum(
            layers * count * pairs(length, causal=self.encoder.causal, window=window)
            for window, layers in Counter(map(self.encoder.window, range(self.encoder.num_layers))).items()
            for length, count in zip(lengths.tolist(), counts.tolist(), strict=True)
        )
        masked = self.mask_rate * batch.real_tokens if batch.labels is None else float((batch.labels >= 0).sum())
        masked *= self.predicts_tokens
        return 3.0 * self.forward(batch.real_tokens, seen, masked)

    def forward(self, tokens: float, seen: float, masked: float) -> float:
        """Return the operations of one forward pass over T = `tokens`, P = `seen` and M = `masked`."""
        d, f, layers = self.encoder.hidden_size, self.encoder.intermediate_size, self.encoder.num_layers
        attention = layers * tokens * 6.0 * d * d + 4.0 * d * seen
        forward = ((layers - 1) * tokens + masked) * (2.0 * d * d + 4.0 * d * f)
        return attention + forward + masked * (2.0 * d * d + 2.0 * d * self.encoder.token_rows)


def peak_flops(device: torch.device | str) -> float | None:
    """Return the peak bf16 FLOP/s of a CUDA device by its name; None for other devices and unknown names."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((tflops * 1e12 for known, tflops in PEAK_TFLOPS.items() if re.search(rf"\b{known}\b", name)), None)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory of this process so far: on a GPU what PyTorch allocated there, else what lay in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, other systems KiB
    return most if sys.platform == "darwin" else most << 10


class GradientNorms:
    """The norms of the gradient by part of the model, before clipping, of the last step.

    A hook computes them before each update, into tensors that stay in their place, and nothing waits for them.

    Args:
        model: the model that is trained. Its parts are the embeddings, each layer, and the heads.
        optimizer: its optimizer.
        loss_scale: what the gradients are multiplied by; None if they are not.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss_scale: LossScale | None = None) -> None:
        self._loss_scale = loss_scale
        self._parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            self._parts.setdefault(_part(name), []).append(parameter)
        self._norms = torch.zeros(len(self._parts), device=next(model.parameters()).device)
        optimizer.register_step_pre_hook(self._measure)

    def read(self) -> dict[str, float]:
        """Return the norm of each part, by the name of its key in a row of the log."""
        return dict(zip((f"gradient_norm_{part}" for part in self._parts), self._norms.tolist(), strict=True))

    def _measure(self, *_: object) -> None:
        norms = []
        for parameters in self._parts.values():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            # of a model in shards, each rank has the norm of its own part
            norms.append(whole(torch.nn.utils.get_total_norm(gradients)) if gradients else self._norms.new_zeros(()))
        found = torch.stack(norms)
        self._norms.copy_(found if self._loss_scale is None else found / self._loss_scale.scale)


def _part(name: str) -> str:
    """Return the part of the model that a parameter belongs to: `embeddings`, `layer_3` or `heads`."""
    found = re.match(r"encoder\.(embeddings|layers\.(\d+))\.", name)
    if found is None:
        return "heads"
    return found[1] if found[2] is None else f"layer_{found[2]}"
