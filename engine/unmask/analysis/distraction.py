"""Distraction: the attention from a document's tokens to other documents of their sequence (Zhao et al. 2024,
arXiv:2402.13991, section 4; here for an encoder too).

    mass(t)      = sum of the attention probabilities of token t on tokens of other documents, mean over heads
    distraction  = mean of mass over tokens, for each layer
    reference(t) = the share of other documents in the tokens that t may see: 1 - len(document) / len(sequence), or for
                   a causal model (tokens of the sequence before the document) / (tokens of the sequence up to t)

A model that spreads its attention evenly has the reference. In scope `document` a sequence holds one document, so its
distraction is 0. Inside a sequence a document ends with its [SEP].

The attention operation that the model runs does the sum itself, under its own mask: the values of a layer are replaced
by ones that tell which document a token belongs to. So no T x T matrix is needed, and no second implementation of the
mask can be wrong. Cost: the model's forward pass, and ceil(documents / head_dim) attentions more for each layer.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask.model import Encoder
from unmask.model.layer import Layer
from unmask_kernels import Documents, attention

__all__ = ["Distraction", "documents_of", "measure_distraction", "reference_masses"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distraction:
    """Attention on other documents, as shares in [0, 1].

    Attributes:
        layers: mean over tokens and heads of each layer.
        reference: the share that even attention has.
        tokens: number of tokens in the means.
    """

    layers: list[float]
    reference: float
    tokens: int


@torch.no_grad()
def measure_distraction(encoder: Encoder, batches: Iterable[PackedBatch], *, sep_id: int) -> Distraction:
    """Measure an encoder on batches.

    Args:
        encoder: on the device of the batches.
        batches: at least one.
        sep_id: id of [SEP], which ends a document inside a sequence.
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
    """Number the documents of a batch and return each token's number, int64 (T,); padding is documents too."""
    # the first token opens a document by its position, whatever `roll` puts there
    opens = (batch.ids == sep_id).roll(1) | (batch.documents.positions == 0)
    return opens.cumsum(0) - 1


def reference_masses(batch: PackedBatch, sep_id: int, *, causal: bool = False) -> Tensor:
    """Compute `mass` for a token that attends evenly to all tokens that it may see, fp64 (T,)."""
    own, sequence = documents_of(batch, sep_id), batch.documents.document_ids
    if causal:
        place = batch.documents.positions.double()
        # place of the first token of the document: the smallest one
        first = torch.full((int(own.max()) + 1,), float("inf"), dtype=torch.float64, device=own.device)
        first = first.scatter_reduce(0, own, place, "amin")
        return first[own] / (place + 1)
    length, room = torch.bincount(own).double(), torch.bincount(sequence).double()
    return 1 - length[own] / room[sequence]


def _layer_inputs(encoder: Encoder, batch: PackedBatch) -> list[Tensor]:
    """Run the encoder and return the hidden states that each layer reads, (T, D) each."""
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
    """Sum each token's attention on documents other than its own, mean over heads, fp32 (T,).

    `x` are the hidden states that layer `index` reads, (T, D); `own` is the number of each token's document, (T,).
    """
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
