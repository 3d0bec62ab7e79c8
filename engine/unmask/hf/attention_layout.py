"""Where the documents of a batch lie, from what a model of transformers hands to its attention.

    real            False at padding, on either side of a row or within it        bool (B, L)
    position_ids    positions that restart where a document begins                int64 (B, L) or (1, L)
    cu_seq_lens_q   boundaries of the documents of one row, with max_length_q     int32 (S + 1,)

A document is a run of real tokens of one row whose positions count up. Positions restart at the first one of the row,
which is 2 for RoBERTa. A row of padded inputs may hold several documents.

Cost on a GPU: the host waits for the number of tokens, of documents, and for the longest one, and not at all for rows
without padding or for cu_seq_lens_q with max_length_q. Under `torch.compile` no value is read: padding becomes
documents of its own.

Shapes: B rows of L tokens, T real tokens, S documents, H heads of K elements.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.layouts import packed_inputs
from unmask_kernels import Documents
from unmask_kernels.checks import reads_contents

__all__ = ["Boundaries", "Layout", "not_computed", "read_layout"]

_WHERE = "attn_implementation='unmask'"


def not_computed(what: str) -> ValueError:
    """Return the error for what this attention does not compute."""
    return ValueError(f"{_WHERE}: {what}, which is not computed here; use attn_implementation='eager' for this model")


class Boundaries(NamedTuple):
    """What a layer gets from the model beside the mask.

    Attributes:
        position_ids: positions, int64 (B, L) or (1, L), or None.
        cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k: as for `unmask.packed_inputs`.
    """

    position_ids: Tensor | None = None
    cu_seq_lens_q: Tensor | None = None
    cu_seq_lens_k: Tensor | None = None
    max_length_q: int | Tensor | None = None
    max_length_k: int | Tensor | None = None


class Layout(NamedTuple):
    """The documents of a batch, and the places of their tokens.

    Attributes:
        documents: their boundaries in one row of T tokens.
        places: place of each token in the B L flattened rows, int64 (T,); None if it is its own.
        real: True at real tokens of the row, bool (T,), if padding was kept as documents of its own, else None.
    """

    documents: Documents
    places: Tensor | None = None
    real: Tensor | None = None

    def pack(self, *parts: Tensor) -> Tensor:
        """Return queries, keys and values, (B, H, L, K) each, as one (T, 3, H, K)."""
        flat = [part.transpose(1, 2).flatten(0, 1) for part in parts]
        if self.places is not None:
            flat = [part.index_select(0, self.places) for part in flat]
        return torch.stack(flat, 1)

    def restore(self, out: Tensor, rows: int, width: int) -> Tensor:
        """Return (T, H, K) in the shape of the inputs, (B, L, H, K), with zeros at padding."""
        if self.real is not None:
            out = out.masked_fill(~self.real[:, None, None], 0)
        if self.places is not None:
            out = out.new_zeros(rows * width, *out.shape[1:]).index_copy(0, self.places, out)
        return out.unflatten(0, (rows, width))


def read_layout(
    shape: tuple[int, int],
    device: torch.device,
    *,
    real: Tensor | None,
    given: Boundaries,
    local: bool,
    reads_positions: bool,
    restarts: bool,
) -> Layout:
    """Return where the documents of a batch lie.

    Args:
        shape: of the batch, (B, L).
        device: where the layout is used.
        real: False at padding, bool (B, L); None without padding.
        given: positions and boundaries.
        local: whether distances between tokens matter, because of a window.
        reads_positions: whether the model reads positions, and so must get some with boundaries.
        restarts: whether positions restart, or may, even if they are not given here.
    Raises:
        ValueError: positions neither count up nor restart; boundaries without positions, or against them; padding
            within a document of local layers.
    """
    if real is not None:
        if tuple(real.shape) != shape:
            raise not_computed(f"a mask made for rows of shape {tuple(real.shape)} is passed with queries of {shape}")
        real = real.to(device)
    positions = given.position_ids
    if positions is not None:
        if positions.dim() != 2 or positions.shape[1] != shape[1] or positions.shape[0] not in (1, shape[0]):
            raise not_computed(f"position_ids have the shape {tuple(positions.shape)}, where input_ids have {shape}")
        positions = positions.to(device)
    if given.cu_seq_lens_q is not None or given.cu_seq_lens_k is not None:
        return _from_boundaries(shape, device, real, positions, given, reads_positions)
    if restarts and positions is None:
        raise ValueError(
            f"{_WHERE}: under torch.compile this model passes no position_ids to its layers, so documents in a row are "
            "not known; pass attention_mask if each row is one document, else cu_seq_lens_q and max_length_q"
        )
    read = _uncut if torch.compiler.is_compiling() else _from_contents
    return read(shape, device, real, positions, local)


def _from_boundaries(
    shape: tuple[int, int],
    device: torch.device,
    real: Tensor | None,
    positions: Tensor | None,
    given: Boundaries,
    reads_positions: bool,
) -> Layout:
    ids = torch.zeros(shape, dtype=torch.int64, device=device)
    documents = packed_inputs(ids, real, **given._replace(position_ids=None)._asdict(), draw_keys=False).batch.documents
    restart = positions is None and not reads_positions
    if positions is not None:
        counted = (positions - positions[:, :1])[0]
        restart = not reads_contents(counted) or torch.equal(counted, documents.positions)
    if not restart:
        raise ValueError(
            f"{_WHERE}: with cu_seq_lens_q, position_ids must be given and restart at each boundary, else the model "
            "counts through the row; pass both, as DataCollatorWithFlattening(return_flash_attn_kwargs=True) makes them"
        )
    return Layout(documents)


def _from_contents(
    shape: tuple[int, int], device: torch.device, real: Tensor | None, positions: Tensor | None, local: bool
) -> Layout:
    """Read the documents off padding and positions."""
    rows, width = shape
    # The host waits here for a GPU.
    places = None if real is None else real.flatten().nonzero().flatten()
    if places is not None and len(places) == rows * width:
        places = None
    tokens = rows * width if places is None else len(places)
    if tokens == 0:
        starts = torch.zeros(1, dtype=torch.int32, device=device)
    elif places is None and positions is None:
        starts = torch.arange(0, tokens, width, dtype=torch.int32, device=device)
    else:
        place = torch.arange(tokens, device=device) if places is None else places
        starts = _begins(place, shape, positions, local).nonzero().flatten().int()
    cu_seqlens = F.pad(starts, (0, 1), value=tokens)
    max_seqlen = max(1, int(cu_seqlens.diff().max()))
    return Layout(Documents.build(cu_seqlens, tokens=tokens, max_seqlen=max_seqlen), places)


def _uncut(
    shape: tuple[int, int], device: torch.device, real: Tensor | None, positions: Tensor | None, local: bool
) -> Layout:
    """Keep all B L tokens, in static shapes: the padding of a row comes last, as documents of its own."""
    rows, width = shape
    size = rows * width
    index = torch.arange(size, device=device)
    places, kept, begins = None, None, index % width == 0
    if real is not None:
        order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
        places = (order + width * torch.arange(rows, device=device)[:, None]).flatten()
        kept = real.flatten()[places]
        begins = begins | _changes(kept)
    if positions is not None or local:
        begins = begins | _begins(index if places is None else places, shape, positions, local, kept)
    if positions is None:
        # two documents a row at most, where with positions each token may be one
        starts = torch.arange(0, size, width, dtype=torch.int32, device=device)
        if real is not None:
            starts = torch.stack((starts, starts + real.sum(1, dtype=torch.int32)), 1).flatten()
    else:
        starts = torch.where(begins, index, size).sort().values.int()
    documents = Documents.build(F.pad(starts, (0, 1), value=size), tokens=size, max_seqlen=width)
    return Layout(documents, places, kept)


def _changes(values: Tensor) -> Tensor:
    """Return where a value differs from the one before it, bool (T,), and True at the first."""
    return F.pad(values[1:] != values[:-1], (1, 0), value=True)


def _begins(
    place: Tensor, shape: tuple[int, int], positions: Tensor | None, local: bool, kept: Tensor | None = None
) -> Tensor:
    """Return whether each token begins a document, bool (T,).

    Args:
        place: place of each token in the flattened rows, int64 (T,).
        shape: of the rows, (B, L).
        positions: int64 (B, L) or (1, L), or None.
        local: whether a document must have no padding within.
        kept: which tokens are real, bool (T,). Default: all.
    """
    row = place // shape[1]
    new_row = _changes(row)
    begins = new_row
    if positions is not None:
        values = positions.expand(shape).flatten()[place]
        # the positions of a document count up as its places do, also across padding
        begins = begins | _changes(values - place)
        first = torch.where(new_row, torch.arange(len(place), device=place.device), 0).cummax(0).values
        _require(
            _all(~begins | (values == values[first]), kept),
            "position_ids must count up by 1 and restart at the first position of their row, and do neither somewhere; "
            "pass positions that restart where a document begins, or use attn_implementation='eager'",
        )
    if local:
        _require(
            _all(begins | (F.pad(place.diff(), (1, 0), value=1) == 1), kept),
            "attention_mask must have no padding between the tokens of a document in layers with a window, and has "
            "some; pad on one side only, or use attn_implementation='eager'",
        )
    return begins


def _all(condition: Tensor, kept: Tensor | None) -> Tensor:
    """Return whether a condition holds for all real tokens, bool ()."""
    return (condition if kept is None else condition | ~kept).all()


def _require(condition: Tensor, needed: str) -> None:
    message = f"{_WHERE}: {needed}"
    if torch.compiler.is_compiling():
        torch._assert_async(condition, message)
    elif not bool(condition):
        raise ValueError(message)
