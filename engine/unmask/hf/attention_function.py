"""Attention of `unmask_kernels` under models of transformers: `attn_implementation="unmask"`.

    import unmask.hf
    model = AutoModel.from_pretrained(folder, attn_implementation="unmask")

Padding is left out of attention, and documents that are packed in a row do not see each other. The rest of the model is
transformers' own. What is not computed is refused by name, as is every argument that this file does not know: a later
version of transformers may give it a meaning.

Shapes: B rows of L tokens, T of them real, H heads of K elements.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unmask.hf.attention_layout import Boundaries, not_computed
from unmask.hf.attention_mask import BatchMask
from unmask_kernels import attention

__all__ = ["attention_of_layer"]

_NOT_COMPUTED = {
    "cache": "a paged cache",
    "encoder_hidden_states": "cross-attention",
    "output_attentions": "attention probabilities as an output",
    "position_bias": "a bias for positions",
    "s_aux": "attention sinks",
    "seq_idx": "documents by number; position_ids or cu_seq_lens_q name them, too",
    "sinks": "attention sinks",
    "softcap": "soft-capped scores",
}
_WITHOUT_MEANING = frozenset(
    (
        *("deterministic", "ignore_index", "labels", "num_items_in_batch", "output_hidden_states"),
        *("output_router_logits", "return_dict", "shift_labels", "token_type_ids"),
        # a cache that holds earlier tokens shows in the number of keys
        *("cache_position", "past_key_values", "use_cache"),
    )
)


def attention_of_layer(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: BatchMask | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | Tensor | None = None,
    max_length_k: int | Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return the attention of a layer; an entry of `transformers.AttentionInterface`.

    Args:
        module: the layer.
        query: (B, H, L, K).
        key, value: (B, H, L, K), or of fewer heads, each for several of query's.
        attention_mask: what the mask function returned. None: no padding.
        dropout: probability of dropping an attention probability. The random key comes from PyTorch's generator.
        scaling: factor of the scores. Default: K ** -0.5.
        is_causal, sliding_window: as the layer has them; the mask decides.
        position_ids, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k: documents that are packed in a row.
        others: more arguments of the layer, or of the model's caller.
    Returns:
        (B, L, H, K), 0 at padding, and None in the place of the probabilities.
    Raises:
        ValueError: something that is not computed here.
    """
    name = type(module).__name__
    for argument, given in others.items():
        if argument not in _WITHOUT_MEANING and given is not None and given is not False:
            what = _NOT_COMPUTED.get(argument, "an argument that unmask does not know")
            raise not_computed(f"{name} passes {argument} ({what})")
    if "Cross" in name or query.shape[2] != key.shape[2]:
        raise not_computed(
            f"{name} lets {query.shape[2]} queries see {key.shape[2]} keys, as in cross-attention or with a cache"
        )
    if value.shape[3] != query.shape[3]:
        raise not_computed(f"{name} has values of {value.shape[3]} elements and queries of {query.shape[3]}")
    mask = _mask_of(module, attention_mask, is_causal, sliding_window)
    rows, heads, width, _ = query.shape
    if key.shape[1] != heads:
        key, value = (each.repeat_interleave(heads // each.shape[1], 1) for each in (key, value))
    given = Boundaries(position_ids, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
    layout = mask.layout((rows, width), query.device, given)
    out = attention(
        layout.pack(query, key, value),
        layout.documents,
        causal=mask.causal,
        window=mask.window,
        scale=scaling,
        p=dropout,
        key=torch.randint(-(1 << 62), 1 << 62, (), device=query.device) if dropout > 0.0 else None,
    )
    return layout.restore(out, rows, width), None


def _mask_of(
    module: nn.Module, mask: BatchMask | Tensor | None, is_causal: bool | None, sliding_window: int | None
) -> BatchMask:
    """Return the mask, or that of a model that makes none, in which every token of a row sees every other one."""
    name = type(module).__name__
    if isinstance(mask, BatchMask):
        if is_causal is not None and is_causal != mask.causal:
            raise not_computed(f"{name} passes is_causal={is_causal} with a mask for {not is_causal}")
        if sliding_window is not None and mask.window is None:
            raise not_computed(f"{name} passes sliding_window={sliding_window} with a mask without a window")
        return mask
    if mask is not None:
        raise not_computed(f"{name} passes a mask of shape {tuple(mask.shape)}, of the model's or the caller's own")
    causal = getattr(module, "is_causal", None) if is_causal is None else is_causal
    if causal is not False or sliding_window is not None:
        raise not_computed(f"{name} passes no mask, with is_causal={causal} and sliding_window={sliding_window}")
    return BatchMask(causal=False, window=None, real=None, position_ids=None, reads_positions=False, restarts=False)
