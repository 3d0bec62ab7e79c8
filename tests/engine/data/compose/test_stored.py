"""Expensive sequences are composed once for all workers, kept, and found again; nothing depends on it."""

import os
import time
from itertools import islice

import numpy as np
import pytest

from streams import make_stream
from unmask.config import CompositionConfig
from unmask.data.compose import bm25, composer
from unmask.data.compose.stored import StoredSequences
from unmask.data.stream.loader import Loader

pytestmark = pytest.mark.usefixtures("small_blocks")
LENGTHS = np.random.default_rng(5).integers(0, 70, 150)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """A file with a line for each block composed by BM25, in whatever process."""
    path = tmp_path / "calls"
    path.touch()
    real = bm25.Bm25.__call__

    def counted(self, block):
        with path.open("a") as file:
            file.write(f"epoch {block.readings[0]}, documents {block.documents.tolist()}\n")
        return real(self, block)

    monkeypatch.setattr(bm25.Bm25, "__call__", counted)
    return path


def stream(make_store, composed, lengths=LENGTHS, changes=None, **composition):
    settings = {"max_length": 32, "micro_batch_tokens": 128, "seed": 1} | (changes or {})
    chosen = CompositionConfig(strategy="bm25", **composition)
    return make_stream(make_store(lengths), **settings, composition=chosen, composed=composed)


def test_kept_sequences_give_the_same_batches(make_store, tmp_path):
    plain = islice(stream(make_store, None).batches(), 60)
    for composed in (tmp_path, tmp_path):
        for one, two in zip(stream(make_store, composed).batches(), plain, strict=False):
            assert one.ids.equal(two.ids)
            assert one.documents.keys.equal(two.documents.keys)


def test_workers_compose_each_block_once_between_them(make_store, tmp_path, calls):
    with Loader(stream(make_store, tmp_path), workers=4) as loader:
        blocks = {loader._stream.block_of(batch.cursor) for batch in islice(loader, 60)}
        assert len(blocks) > 4
        composed = calls.read_text().splitlines()
        assert len(set(composed)) == len(composed) >= len(blocks)


def test_a_block_is_ready_before_its_turn_and_removed_after_it(make_store, tmp_path, calls):
    with Loader(stream(make_store, tmp_path), workers=1, prefetch=1) as loader:
        next(loader)
        end = time.monotonic() + 600
        while len(list(tmp_path.glob("*.npz"))) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        assert len(list(tmp_path.glob("*.npz"))) >= 3
        for batch in loader:
            if loader._stream.block_of(batch.cursor) == 8:
                break
        end = time.monotonic() + 600
        while list(tmp_path.glob("*-0-0.npz")) and time.monotonic() < end:
            time.sleep(0.02)
        assert not list(tmp_path.glob("*-0-0.npz"))
    assert not loader._helpers[0].is_alive()


def test_both_scopes_share_what_is_kept_and_other_settings_do_not(make_store, tmp_path, calls):
    next(stream(make_store, tmp_path).batches())
    next(stream(make_store, tmp_path, scope="sequence").batches())
    assert len(calls.read_text().splitlines()) == 1
    changes = ({"seed": 2}, {"max_length": 33}, {"micro_batch_tokens": 130}, {"held_out_fraction": 0.3})
    streams = [
        stream(make_store, tmp_path, bm25_walk="star"),
        *(stream(make_store, tmp_path, changes=change) for change in changes),
        stream(make_store, tmp_path, lengths=LENGTHS[::-1]),
    ]
    for number, other in enumerate(streams, start=2):
        next(other.batches())
        assert len(calls.read_text().splitlines()) == number


def test_a_process_killed_while_it_composes_blocks_nobody(make_store, whole_block, tmp_path):
    block = whole_block(make_store(LENGTHS))
    child = os.fork()
    if child == 0:
        StoredSequences(tmp_path, "x").get(0, 0, lambda: os._exit(1))
    os.waitpid(child, 0)
    (tmp_path / "x-0-0.99.tmp").write_bytes(b"half")
    expected = composer(CompositionConfig(strategy="bm25"))(block)
    made = StoredSequences(tmp_path, "x").get(0, 0, lambda: expected)
    again = StoredSequences(tmp_path, "x").get(0, 0, pytest.fail)
    for name in ("owners", "starts", "lengths", "keys", "firsts"):
        assert np.array_equal(getattr(made, name), getattr(again, name))
    assert again.pair_labels is None


def test_without_a_folder_to_write_to_sequences_are_composed_all_the_same(make_store, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="sequences cannot be kept in"):
        batch = next(stream(make_store, tmp_path / "file").batches())
    assert batch.ids.equal(next(stream(make_store, None).batches()).ids)
