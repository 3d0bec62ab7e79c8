"""Masks made where the model is: a batch comes without them and leaves with what the data loader would have made.

The rule of a stream (`Stream.mask_rule`) is moved to the device once; each micro-batch then takes one launch of
`unmask_kernels.masking`, and the loader's workers only pack. Masks depend on the documents' keys, so they are the same
ones, bit for bit, on either side.
"""

from dataclasses import replace

import torch

from unmask.batch import PackedBatch
from unmask.data.masking import MaskRule
from unmask_kernels import masking

__all__ = ["DeviceMasking"]


class DeviceMasking:
    """Masks batches by a rule.

    Args:
        rule: of the stream that the batches come from.
        capacity: slots for masked tokens of a micro-batch, M.
        device: where the batches are.
    """

    def __init__(self, rule: MaskRule, *, capacity: int, device: torch.device | str) -> None:
        self._rule = rule
        self._capacity = capacity
        self._tables = [torch.from_numpy(table).to(device) for table in (rule.special, rule.ordinary)]
        self._keys = torch.from_numpy(rule.keys.copy()).to(device)

    def __call__(self, batch: PackedBatch) -> PackedBatch:
        """The batch with corrupted ids, masked rows and labels."""
        rule = self._rule
        made = masking(
            batch.ids,
            batch.documents,
            batch.word_starts if rule.whole_words else None,
            *self._tables,
            keys=self._keys,
            rate=rule.rate,
            split=rule.split,
            mask_id=rule.mask_id,
            capacity=self._capacity,
        )
        return replace(batch, ids=made.ids, masked=made.rows, labels=made.labels)
