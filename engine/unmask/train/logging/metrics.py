"""Numbers that describe a run: perplexity, floating point operations of a step, and their share of a GPU's peak (MFU).

Forward, counting a multiply-add as two, for T real tokens, M of them masked, and P pairs of a token and one that it
sees, over all layers:

    layers * 6 D^2 T + 4 D P + ((layers - 1) T + M) (2 D^2 + 4 D F) + M (2 D^2 + 2 D V)

that is: three projections, scores and their product with the values; output projection and feed-forward pair, in the
last layer for the masked rows that the head reads; then the dense layer and the decoder of the MLM head. Where no
objective predicts tokens, M is 0. The rows of [CLS] and the small heads on them are not counted. Backward costs twice
the forward. A layer that sees everything has s_i^2 pairs in a document of s_i tokens; a causal one, or one
with a window, has those that this leaves. Padding is not counted at all. The share of the peak refers to dense bf16
tensor-core throughput from the vendors' data sheets.
"""

import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import torch

from unmask.batch import PackedBatch
from unmask.model import EncoderConfig
from unmask_kernels.attention.cost import pairs

__all__ = ["TOKEN_OBJECTIVES", "FlopCount", "peak_flops", "perplexity"]

TOKEN_OBJECTIVES = ("mlm", "clm")
"""Objectives that predict tokens, so that their loss has a perplexity."""

# dense bf16 with fp32 accumulation, TFLOP/s; the first name whose words stand in the device's name counts
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


@dataclass(frozen=True, kw_only=True, slots=True)
class FlopCount:
    """Counts the operations of a batch for an encoder of this shape.

    Fields: windows, tokens that each layer sees on either side, None for all of the document; causal, whether it sees
        the left side only; hidden_size D, intermediate_size F, vocab_size V; mask_rate, the share of the tokens that
        are masked in a batch which is masked later, on the device; predicts_tokens, whether an objective reads the
        masked rows.
    """

    windows: tuple[int | None, ...]
    causal: bool
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    mask_rate: float = 0.15
    predicts_tokens: bool = True

    @classmethod
    def of(cls, encoder: EncoderConfig, *, mask_rate: float, objectives: Collection[str] = ("mlm",)) -> "FlopCount":
        """For an encoder, the mask rate of its run, and the names of its objectives."""
        return cls(
            windows=tuple(encoder.window(layer) for layer in range(encoder.num_layers)),
            causal=encoder.causal,
            hidden_size=encoder.hidden_size,
            intermediate_size=encoder.intermediate_size,
            vocab_size=encoder.vocab_size,
            mask_rate=mask_rate,
            predicts_tokens=any(name in TOKEN_OBJECTIVES for name in objectives),
        )

    def training(self, batch: PackedBatch) -> float:
        """Forward and backward of one micro-batch, useful work only. The batch must be on the CPU: lengths are read."""
        ends = batch.documents.cu_seqlens
        lengths, counts = ends.diff()[ends[1:] <= batch.real_tokens].unique(return_counts=True)
        seen = sum(
            layers * count * pairs(length, causal=self.causal, window=window)
            for window, layers in Counter(self.windows).items()
            for length, count in zip(lengths.tolist(), counts.tolist(), strict=True)
        )
        masked = self.mask_rate * batch.real_tokens if batch.labels is None else float((batch.labels >= 0).sum())
        masked *= self.predicts_tokens
        return 3.0 * self.forward(batch.real_tokens, seen, masked)

    def forward(self, tokens: float, seen: float, masked: float) -> float:
        """One forward pass over `tokens` real tokens; `seen` pairs of a token and one that it sees, over all layers."""
        d, f, layers = self.hidden_size, self.intermediate_size, len(self.windows)
        attention = layers * tokens * 6.0 * d * d + 4.0 * d * seen
        forward = ((layers - 1) * tokens + masked) * (2.0 * d * d + 4.0 * d * f)
        return attention + forward + masked * (2.0 * d * d + 2.0 * d * self.vocab_size)


def peak_flops(device: torch.device | str) -> float | None:
    """Peak bf16 FLOP/s of a CUDA device by its name; None for other devices and unknown names."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((tflops * 1e12 for known, tflops in PEAK_TFLOPS.items() if re.search(rf"\b{known}\b", name)), None)


def perplexity(loss: float) -> float:
    """exp(loss) of a loss in nats: between how many equally likely tokens the model hesitates; inf on overflow."""
    return math.inf if loss >= 700 else math.exp(loss)
