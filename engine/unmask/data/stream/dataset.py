"""PackedDataset: the stream as a dataset of PyTorch, for other people's trainers; it stops and continues anywhere.

    dataset = PackedDataset("store", StreamConfig(max_length=128, micro_batch_tokens=4096))
    loader = torchdata.stateful_dataloader.StatefulDataLoader(dataset, batch_size=None, num_workers=2)

An item is a whole micro-batch, so the loader gets `batch_size=None`. The n-th item of rank r of R is micro-batch
start + r + n R of the stream. Worker w of W makes the items w, w + W, ... of its rank, and a DataLoader takes from its
workers in turn. So the items come in one order for any number of workers, and they are those of `unmask pretrain`, bit
for bit.

A position is (epoch, start, items taken). `state_dict` gives it together with the settings of the stream, and
`load_state_dict` refuses the position of another stream. The number of the next epoch lies in memory that the workers
share, so that `set_epoch` reaches workers that are already there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import IterableDataset, get_worker_info

from unmask.config.schema import CompositionConfig, MaskingConfig, RunConfig, StreamConfig
from unmask.config.step_sizes import StepSizes
from unmask.data.compose import PairTask
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.stream.blocks import TokenStore
from unmask.data.stream.ranks import check_place, rank_and_world_size
from unmask.data.stream.reading import Reading, continued
from unmask.data.stream.stream import Stream
from unmask.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["PackedDataset"]

_FORMAT = 1
_MOST_WORKERS = 1024
# they change who makes a micro-batch, not which one
_NOT_OF_THE_STREAM = {"stream.workers", "masking.place", "masking.similar_words", "masking.rate_steps"}


class PackedDataset(IterableDataset[Any]):
    """The micro-batches of a token store as an `IterableDataset`, with the protocol of torchdata's StatefulDataLoader.

    Training text comes without end by default: each epoch in another order with other masks. With `endless=False`, an
    iteration is one epoch, and the next iteration is the next epoch. `set_epoch` chooses the epoch in both cases.
    Held-out documents are always one epoch, with the same masks each time.

    Example:
        >>> import unmask
        >>> config = unmask.load_config("tiny", {"stream.micro_batch_tokens": 512})
        >>> dataset = unmask.PackedDataset.of_run("store", config)
        >>> next(iter(dataset)).ids.shape
        torch.Size([512])

    Args:
        store: path of a store, or the store.
        stream: lengths, capacities and the share of held-out documents. Default: those of `StreamConfig`. The
            DataLoader has the workers, so `stream.workers` has no effect.
        composition, masking, pair_task, seed: as in a run: `config.composition`, `config.masking`, what pairs are for,
            and `config.seed`. Masking `next_token` labels each token with the next one.
        split: the documents to train on, or the held-out ones.
        endless: whether epoch follows epoch in one iteration. Default: yes for training.
        flat: whether items are dictionaries of arguments for models of `transformers` (`unmask.data.flat`), instead of
            `PackedBatch`.
        rank, world_size: which share of the micro-batches this process gets. Default: of torch.distributed if it is
            initialised, else all of them.
        rate_over: micro-batches in which the mask rate goes from `masking.rate` to `masking.rate_end`; a run has
            `train.steps` times the micro-batches of a step.
        ordinary_ids: ids that a random replacement is drawn from. Default: those of the store's tokenizer.
    Raises:
        StoreError, ConfigError, CorpusError, TokenizerError: as for a run over this store with these settings.
        ValueError: arguments that contradict each other.
    """

    def __init__(
        self,
        store: str | Path | TokenStore,
        stream: StreamConfig | None = None,
        *,
        composition: CompositionConfig | None = None,
        masking: MaskingConfig | Literal["next_token"] | None = None,
        pair_task: PairTask = "nsp",
        seed: int = 0,
        split: Literal["train", "held_out"] = "train",
        endless: bool | None = None,
        flat: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        rate_over: int | None = None,
        ordinary_ids: npt.ArrayLike | None = None,
    ) -> None:
        _check(split, endless, flat, masking, rank, world_size, rate_over)
        self.store = _opened(store)
        self.endless = split == "train" and endless is not False
        self.split = split
        self.flat = flat
        self._place = None if rank is None or world_size is None else (rank, world_size)
        self._inherited = (0, 1)
        rule = MaskingConfig() if masking is None else masking
        similar_words = None
        if ordinary_ids is None or (rule != "next_token" and rule.similar_words is not None):
            tokenizer = self.store.load_tokenizer()  # type: ignore[attr-defined]
            ordinary_ids = tokenizer.ordinary_ids if ordinary_ids is None else ordinary_ids
            if rule != "next_token" and rule.similar_words is not None:
                similar_words = SimilarWords.load(rule.similar_words, tokenizer)
        self._arguments: dict[str, Any] = {
            "config": StreamConfig() if stream is None else stream,
            "ordinary_ids": ordinary_ids,
            "composition": CompositionConfig() if composition is None else composition,
            "masking": rule,
            "pair_task": pair_task,
            "seed": seed,
            "split": split,
            "rate_over": 1 if rate_over is None else rate_over,
            "similar_words": similar_words,
        }
        self._made: Stream | None = None
        # the next epoch of each worker; a worker counts its own on when it has read an epoch to the end
        self._epochs = torch.zeros(_MOST_WORKERS, dtype=torch.int64).share_memory_()
        self._loaded: dict[str, Any] | None = None
        self._reading: Reading | None = None
        self._lengths: dict[int, int] = {}
        self._facts = {"store": self.store.fingerprint, "fingerprint": self._stream.fingerprint}

    @classmethod
    def of_run(cls, store: str | Path | TokenStore, config: RunConfig, **options: Any) -> PackedDataset:
        """Return the dataset of the micro-batches that `unmask pretrain` makes of a store with these settings.

        Args:
            store: as for the class.
            config: the settings, of `unmask.load_config`; those of `train` and `model` decide nothing here.
            **options: `split`, `endless`, `flat`, `rank` and `world_size` of the class.
        Raises:
            ConfigError: the run has several phases, each of which has a stream of its own.
        """
        train, objective, masking = config.train, config.objective, config.masking
        if len(train.phases) > 1:
            raise ConfigError(
                f"PackedDataset: the run has {len(train.phases)} phases, each with a stream of its own; give "
                "train.phases [] for one at stream.max_length, or make a dataset for each"
            )
        steps = masking.rate_steps or train.steps
        if masking.rate_end is not None and steps is None:
            raise ConfigError(
                "PackedDataset: masking.rate_end needs masking.rate_steps or train.steps, in which the rate gets "
                "there, got None; give one of them, or leave masking.rate_end out"
            )
        stream = config.stream
        if train.phases:
            stream = replace(stream, max_length=train.phases[0].max_length)
        micro_batches = StepSizes.of(train, stream).before(steps or 0)
        return cls(
            store,
            stream,
            composition=config.composition,
            masking="next_token" if objective.clm > 0 else masking,
            pair_task="sop" if objective.sop > 0 else "nsp",
            seed=config.seed,
            rate_over=None if masking.rate_end is None else micro_batches,
            **options,
        )

    @property
    def _stream(self) -> Stream:
        if self._made is None:
            self._made = Stream(self.store, **self._arguments)
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what a process makes for itself; a store that is pickled is opened anew by its path."""
        return self.__dict__ | {"_made": None, "_reading": None, "_inherited": self._rank_and_world_size()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # a copy has memory of its own, which its workers share
        self._epochs.share_memory_()

    def __repr__(self) -> str:
        kind = "endless" if self.endless else "one epoch at a time"
        return f"<PackedDataset of {self.store!r}, split {self.split}, {kind}>"

    def __iter__(self) -> Iterator[Any]:
        """Begin a reading: where a loaded state says, else at the next epoch."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        rank, world_size = self._rank_and_world_size()
        state, self._loaded = self._loaded, None
        if state is None:
            # All workers count on together, if they did read their epochs to the end. After an iteration that was
            # broken off, the slowest worker decides, so that all begin the same epoch.
            state = self._state(epoch=int(self._epochs[:workers].min()))
        self._epochs[number] = state["epoch"]
        self._reading = Reading(
            self._stream.from_epoch(state["epoch"], endless=self.endless),
            continued(state, workers, world_size),
            first=rank + number * world_size,
            step=workers * world_size,
            rest=0 if self.endless or self._is_held_out else world_size - 1 - rank,
            flat=self.flat,
            ended=partial(self._count_on, number, state["epoch"]),
        )
        return self._reading

    def __len__(self) -> int:
        """Count the items of this process in the epoch that comes next; composing all of its sequences may take time.

        Raises:
            TypeError: the dataset is endless.
        """
        if self.endless:
            raise TypeError(
                "PackedDataset: an endless dataset has no length; give the trainer a number of steps (max_steps), or "
                "set endless=False to have an epoch in each iteration"
            )
        epoch = self.epoch
        if epoch not in self._lengths:
            self._lengths = {epoch: self._stream.from_epoch(epoch, endless=False).count()}
        rank, world_size = self._rank_and_world_size()
        # ranks of a training epoch have the same number; of held-out documents none is left out
        return (self._lengths[epoch] + (world_size - 1 - rank if self._is_held_out else 0)) // world_size

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration begins with."""
        return int(self._epochs[0]) if self._loaded is None else int(self._loaded["epoch"])

    def set_epoch(self, epoch: int) -> None:
        """Have the next iteration begin with an epoch; trainers call this. Held-out documents have epoch 0 only.

        Raises:
            ValueError: a loaded state, which is not used yet, lies in another epoch.
        """
        if epoch < 0:
            raise ValueError(f"PackedDataset: epoch must be at least 0, got {epoch}")
        if self._is_held_out:
            return
        if self._loaded is not None and self._loaded["epoch"] != epoch:
            raise ValueError(
                f"PackedDataset: the state that was loaded lies in epoch {self._loaded['epoch']}, but "
                f"set_epoch({epoch}) would leave it unused; call set_epoch({self._loaded['epoch']}), also of a loader "
                "that accelerate prepared, or load the state afterwards"
            )
        self._epochs.fill_(epoch)
        # a loader may have begun to read this epoch before it says which one it is
        if self._reading is not None and self._reading.epoch != epoch:
            self._reading = None

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last item, in numbers and text. A worker of a DataLoader has its own."""
        if self._loaded is not None:
            return dict(self._loaded)
        # A worker that has read its share keeps the end of this epoch, because other workers may not be there yet.
        if self._reading is None or (self._reading.over and get_worker_info() is None):
            return self._state(epoch=self.epoch)
        return self._reading.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next iteration continue where `state_dict` was called, with the same number of workers.

        Without workers, a state may be continued by other numbers of workers and ranks.

        Raises:
            StoreError: the state is of another store.
            ConfigError: the state is of other settings; the error names them.
            ValueError: it is no state of this class.
        """
        own = self._state(epoch=0)
        if not isinstance(state, dict) or not own.keys() <= state.keys() or state["format"] != _FORMAT:
            raise ValueError(
                f"PackedDataset: state must come from state_dict of a PackedDataset, format {_FORMAT}, got "
                f"{sorted(state) if isinstance(state, dict) else type(state).__name__}; of the state of a "
                "StatefulDataLoader, give the whole to the loader"
            )
        if state["store"] != own["store"]:
            raise StoreError(
                f"PackedDataset: the state is of another store ({state['store'][:12]}) than {self.store!r} "
                f"({own['store'][:12]}); open that store, or leave the state out to begin anew"
            )
        if state["fingerprint"] != own["fingerprint"] or state["endless"] != own["endless"]:
            here, there = (one["settings"] | {"endless": one["endless"]} for one in (own, state))
            other = [
                f"{name} {there.get(name)!r} (here {value!r})"
                for name, value in here.items()
                if there.get(name) != value
            ]
            raise ConfigError(
                "PackedDataset: the state is of other settings: "
                f"{', '.join(other) or 'another tokenizer or another table of similar words'}; make the dataset with "
                "them, or leave the state out to begin anew"
            )
        self._loaded = dict(state)
        self._reading = None

    def _count_on(self, worker: int, epoch: int) -> None:
        """Note that a worker has read an epoch to its end."""
        self._epochs[worker] = epoch + (0 if self._is_held_out else 1)

    @property
    def _is_held_out(self) -> bool:
        return self.split == "held_out"

    def _state(self, *, epoch: int) -> dict[str, Any]:
        """Return the state at the beginning of an epoch."""
        groups = {
            "stream": asdict(self._arguments["config"]),
            "composition": asdict(self._arguments["composition"]),
            "masking": {} if self._arguments["masking"] == "next_token" else asdict(self._arguments["masking"]),
        }
        settings = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
        settings |= {name: self._arguments[name] for name in ("pair_task", "seed", "split", "rate_over")}
        settings["masking"] = "next_token" if self._arguments["masking"] == "next_token" else "masked"
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
        return {
            "format": _FORMAT,
            **self._facts,
            "settings": {name: value for name, value in plain.items() if name not in _NOT_OF_THE_STREAM},
            "endless": self.endless,
            "epoch": epoch,
            "start": 0,
            "taken": 0,
            "workers": 1,
            "world_size": 1,
            "last": None,
        }

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self._place is not None:
            return self._place
        # a worker that was spawned knows no process group
        alone = self._inherited if get_worker_info() is not None else (0, 1)
        return rank_and_world_size("PackedDataset", setting="dispatch_batches=False", alone=alone)


def _opened(store: str | Path | TokenStore) -> TokenStore:
    if isinstance(store, (str, Path)):
        from unmask.data.store import Store

        return Store.open(store)
    return store


def _check(
    split: str,
    endless: bool | None,
    flat: bool,
    masking: MaskingConfig | str | None,
    rank: int | None,
    world_size: int | None,
    rate_over: int | None,
) -> None:
    if split not in ("train", "held_out"):
        raise ValueError(f"PackedDataset: split must be 'train' or 'held_out', got {split!r}")
    if split == "held_out" and endless:
        raise ValueError(
            "PackedDataset: held-out documents are one fixed epoch, but endless is True; leave endless out"
        )
    if flat and masking == "next_token":
        raise ValueError(
            "PackedDataset: flat must be False for masking 'next_token', since causal models of transformers shift "
            "labels themselves; leave flat out, and give them the ids alone"
        )
    check_place("PackedDataset", rank, world_size)
    scheduled = isinstance(masking, MaskingConfig) and masking.rate_end is not None
    if scheduled and rate_over is None:
        raise ValueError(
            "PackedDataset: rate_over must be given with masking.rate_end, got None; give the number of micro-batches "
            "in which the mask rate gets there"
        )
    if scheduled and endless is False:
        raise ValueError(
            "PackedDataset: endless must be True with masking.rate_end, since the rate is counted from the first "
            "micro-batch; leave endless out, or set masking.rate_end to None"
        )
