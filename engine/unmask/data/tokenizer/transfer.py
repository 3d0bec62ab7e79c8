"""Vocabulary transfer: from which rows of an old token table the rows of a new one start.

    entry of both vocabularies    its old row
    special token of a role       the old row of that role, however it is spelled
    new entry                     the mean of the old rows of the pieces that the old tokenizer cuts it into
    of unknown pieces alone       the mean of all old rows

The mean over pieces is fast vocabulary transfer (Gee et al. 2022, arXiv:2402.09977), the mean over all rows is that of
Hewitt (2021, "Initializing New Word Embeddings for Pretrained Language Models"). The bias of the masked-LM head follows
the same rule. The output projection is the token table, so the logit of a new entry is at first the mean of the logits
of its pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unmask.data.tokenizer.tokenizer import UNUSED, Tokenizer

__all__ = ["Transfer", "extension_problem", "transfer"]

_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """The rows of a new token table in terms of an old one.

    Attributes:
        sources: ids of the new tokenizer, each with the old ids whose mean its row is. One old id: the row is taken
            over. None: the mean of all old rows. An id without a token is not there.
        new: the ids of the new entries, in their order.
        lost: entries that the old tokenizer has and the new one has not, less `[unused7]` and its like.
    """

    sources: dict[int, list[int]]
    new: dict[str, int]
    lost: list[str]


def transfer(old: Tokenizer, new: Tokenizer) -> Transfer:
    """Return from which rows of the old table the rows of the new one start."""
    before, after = old.vocabulary, new.vocabulary
    roles = {new.special_ids[role]: old.special_ids[role] for role in new.special_ids}
    sources: dict[int, list[int]] = {}
    unknown: list[str] = []
    for token, index in sorted(after.items(), key=lambda pair: pair[1]):
        if index in roles:
            sources[index] = [roles[index]]
        elif token in before:
            sources[index] = [before[token]]
        else:
            unknown.append(token)
    starts = new.word_starts([after[token] for token in unknown]) if unknown else ()
    whole = [token for token, is_start in zip(unknown, starts, strict=True) if is_start]
    cut = dict(zip(whole, old.encode_batch(whole), strict=True))
    for token in unknown:
        pieces = cut[token] if token in cut else _cut_continuation(token.removeprefix(new.prefix), old, before)
        sources[after[token]] = [piece for piece in pieces if piece != old.unk_id]
    spelled = {*old.special_tokens.values()}
    lost = [token for token in before if token not in after and token not in spelled and not UNUSED.fullmatch(token)]
    new_ids = {token: after[token] for token in unknown}
    return Transfer(sources=sources, new=new_ids, lost=sorted(lost, key=before.__getitem__))


def _cut_continuation(text: str, old: Tokenizer, before: dict[str, int]) -> list[int]:
    """Cut what continues a word greedily into the longest pieces of the old vocabulary; empty if there are none."""
    rest = old.normalized(text).strip()
    if not old.prefix:
        return old.encode_batch([rest])[0]
    found: list[int] = []
    while rest:
        piece = next((end for end in range(len(rest), 0, -1) if f"{old.prefix}{rest[:end]}" in before), None)
        if piece is None:
            return []
        found.append(before[f"{old.prefix}{rest[:piece]}"])
        rest = rest[piece:]
    return found


def extension_problem(old: Tokenizer, new: Tokenizer) -> str | None:
    """Return why `new` is not `old` with further entries, a clause; None if it is.

    A further entry may also stand in the place of `[unused7]` and its like.
    """
    before, after = old.vocabulary, new.vocabulary
    kept = {token: index for token, index in before.items() if not UNUSED.fullmatch(token)}
    lost = sorted((token for token in kept if token not in after), key=before.__getitem__)
    if lost:
        return f"lacks {named(lost)} of the checkpoint's {len(before):,} entries: its vocabulary shrank"
    moved = sorted((token for token, index in kept.items() if after[token] != index), key=before.__getitem__)
    if moved:
        return f"gives {named(moved)} other ids than the checkpoint's"
    if old.special_ids != new.special_ids:
        return "has other special tokens than the checkpoint's"
    if old.rules != new.rules:
        differing = next(name for name in old.rules if old.rules[name] != new.rules[name])
        return f"cuts text by other rules than the checkpoint's ({differing})"
    return None


def named(tokens: Sequence[str]) -> str:
    """Return the first tokens of a list and how many more there are."""
    more = f" and {len(tokens) - _NAMED:,} more" if len(tokens) > _NAMED else ""
    return ", ".join(map(repr, tokens[:_NAMED])) + more
