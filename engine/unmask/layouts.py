"""From the inputs that other encoders take to a packed batch, and from its hidden states back to their shape.

    padded    input_ids (B, L), attention_mask (B, L): ones, then zeros         one document a row
    flat      input_ids (1, T), position_ids (1, T) that restart at 0           one row of documents, no padding
              and/or cu_seq_lens_q (S + 1,), max_length_q                       boundaries, as FlashAttention takes them

    inputs = packed_inputs(**tokenizer(texts, padding=True, return_tensors="pt"))
    hidden = encoder(inputs.batch.ids, inputs.batch.documents, inputs.batch.segments)         # (T, D)
    hidden = inputs.restore(hidden)                                                           # (B, L, D), 0 at padding

The names are those of `transformers`, for example of its DataCollatorWithFlattening. `Encoder.forward` does the same
when it gets them.

Cost on a GPU: the host waits once, for the number of tokens and the checks, and not at all for flat inputs with
cu_seq_lens_q and max_length_q. Contents of the latter are checked on a CPU only, or with UNMASK_DEBUG=1.
Under `torch.compile` and `torch.export` no value is read: a padded batch keeps its B L tokens, and its padding is
computed as documents of their own.

Shapes: B rows of L tokens, T real tokens, S documents, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.batch import PackedBatch
from unmask_kernels import Documents
from unmask_kernels.checks import reads_contents

__all__ = ["PackedInputs", "packed_inputs"]

_WHERE = "packed_inputs"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedInputs:
    """A packed batch of inputs in another layout.

    Attributes:
        batch: their documents, T tokens.
        shape: of the inputs, (B, L).
        places: place of each token in the flattened inputs, int64 (T,), in [0, B L); None if it is that of the token.
        mask: which tokens are real, bool (T,), if padding was kept as documents of its own, else None.
        positions: position of each token, int64 (T,), if padding stands before or between tokens of a row; else None,
            and positions are `batch.documents.positions`.
    """

    batch: PackedBatch
    shape: tuple[int, int]
    places: Tensor | None = None
    mask: Tensor | None = None
    positions: Tensor | None = None

    def first_rows(self) -> Tensor:
        """Return the row of each document's first token in the batch, int64 (S,), not of padding."""
        rows = self.batch.documents.first_rows()
        # padding that was kept follows each document
        return rows if self.mask is None else rows[::2]

    def take(self, values: Tensor) -> Tensor:
        """Return what belongs to the tokens of the batch, such as labels, (B, L, ...) -> (T, ...)."""
        if tuple(values.shape[:2]) != self.shape:
            raise ValueError(
                f"take: values must begin with the shape {self.shape} of input_ids, got {tuple(values.shape)}"
            )
        flat = values.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)

    def restore(self, values: Tensor) -> Tensor:
        """Return the values of tokens in the shape of the inputs, (T, ...) -> (B, L, ...), with zeros at padding."""
        if self.mask is not None:
            values = values.masked_fill(~self.mask.view(-1, *[1] * (values.dim() - 1)), 0)
        if self.places is not None:
            size = self.shape[0] * self.shape[1]
            values = values.new_zeros(size, *values.shape[1:]).index_copy(0, self.places, values)
        return values.unflatten(0, self.shape)


def packed_inputs(
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | Tensor | None = None,
    max_length_k: int | Tensor | None = None,
    draw_keys: bool = True,
    padding_anywhere: bool = False,
) -> PackedInputs:
    """Make a packed batch of padded or flat inputs.

    Args:
        input_ids: token ids, int64 or int32 (B, L); flat inputs (1, T).
        attention_mask: 1 for a token and 0 for padding, (B, L), padding on the right. Default: no padding.
        token_type_ids: segment of each token, (B, L). Default: all 0.
        position_ids: position of each token in its document, (B, L). They restart at 0 where a document begins.
            Default: one document a row, or those of cu_seq_lens_q.
        cu_seq_lens_q: boundaries of the documents in one row of T tokens, int32 or int64 (S + 1,), from 0 to T.
        cu_seq_lens_k: the same as cu_seq_lens_q, since a document attends to itself.
        max_length_q, max_length_k: a bound on the length of a document. Default: the longest one.
        draw_keys: whether the keys for dropout are drawn from PyTorch's generator, as by `pack`. With False they count
            the documents, and dropout would repeat from batch to batch.
        padding_anywhere: whether zeros of attention_mask may stand before and between the tokens of a row. A token then
            has the position of its column, as in models of transformers.
    Returns:
        The batch, and how to come back to the shape of the inputs.
    Raises:
        TypeError, ValueError: a shape, dtype or device does not match; positions are neither padded nor flat; padding
            is not on the right; boundaries contradict the positions or one another.
    """
    _check_shapes(input_ids, attention_mask, token_type_ids, position_ids)
    lengths = (_number("max_length_q", max_length_q), _number("max_length_k", max_length_k))
    cu_seq_lens = _the_same(cu_seq_lens_q, cu_seq_lens_k)
    if cu_seq_lens is not None:
        documents = _from_boundaries(input_ids, attention_mask, position_ids, cu_seq_lens, lengths, draw_keys)
        return _whole(input_ids, token_type_ids, documents)
    if lengths != (None, None):
        raise ValueError(
            f"{_WHERE}: max_length_q and max_length_k need cu_seq_lens_q, got none; pass it, or leave them out"
        )
    if torch.compiler.is_compiling():
        if position_ids is not None:
            raise ValueError(
                f"{_WHERE}: position_ids are not read under torch.compile; pass cu_seq_lens_q and max_length_q, or "
                "leave position_ids out for one document a row"
            )
        return _uncut(input_ids, attention_mask, token_type_ids, draw_keys, padding_anywhere)
    return _from_contents(input_ids, attention_mask, token_type_ids, position_ids, draw_keys, padding_anywhere)


def _require_tensors(**given: object) -> None:
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{_WHERE}: {name} must be a tensor, got {type(value).__name__}; use torch.tensor({name})")


def _check_shapes(
    input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None, position_ids: Tensor | None
) -> None:
    _require_tensors(
        input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, position_ids=position_ids
    )
    if input_ids.dim() != 2:
        way = "; use input_ids[None] for one flat row" if input_ids.dim() == 1 else ""
        raise ValueError(f"{_WHERE}: input_ids must have shape (B, L), got {tuple(input_ids.shape)}{way}")
    if input_ids.numel() == 0:
        raise ValueError(f"{_WHERE}: input_ids must hold at least one token, got shape {tuple(input_ids.shape)}")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(
            f"{_WHERE}: attention_mask must have shape (B, L), 1 for a token and 0 for padding, got "
            f"{attention_mask.dim()} dimensions, {tuple(attention_mask.shape)}; pass the tokenizer's own "
            "attention_mask. What a token may attend to is set by EncoderConfig: causal, attention_window"
        )
    given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids, "position_ids": position_ids}
    for name, value in given.items():
        if value is not None and value.shape != input_ids.shape and not (name == "position_ids" and _one_row(value)):
            raise ValueError(
                f"{_WHERE}: {name} must have the shape of input_ids, {tuple(input_ids.shape)}, got {tuple(value.shape)}"
            )
        if value is not None and value.device != input_ids.device:
            raise ValueError(
                f"{_WHERE}: {name} must be on {input_ids.device}, the device of input_ids, got {value.device}; move it "
                f"with {name}.to({str(input_ids.device)!r})"
            )


def _one_row(positions: Tensor) -> bool:
    """Whether positions are one row for all, (1, L), as models of transformers make them."""
    return positions.dim() == 2 and positions.shape[0] == 1


def _number(name: str, value: int | Tensor | None) -> int | None:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{_WHERE}: {name} must be one number, got shape {tuple(value.shape)}")
    return None if value is None else int(value)


def _the_same(q: Tensor | None, k: Tensor | None) -> Tensor | None:
    """Return the boundaries; refuse two that differ."""
    found = q if q is not None else k
    if found is None:
        return None
    _require_tensors(cu_seq_lens_q=q, cu_seq_lens_k=k)
    if found.dim() == 2 and found.shape[0] == 1:
        found, k = found[0], None if k is None else k.flatten()
    if found.dim() != 1 or len(found) < 2:
        raise ValueError(
            f"{_WHERE}: cu_seq_lens_q must have shape (S + 1,) with S >= 1, got {tuple(found.shape)}; if a loader cut "
            "it to the size of the batch, set dispatch_batches=False, or pass it as (1, S + 1)"
        )
    if found.is_floating_point():
        raise TypeError(f"{_WHERE}: cu_seq_lens_q must be int32 or int64, got {found.dtype}; use cu_seq_lens_q.int()")
    if k is not None and (k.shape != found.shape or (k is not q and reads_contents(k) and not torch.equal(k, found))):
        raise ValueError(
            f"{_WHERE}: cu_seq_lens_k must be cu_seq_lens_q, since each document attends to itself, and they differ; "
            "leave cu_seq_lens_k out"
        )
    return found


def _from_boundaries(
    input_ids: Tensor,
    mask: Tensor | None,
    positions: Tensor | None,
    cu_seq_lens: Tensor,
    lengths: tuple[int | None, int | None],
    draw_keys: bool,
) -> Documents:
    """Return the documents of one flat row."""
    if len(input_ids) != 1:
        raise ValueError(
            f"{_WHERE}: with cu_seq_lens_q, input_ids must be one flat row (1, T), got {tuple(input_ids.shape)}; leave "
            "cu_seq_lens_q out for padded rows, or flatten them"
        )
    tokens = input_ids.shape[1]
    given = [length for length in lengths if length is not None]
    if len(set(given)) > 1:
        raise ValueError(
            f"{_WHERE}: max_length_q and max_length_k must be equal, got {given[0]} and {given[1]}; leave "
            "max_length_k out"
        )
    max_length = given[0] if given else None
    if reads_contents(cu_seq_lens):
        _check_boundaries(cu_seq_lens, tokens, max_length)
    if max_length is None:
        # The host waits here for a GPU.
        max_length = int(cu_seq_lens.diff().max())
    documents = _documents(cu_seq_lens.int(), tokens, max_length, draw_keys)
    if mask is not None and reads_contents(mask) and not bool((mask == 1).all()):
        raise ValueError(
            f"{_WHERE}: with cu_seq_lens_q every token is one of a document, but attention_mask holds zeros; leave "
            "attention_mask out, and the padding with it"
        )
    if positions is not None and reads_contents(positions):
        differ = (positions[0] != documents.positions).nonzero()
        if len(differ):
            at = int(differ[0])
            raise ValueError(
                f"{_WHERE}: position_ids must restart at each boundary of cu_seq_lens_q: at token {at} they are "
                f"{int(positions[0, at])}, by cu_seq_lens_q {int(documents.positions[at])}; leave one of them out"
            )
    return documents


def _check_boundaries(cu_seq_lens: Tensor, tokens: int, max_length: int | None) -> None:
    lengths = cu_seq_lens.diff()
    if int(cu_seq_lens[0]) != 0 or int(cu_seq_lens[-1]) != tokens or int(lengths.min()) < 0:
        raise ValueError(
            f"{_WHERE}: cu_seq_lens_q must rise from 0 to the {tokens} tokens of input_ids, got "
            f"{_shortened(cu_seq_lens)}; give offsets, not lengths"
        )
    max_seqlen = int(lengths.max())
    if max_length is not None and max_seqlen > max_length:
        raise ValueError(
            f"{_WHERE}: max_length_q must bound every document, is {max_length}, one has {max_seqlen} tokens; leave "
            "max_length_q out"
        )


def _from_contents(
    input_ids: Tensor,
    mask: Tensor | None,
    segments: Tensor | None,
    positions: Tensor | None,
    draw_keys: bool,
    padding_anywhere: bool,
) -> PackedInputs:
    """Read the documents off the mask or the positions. The host waits once for a GPU, twice for padding in between."""
    rows, width = input_ids.shape
    if positions is not None:
        positions = positions.expand(rows, width)
    facts = _facts(mask, positions)
    values = dict(zip(facts, torch.stack(list(facts.values())).tolist(), strict=True)) if facts else {}
    holes = mask is not None and values["holes"] > 0
    if mask is not None and (values["neither"] or (holes and not padding_anywhere)):
        raise ValueError(_wrong_mask(mask))
    if mask is not None and values["tokens"] == 0:
        raise ValueError(
            f"{_WHERE}: attention_mask must hold 1 at one token at least, got zeros alone, shape {tuple(mask.shape)}; "
            "leave batches without tokens out"
        )
    padded = mask is not None and values["tokens"] < rows * width
    if positions is not None and values["unlike_padded" if padded else "unlike_flat"]:
        raise ValueError(_wrong_positions(positions, mask if padded else None))
    if padded:
        assert mask is not None
        cu_seqlens = torch.nn.functional.pad(mask.sum(1, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
        documents = _documents(cu_seqlens, values["tokens"], values["max_seqlen"], draw_keys)
        if holes:
            places = mask.flatten().nonzero().flatten()
        else:
            places = documents.document_ids * width + documents.positions
        return _taken(input_ids, segments, documents, places=places, positions=places % width if holes else None)
    if positions is None:
        cu_seqlens = torch.arange(0, rows * width + 1, width, dtype=torch.int32, device=input_ids.device)
        max_seqlen = width
    else:
        flat = positions.flatten()
        place = torch.arange(len(flat), dtype=torch.int32, device=flat.device)
        number = (flat == 0).cumsum(0) - 1
        # the first token of each document, in a static shape: no second wait
        cu_seqlens = place.new_full((values["documents"] + 1,), len(flat))
        cu_seqlens = cu_seqlens.scatter_reduce(0, number, place, "amin")
        max_seqlen = values["largest"] + 1
    documents = _documents(cu_seqlens, rows * width, max_seqlen, draw_keys)
    return _whole(input_ids, segments, documents)


def _facts(mask: Tensor | None, positions: Tensor | None) -> dict[str, Tensor]:
    """Return what is to know about the contents, int64 () each, so that they are read together."""
    found: dict[str, Tensor] = {}
    if mask is not None:
        found["neither"] = ((mask != 0) & (mask != 1)).sum()
        found["holes"] = (mask[:, 1:] > mask[:, :-1]).sum()
        lengths = (mask != 0).sum(1)
        found["tokens"], found["max_seqlen"] = lengths.sum(), lengths.max()
    if positions is not None:
        index = torch.arange(positions.shape[1], device=positions.device)
        wrong = positions != index
        found["unlike_padded"] = (wrong if mask is None else wrong & (mask != 0)).sum()
        found["unlike_flat"] = _jumps(positions).sum()
        found["documents"] = (positions == 0).sum()
        found["largest"] = positions.max()
    return {name: value.long() for name, value in found.items()}


def _jumps(positions: Tensor) -> Tensor:
    """Return where a position is neither 0 nor the one before it plus 1, bool (B, L). A row begins at 0."""
    before = torch.nn.functional.pad(positions[:, :-1], (1, 0), value=-1)
    return (positions != 0) & (positions != before + 1)


def _wrong_mask(mask: Tensor) -> str:
    other = mask[(mask != 0) & (mask != 1)]
    if len(other):
        return f"{_WHERE}: attention_mask must hold 1 for a token and 0 for padding, got {other[0].item()}"
    row = int((mask[:, 1:] > mask[:, :-1]).any(1).nonzero()[0])
    return (
        f"{_WHERE}: attention_mask must be ones, then zeros, in each row, row {row} is {_shortened(mask[row].long())}; "
        "padding on the left or between tokens is not read: set tokenizer.padding_side = 'right'"
    )


def _wrong_positions(positions: Tensor, mask: Tensor | None) -> str:
    width = positions.shape[1]
    if mask is None:
        wrong = _jumps(positions)
        needed = "count from 0 in each document, the next one or 0 after each"
    else:
        wrong = (positions != torch.arange(width, device=positions.device)) & (mask != 0)
        needed = f"be 0 to {width - 1} in each row of a padded batch"
    row, column = (int(x) for x in wrong.nonzero()[0])
    return (
        f"{_WHERE}: position_ids must {needed}; at [{row}, {column}] they are {int(positions[row, column])}, row {row} "
        f"is {_shortened(positions[row])}; leave position_ids out if each row is one document"
    )


def _uncut(
    input_ids: Tensor, mask: Tensor | None, segments: Tensor | None, draw_keys: bool, padding_anywhere: bool
) -> PackedInputs:
    """Keep all B L tokens: the padding of a row is a document of its own. No value is read."""
    rows, width = input_ids.shape
    starts = torch.arange(0, rows * width, width, dtype=torch.int32, device=input_ids.device)
    first = starts
    if mask is not None:
        starts = torch.stack((starts, starts + mask.sum(1, dtype=torch.int32)), 1).flatten()
    cu_seqlens = torch.nn.functional.pad(starts, (0, 1), value=rows * width)
    documents = _documents(cu_seqlens, rows * width, width, draw_keys)
    if mask is not None and padding_anywhere:
        # the tokens of each row, then its padding
        real, columns = (mask != 0).sort(dim=1, descending=True, stable=True)
        places = (columns + first[:, None]).flatten()
        return _taken(input_ids, segments, documents, places=places, positions=columns.flatten(), mask=real.flatten())
    batch = _batch(input_ids.flatten(), None if segments is None else segments.flatten(), documents)
    return PackedInputs(batch=batch, shape=(rows, width), mask=None if mask is None else mask.flatten() != 0)


def _taken(
    input_ids: Tensor, segments: Tensor | None, documents: Documents, *, places: Tensor, **others: Tensor | None
) -> PackedInputs:
    """Return the inputs at these places of the flattened ones."""
    ids, kinds = (None if x is None else x.flatten().index_select(0, places) for x in (input_ids, segments))
    assert ids is not None
    shape = (input_ids.shape[0], input_ids.shape[1])
    return PackedInputs(batch=_batch(ids, kinds, documents), shape=shape, places=places, **others)


def _whole(input_ids: Tensor, segments: Tensor | None, documents: Documents) -> PackedInputs:
    """Return inputs without padding."""
    batch = _batch(input_ids.flatten(), None if segments is None else segments.flatten(), documents)
    return PackedInputs(batch=batch, shape=(input_ids.shape[0], input_ids.shape[1]))


def _documents(cu_seqlens: Tensor, tokens: int, max_seqlen: int, draw_keys: bool) -> Documents:
    keys = None
    if draw_keys:
        keys = torch.randint(-(1 << 62), 1 << 62, (len(cu_seqlens) - 1,), device=cu_seqlens.device)
    return Documents.build(cu_seqlens, keys, tokens=tokens, max_seqlen=max(1, max_seqlen))


def _batch(ids: Tensor, segments: Tensor | None, documents: Documents) -> PackedBatch:
    return PackedBatch(
        ids=ids,
        documents=documents,
        segments=torch.zeros_like(ids) if segments is None else segments,
        real_tokens=len(ids),
        real_documents=len(documents.keys),
    )


def _shortened(values: Tensor) -> str:
    shown = ", ".join(str(value) for value in values[:12].tolist())
    return f"[{shown}{', ...' if len(values) > 12 else ''}]"
