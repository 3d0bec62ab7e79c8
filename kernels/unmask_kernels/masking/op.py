"""masking: the public operation, its checks, its backends and its registration.

Shapes: ids, word_starts (T,); special (V,); ordinary (O,); keys (2,); results ids (T,), rows and labels (M,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unmask_kernels import checks
from unmask_kernels.capability import architecture, triton_reasons
from unmask_kernels.dispatch import Backend, Family
from unmask_kernels.documents import Documents
from unmask_kernels.registration import register

from .arguments import Arguments
from .rule import counts, numbers, slot_offsets

__all__ = ["FAMILY", "MaskedTokens", "MaskingCall", "masking"]

MAX_TRITON_DOCUMENT = 4096  # longer documents spill registers
_INTEGERS = (torch.int64, torch.int32)


class MaskedTokens(NamedTuple):
    """What `masking` returns, on the device of ids.

    Attributes:
        ids: corrupted ids, (T,), dtype of ids.
        rows: tokens to predict, int64 (M,), ascending over the used slots; unused slots are 0.
        labels: their original ids, int64 (M,); unused slots are -100.
    """

    ids: Tensor
    rows: Tensor
    labels: Tensor


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

    A document of n tokens, [CLS] and [SEP] included, predicts exactly max(1, round(rate n)) of them, ties to even,
    chosen by the random stream addressed by (keys, the document's key, place): single tokens, or whole words when word
    starts are given. Bit-equal on all backends to the masking of the data loader. Devlin et al. 2019, arXiv:1810.04805.

    Args:
        ids: token ids, int64 or int32 (T,), in [0, V).
        documents: boundaries and keys of the documents; keys that contain the pass over the data change masks with it.
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
    _check(ids, documents, word_starts, special, ordinary, keys, rate, split, mask_id, capacity)
    chosen = FAMILY.choose(backend, MaskingCall(ids.device.type, architecture(ids), documents.max_seqlen))
    tensors = (word_starts, special, ordinary, keys, documents.cu_seqlens, documents.keys)
    shares = [float(share) for share in split]
    arguments = Arguments(*tensors, float(rate), shares, mask_id, capacity, documents.max_seqlen)
    return MaskedTokens(*torch.ops.unmask.masking_fwd(ids, *arguments, chosen))


class MaskingCall(NamedTuple):
    """What the choice of a backend may depend on."""

    device: str
    architecture: str
    max_seqlen: int


def _triton_refuses(call: MaskingCall) -> list[str]:
    reasons = triton_reasons(call.device)
    if call.max_seqlen > MAX_TRITON_DOCUMENT:
        reasons.append(
            f"documents up to {MAX_TRITON_DOCUMENT} tokens stay in registers, may be {call.max_seqlen} long; "
            "use backend 'torch'"
        )
    return reasons


FAMILY = Family(
    "masking",
    {
        # `verified` gets an architecture once the GPU tests have passed there.
        "triton": Backend("unmask_kernels.masking._triton", _triton_refuses, verified=()),
        "torch": Backend("unmask_kernels.masking._torch"),
        "reference": Backend("unmask_kernels.masking.reference"),
    },
    example=lambda device, architecture, dtype: MaskingCall(device, architecture, max_seqlen=512),
)


def _check(
    ids: Tensor,
    documents: Documents,
    word_starts: Tensor | None,
    special: Tensor,
    ordinary: Tensor,
    keys: Tensor,
    rate: float,
    split: Sequence[float],
    mask_id: int,
    capacity: int,
) -> None:
    name = "masking"
    checks.shape(name, "ids", ids, (documents.tokens,), "the tokens of documents")
    checks.dtype(name, "ids", ids, _INTEGERS)
    if word_starts is not None:
        checks.shape(name, "word_starts", word_starts, (documents.tokens,), "one flag per token")
        checks.dtype(name, "word_starts", word_starts, (torch.bool,))
    checks.rank(name, "special", special, "(V,)")
    checks.dtype(name, "special", special, (torch.bool,))
    checks.rank(name, "ordinary", ordinary, "(O,)")
    checks.dtype(name, "ordinary", ordinary, _INTEGERS)
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
        _check_capacity(ids, documents, special, rate, split, capacity)


def _check_capacity(
    ids: Tensor, documents: Documents, special: Tensor, rate: float, split: Sequence[float], capacity: int
) -> None:
    budgets = counts(documents.cu_seqlens.diff(), numbers(rate, split))
    maskable = torch.zeros_like(budgets).scatter_add_(0, documents.document_ids, (~special[ids.long()]).long()) > 0
    needed = int(torch.where(maskable, slot_offsets(budgets) + budgets, 0).max())
    if needed > capacity:
        raise ValueError(
            f"masking: capacity is {capacity} but {needed} slots are needed; raise it, or pack fewer tokens"
        )


def _forward_fake(ids: Tensor, arguments: Arguments, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    rows, labels = (ids.new_empty((arguments.capacity,), dtype=torch.int64) for _ in range(2))
    return ids.new_empty(tuple(ids.shape)), rows, labels


register(FAMILY, forward=_forward_fake)
