import numpy as np

from unmask.data.store.memory import MemoryStore
from unmask.planning.lengths import lengths_of, micro_batch_lengths


def test_lengths_are_those_of_the_pieces_of_a_store() -> None:
    store = MemoryStore.generated([10, 0, 100, 30], vocab_size=50)
    # 100 tokens in pieces of at most 62, with [CLS] and [SEP]
    assert sorted(lengths_of(store, 64)) == [12, 32, 52, 52]  # type: ignore[arg-type]
    assert lengths_of(store, 64) == lengths_of(store, 64)  # type: ignore[arg-type]


def test_without_text_every_sequence_is_the_longest() -> None:
    assert lengths_of(None, 128) == [128]
    assert lengths_of(MemoryStore.generated([0], vocab_size=50), 128) == [128]  # type: ignore[arg-type]


def test_lengths_fill_a_micro_batch_exactly() -> None:
    assert micro_batch_lengths([30, 50], 128) == [30, 50, 30, 18]
    assert micro_batch_lengths([128], 256) == [128, 128]


def test_a_large_store_is_sampled() -> None:
    store = MemoryStore.generated(np.full(20_000, 5), vocab_size=50)
    assert lengths_of(store, 64) == [7] * 4096  # type: ignore[arg-type]
