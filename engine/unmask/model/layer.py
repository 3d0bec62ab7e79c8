"""The parts of the encoder: linear layers, norms, the embeddings and the transformer layer.

The layers are fused where nothing watches or replaces them: one operation multiplies and applies GELU, the norm adds
the bias of the product in front of it, and on a GPU a product adds the gradient of the residual connection beside it. A
fused operation reads the parameters of a layer and does not call it. So a layer is *called* if calling it may do more:
it is of another class (a LoRA adapter, a parametrized layer), it has hooks, or somebody replaced its `forward`. Results
agree within rounding.

`apply_layer` also computes layers whose parameters are in modules of another library: a `StandIn` takes the place of
each of our modules (`unmask.hf.stand_ins`).

Shapes: T packed tokens, R chosen rows, D hidden, H heads of K elements, F feed-forward.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from unmask.config import EncoderConfig
from unmask_kernels import Documents, attention, checks, embedding, gelu, layer_norm, linear_gelu, philox, product
from unmask_kernels.linear_gelu import linear_gelu_and_residual
from unmask_kernels.precision import accumulation_dtype, without_autocast

__all__ = [
    "SITES",
    "Embeddings",
    "Layer",
    "LayerParts",
    "Linear",
    "Norm",
    "StandIn",
    "apply_layer",
    "drop_rows",
    "embed_parts",
    "is_plain",
    "product_and_bias",
    "token_table",
]

SITES = 3
"""Places in a layer that apply dropout. The embeddings use the first site of one extra layer."""


class Linear(nn.Linear):
    """A linear layer that computes in the dtype of its input, whatever the dtype of its parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b, (..., in) -> (..., out)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class StandIn:
    """What takes the place of a `Linear` or a `Norm` whose parameters are in modules of another library.

    Attributes:
        plain: as `is_plain` of these modules.
    """

    plain: bool
    weight: Any
    bias: Any

    def __call__(self, *arguments: Any) -> Tensor:
        """Compute what the module computes whose place it takes."""
        raise NotImplementedError


def is_plain(module: nn.Module | StandIn, kind: type[nn.Module]) -> bool:
    """Whether calling a module does what its class says and no more, so that its parameters may be read instead."""
    if isinstance(module, StandIn):
        return module.plain
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return type(module) is kind and not hooks and not _has_any_global_hook() and "forward" not in module.__dict__


def product_and_bias(linear: nn.Module | StandIn, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the product of a linear layer, and its bias if the next operation still has to add it, else None.

    On a GPU the next operation reads every element anyway, so it also adds the bias and sums its gradient. On a CPU the
    matrix product adds the bias at no cost.
    """
    if x.device.type == "cpu" or not is_plain(linear, Linear):
        return linear(x), None
    assert isinstance(linear, Linear | StandIn)
    if product.applies_to(x):
        return product.multiply(x, linear.weight), linear.bias
    return F.linear(x, linear.weight.to(x.dtype)), linear.bias


def _adds_residual_gradient(
    x: Tensor, first: nn.Module | StandIn, last: nn.Module | StandIn, norm: nn.Module | StandIn
) -> bool:
    """Whether the product of `first` may add the gradient of the residual connection, which `norm` ends behind `last`.

    The product changes that gradient in place. Without dropout, the backward of the norm gives the same tensor to
    `last`. So neither of the three may have a hook that could keep it.
    """
    return product.applies_to(x) and is_plain(first, Linear) and is_plain(last, Linear) and is_plain(norm, Norm)


def token_table(word: nn.Module, rows: int) -> Tensor:
    """Return the token table (V, D), which is also the output projection.

    An adapter around the table has no such tensor, so it is called for all V = `rows` ids.
    """
    if isinstance(word, nn.Embedding):
        return word.weight
    device = next(word.parameters()).device
    table: Tensor = word(torch.arange(rows, device=device))
    return table


class Norm(nn.Module):
    """Dropout, residual and layer norm in one operation."""

    def __init__(self, size: int, eps: float, p: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps, self.p = eps, p

    def extra_repr(self) -> str:
        """Return the settings that `print(module)` shows."""
        return f"{len(self.weight)}, eps={self.eps}, p={self.p}"

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        key: Tensor | None = None,
        row_keys: Tensor | None = None,
        x_bias: Tensor | None = None,
    ) -> Tensor:
        """Return norm(residual + dropout(x + x_bias)), (T, D), with dropout if a key is given; see `layer_norm`."""
        p = self.p if key is not None else 0.0
        return layer_norm(
            x, residual, self.weight, self.bias, x_bias=x_bias, eps=self.eps, p=p, key=key, row_keys=row_keys
        )


class Embeddings(nn.Module):
    """Sum of the token, position and segment embeddings, with layer norm and dropout, in one operation."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.rows, self.dropout = config.token_rows, config.hidden_dropout
        self.word = nn.Embedding(config.token_rows, config.hidden_size)
        self.position = nn.Embedding(config.max_positions, config.hidden_size)
        self.segment = nn.Embedding(config.num_segments, config.hidden_size)
        self.norm = Norm(config.hidden_size, config.layer_norm_eps, config.hidden_dropout)

    def forward(
        self, ids: Tensor, documents: Documents, segments: Tensor | None, key: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Embed ids (T,) with segments (T,) to (T, D) in `dtype`, with dropout if a key is given; see `embedding`."""
        modules = (self.word, self.position, self.segment)
        norm, p = self.norm, self.dropout if key is not None else 0.0
        if not (all(is_plain(module, nn.Embedding) for module in modules) and is_plain(norm, Norm)):
            return self._called(ids, documents, segments, key, p).to(dtype)
        tables = (self.word.weight, self.position.weight, self.segment.weight)
        return embedding(
            ids, documents, segments, *tables, norm.weight, norm.bias, eps=norm.eps, p=p, key=key, dtype=dtype
        )

    def _called(
        self, ids: Tensor, documents: Documents, segments: Tensor | None, key: Tensor | None, p: float
    ) -> Tensor:
        """Do the same by calling each module, in fp32."""
        checks.shape("embedding", "ids", ids, (documents.tokens,), "the tokens of documents")
        checks.contents(
            "embedding", "ids", ids, self.rows, "the rows of word; use the tokenizer that the model was trained with"
        )
        with without_autocast(ids.device.type):
            kinds = torch.zeros_like(ids) if segments is None else segments
            parts = (self.word(ids), self.position(documents.positions), self.segment(kinds))
            return embed_parts(parts, self.norm, documents.row_keys, key, p)


def embed_parts(
    parts: tuple[Tensor, Tensor, Tensor], norm: nn.Module | StandIn, row_keys: Tensor, key: Tensor | None, p: float
) -> Tensor:
    """Add looked up words, positions and segments, (T, D) each, normalise and drop, in fp32."""
    words, positions, kinds = (part.to(accumulation_dtype(part.dtype)) for part in parts)
    return drop_rows(norm(words + positions + kinds), key, row_keys, p)


def drop_rows(x: Tensor, key: Tensor | None, row_keys: Tensor | None, p: float) -> Tensor:
    """Drop elements of x (T, D) by their addresses, if a key is given."""
    if key is None or p == 0.0:
        return x
    assert row_keys is not None
    return x * philox.keep_rows(key, row_keys, x.shape[1], p) / (1.0 - p)


class Layer(nn.Module):
    """Self-attention and feed-forward, each followed by its residual and layer norm."""

    def __init__(self, config: EncoderConfig, window: int | None = None) -> None:
        super().__init__()
        size, eps, p = config.hidden_size, config.layer_norm_eps, config.hidden_dropout
        self.heads, self.head_dim = config.num_heads, config.head_dim
        self.attention_dropout = config.attention_dropout
        self.causal, self.window = config.causal, window
        self.activation = config.activation
        self.qkv = Linear(size, 3 * size)
        self.attention_output = Linear(size, size)
        self.attention_norm = Norm(size, eps, p)
        self.up = Linear(size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, size)
        self.norm = Norm(size, eps, p)

    def forward(
        self,
        x: Tensor,
        documents: Documents,
        keys: Tensor | None,
        rows: Tensor | None = None,
        qkv_place: list[Tensor] | None = None,
    ) -> Tensor:
        """Apply the layer to x (T, D), with dropout if there are keys, int64 (3,), one for each site.

        Returns (T, D), or (R, D) for the given rows, int64 (R,). A list takes the queries, keys and values,
        (T, 3, H, K).
        """
        return apply_layer(self, x, documents, keys, rows, qkv_place)


class LayerParts(Protocol):
    """What `apply_layer` reads: a `Layer`, or what takes its place. Its modules may be stand-ins."""

    heads: int
    head_dim: int
    attention_dropout: float
    causal: bool
    window: int | None
    activation: Any
    qkv: Any
    attention_output: Any
    attention_norm: Any
    up: Any
    down: Any
    norm: Any


def apply_layer(
    layer: LayerParts,
    x: Tensor,
    documents: Documents,
    keys: Tensor | None,
    rows: Tensor | None = None,
    qkv_place: list[Tensor] | None = None,
) -> Tensor:
    """Compute a layer; see `Layer.forward`."""
    on_scores, on_attention, on_output = (None,) * SITES if keys is None else keys.unbind()
    p = layer.attention_dropout if keys is not None else 0.0
    if _adds_residual_gradient(x, layer.qkv, layer.attention_output, layer.attention_norm):
        qkv, x = product.multiply_beside_residual(x, layer.qkv.weight, layer.qkv.bias)
    else:
        qkv = layer.qkv(x)
    qkv = qkv.view(-1, 3, layer.heads, layer.head_dim)
    if qkv_place is not None:
        qkv_place.append(qkv)
    context = attention(qkv, documents, causal=layer.causal, window=layer.window, p=p, key=on_scores).flatten(1)
    row_keys = documents.row_keys
    if rows is not None:
        # All tokens were keys and values above; nothing below mixes rows.
        context, x, row_keys = (tensor.index_select(0, rows) for tensor in (context, x, row_keys))
    z, bias = product_and_bias(layer.attention_output, context)
    x = layer.attention_norm(z, x, on_attention, row_keys, bias)
    if _adds_residual_gradient(x, layer.up, layer.down, layer.norm):
        hidden, x = linear_gelu_and_residual(x, layer.up.weight, layer.up.bias, activation=layer.activation)
    elif is_plain(layer.up, Linear):
        hidden = linear_gelu(x, layer.up.weight, layer.up.bias, activation=layer.activation)
    else:
        hidden = gelu(layer.up(x), activation=layer.activation)
    z, bias = product_and_bias(layer.down, hidden)
    return layer.norm(z, x, on_output, row_keys, bias)
