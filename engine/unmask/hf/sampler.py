"""TokenBatchSampler: examples grouped into micro-batches of at most T tokens, in a new order in each epoch.

The examples of an epoch are shuffled. A micro-batch takes them in that order; when the next one does not fit, it takes
the largest of the 64 after it that fit, as the stream of `unmask pretrain` does. Everything is a function of (seed,
epoch), so an order repeats after a resume. All epochs have as many micro-batches as the first, because trainers count
steps in epochs: a surplus one is left out, and where one is missing, the one with the most examples is cut in two.

Cost: about 1 us an example, once an epoch, in the main process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from unmask.data.randomness import ORDER
from unmask.data.stream.blocks import Permutation
from unmask.data.stream.plan import Capacities, pack_sequences
from unmask.data.stream.ranks import check_place, rank_and_world_size

__all__ = ["TokenBatchSampler"]

_WHO = "TokenBatchSampler"


class _HasEpoch(Protocol):
    def set_epoch(self, epoch: int, /) -> None: ...


class TokenBatchSampler(Sampler[list[int]]):
    """A `batch_sampler` of a DataLoader, which also tells its collator the epoch.

    Each iteration is the next epoch, unless `set_epoch` says which. It has the protocol of torchdata's
    StatefulDataLoader, and each of several ranks gets its share: all of them the same number of micro-batches. Rounding
    leaves out fewer micro-batches than there are ranks.

    Example:
        >>> from unmask.hf import TokenBatchSampler
        >>> sampler = TokenBatchSampler([30, 50, 20, 40, 60, 10], tokens=110, seed=1)
        >>> len(sampler), sorted(index for batch in sampler for index in batch)
        (2, [0, 1, 2, 3, 4, 5])

    Args:
        lengths: tokens of each example: `[len(ids) for ids in dataset["input_ids"]]`.
        tokens: T, tokens of a micro-batch at most.
        collator: what is told the epoch when an iteration begins, such as a `PackedCollator`.
        seed: of the order.
        shuffle: whether the order is random. Without, examples come nearly in their own order.
        rank, world_size: which share of the micro-batches this process gets. Default: of torch.distributed if it is
            initialised, else all of them.
    Raises:
        ValueError: no examples, an example without tokens or with more than `tokens`, or a rank that is none.
    """

    # accelerate, where it shares out the batches itself, then gives all processes the same number
    drop_last = True

    def __init__(
        self,
        lengths: Sequence[int] | ArrayLike,
        tokens: int,
        *,
        collator: _HasEpoch | None = None,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        check_place(_WHO, rank, world_size)
        self._lengths: NDArray[np.int64] = np.asarray(lengths, dtype=np.int64)
        if self._lengths.ndim != 1 or not self._lengths.size:
            raise ValueError(
                f"{_WHO}: lengths must hold the number of tokens of each example, got shape {self._lengths.shape}; "
                'give [len(ids) for ids in dataset["input_ids"]]'
            )
        least, most = int(self._lengths.argmin()), int(self._lengths.argmax())
        if self._lengths[least] < 1:
            raise ValueError(
                f"{_WHO}: lengths must be at least 1, got {self._lengths[least]} for example {least}; leave "
                "examples without tokens out of the dataset"
            )
        if self._lengths[most] > tokens:
            raise ValueError(
                f"{_WHO}: tokens must be at least {self._lengths[most]}, the tokens of example {most}, got "
                f"{tokens}; raise tokens, or cut the examples when they are tokenized: truncation=True, "
                f"max_length={tokens}"
            )
        self.tokens = tokens
        self._collator = collator
        self._seed = seed
        self._shuffle = shuffle
        self._place = None if rank is None or world_size is None else (rank, world_size)
        self._epoch = 0
        self._taken = 0
        self._loaded: dict[str, Any] | None = None
        self._batches: tuple[int, list[list[int]]] | None = None
        self._count = len(self._packed(0))
        facts = (self._lengths.tobytes(), tokens, seed, shuffle)
        self._fingerprint = hashlib.sha256(repr(facts).encode()).hexdigest()

    def __len__(self) -> int:
        """Return the number of micro-batches of this process in an epoch."""
        return self._count // self._rank_and_world_size()[1]

    def __iter__(self) -> Iterator[list[int]]:
        """Begin the next epoch, or continue where a loaded state says.

        Raises:
            ValueError: there are more processes than micro-batches in an epoch.
        """
        world_size = self._rank_and_world_size()[1]
        if self._count < world_size:
            raise ValueError(
                f"{_WHO}: the epoch has {self._count} micro-batches, fewer than its {world_size} processes; give fewer "
                "tokens to a micro-batch, or train with fewer processes"
            )
        if self._loaded is not None:
            self._epoch, self._taken = self._loaded["epoch"], self._loaded["taken"]
            self._loaded = None
        else:
            # an iteration whose last batch was taken
            self._epoch += self._taken >= len(self)
            self._taken = 0
        if self._collator is not None:
            self._collator.set_epoch(self._epoch)
        return self._rest()

    def _rest(self) -> Iterator[list[int]]:
        rank, world_size = self._rank_and_world_size()
        batches = self.batches(self._epoch)
        for place in range(self._taken, self._count // world_size):
            self._taken = place + 1
            yield batches[place * world_size + rank]
        self._epoch += 1
        self._taken = 0

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the micro-batches of an epoch, of all ranks: the numbers of their examples."""
        if self._batches is None or self._batches[0] != epoch:
            packed = self._packed(epoch)[: self._count]
            while len(packed) < self._count:
                fullest = max(range(len(packed)), key=lambda place: len(packed[place]))
                half = len(packed[fullest]) // 2
                packed.append(packed[fullest][half:])
                packed[fullest] = packed[fullest][:half]
            self._batches = epoch, packed
        return self._batches[1]

    def padding_share(self, epoch: int = 0) -> float:
        """Return the share of the T tokens of each micro-batch that its examples leave free, over an epoch."""
        batches = self.batches(epoch)
        used = sum(int(self._lengths[batch].sum()) for batch in batches)
        return 1 - used / (self.tokens * len(batches))

    def set_epoch(self, epoch: int) -> None:
        """Have the next iteration begin an epoch; trainers call this.

        Raises:
            ValueError: the epoch is negative, or a loaded state, which is not used yet, lies in another epoch.
        """
        if epoch < 0:
            raise ValueError(f"{_WHO}: epoch must be at least 0, got {epoch}")
        if self._loaded is None:
            self._epoch, self._taken = epoch, 0
        elif self._loaded["epoch"] != epoch:
            raise ValueError(
                f"{_WHO}: the state that was loaded lies in epoch {self._loaded['epoch']}, but set_epoch({epoch}) "
                f"would leave it unused; call set_epoch({self._loaded['epoch']}), or load the state afterwards"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last micro-batch that was taken."""
        if self._loaded is not None:
            return dict(self._loaded)
        return {"epoch": self._epoch, "taken": self._taken, "fingerprint": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next iteration continue where `state_dict` was called.

        Raises:
            ValueError: the state is of other lengths, or of another number of tokens, seed or kind of order.
        """
        if not isinstance(state, dict) or state.get("fingerprint") != self._fingerprint:
            raise ValueError(
                f"{_WHO}: the state must be of a sampler with the same lengths, tokens, seed and shuffle, and is not; "
                "make the sampler with those, or leave the state out to begin anew"
            )
        self._loaded = dict(state)

    def _packed(self, epoch: int) -> list[list[int]]:
        order = np.arange(self._lengths.size)
        if self._shuffle:
            order = Permutation(order.size, self._seed, ORDER, epoch, 0)(order)
        sizes = self._lengths[order]
        # as many slots as any micro-batch can use: only tokens count
        capacities = Capacities(
            tokens=self.tokens, sequences=order.size + self.tokens, masked=0, max_length=int(sizes.max())
        )
        packed, bounds = pack_sequences(sizes, np.zeros_like(sizes), capacities)
        return [part.tolist() for part in np.split(order[packed], bounds[1:-1])]

    def _rank_and_world_size(self) -> tuple[int, int]:
        return self._place or rank_and_world_size(_WHO, setting="even_batches=False")
