"""Numbers that describe a run: perplexity, floating point operations of a step, and their share of a GPU's peak (MFU).

Forward, counting a multiply-add as two, for documents of s_i real tokens, T = sum s_i, M masked tokens:

    layers * (6 D^2 T + 4 D sum s_i^2) + ((layers - 1) T + M) (2 D^2 + 4 D F) + M (2 D^2 + 2 D V)

that is: three projections, scores and their product with the values; output projection and feed-forward pair, in the
last layer for the masked rows that the head reads; then the dense layer and the decoder of the MLM head. Backward
costs twice the forward. Attention is counted by the lengths of the documents, as it is computed; padding is not
counted at all. The share of the peak refers to dense bf16 tensor-core throughput from the vendors' data sheets.
"""

import math
import re
from dataclasses import dataclass

import torch

from unmask.batch import PackedBatch
from unmask.config import RunConfig

__all__ = ["TOKEN_OBJECTIVES", "FlopCount", "peak_flops", "perplexity"]

TOKEN_OBJECTIVES = ("mlm", "clm")
"""Objectives that predict tokens, so that their loss has a perplexity."""

# dense bf16 with fp32 accumulation, TFLOP/s; the first name whose words stand in the device's name counts
PEAK_TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
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

    Fields: num_layers, hidden_size D, intermediate_size F, vocab_size V; mask_rate, the share of the tokens that are
        masked in a batch which is masked later, on the device.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    mask_rate: float = 0.15

    @classmethod
    def of(cls, config: RunConfig, *, vocab_size: int) -> "FlopCount":
        """For the encoder of a run."""
        model = config.model
        return cls(
            num_layers=model.num_layers,
            hidden_size=model.hidden_size,
            intermediate_size=model.intermediate_size,
            vocab_size=vocab_size,
            mask_rate=config.data.mask_rate,
        )

    def training(self, batch: PackedBatch) -> float:
        """Forward and backward of one micro-batch, useful work only. The batch must be on the CPU: lengths are read."""
        ends = batch.documents.cu_seqlens.to(torch.float64)
        lengths = ends.diff()[ends[1:] <= batch.real_tokens]
        masked = self.mask_rate * batch.real_tokens if batch.labels is None else float((batch.labels >= 0).sum())
        return 3.0 * self.forward(batch.real_tokens, float(lengths.square().sum()), masked)

    def forward(self, tokens: float, sum_of_squares: float, masked: float) -> float:
        """One forward pass over `tokens` real tokens in documents whose squared lengths sum to `sum_of_squares`."""
        d, f = self.hidden_size, self.intermediate_size
        attention = self.num_layers * (tokens * 6.0 * d * d + 4.0 * d * sum_of_squares)
        forward = ((self.num_layers - 1) * tokens + masked) * (2.0 * d * d + 4.0 * d * f)
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
    return math.exp(loss) if loss < 700 else math.inf
