"""What the tokens of a batch may attend to, as a model of transformers asks for it.

A model calls the mask function before its first layer, and hands what it returns, a `BatchMask`, to every layer.
transformers describes a mask as a function of two tokens. Here the parts of this function are read: those that
`unmask_kernels.attention` computes become `causal` and `window`, and any other one is refused.

    causal_mask_function                              causal
    bidirectional_mask_function                       neither
    sliding_window_causal_mask_function(n)            causal, and a window of n - 1 on the left
    sliding_window_bidirectional_mask_function(n)     a window of n on either side
    packed_sequence_mask_function                     documents in a row, as their positions say

A bidirectional model does not tell the mask function its `position_ids`, and some models keep them from their layers,
too. So they are looked up in the forward pass that called the mask function. `torch.compile` traces neither that nor
the parts of a function: there the arguments of the mask function tell the pattern, and layers must pass `position_ids`.

Shapes: B rows of L tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import masking_utils

from unmask.hf.attention_layout import Boundaries, Layout, not_computed, read_layout

__all__ = ["BatchMask", "mask_of_batch"]


class BatchMask:
    """The mask of a batch, and where its documents lie.

    The layout is read by the first layer that asks. It is kept for the others, which pass the same tensors; these are
    compared by identity, and held here, so that none of them can be mistaken for another one.

    Attributes:
        causal, window: as for `unmask_kernels.attention`.
        real: False at padding, bool (B, L); None without padding.
        position_ids: those of the model's forward pass, which a layer may not get; None if it has none.
        reads_positions: whether the model reads positions.
        restarts: whether the model found that they restart, or may.
    """

    def __init__(
        self,
        *,
        causal: bool,
        window: int | None,
        real: Tensor | None,
        position_ids: Tensor | None,
        reads_positions: bool,
        restarts: bool,
    ) -> None:
        self.causal, self.window, self.real = causal, window, real
        self.position_ids, self.reads_positions, self.restarts = position_ids, reads_positions, restarts
        self._layout: Layout | None = None
        self._shape, self._given = (0, 0), Boundaries()

    def layout(self, shape: tuple[int, int], device: torch.device, given: Boundaries) -> Layout:
        """Return where the documents of the batch of this shape (B, L) lie; see `read_layout`."""
        if self._layout is None or self._shape != shape or not self._is_of(given, device):
            positions = self.position_ids if given.position_ids is None else given.position_ids
            self._shape, self._given = shape, given
            self._layout = read_layout(
                shape,
                device,
                real=self.real,
                given=given._replace(position_ids=positions),
                local=self.window is not None,
                reads_positions=self.reads_positions,
                restarts=self.restarts,
            )
        return self._layout

    def _is_of(self, given: Boundaries, device: torch.device) -> bool:
        """Whether the layout that was read is that of these tensors."""
        assert self._layout is not None
        same = all(one is other for one, other in zip(self._given, given, strict=True))
        return same and self._layout.documents.keys.device == device


def mask_of_batch(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
    attention_mask: Tensor | None = None,
    *,
    config: Any = None,
    use_vmap: bool = False,
    **options: Any,
) -> BatchMask:
    """Return the mask of a batch: an entry of `transformers.AttentionMaskInterface`, which says what is passed.

    Args:
        batch_size: rows, B.
        q_length, kv_length: tokens of a row, L, as queries and as keys.
        q_offset, kv_offset: earlier tokens, which a cache holds.
        mask_function: whether a token sees another one.
        attention_mask: False at padding, bool (B, L). Default: no padding.
        config: of the model.
        use_vmap: whether `mask_function` has a part of the caller's own.
        options: what other kinds of attention read.
    Raises:
        ValueError: a cache, cross-attention, or a mask that is not one of those above.
    """
    if getattr(config, "add_cross_attention", False) or getattr(config, "is_encoder_decoder", False):
        raise not_computed(f"{type(config).__name__} is of a model with cross-attention")
    if q_length != kv_length or isinstance(q_offset, Tensor) or q_offset != 0 or kv_offset != 0:
        raise not_computed(
            f"{q_length} queries see {kv_length} keys, as with a cache of earlier tokens or with cross-attention"
        )
    if attention_mask is not None and tuple(attention_mask.shape) != (batch_size, q_length):
        raise not_computed(
            f"attention_mask has the shape {tuple(attention_mask.shape)}, where input_ids have {(batch_size, q_length)}"
        )
    if use_vmap:
        raise not_computed("the mask has a function of the caller's own")
    if torch.compiler.is_compiling():
        pattern, caller = _pattern_of_arguments(mask_function, config, options), _Caller()
    else:
        pattern, caller = _pattern(mask_function), _look_up(sys._getframe(1))
    if caller.attends_elsewhere:
        raise not_computed("encoder_hidden_states are given (cross-attention)")
    return BatchMask(
        causal=pattern.causal,
        window=pattern.window,
        real=attention_mask,
        position_ids=caller.position_ids,
        reads_positions=caller.reads_positions,
        restarts=pattern.restarts,
    )


class _Pattern(NamedTuple):
    causal: bool
    window: int | None = None
    restarts: bool = False


_JOINED = masking_utils.and_masks(masking_utils.causal_mask_function).__code__
_LEFT = masking_utils.sliding_window_overlay(1).__code__
_BOTH = masking_utils.sliding_window_bidirectional_overlay(1).__code__
_PACKED = masking_utils.packed_sequence_mask_function(torch.empty(0)).__code__
_RESTARTING = masking_utils.remap_positions_for_packed_sequence(max, torch.empty(0)).__code__


def _pattern(function: Callable[..., Any]) -> _Pattern:
    """Read a mask function. Functions that one `def` made have the same code, and differ in what they hold."""
    causal, left, window, restarts = False, False, None, False
    for part, held in _parts(function):
        if part is masking_utils.causal_mask_function:
            causal = True
        elif part.__code__ is _LEFT:
            # it counts the token itself
            left, window = True, held[0] - 1
        elif part.__code__ is _BOTH:
            window = held[0]
        elif part.__code__ is _PACKED:
            restarts = True
        elif part is not masking_utils.bidirectional_mask_function:
            raise not_computed(f"the model asks for the mask {part.__qualname__}")
    if left and not causal:
        raise not_computed("the mask has a window on the left and none on the right")
    return _Pattern(causal, window, restarts)


def _parts(function: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the functions that must all hold, each with what it holds."""
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    if function.__code__ is _JOINED:
        for part in held[0]:
            yield from _parts(part)
    elif function.__code__ is _RESTARTING:
        # it counts positions instead of places, which is the same within a document
        (part,) = (one for one in held if not isinstance(one, Tensor))
        yield from _parts(part)
    else:
        yield function, held


def _pattern_of_arguments(function: Callable[..., Any], config: Any, options: dict[str, Any]) -> _Pattern:
    """Tell the pattern under `torch.compile`, which knows what code a function has and not what it holds."""
    if function is masking_utils.bidirectional_mask_function:
        return _Pattern(causal=False)
    if function is masking_utils.causal_mask_function:
        return _Pattern(causal=True)
    size = options.get("local_size")
    known = options.keys() <= _KNOWN_OPTIONS and getattr(config, "attention_chunk_size", None) is None
    if function.__code__ is not _JOINED or not known:
        raise not_computed("under torch.compile, the model asks for a mask that is neither causal nor has a window")
    if "allow_is_bidirectional_skip" in options:
        return _Pattern(causal=False, window=size)
    return _Pattern(True, None if size is None else size - 1, restarts=not options["allow_is_causal_skip"])


_KNOWN_OPTIONS = {"allow_is_bidirectional_skip", "allow_is_causal_skip", "device", "dtype", "local_size"}


class _Caller(NamedTuple):
    """What the forward pass of a model says by names that every model of transformers gives to these things."""

    position_ids: Tensor | None = None
    reads_positions: bool = False
    attends_elsewhere: bool = False


def _look_up(frame: FrameType | None) -> _Caller:
    """Look at the functions that called the mask function, from the one in `masking_utils` to the model's own."""
    positions, reads, elsewhere, model = None, False, False, None
    while frame is not None:
        values = frame.f_locals
        if model is None and "self" not in values:
            elsewhere = elsewhere or values.get("encoder_hidden_states") is not None
        elif model is None:
            model = values["self"]
        elif values.get("self") is not model:
            # what calls the model is another one, whose tokens may be others
            break
        if "position_ids" in values:
            reads = True
            positions = values["position_ids"] if positions is None else positions
        frame = frame.f_back
    return _Caller(positions, reads, elsewhere)
