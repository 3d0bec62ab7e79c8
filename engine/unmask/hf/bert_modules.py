"""The classes of transformers' BERT with another forward pass: packed, without padding, by `unmask_kernels`.

`unmask.drop_in` gives the modules of a model these classes, and `unmask.undo` takes them away. Nothing else changes:
modules, parameters, names, configuration, `save_pretrained` and the names of the classes are those of transformers.

    BertModel       packs the inputs once, calls embeddings and encoder, puts padding back, calls the pooler
    BertEmbeddings  (T,) ids to (T, D)
    BertEncoder     (T, D) to (T, D), layer after layer
    BertLayer       one layer, by `unmask.model.layer.apply_layer`
    BertFor...      heads, in `bert_heads`

Heads that read few rows say so, and the last layer computes only these after its attention.

Shapes: B rows of L tokens, T real tokens, S documents, R chosen rows, M labelled tokens, D hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.models.bert import modeling_bert as bert

from unmask.batch import IGNORED
from unmask.hf.stand_ins import BertParts, NormAndDropout, rate_of
from unmask.layouts import PackedInputs, packed_inputs
from unmask.model.layer import SITES, apply_layer, embed_parts, is_plain
from unmask_kernels import Documents, embedding, philox
from unmask_kernels.precision import under_autocast, without_autocast

__all__ = [
    "REPLACED",
    "LabelledRows",
    "change_class",
    "has_own_forward",
    "replace_classes",
    "require_unwatched",
    "takes_place",
    "watched",
]

Rows: TypeAlias = Tensor | Literal["first", "each row"] | None
"""Which rows a head reads: those with a label in a tensor (B, L), the first of each document, or all; and for "each
row" all of rows that hold one document."""

# arguments of a forward pass for decoders
_OF_DECODERS = ("encoder_hidden_states", "encoder_attention_mask", "past_key_values")
# where the hooks come from with which transformers collects outputs
_CAPTURING = "transformers.utils.output_capturing"

REPLACED: dict[type, Any] = {}
"""Each class of transformers, and the one of the same name that takes its place."""

Class = TypeVar("Class", bound=type)


def takes_place(kind: Class) -> Class:
    """Put a class into `REPLACED`."""
    REPLACED[getattr(bert, kind.__name__)] = kind
    return kind


def replace_classes(model: nn.Module) -> None:
    """Give each module whose class is in `REPLACED` the other class."""
    for module in model.modules():
        if type(module) in REPLACED:
            change_class(module, REPLACED[type(module)])


def change_class(module: nn.Module, kind: type) -> None:
    """Give a module a class, and the forward pass of that."""
    module.__class__ = kind
    module.__dict__.pop("forward", None)


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module has the forward pass of its class; accelerate leaves that, unwrapped, as an attribute behind."""
    found, forward = module.__dict__.get("forward"), type(module).forward
    return found is None or getattr(found, "__func__", None) in (forward, inspect.unwrap(forward))


class LabelledRows(NamedTuple):
    """What a pre-training head reads.

    Attributes:
        hidden: hidden states of the labelled tokens, (M, D).
        labels: their labels, int64 (M,).
        pooled: the pooled first token of each document, (S, D), or None.
        all_hidden: what computes the hidden states of all tokens, (B, L, D).
        hidden_states: of all layers, if asked for.
    """

    hidden: Tensor
    labels: Tensor
    pooled: Tensor | None
    all_hidden: Callable[[], Tensor]
    hidden_states: tuple[Tensor, ...] | None


@takes_place
class BertEmbeddings(bert.BertEmbeddings):
    """Embeds packed tokens."""

    def forward(self, inputs: PackedInputs, key: Tensor | None, words: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return embedded tokens, (T, D); `words` (T, D) takes the place of the looked up ones."""
        batch, norm = inputs.batch, NormAndDropout(self.LayerNorm)
        p = rate_of(self.dropout) if key is not None else 0.0
        tables = (self.word_embeddings, self.position_embeddings, self.token_type_embeddings)
        dtype = under_autocast(next(self.parameters()).dtype, batch.ids.device.type)
        plain = norm.plain and all(is_plain(table, nn.Embedding) for table in tables)
        if plain and words is None and inputs.positions is None:
            word, position, segment = (_table(module) for module in tables)
            documents, weight, bias, eps = batch.documents, norm.module.weight, norm.module.bias, norm.module.eps
            return embedding(
                *(batch.ids, documents, batch.segments, word, position, segment, weight, bias),
                eps=eps,
                p=p,
                key=key,
                dtype=dtype,
            )
        positions = batch.documents.positions if inputs.positions is None else inputs.positions
        with without_autocast(batch.ids.device.type):
            looked_up = self.word_embeddings(batch.ids) if words is None else words
            parts = (looked_up, self.position_embeddings(positions), self.token_type_embeddings(batch.segments))
            return embed_parts(parts, norm, batch.documents.row_keys, key, p).to(dtype)


@takes_place
class BertLayer(bert.BertLayer):
    """Computes one layer of packed tokens."""

    def forward(self, x: Tensor, documents: Documents, keys: Tensor | None, rows: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Apply the layer to x (T, D): (T, D), or (R, D) for the given rows."""
        require_unwatched(self)
        return apply_layer(BertParts(self), x, documents, keys, rows)


@takes_place
class BertEncoder(bert.BertEncoder):
    """Computes the layers."""

    def forward(  # type: ignore[override]
        self, x: Tensor, documents: Documents, keys: Tensor | None, rows: Tensor | None, states: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Return the hidden states, (T, D) or (R, D), and the input of the last layer; add each layer's to `states`."""
        before = x
        for index, layer in enumerate(self.layer):
            before = x
            if states is not None:
                states.append(x)
            last = index == len(self.layer) - 1
            x = layer(x, documents, None if keys is None else keys[index], rows if last else None)
        return x, before


@takes_place
class BertModel(bert.BertModel):
    """The encoder on packed tokens, with the inputs and outputs of transformers."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        replace_classes(self)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        rows_of: Rows = None,
        **kwargs: Any,
    ) -> Any:
        """Return the hidden states, (B, L, D) with zeros at padding, and the pooled first token of each document.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids: padded inputs, or packed rows whose positions
                restart.
            inputs_embeds: looked up words, (B, L, D), instead of input_ids.
            encoder_hidden_states, encoder_attention_mask, past_key_values, use_cache: for decoders, which are refused.
            rows_of: which rows our heads read. With labels the result is `LabelledRows`.
            kwargs: cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k, output_hidden_states, return_dict.
        """
        given = dict(zip(_OF_DECODERS, (encoder_hidden_states, encoder_attention_mask, past_key_values), strict=True))
        asked = self._asked(given | kwargs)
        inputs, words = self._packed(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, kwargs)
        if rows_of == "each row" and inputs.mask is None and len(inputs.batch.documents.keys) > inputs.shape[0]:
            raise ValueError(
                f"drop_in: this head reads one document a row, and {inputs.shape[0]} rows hold "
                f"{len(inputs.batch.documents.keys)}; give each document a row of its own"
            )
        keys = self._keys(inputs.batch.documents.keys.device) if self._applies_dropout() else None
        states: list[Tensor] | None = [] if asked else None
        x = self.embeddings(inputs, None if keys is None else keys[-1, 0], words)
        if isinstance(rows_of, Tensor):
            return self._labelled(inputs, x, keys, rows_of, states)
        documents, first = inputs.batch.documents, self._first_rows(inputs)
        chosen = first if rows_of == "first" and states is None else None
        x, _ = self.encoder(x, documents, keys, chosen, states)
        hidden = inputs.restore(x) if chosen is None else x[:, None]
        pooled = None if first is None else self._pool(x if chosen is not None else x.index_select(0, first), inputs)
        output = BaseModelOutputWithPoolingAndCrossAttentions(last_hidden_state=hidden, pooler_output=pooled)
        if states is not None:
            output["hidden_states"] = _selected([*map(inputs.restore, states), hidden], asked)
        return output.to_tuple() if kwargs.get("return_dict", self.config.return_dict) is False else output

    def _asked(self, given: dict[str, Any]) -> Any:
        """Return which hidden states are asked for; refuse what is not computed."""
        for name in _OF_DECODERS:
            if given.get(name) is not None:
                raise ValueError(
                    f"drop_in: {name} must be None, since an encoder reads one sequence in both directions; leave it "
                    "out, or call unmask.undo(model)"
                )
        for name in ("output_attentions", "is_causal"):
            if given.get(name, getattr(self.config, name, False)):
                what = "attention probabilities are not kept" if name == "output_attentions" else "each token sees all"
                raise ValueError(
                    f"drop_in: {name} must be False, since {what}, got True; leave it out, here and in the model's "
                    "config, or call unmask.undo(model)"
                )
        return given.get("output_hidden_states", getattr(self.config, "output_hidden_states", False))

    def _packed(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        others: dict[str, Any],
    ) -> tuple[PackedInputs, Tensor | None]:
        """Return the packed inputs, and the words of inputs_embeds, (T, D)."""
        if (input_ids is None) == (inputs_embeds is None):
            which = "none" if input_ids is None else "both"
            raise ValueError(
                f"drop_in: one of input_ids and inputs_embeds must be given, got {which}; pass input_ids, which a "
                "tokenizer makes"
            )
        ids = input_ids
        if ids is None:
            assert inputs_embeds is not None
            ids = torch.zeros(inputs_embeds.shape[:2], dtype=torch.int64, device=inputs_embeds.device)
        inputs = packed_inputs(
            ids,
            attention_mask,
            token_type_ids,
            position_ids,
            **{name: others.get(name) for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")},
            draw_keys=self._applies_dropout(),
            padding_anywhere=True,
        )
        return inputs, None if inputs_embeds is None else inputs.take(inputs_embeds)

    def _labelled(
        self, inputs: PackedInputs, x: Tensor, keys: Tensor | None, labels: Tensor, states: list[Tensor] | None
    ) -> LabelledRows:
        """Compute the rows with labels, and the first ones if there is a pooler."""
        documents, first = inputs.batch.documents, self._first_rows(inputs)
        flat = inputs.take(labels)
        # the host waits here for a GPU
        rows = (flat != IGNORED).nonzero().flatten()
        layer: Any = self.encoder.layer[-1]
        key = None if keys is None else keys[len(self.encoder.layer) - 1]
        if states is None:
            read, before = self.encoder(x, documents, keys, rows if first is None else torch.cat((rows, first)), None)
            hidden, at_first = read.split([len(rows), len(read) - len(rows)])

            def all_hidden() -> Tensor:
                return inputs.restore(BertLayer.forward(layer, before, documents, key))

            found = None
        else:
            x, _ = self.encoder(x, documents, keys, None, states)
            hidden, at_first = x.index_select(0, rows), None if first is None else x.index_select(0, first)
            found = tuple(map(inputs.restore, [*states, x]))

            def all_hidden() -> Tensor:
                return found[-1]

        pooled = None if first is None else self._pool(at_first, inputs)
        return LabelledRows(hidden, flat.index_select(0, rows), pooled, all_hidden, found)

    def _first_rows(self, inputs: PackedInputs) -> Tensor | None:
        """Return the rows that the pooler reads, (S,), or None without a pooler."""
        if self.pooler is None:
            return None
        rows = inputs.first_rows()
        if inputs.positions is not None and not torch.compiler.is_compiling():
            late = inputs.positions[rows].masked_fill(inputs.batch.documents.cu_seqlens.diff() == 0, 0).nonzero()
            if len(late):
                raise ValueError(
                    "drop_in: attention_mask must begin with 1 in each row, since the pooler reads the first token, "
                    f"row {int(late[0])} begins with 0; set tokenizer.padding_side = 'right'"
                )
        return rows

    def _pool(self, hidden: Tensor, inputs: PackedInputs) -> Tensor:
        """Return the pooled first tokens, (S, D) -> (S, D); rows of padding alone count as zeros, as in the output."""
        if inputs.places is not None:
            lengths = inputs.batch.documents.cu_seqlens.diff()
            lengths = lengths if inputs.mask is None else lengths[::2]
            hidden = hidden.masked_fill((lengths == 0)[:, None], 0)
        assert self.pooler is not None
        pooled: Tensor = self.pooler(hidden[:, None])
        return pooled

    def _applies_dropout(self) -> bool:
        """Return whether any module drops elements now."""
        layers: Any = self.encoder.layer
        return rate_of(self.embeddings.dropout) > 0.0 or any(
            rate_of(dropout) > 0.0
            for layer in layers
            for dropout in (layer.attention.self.dropout, layer.attention.output.dropout, layer.output.dropout)
        )

    def _keys(self, device: torch.device) -> Tensor:
        """Return the keys of all sites, int64 (L + 1, 3), the embeddings' in the last row.

        The keys of the documents are drawn anew in each forward pass, so these need no seed.
        """
        seed = torch.zeros((), dtype=torch.int64, device=device)
        return philox.dropout_keys(seed, len(self.encoder.layer) + 1, SITES)


def watched(module: nn.Module) -> bool:
    """Whether somebody watches or replaces the calls of a module; hooks that transformers leaves behind do nothing."""
    own = module.__dict__
    if own["_backward_hooks"] or own["_backward_pre_hooks"] or own["_forward_pre_hooks"] or not has_own_forward(module):
        return True
    hooks = own["_forward_hooks"]
    return bool(hooks) and any(hook.__module__ != _CAPTURING for hook in hooks.values())


def require_unwatched(layer: Any) -> None:
    """Refuse a layer with a hook that would not be called."""
    attention, middle, output = layer.attention, layer.intermediate, layer.output
    inner, projected = attention.self, attention.output
    not_called = {
        "attention": attention,
        "attention.self": inner,
        "attention.output": projected,
        "attention.self.dropout": inner.dropout,
        "attention.output.dropout": projected.dropout,
        "intermediate": middle,
        "intermediate.intermediate_act_fn": middle.intermediate_act_fn,
        "output": output,
        "output.dropout": output.dropout,
    }
    for name, module in not_called.items():
        if watched(module):
            raise ValueError(
                f"drop_in: {name} of a BertLayer must have no hook, since it is not called; hook the layer itself, or "
                "a linear layer or a norm in it, or call unmask.undo(model)"
            )


def _table(module: nn.Module) -> Tensor:
    """Return the weights of a table. The row of its padding_idx gets no gradient, as in PyTorch."""
    assert isinstance(module, nn.Embedding)
    weight, row = module.weight, module.padding_idx
    if row is None or not weight.requires_grad or not torch.is_grad_enabled():
        return weight
    found: Tensor = _WithoutGradient.apply(weight, row)  # type: ignore[no-untyped-call]
    return found


class _WithoutGradient(torch.autograd.Function):
    """A table whose gradient has zeros in one row."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, row: int) -> Tensor:
        ctx.row = row
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # the embedding has just made the gradient, and nothing else keeps it
        grads[0][ctx.row].zero_()
        return grads[0], None


def _selected(states: list[Tensor], asked: Any) -> tuple[Tensor | None, ...]:
    """Return the hidden states: all, or None but for the layers asked for by their numbers."""
    if asked is True:
        return tuple(states)
    numbers = {number % len(states) for number in ([asked] if isinstance(asked, int) else asked)}
    return tuple(state if index in numbers else None for index, state in enumerate(states))
