"""Distraction: the attention that goes from a document's tokens to other documents of its chunk (Zhao et al. 2024,
arXiv:2402.13991, section 4; here for an encoder too).

    mass(t)      = sum of the attention probabilities of token t on tokens of other documents, mean over heads
    distraction  = mean of mass over tokens, for each layer
    reference(t) = the same share of the tokens that t may see: 1 - len(document) / len(chunk), or for a causal model
                   (tokens of the chunk before the document) / (tokens of the chunk up to t)

What a chunk is, the scope says: in scope `document` a document is alone, and its distraction is 0. A model that
spreads its attention evenly has the reference. Inside a chunk a document ends with its [SEP].

Attention is not taken on trust: the values of a layer are replaced by ones that tell which document a token is of, so
that the attention operation that the model runs sums the probabilities itself, under its own mask, without a T x T
matrix. Cost: the model's forward pass, and ceil(documents / head_dim) attentions more for each layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.model import Encoder
from unmask.model.encoder import Layer
from unmask_kernels import Documents, attention

__all__ = ["Distraction", "documents_of", "measure_distraction", "reference_masses"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distraction:
    """Attention on other documents, as shares in [0, 1].

    Attributes:
        layers: mean over tokens and heads, for each layer.
        reference: what even attention would have.
        tokens: how many tokens the means are over.
    """

    layers: list[float]
    reference: float
    tokens: int


@torch.no_grad()
def measure_distraction(encoder: Encoder, batches: Iterable[PackedBatch], *, sep_id: int) -> Distraction:
    """Measure an encoder on batches, both on the CPU or the encoder's device.

    Raises:
        ValueError: no batch.
    """
    sums = torch.zeros(encoder.config.num_layers, dtype=torch.float64)
    expected, tokens = 0.0, 0
    training = encoder.training
    encoder.eval()
    try:
        for batch in batches:
            own = documents_of(batch, sep_id)
            real = batch.real_tokens
            for index, x in enumerate(_layer_inputs(encoder, batch)):
                mass = _mass_on_others(encoder, index, x, batch.documents, own)
                sums[index] += mass[:real].double().sum().cpu()
            expected += float(reference_masses(batch, sep_id, causal=encoder.config.causal)[:real].sum())
            tokens += real
    finally:
        encoder.train(training)
    if not tokens:
        raise ValueError("distraction: needs at least one micro-batch, got none")
    return Distraction(layers=(sums / tokens).tolist(), reference=expected / tokens, tokens=tokens)


def documents_of(batch: PackedBatch, sep_id: int) -> Tensor:
    """Number of each token's document, counted over the row, int64 (T,); padding counts as documents too."""
    ends = batch.ids == sep_id
    behind = torch.zeros_like(ends)
    behind[1:] = ends[:-1]
    opens = behind | (batch.documents.positions == 0)
    return opens.cumsum(0) - 1


def reference_masses(batch: PackedBatch, sep_id: int, *, causal: bool = False) -> Tensor:
    """What `mass` is when a token attends evenly to all that it may see, fp64 (T,)."""
    own, chunk = documents_of(batch, sep_id), batch.documents.document_ids
    if causal:
        place = batch.documents.positions.double()
        # place of the first token of the document: the smallest one
        first = torch.full((int(own.max()) + 1,), float("inf"), dtype=torch.float64, device=own.device)
        first = first.scatter_reduce(0, own, place, "amin")
        return first[own] / (place + 1)
    length, room = torch.bincount(own).double(), torch.bincount(chunk).double()
    return 1 - length[own] / room[chunk]


def _layer_inputs(encoder: Encoder, batch: PackedBatch) -> list[Tensor]:
    """Hidden states that each layer reads, (T, D)."""
    inputs: list[Tensor] = []

    def keep(_: object, arguments: tuple[Tensor, ...]) -> None:
        inputs.append(arguments[0])

    hooks = [layer.register_forward_pre_hook(keep) for layer in encoder.layers]
    try:
        encoder(batch.ids, batch.documents, batch.segments)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


def _mass_on_others(encoder: Encoder, index: int, x: Tensor, documents: Documents, own: Tensor) -> Tensor:
    """Attention of each token on documents other than its `own` (T,), mean over heads, fp32 (T,)."""
    layer = encoder.layers[index]
    assert isinstance(layer, Layer)
    qkv = layer.qkv(x).view(-1, 3, layer.heads, layer.head_dim).clone()
    columns = layer.head_dim
    others = torch.zeros(len(x), dtype=torch.float32, device=x.device)
    for first in range(0, int(own.max()) + 1, columns):
        column = own - first
        here = (column >= 0) & (column < columns)
        values = torch.zeros(len(x), columns, dtype=qkv.dtype, device=x.device)
        values[here, column[here]] = 1
        qkv[:, 2] = values[:, None]
        summed = attention(qkv, documents, causal=layer.causal, window=layer.window).float().mean(1)
        summed[here, column[here]] = 0
        others += summed.sum(1)
    return others
