"""Encoder: BERT exactly (Devlin et al. 2019, arXiv:1810.04805), over packed documents instead of padded rows.

    x = dropout(norm(word[id] + position[place in document] + segment[0 or 1]))
    L times:   x = norm(x + dropout(output(attention(qkv(x)))))                   (post-norm, all with bias)
               x = norm(x + dropout(down(gelu(up(x)))))

Shapes: T packed tokens, D hidden, H heads of K elements, F feed-forward. A batch is one row of T tokens; its documents
never see one another, and positions restart in each, so a document gets the hidden states it gets alone.

Parameters stay fp32. Activations have `compute_dtype`; matrices are cast to it where they are used, so that gradients
come back in fp32. Dropout is addressed by (seed, layer, site, document, position): see `unmask_kernels.philox`.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask_kernels import Documents, attention, embedding, layer_norm, linear_gelu, philox
from unmask_kernels.precision import under_autocast

from .config import EncoderConfig
from .init import initialise

__all__ = ["Encoder", "Linear", "Norm"]

# Places in a layer that drop elements; the embedding block uses the first of an extra layer.
_SITES = 3


class Linear(nn.Linear):
    """A linear layer with fp32 parameters that computes in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The product, and the bias that what follows has to add, None where it is in.

        What follows a layer on a GPU reads every element anyway and adds a bias, and sums its gradient, on the way. A
        CPU's product adds it for nothing.
        """
        if x.device.type == "cpu":
            return self(x), None
        return F.linear(x, self.weight.to(x.dtype)), self.bias


class Norm(nn.Module):
    """Dropout, residual and layer norm in one operation."""

    def __init__(self, size: int, eps: float, p: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps, self.p = eps, p

    def extra_repr(self) -> str:
        """What `print` shows."""
        return f"{len(self.weight)}, eps={self.eps}, p={self.p}"

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        key: Tensor | None = None,
        row_keys: Tensor | None = None,
        x_bias: Tensor | None = None,
    ) -> Tensor:
        """norm(residual + dropout(x + x_bias)), (T, D); dropout when a key is given."""
        p = self.p if key is not None else 0.0
        return layer_norm(
            x, residual, self.weight, self.bias, x_bias=x_bias, eps=self.eps, p=p, key=key, row_keys=row_keys
        )


class Embeddings(nn.Module):
    """Token, position and segment tables: their sum, normalised, with dropout, in one operation."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_positions, config.hidden_size)
        self.segment = nn.Embedding(config.num_segments, config.hidden_size)
        self.norm = Norm(config.hidden_size, config.layer_norm_eps, config.hidden_dropout)

    def forward(
        self, ids: Tensor, documents: Documents, segments: Tensor | None, key: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """(T, D) in `dtype`; dropout when a key is given."""
        tables = (self.word.weight, self.position.weight, self.segment.weight)
        norm, p = self.norm, self.norm.p if key is not None else 0.0
        return embedding(
            ids, documents, segments, *tables, norm.weight, norm.bias, eps=norm.eps, p=p, key=key, dtype=dtype
        )


class Pooler(Linear):
    """What BERT makes of a document's [CLS]: tanh(W h + b)."""

    def forward(self, rows: Tensor) -> Tensor:
        """Hidden states at first tokens, (S, D) -> (S, D)."""
        return torch.tanh(super().forward(rows))


class Layer(nn.Module):
    """Self-attention and feed-forward, each with its residual and norm."""

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

    def forward(self, x: Tensor, documents: Documents, keys: Tensor | None, rows: Tensor | None = None) -> Tensor:
        """x (T, D) -> (T, D), or (R, D) for R rows; keys int64 (3,), one per dropout site, or None without dropout."""
        on_scores, on_attention, on_output = (None,) * _SITES if keys is None else keys.unbind()
        p = self.attention_dropout if keys is not None else 0.0
        qkv = self.qkv(x).view(-1, 3, self.heads, self.head_dim)
        context = attention(qkv, documents, causal=self.causal, window=self.window, p=p, key=on_scores).flatten(1)
        row_keys = documents.row_keys
        if rows is not None:
            # every token was attended to; from here on rows do not see one another
            context, x, row_keys = (tensor.index_select(0, rows) for tensor in (context, x, row_keys))
        product, bias = self.attention_output.apart(context)
        x = self.attention_norm(product, x, on_attention, row_keys, bias)
        hidden = linear_gelu(x, self.up.weight, self.up.bias, activation=self.activation)
        product, bias = self.down.apart(hidden)
        return self.norm(product, x, on_output, row_keys, bias)


class Encoder(nn.Module):
    """BERT's encoder; `config` may make it causal, or make layers local.

    Args:
        config: sizes.
        compute_dtype: dtype of the activations; bf16 is the fast one on recent hardware.
        seed: of the initial weights and of dropout.
        pooler: whether to have the layer that turns a document's [CLS] into a vector (`pool`).
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        compute_dtype: torch.dtype = torch.float32,
        seed: int = 0,
        pooler: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, config.window(index)) for index in range(config.num_layers))
        self.pooler = Pooler(config.hidden_size, config.hidden_size) if pooler else None
        self.register_buffer("dropout_seed", torch.tensor(seed, dtype=torch.int64), persistent=False)
        self.dropout_seed: Tensor
        initialise(self, config.initializer_range, seed)

    def forward(
        self, ids: Tensor, documents: Documents, segments: Tensor | None = None, *, rows: Tensor | None = None
    ) -> Tensor:
        """Hidden states of packed documents.

        Args:
            ids: token ids, int64 or int32 (T,), in [0, vocab_size).
            documents: boundaries of the documents, T tokens in all, none longer than max_positions.
            segments: 0 or 1 for each token, int64 (T,). Default: all 0.
            rows: tokens whose hidden states are wanted, int64 (R,), in [0, T), repetitions allowed. The last layer
                projects, feeds forward and normalises these alone, which saves most of it. Default: all.
        Returns:
            (T, D), or (R, D) with rows, in compute_dtype, under `torch.autocast` in its dtype; dropout is applied in
            training mode only.
        Raises:
            ValueError: ids and documents disagree, a document may be longer than the position table, or an id on the
                CPU is not of the vocabulary.
        """
        if documents.max_seqlen > self.config.max_positions:
            raise ValueError(
                f"encoder: documents.max_seqlen is {documents.max_seqlen} but the model has "
                f"{self.config.max_positions} positions; cut documents into pieces, or train a model with a "
                "larger max_positions"
            )
        keys = self._dropout_keys()
        dtype = under_autocast(self.compute_dtype, ids.device.type)
        x = self.embeddings(ids, documents, segments, None if keys is None else keys[-1, 0], dtype)
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            x = layer(x, documents, None if keys is None else keys[index], rows if last else None)
        return x

    def pool(self, hidden: Tensor, documents: Documents) -> Tensor:
        """tanh(W h + b) at the first token of each document, (T, D) -> (S, D).

        Rows of empty document slots mean nothing.
        """
        if self.pooler is None:
            raise ValueError(
                "encoder: it has no pooler, since its folder has no weights of one or pooler=False was passed; take "
                "the hidden states of each [CLS], hidden[documents.first_rows()]"
            )
        pooled: Tensor = self.pooler(hidden[documents.first_rows()])
        return pooled

    def _dropout_keys(self) -> Tensor | None:
        """int64 (num_layers + 1, 3) while training with dropout; the last row is the embeddings'."""
        config = self.config
        if not self.training or config.hidden_dropout == config.attention_dropout == 0.0:
            return None
        return philox.dropout_keys(self.dropout_seed, config.num_layers + 1, _SITES)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, compute_dtype: torch.dtype = torch.float32) -> Encoder:
        """Read the encoder of a Hugging Face BERT folder (BertModel, BertForMaskedLM, BertForPreTraining).

        Weights come from safetensors files or, read with `weights_only=True`, from .bin files. In evaluation mode.

        Raises:
            CheckpointError: a missing file, weights that do not fit, or a feature this encoder does not have.
        """
        from unmask.interop import hf

        return hf.load_encoder(Path(folder), compute_dtype=compute_dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `transformers.BertModel.from_pretrained` reads.

        Raises:
            CheckpointError: a model that transformers' BERT does not compute, causal or with local layers.
        """
        from unmask.interop import hf

        hf.save_encoder(self, Path(folder))
