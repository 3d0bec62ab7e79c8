"""BERT's masking (Devlin et al. 2019, arXiv:1810.04805) of packed documents, the definition, a document at a time.

For a document of n tokens with the 64-bit key (low, high), and t = 0 at its [CLS]:

    priority(t) = output t mod 4 of philox(counter (t div 4, 0, low, high), selection key)
    words       = single tokens; with word starts, runs from one start to the next, the first of them at t = 0
    candidates  = words without a special token
    order       = ascending (priority of the first token, place); a word is taken if it has at most as many tokens as
                  the count still lacks, else skipped, as in BERT's published code
    replacement = for a taken token, (r0, r1, ., .) = philox(counter (t, 0, low, high), replacement key); by r0 (see
                  `rule`) it becomes [MASK], ordinary[(r1 * len(ordinary)) >> 32], or stays; it is predicted in any case

Nothing depends on the packed row, so a document is masked the same wherever it lies. Shapes: ids, word_starts (T,);
special (V,); ordinary (O,); keys (2,); results ids (T,), rows, labels (M,). Loops in Python; for tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import Arguments, MaskedTokens
from .rule import IGNORED, counts, draws, numbers

__all__ = ["forward"]


def forward(arguments: Arguments) -> MaskedTokens:
    """Mask one document after the other."""
    rule = numbers(arguments.rate, arguments.split)
    ids, special, ordinary = arguments.ids, arguments.special, arguments.ordinary
    keys, capacity = arguments.keys, arguments.capacity
    out = ids.clone()
    rows, labels = ids.new_zeros(capacity, dtype=torch.int64), ids.new_full((capacity,), IGNORED, dtype=torch.int64)
    ends = arguments.cu_seqlens.tolist()
    budgets = counts(arguments.cu_seqlens.diff(), rule).tolist()
    slot = 0
    for index, budget in enumerate(budgets):
        start, end = ends[index], ends[index + 1]
        tokens = range(end - start)
        document = ids[start:end].tolist()
        starts = [True] * len(tokens) if arguments.word_starts is None else arguments.word_starts[start:end].tolist()
        candidates = [word for word in _words(starts) if not any(special[document[t]] for t in word)]
        four = _draws(keys[0], arguments.document_keys[index], [t // 4 for t in tokens])
        chosen = _choose(candidates, [four[t % 4][t] for t in tokens], budget)
        kinds = _draws(keys[1], arguments.document_keys[index], [*tokens])
        for at, t in enumerate(sorted(chosen)):
            # Slots follow from lengths alone; what has none is left as it is.
            if slot + at < capacity:
                rows[slot + at], labels[slot + at] = start + t, document[t]
                kind, draw = kinds[0][t], kinds[1][t]
                if kind < rule.to_mask:
                    out[start + t] = arguments.mask_id
                elif kind < rule.to_random:
                    out[start + t] = ordinary[(draw * len(ordinary)) >> 32]
        slot += budget
    return MaskedTokens(out, rows, labels)


def _words(starts: list[bool]) -> list[list[int]]:
    """Places of the tokens of each word."""
    words: list[list[int]] = []
    for t, begins in enumerate(starts):
        if begins or not words:
            words.append([])
        words[-1].append(t)
    return words


def _choose(candidates: list[list[int]], priorities: list[int], left: int) -> list[int]:
    """Places of the chosen tokens."""
    chosen: list[int] = []
    for word in sorted(candidates, key=lambda word: (priorities[word[0]], word[0])):
        if len(word) <= left:
            chosen += word
            left -= len(word)
    return chosen


def _draws(key: Tensor, document_key: Tensor, counters: list[int]) -> list[list[int]]:
    """Four random numbers for each counter, each below 2**32."""
    first = torch.tensor(counters, dtype=torch.int64, device=key.device)
    return [four.tolist() for four in draws(key, document_key, first)]
