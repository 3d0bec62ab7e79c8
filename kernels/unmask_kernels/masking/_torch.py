"""masking by sorting, on PyTorch's own kernels: static shapes, no loop over documents, nothing read back from a GPU.

Words are sorted by (document, priority), so those of a document lie in its own range of the row. Single tokens are the
first `count` of a range. Whole words are taken in rounds: a round takes the words before the first that overshoots, and
drops those that fit no more. The word that ends a round has fewer tokens than the word that ended the round before, and
these are distinct words of one document. So k rounds need k (k - 1) / 2 tokens. The longest document bounds their
number, and no round has to ask whether it is the last. Replacements are drawn at the M slots, not at all tokens.

The cost is two sorts of T keys, and T / 4 + M Philox calls of about 100 integer operations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arguments import Arguments, MaskedTokens
from .rule import IGNORED, counts, draws, numbers, slot_offsets

__all__ = ["forward"]

_NEVER = 1 << 32  # behind every priority


def forward(arguments: Arguments) -> MaskedTokens:
    """Mask all documents at once."""
    rule = numbers(arguments.rate, arguments.split)
    ids, document_keys, ordinary = arguments.ids, arguments.document_keys, arguments.ordinary
    tokens, capacity = len(ids), arguments.capacity
    offsets = arguments.cu_seqlens.long()
    lengths = offsets.diff()
    document = torch.repeat_interleave(torch.arange(len(lengths), device=ids.device), lengths, output_size=tokens)
    place = torch.arange(tokens, device=ids.device) - offsets[document]
    budgets = counts(lengths, rule)
    excluded = arguments.special[ids.long()]
    priority = _priorities(lengths, document_keys, arguments.keys[0], document, place)
    if arguments.word_starts is None:
        order = _order(document, torch.where(excluded, _NEVER, priority))
        # rank in the document is the place in its range
        first = (place < budgets[document]) & ~excluded[order]
        chosen = torch.empty_like(first).scatter_(0, order, first)
    else:
        begins = arguments.word_starts | (place == 0)
        chosen = _choose_words(begins, excluded, priority, document, offsets, budgets, arguments.max_seqlen)
    rank = _within(chosen.long(), document, offsets) - 1
    slot = (slot_offsets(budgets)[document] + rank).clamp(max=capacity)
    # one place more catches what has no slot
    slot = torch.where(chosen, slot, capacity)
    every = torch.arange(tokens, device=ids.device)
    rows = torch.full((capacity + 1,), tokens, device=ids.device).scatter_(0, slot, every)[:capacity]
    used = rows < tokens
    at = rows.clamp(max=max(0, tokens - 1))
    if tokens == 0:
        return MaskedTokens(ids.clone(), torch.zeros_like(rows), torch.full_like(rows, IGNORED))
    originals = ids[at].long()
    kind, draw = draws(arguments.keys[1], document_keys[document[at]], place[at])[:2]
    new = torch.where(kind < rule.to_mask, arguments.mask_id, originals)
    if len(ordinary):
        random = ordinary[(draw * len(ordinary)) >> 32].long()
        new = torch.where((kind >= rule.to_mask) & (kind < rule.to_random), random, new)
    out = torch.cat([ids, ids[:1]]).scatter_(0, rows, new.to(ids.dtype))[:tokens]
    return MaskedTokens(out.contiguous(), at.where(used, 0), originals.where(used, IGNORED))


def _choose_words(
    begins: Tensor,
    excluded: Tensor,
    priority: Tensor,
    document: Tensor,
    offsets: Tensor,
    budgets: Tensor,
    max_seqlen: int,
) -> Tensor:
    """Chosen tokens, bool (T,), by whole words."""
    every = torch.arange(len(begins), device=begins.device)
    head = torch.where(begins, every, 0).cummax(0).values
    sizes = torch.zeros_like(every).scatter_add_(0, head, torch.ones_like(every))
    specials = torch.zeros_like(every).scatter_add_(0, head, excluded.long())
    candidate = begins & (specials == 0)
    order = _order(document, torch.where(candidate, priority, _NEVER))
    # from here on sorted: a document's words lie in its own range, those that are no candidates at the end
    size, waiting = sizes[order], candidate[order]
    taken = torch.zeros_like(waiting)
    left = budgets
    for _ in range(_rounds(max_seqlen)):
        waiting = waiting & (size <= left[document])
        running = _within(torch.where(waiting, size, 0), document, offsets)
        now = waiting & (running <= left[document])
        taken |= now
        left = left.scatter_add(0, document, torch.where(now, -size, 0))
        waiting = waiting & ~now
        # on a CPU it costs nothing to ask
        if begins.device.type == "cpu" and not bool(waiting.any()):
            break
    return torch.empty_like(taken).scatter_(0, order, taken)[head]


def _rounds(max_seqlen: int) -> int:
    """Rounds that suffice: k + 1 with k (k + 1) / 2 <= max_seqlen."""
    return 1 + (math.isqrt(8 * max_seqlen + 1) - 1) // 2


def _order(document: Tensor, priority: Tensor) -> Tensor:
    """Tokens by (document, priority, place)."""
    return torch.sort((document << 33) | priority, stable=True).indices


def _within(values: Tensor, document: Tensor, offsets: Tensor) -> Tensor:
    """Running sum, each document from 0."""
    total = values.cumsum(0)
    before = torch.cat([total.new_zeros(1), total])[offsets[:-1]]
    return total - before[document]


def _priorities(lengths: Tensor, document_keys: Tensor, key: Tensor, document: Tensor, place: Tensor) -> Tensor:
    """Priority of every token, int64 (T,): one Philox call serves four tokens of a document."""
    calls = (lengths + 3) // 4
    ends = calls.cumsum(0)
    # as many calls as any lengths of this sum can need
    call = torch.arange(len(place) // 4 + len(lengths), device=place.device)
    of = torch.searchsorted(ends, call, right=True).clamp(max=len(lengths) - 1)
    drawn = torch.stack(draws(key, document_keys[of], (call - (ends - calls)[of]).clamp(min=0)), dim=1)
    return drawn.view(-1)[4 * (ends - calls)[document] + place]
