"""Encoder: BERT exactly (Devlin et al. 2019, arXiv:1810.04805), over packed documents instead of padded rows.

    x = dropout(norm(word[id] + position[place in document] + segment[0 or 1]))
    L times:   x = norm(x + dropout(output(attention(qkv(x)))))                   (post-norm, all with bias)
               x = norm(x + dropout(down(gelu(up(x)))))

Shapes: T packed tokens, S documents, R chosen rows, L layers, D hidden, H heads of K elements, F feed-forward.

A batch is one row of T tokens. Documents do not attend to one another, and positions restart in each document, so a
packed document gets the hidden states that it gets alone. Parameters and their gradients are fp32, unless the module is
converted; activations have `compute_dtype`, to which each matrix is cast where it is used. Norms, and the sum of the
embeddings, are computed in fp32 whatever the dtype of their parameters. The random numbers of dropout are a function of
seed, layer, site, document and position (`unmask_kernels.philox`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unmask.batch import PackedBatch
from unmask.config import EncoderConfig
from unmask.layouts import packed_inputs
from unmask.model.checkpointing import Checkpointed, LayerCheckpointing
from unmask.model.layer import SITES, Embeddings, Layer, Linear
from unmask.model.model_config import ModelConfig
from unmask.model.taps import Taps
from unmask_kernels import Documents, philox
from unmask_kernels.precision import under_autocast

if TYPE_CHECKING:
    from unmask.interop.find_model import ModelFolder

__all__ = ["Encoder", "initialise", "with_dropout"]

# Spreads the seeds of a model's parts, so that a head does not start with the numbers of the next seed's encoder.
_SEED_STRIDE = 0x9E3779B97F4A7C15

_CALL = "call encoder(batch.ids, batch.documents, batch.segments)"


def initialise(module: nn.Module, std: float, seed: int, *, part: int = 0) -> None:
    """Initialise all parameters as BERT does: truncated normal matrices and tables, zero biases, unit norm gains.

    The same seed, module and PyTorch build give the same values.

    Args:
        module: parameters with two dimensions are matrices or tables; vectors are biases (by name) or norm gains.
        std: standard deviation of the normal distribution, which is cut at two standard deviations.
        seed: seed of a generator that only this call uses; PyTorch's global generator is left alone.
        part: number of this module in the model. Parts draw from different generators at one seed.
    """
    generator = torch.Generator().manual_seed((seed + part * _SEED_STRIDE) % 2**63)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)


def with_dropout(config: EncoderConfig, dropout: float | None) -> EncoderConfig:
    """Return the sizes of a model with one rate for both of its dropouts; None leaves them as they are.

    Raises:
        ValueError: the rate is no number in [0, 1).
    """
    if dropout is None:
        return config
    try:
        return replace(config, hidden_dropout=dropout, attention_dropout=dropout)
    except (TypeError, ValueError):
        raise ValueError(
            f"from_pretrained: dropout must be a number of at least 0 and below 1, got {dropout!r}; leave it out for "
            "the rates in config.json"
        ) from None


class Encoder(Checkpointed):
    """BERT's encoder. `config` can make it causal or give it local layers.

    Args:
        config: sizes and constants.
        compute_dtype: dtype of the activations. bf16 is fast on recent hardware.
        seed: seed of the initial weights and of dropout.
        pooler: whether the encoder has BERT's pooler, the layer behind `pool`.

    Attributes:
        taps: the states that forward passes hand out beside their result; None, the default, hands out nothing.
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
        self.config = ModelConfig(config)
        self.compute_dtype = compute_dtype
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, config.window(index)) for index in range(config.num_layers))
        self.pooler = Linear(config.hidden_size, config.hidden_size) if pooler else None
        self.layer_checkpointing: LayerCheckpointing | None = None
        self.taps: Taps | None = None
        self.register_buffer("dropout_seed", torch.tensor(seed, dtype=torch.int64), persistent=False)
        self.dropout_seed: Tensor
        initialise(self, config.initializer_range, seed)

    def forward(
        self,
        ids: Tensor | None = None,
        documents: Documents | Tensor | None = None,
        segments: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | Tensor | None = None,
        max_length_k: int | Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states of packed documents, or of the inputs that other encoders take.

            encoder(ids, documents, segments)                          # (T, D)
            encoder(input_ids, attention_mask, token_type_ids)         # padded: (B, L, D), 0 at padding
            encoder(input_ids=ids, position_ids=positions)             # flat: (1, T, D)

        Args:
            ids: token ids, int64 or int32 (T,), in [0, vocab_size).
            documents: boundaries of the documents, T tokens in all, none longer than max_positions.
            segments: token type of each token, 0 or 1, int64 (T,). Default: all 0.
            rows: tokens whose hidden states are wanted, int64 (R,), in [0, T), repetitions allowed. The last layer
                computes only these after its attention, which saves most of its work. Default: all. Only with
                `documents`.
            input_ids, attention_mask, token_type_ids, position_ids, cu_seq_lens_q, cu_seq_lens_k, max_length_q,
                max_length_k: instead of the first three, as for `unmask.packed_inputs`.
        Returns:
            (T, D), or (R, D) with rows, or (B, L, D); in compute_dtype, or in autocast's dtype under `torch.autocast`.
            Dropout is applied in training mode only.
        Raises:
            TypeError, ValueError: ids and documents disagree, a document may be longer than the position table, or an
                id on the CPU is outside the vocabulary. For the other inputs, see `unmask.packed_inputs`.
        """
        if isinstance(documents, Documents):
            return self._encode(_one_of("ids", ids, input_ids), documents, segments, rows)
        if isinstance(documents, PackedBatch):
            raise TypeError(f"encoder: documents must be Documents, got a PackedBatch; {_CALL}")
        if documents is not None and not isinstance(documents, Tensor):
            raise TypeError(
                f"encoder: documents must be Documents, or an attention mask (B, L), got {type(documents).__name__}; "
                "a batch that a trainer took apart is whole again as unmask.PackedBatch(inputs)"
            )
        if rows is not None:
            raise TypeError(
                "encoder: rows needs ids and documents; call encoder(batch.ids, batch.documents, batch.segments, "
                "rows=rows) with batch = unmask.packed_inputs(...).batch"
            )
        inputs = packed_inputs(
            _one_of("input_ids", ids, input_ids),
            attention_mask if documents is None else documents,
            token_type_ids if segments is None else segments,
            position_ids,
            cu_seq_lens_q=cu_seq_lens_q,
            cu_seq_lens_k=cu_seq_lens_k,
            max_length_q=max_length_q,
            max_length_k=max_length_k,
            draw_keys=self.applies_dropout(),
        )
        batch = inputs.batch
        return inputs.restore(self._encode(batch.ids, batch.documents, batch.segments, None))

    def _encode(self, ids: Tensor, documents: Documents, segments: Tensor | None, rows: Tensor | None) -> Tensor:
        if documents.max_seqlen > self.config.max_positions:
            raise ValueError(
                f"encoder: documents.max_seqlen is {documents.max_seqlen} but the model has "
                f"{self.config.max_positions} positions; cut documents into pieces (a tokenizer of transformers does "
                f"with truncation=True, max_length={self.config.max_positions}), or train a model with a larger "
                "max_positions"
            )
        keys = self._dropout_keys()
        dtype = under_autocast(self.compute_dtype, ids.device.type)
        x = self.embeddings(ids, documents, segments, None if keys is None else keys[-1, 0], dtype)
        again = self.layer_checkpointing if self.training and torch.is_grad_enabled() else None
        taps = self.taps
        if taps is not None:
            taps.clear()
            taps.take(0, x)
        for index, layer in enumerate(self.layers):
            last = index == len(self.layers) - 1
            qkv = None if taps is None else taps.place_for(index + 1)
            arguments = (x, documents, None if keys is None else keys[index], rows if last else None, qkv)
            x = layer(*arguments) if again is None else again.run(index, layer, *arguments)
            if taps is not None:
                taps.take(index + 1, x, qkv)
        return x

    def pool(self, hidden: Tensor, documents: Documents | None = None) -> Tensor:
        """Return tanh(W h + b) of the first token of each document, or of rows of your choice.

            encoder.pool(hidden, batch.documents)      # the [CLS] of each document
            encoder.pool(hidden[rows])                 # these tokens
            encoder.pool(encoder(batch.ids, batch.documents, rows=batch.documents.first_rows()))

        Args:
            hidden: hidden states, (T, D) with `documents`, else (R, D).
            documents: the documents whose first tokens are pooled. Default: every row of `hidden` is pooled.
        Returns:
            (S, D) with `documents`, where the rows of padding and of empty documents have no meaning; else (R, D). The
            dtype is that of `hidden`.
        Raises:
            TypeError: `documents` are no documents.
            ValueError: the encoder has no pooler, or `hidden` does not have a row for each token of `documents`.
        """
        if self.pooler is None:
            raise ValueError(
                "pool: the encoder has no pooler; take the hidden states of each [CLS], "
                "hidden[documents.first_rows()], or make the encoder with pooler=True and train the pooler"
            )
        if documents is not None:
            if not isinstance(documents, Documents):
                raise TypeError(
                    f"pool: documents must be Documents, got {type(documents).__name__}; pass batch.documents of the "
                    "batch from unmask.pack"
                )
            if len(hidden) != documents.tokens:
                raise ValueError(
                    f"pool: hidden must have a row for each of the {documents.tokens} tokens of documents, got "
                    f"{len(hidden)}; leave documents out if they are the rows to pool"
                )
            hidden = hidden[documents.first_rows()]
        return torch.tanh(self.pooler(hidden))

    def get_input_embeddings(self) -> nn.Module:
        """Return the token table, as models of transformers do."""
        return self.embeddings.word

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Encoder:
        """Move or convert the parameters. `half()`, `bfloat16()`, `float()` and `to(dtype)` set `compute_dtype` too."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # What moves tensors leaves both as they are, what converts them makes one dtype of both.
        found = {fn(torch.empty(0, dtype=dtype)).dtype for dtype in (torch.float32, torch.float64)}
        if len(found) == 1:
            self.compute_dtype = found.pop()
        return self

    def _dropout_keys(self) -> Tensor | None:
        """Return the keys of all sites, int64 (L + 1, 3), the embeddings' in the last row; None without dropout."""
        return (
            philox.dropout_keys(self.dropout_seed, self.config.num_layers + 1, SITES)
            if self.applies_dropout()
            else None
        )

    def applies_dropout(self) -> bool:
        """Return whether a forward pass drops elements now."""
        return self.training and not self.config.hidden_dropout == self.config.attention_dropout == 0.0

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        *,
        revision: str | None = None,
        dropout: float | None = None,
        pooler: bool | None = None,
        compute_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> Encoder:
        """Read the encoder of a run, a checkpoint or a Hugging Face BERT folder, in evaluation mode.

        Weights come from safetensors files, or from .bin files, which are read with `weights_only=True`. A log message
        names the heads of the folder, which this class leaves out, and a pooler that is new.

        Args:
            folder: a run, whose newest whole checkpoint is read, a checkpoint, or the folder of a BertModel,
                BertForMaskedLM or BertForPreTraining, or the name of such a model of the Hugging Face Hub.
            revision: branch, tag or commit of a model of the Hub. Default: its newest state.
            dropout: dropout of hidden states and of attention probabilities, in [0, 1). Default: the two rates in
                config.json.
            pooler: True: with a pooler, whose weights are new if the folder has none. False: without one, even if the
                folder has it. Default: as in the folder.
            compute_dtype: see `Encoder`.
            seed: seed of dropout and of the weights of a new pooler.
        Raises:
            RunError: the run has no checkpoint yet.
            CheckpointError: a file is missing or damaged, the weights do not fit, or the model needs what this encoder
                lacks.
            HubError: the Hub does not give the model.
            ValueError: dropout is out of range.
        """
        from unmask.interop import hf
        from unmask.interop.find_model import find_model

        found = hf.read_encoder(find_model(folder, revision=revision).path, pooler=pooler)
        config = with_dropout(found.config, dropout)
        encoder = cls(config, compute_dtype=compute_dtype, seed=seed, pooler=found.pooler)
        found.copy_into(encoder)
        return encoder.eval()

    def save_pretrained(self, folder: str | Path, *, pad_id: int = 0, for_transformers: bool = True) -> None:
        """Write a folder that `transformers.BertModel.from_pretrained` reads.

        Args:
            folder: where to; made when it is not there. Save the tokenizer there, too.
            pad_id: the tokenizer's id of [PAD], written to config.json.
            for_transformers: with False, a causal encoder or one with local layers is written too, as a folder that
                only `Encoder.from_pretrained` reads.
        Raises:
            CheckpointError: the encoder is causal or has local layers, which transformers' BERT does not compute,
                unless `for_transformers` is False.
        """
        from unmask.interop import hf

        hf.save(
            self,
            self.config,
            Path(folder),
            architecture="BertModel",
            pad_id=pad_id,
            for_transformers=for_transformers,
        )


def _one_of(name: str, one: Tensor | None, other: Tensor | None) -> Tensor:
    """Return the token ids, which have two names."""
    ids = other if one is None else one
    if one is not None and other is not None:
        raise TypeError(
            "encoder: ids and input_ids are two names of the same argument, and both are given; leave one out"
        )
    if ids is None:
        raise TypeError(
            f"encoder: {name} must be given; a tokenizer of transformers makes input_ids and attention_mask"
        )
    if not isinstance(ids, Tensor):
        raise TypeError(f"encoder: {name} must be a tensor, got {type(ids).__name__}; {_way_to_ids(ids)}")
    return ids


def _way_to_ids(given: object) -> str:
    """Return how to call the encoder with what was given in the place of the ids."""
    if isinstance(given, PackedBatch):
        return _CALL
    if isinstance(given, Mapping):
        return "call encoder(**inputs), with tensors in them (return_tensors='pt')"
    return f"pack lists of ids with batch = unmask.pack(documents) and {_CALL}"
