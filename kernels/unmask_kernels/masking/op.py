"""masking: the public operation, its checks and its registration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import checks
from ..documents import Documents
from ..registration import operation
from .arguments import Arguments, MaskedTokens
from .choice import FAMILY, describe
from .rule import counts, numbers, slot_offsets

__all__ = ["masking"]


def masking(
    ids: Tensor,
    documents: Documents,
    word_starts: Tensor | None,
    special: Tensor,
    ordinary: Tensor,
    *,
    keys: Tensor,
    rate: float,
    split: Sequence[float],
    mask_id: int,
    capacity: int,
    backend: str | None = None,
) -> MaskedTokens:
    """Choose the tokens to predict and corrupt them: BERT's masking of packed documents.

    A document of n tokens, [CLS] and [SEP] included, predicts exactly max(1, round(rate n)) of them, ties to even:
    single tokens, or whole words when word starts are given. The random stream that chooses them is addressed by (keys,
    the document's key, place). All backends give the bits of the data loader's masking. Devlin et al. 2019,
    arXiv:1810.04805.

    Args:
        ids: token ids, int64 or int32 (T,), in [0, V).
        documents: boundaries and keys of the documents; keys that contain the epoch give each epoch other masks.
        word_starts: bool (T,), True where a token begins a word; the first token of a document always does. None
            chooses single tokens. A word longer than what the count still lacks is skipped, so whole words may predict
            fewer.
        special: bool (V,), True for ids that are never chosen; neither is a word that holds one.
        ordinary: ids that a random replacement is drawn from, int64 or int32 (O,).
        keys: int64 (2,), the 64-bit keys of selection and replacement.
        rate: share of a document's tokens to predict, in (0, 1], read as the nearest fraction with a denominator of at
            most 65,536.
        split: shares of chosen tokens that become [MASK], become a random ordinary token, stay; they sum to 1.
        mask_id: id of [MASK].
        capacity: M. A document owns as many slots as its length can predict, behind those of the documents before it.
        backend: "triton", "torch" or "reference"; by default the best one that can run.
    Returns:
        `MaskedTokens(ids, rows, labels)`. Not differentiable. A token whose slot lies beyond M is left as it is.
    Raises:
        TypeError, ValueError: a dtype, shape, device or share does not match; on CPU tensors, and with UNMASK_DEBUG=1
            on a GPU, also an id out of range or slots that M cannot hold.
        BackendUnavailable: the backend asked for cannot run this call.
    """
    arguments = Arguments(
        ids=ids,
        word_starts=word_starts,
        special=special,
        ordinary=ordinary,
        keys=keys,
        cu_seqlens=documents.cu_seqlens,
        document_keys=documents.keys,
        rate=float(rate),
        split=[float(share) for share in split],
        mask_id=mask_id,
        capacity=capacity,
        max_seqlen=documents.max_seqlen,
    )
    _check(documents, arguments)
    return MaskedTokens(*_masking(arguments, FAMILY.choose(backend, describe(arguments))))


def _check(documents: Documents, arguments: Arguments) -> None:
    name = "masking"
    ids, word_starts, special, ordinary, keys, _, _, rate, split, mask_id, capacity, _ = arguments
    checks.shape(name, "ids", ids, (documents.tokens,), "the tokens of documents")
    checks.dtype(name, "ids", ids, checks.INTEGERS)
    checks.shape(name, "word_starts", word_starts, (documents.tokens,), "one flag per token")
    checks.dtype(name, "word_starts", word_starts, (torch.bool,))
    checks.rank(name, "special", special, "(V,)")
    checks.dtype(name, "special", special, (torch.bool,))
    checks.rank(name, "ordinary", ordinary, "(O,)")
    checks.dtype(name, "ordinary", ordinary, checks.INTEGERS)
    checks.shape(name, "keys", keys, (2,), "one of selection, one of replacement")
    checks.dtype(name, "keys", keys, (torch.int64,))
    others = {"word_starts": word_starts, "special": special, "ordinary": ordinary, "keys": keys}
    checks.same_device(name, "ids", ids, cu_seqlens=documents.cu_seqlens, **others)
    if not 0.0 < rate <= 1.0:
        raise ValueError(f"masking: rate must lie in (0, 1], got {rate}; BERT masks 0.15")
    if len(split) != 3 or min(split) < 0 or abs(sum(split) - 1) > 1e-6:
        raise ValueError(f"masking: split must be three shares that sum to 1, got {tuple(split)}")
    if split[1] > 0 and ordinary.shape[0] == 0:
        raise ValueError("masking: ordinary must hold the ids that a random replacement draws, got none")
    if not 0 <= mask_id < special.shape[0]:
        raise ValueError(
            f"masking: mask_id must be in [0, {special.shape[0]}), the ids that special knows, got {mask_id}"
        )
    if capacity < 0:
        raise ValueError(f"masking: capacity must be at least 0, got {capacity}")
    checks.contents(name, "ids", ids, special.shape[0], "the ids that special knows")
    if checks.reads_contents(ids):
        _check_capacity(documents, arguments)


def _check_capacity(documents: Documents, arguments: Arguments) -> None:
    ids, special = arguments.ids, arguments.special
    budgets = counts(arguments.cu_seqlens.diff(), numbers(arguments.rate, arguments.split))
    maskable = torch.zeros_like(budgets).scatter_add_(0, documents.document_ids, (~special[ids.long()]).long()) > 0
    needed = int(torch.where(maskable, slot_offsets(budgets) + budgets, 0).max())
    if needed > arguments.capacity:
        raise ValueError(
            f"masking: capacity is {arguments.capacity} but {needed} slots are needed; raise it, or pack fewer tokens"
        )


def _forward_fake(arguments: Arguments, backend: str) -> MaskedTokens:
    ids, slots = arguments.ids, (arguments.capacity,)
    return MaskedTokens(
        ids=ids.new_empty(tuple(ids.shape)),
        rows=ids.new_empty(slots, dtype=torch.int64),
        labels=ids.new_empty(slots, dtype=torch.int64),
    )


_masking = operation(FAMILY, forward=_forward_fake)
