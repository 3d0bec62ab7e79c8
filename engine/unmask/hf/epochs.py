"""How the number of the epoch reaches a collator: masks are a function of (seed, epoch, document).

A collator runs in the workers of a DataLoader, which are copies of it. So the epoch lies in memory that all copies
share. It is set before the workers are asked for a batch, by one of

    EpochCallback(collator)                     in the Trainer of transformers
    TokenBatchSampler(..., collator=collator)   in any loop: the sampler begins each epoch in the main process
    collator.set_epoch(epoch)                   by hand

If nobody sets it, each batch gets new masks from PyTorch's generator, and a warning says so once.
"""

import logging
from typing import Any, Protocol

import torch
from transformers import TrainerCallback

__all__ = ["EpochCallback", "SharedEpoch"]

_log = logging.getLogger(__name__)


class SharedEpoch:
    """The number of the epoch, shared by all copies of it in worker processes."""

    def __init__(self) -> None:
        # the epoch, -1 for none; and whether the warning was given
        self._numbers = torch.tensor([-1, 0]).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # a copy has memory of its own, which its workers share
        self._numbers.share_memory_()

    def set(self, epoch: int) -> None:
        """Set the epoch.

        Raises:
            ValueError: it is negative.
        """
        if epoch < 0:
            raise ValueError(f"PackedCollator: epoch must be at least 0, got {epoch}")
        self._numbers[0] = epoch

    def get(self) -> int:
        """Return the epoch, or a random number if nobody has set it."""
        epoch, warned = self._numbers.tolist()
        if epoch >= 0:
            return int(epoch)
        if not warned:
            self._numbers[1] = 1
            _log.warning(
                "PackedCollator: nobody has set the epoch, so each batch gets new masks that a resumed run does not "
                "repeat; give the Trainer callbacks=[unmask.hf.EpochCallback(collator)], or a loader "
                "batch_sampler=unmask.hf.TokenBatchSampler(lengths, tokens, collator=collator), or call "
                "collator.set_epoch(epoch) before each epoch"
            )
        return int(torch.randint(1 << 31, ()))


class _HasEpoch(Protocol):
    def set_epoch(self, epoch: int, /) -> None: ...


class EpochCallback(TrainerCallback):
    """Tells a collator which epoch the Trainer of transformers begins, also when it resumes within one.

    Args:
        collator: a `PackedCollator`, or anything with `set_epoch`.
    """

    def __init__(self, collator: _HasEpoch) -> None:
        self._collator = collator
        self._next = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the epoch that training begins or resumes in."""
        self._next = int(state.epoch or 0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch, before the Trainer starts the workers of its loader."""
        self._collator.set_epoch(self._next)
        self._next += 1
