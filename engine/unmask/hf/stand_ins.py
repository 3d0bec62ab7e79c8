"""A BERT layer of transformers as the parts that `unmask.model.layer.apply_layer` computes with.

Its modules keep their parameters: nothing is copied or renamed, and each call reads the modules that are there. So a
module may be replaced at any time, for example by a LoRA layer, which is then called.

    ours                       theirs
    qkv                        attention.self.query, .key, .value
    attention_output           attention.output.dense
    attention_norm             attention.output.LayerNorm, .dropout
    up                         intermediate.dense
    down                       output.dense
    norm                       output.LayerNorm, .dropout
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.interop.config_json import ACTIVATIONS
from unmask.model.layer import StandIn, drop_rows, is_plain
from unmask_kernels import layer_norm

__all__ = ["BertParts", "Linears", "NormAndDropout", "rate_of"]


def rate_of(dropout: Any) -> float:
    """Return the rate with which a dropout module drops elements now."""
    rate: float = dropout.p if dropout.training else 0.0
    return rate


class Linears(StandIn):
    """Linear layers of one input, whose outputs stand side by side."""

    def __init__(self, *modules: Any) -> None:
        self._modules = modules
        self.plain = all(is_plain(module, nn.Linear) and module.bias is not None for module in modules)

    @property
    def weight(self) -> Tensor:
        """The weights, one below the other."""
        return self._stacked("weight")

    @property
    def bias(self) -> Tensor:
        """The biases, one after the other."""
        return self._stacked("bias")

    def _stacked(self, name: str) -> Tensor:
        found = [getattr(module, name) for module in self._modules]
        return found[0] if len(found) == 1 else torch.cat(found)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs of all layers, (T, D) -> (T, N)."""
        if self.plain:
            return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
        found = [module(x) for module in self._modules]
        return found[0] if len(found) == 1 else torch.cat(found, -1)


class NormAndDropout(StandIn):
    """A layer norm, with the dropout in front of it."""

    def __init__(self, module: Any, rate: float = 0.0) -> None:
        self.module, self.rate = module, rate
        self.plain = is_plain(module, nn.LayerNorm) and module.bias is not None

    def __call__(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        key: Tensor | None = None,
        row_keys: Tensor | None = None,
        x_bias: Tensor | None = None,
    ) -> Tensor:
        """Return norm(residual + dropout(x + x_bias)), as `unmask.model.layer.Norm` does."""
        module, p = self.module, self.rate if key is not None else 0.0
        if self.plain:
            weight, bias, eps = module.weight, module.bias, module.eps
            return layer_norm(x, residual, weight, bias, x_bias=x_bias, eps=eps, p=p, key=key, row_keys=row_keys)
        dropped = drop_rows(x if x_bias is None else x + x_bias.to(x.dtype), key, row_keys, p)
        y: Tensor = module((dropped if residual is None else dropped + residual).to(next(module.parameters()).dtype))
        return y.to(x.dtype)


class BertParts:
    """The parts of one `BertLayer` at the moment of a call."""

    def __init__(self, layer: Any) -> None:
        attention, output = layer.attention, layer.output
        inner, projected = attention.self, attention.output
        self.heads: int = inner.num_attention_heads
        self.head_dim: int = inner.attention_head_size
        self.attention_dropout = rate_of(inner.dropout)
        self.causal = False
        self.window: int | None = None
        self.activation: Any = ACTIVATIONS[inner.config.hidden_act]
        self.qkv: Any = Linears(inner.query, inner.key, inner.value)
        self.attention_output: Any = Linears(projected.dense)
        self.attention_norm: Any = NormAndDropout(projected.LayerNorm, rate_of(projected.dropout))
        self.up: Any = Linears(layer.intermediate.dense)
        self.down: Any = Linears(output.dense)
        self.norm: Any = NormAndDropout(output.LayerNorm, rate_of(output.dropout))

    def dropout_rates(self) -> tuple[float, float, float]:
        """Return the rates on scores, on attention and on the output."""
        return self.attention_dropout, self.attention_norm.rate, self.norm.rate
