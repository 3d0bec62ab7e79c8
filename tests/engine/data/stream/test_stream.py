"""The stream is a function of its address: every start, rank and restart sees the same batches."""

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import make_stream
from unmask.batch import Cursor
from unmask.config import MaskingConfig
from unmask.data.store.memory import MemoryStore
from unmask.data.store.writer import StoredDocument, write_store
from unmask.data.stream import blocks
from unmask.errors import ConfigError, CorpusError

VOCAB = 500
LENGTHS = np.random.default_rng(5).integers(0, 70, 300)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks of 32 documents, so that a small corpus has several."""
    monkeypatch.setattr(blocks, "GROUP_DOCUMENTS", 8)
    monkeypatch.setattr(blocks, "_MIN_GROUPS", 4)
    monkeypatch.setattr(blocks, "_MEAN_BATCHES", 1)


def corpus(lengths=LENGTHS, seed=0):
    ids = np.random.default_rng(seed).integers(5, VOCAB, int(np.sum(lengths))).astype(np.uint16)
    return MemoryStore(ids, lengths, vocab_size=VOCAB, source_of=np.arange(len(lengths)) % 3)


SETTINGS = {
    "max_length": 32,
    "micro_batch_tokens": 128,
    "max_documents": 40,
    "masked_slots": 40,
    "seed": 1,
    "held_out_fraction": 0.1,
}


def stream(store=None, **changes):
    return make_stream(corpus() if store is None else store, **(SETTINGS | changes))


def content(batch):
    """Original tokens of a batch's pieces without [CLS] and [SEP], as tuples."""
    ids = batch.ids.clone()
    used = batch.labels >= 0
    ids[batch.masked[used]] = batch.labels[used]
    edges = batch.documents.cu_seqlens.tolist()
    pieces = [tuple(ids[a:b].tolist()) for a, b in pairwise(edges) if b <= batch.real_tokens]
    pieces = [piece for piece in pieces if piece]
    assert all(piece[0] == 2 and piece[-1] == 3 and len(piece) > 2 for piece in pieces)
    return [piece[1:-1] for piece in pieces]


def same(one, two):
    for name in ("ids", "segments", "word_starts", "masked", "labels"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert torch.equal(one.documents.cu_seqlens, two.documents.cu_seqlens)
    assert torch.equal(one.documents.keys, two.documents.keys)
    assert (one.cursor, one.real_tokens) == (two.cursor, two.real_tokens)


def test_every_token_of_the_split_comes_once_in_each_epoch():
    store = corpus()
    ours = stream(store)
    kept = np.flatnonzero(~store.held_out_mask(0.1))
    expected = Counter()
    for document in kept:
        first, last = store.offsets[document], store.offsets[document + 1]
        expected.update(store.ids[first:last].tolist())
    epochs = [Counter(), Counter()]
    for batch in ours.batches():
        if batch.cursor.epoch == 2:
            break
        epochs[batch.cursor.epoch].update(token for piece in content(batch) for token in piece)
    assert epochs == [expected, expected]


def test_batches_have_the_capacities_and_inert_padding():
    for batch in islice(stream().batches(), 60):
        assert batch.ids.shape == batch.word_starts.shape == (128,)
        assert batch.masked.shape == batch.labels.shape == (40,)
        assert batch.documents.cu_seqlens.shape == (41,)
        assert int(batch.documents.cu_seqlens[-1]) == 128
        assert int(batch.documents.cu_seqlens.diff().max()) <= 32
        assert (batch.ids[batch.real_tokens :] == 0).all()
        used = batch.labels >= 0
        assert (batch.masked[used] < batch.real_tokens).all()
        assert (batch.labels[used] > 4).all()


def test_words_begin_at_specials_and_at_the_front_of_a_piece():
    store = corpus()
    store.word_starts[:] = False
    batch = next(stream(store).batches())
    real = batch.real_tokens
    special = (batch.ids == 2) | (batch.ids == 3)
    after_cls = torch.roll(batch.ids == 2, 1)
    assert torch.equal(batch.word_starts[:real], (special | after_cls)[:real])


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 260))
def test_a_stream_begun_anywhere_equals_the_uninterrupted_one(start, uninterrupted):
    for one, two in zip(islice(stream().batches(start), 3), uninterrupted[start : start + 3], strict=True):
        same(one, two)


@pytest.fixture(scope="module")
def uninterrupted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "GROUP_DOCUMENTS", 8)
        patch.setattr(blocks, "_MIN_GROUPS", 4)
        patch.setattr(blocks, "_MEAN_BATCHES", 1)
        return list(islice(stream().batches(), 270))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_together_see_what_one_rank_sees(world_size, uninterrupted):
    for rank in range(world_size):
        own = islice(stream().batches(4, rank=rank, world_size=world_size), 200 // world_size)
        for one, two in zip(own, uninterrupted[4 + rank :: world_size], strict=False):
            same(one, two)


def test_remembered_cursors_make_seeking_plan_one_block_only(monkeypatch, uninterrupted):
    index, cursor = 250, uninterrupted[250].cursor
    assert cursor.epoch > 0
    ours = stream()
    ours.remember(index, cursor)
    planned = []
    real = ours._planner.plan
    monkeypatch.setattr(ours._planner, "plan", lambda *where: planned.append(where) or real(*where))
    same(next(ours.batches(index)), uninterrupted[index])
    assert planned == [(cursor.epoch, cursor.block)]


def test_locate_tells_the_cursor_of_every_batch(uninterrupted):
    ours = stream()
    for index in (269, 0, 100, 57):
        assert ours.locate(index) == uninterrupted[index].cursor
    with pytest.raises(ValueError, match="index must be at least 0, got -1"):
        ours.locate(-1)


def test_a_cursor_of_another_stream_is_refused():
    ours = stream()
    ours.locate(10)
    with pytest.raises(ValueError, match="block 0 must begin at micro-batch 0, was said to begin at 3"):
        ours.remember(3, Cursor(0, 0, 0))


def test_held_out_documents_come_in_one_epoch_and_never_in_training():
    store = corpus()
    held_out = list(stream(store, split="held_out").batches())
    expected = store.lengths[store.held_out_mask(0.1)].sum()
    assert sum(len(piece) for batch in held_out for piece in content(batch)) == expected
    long_pieces = {piece for batch in held_out for piece in content(batch) if len(piece) > 4}
    training = stream(store)
    one_epoch = [content(b) for b in islice(training.batches(), 200) if b.cursor.epoch == 0]
    assert long_pieces
    assert not long_pieces & {piece for pieces in one_epoch for piece in pieces}


def test_evaluation_does_not_depend_on_the_seed_of_training():
    for one, two in zip(
        stream(split="held_out", seed=1).batches(), stream(split="held_out", seed=2).batches(), strict=True
    ):
        same(one, two)
    assert stream(split="held_out", seed=1).fingerprint == stream(split="held_out", seed=2).fingerprint


def test_ranks_share_the_held_out_epoch():
    whole = list(stream(split="held_out").batches())
    shared = [b for rank in range(3) for b in stream(split="held_out").batches(rank=rank, world_size=3)]
    assert sorted(b.cursor for b in shared) == [b.cursor for b in whole]
    with pytest.raises(IndexError, match=f"index must be below {len(whole)}"):
        stream(split="held_out").locate(len(whole))


def test_fingerprints_tell_streams_apart():
    base = stream().fingerprint
    assert base == stream().fingerprint
    changes = [
        {"micro_batch_tokens": 129},
        {"max_documents": 41},
        {"masked_slots": 41},
        {"max_length": 31},
        {"seed": 2},
        {"masking": MaskingConfig(rate=0.16)},
        {"masking": MaskingConfig(rate_end=0.16)},
        {"masking": MaskingConfig(rate_end=0.16), "rate_over": 9},
        {"masking": MaskingConfig(split=(1.0, 0.0, 0.0))},
        {"masking": MaskingConfig(strategy="whole_word")},
        {"masking": MaskingConfig(static_masks=2)},
        {"held_out_fraction": 0.2},
        {"split": "held_out"},
        {"store": corpus(seed=1)},
    ]
    found = {stream(**change).fingerprint for change in changes}
    # and so does another set of ids that a random replacement is drawn from
    found.add(stream(ordinary_ids=corpus().ordinary_ids[1:]).fingerprint)
    assert len({base, *found}) == len(changes) + 2


def test_how_many_workers_make_the_batches_is_no_part_of_the_fingerprint():
    assert stream(workers=3).fingerprint == stream().fingerprint


def test_masks_differ_from_epoch_to_epoch():
    store = corpus(lengths=[30] * 4)
    ours = stream(store, held_out_fraction=0.0)
    chosen = Counter()
    for batch in islice(ours.batches(), 20):
        chosen.update(batch.masked[batch.labels >= 0].tolist())
    assert len(chosen) > 80


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_length": 2}, ConfigError, "max_length must be at least 3, got 2"),
        (
            {"masked_slots": 4},
            ConfigError,
            r"4 masked tokens .* too few for one piece of max_length \(32\), which has 5; give at least that many",
        ),
        (
            {"micro_batch_tokens": 10**6, "max_documents": None, "masked_slots": None},
            CorpusError,
            r"the corpus has \d+ tokens in \d+ documents, .* lower stream.micro_batch_tokens to at most \d+",
        ),
        (
            {"split": "held_out", "held_out_fraction": 0.0},
            CorpusError,
            r"the held_out split must hold documents, .* change stream.held_out_fraction \(0.0\)",
        ),
    ],
)
def test_refuses_what_cannot_work_with_the_way_out(changes, error, message):
    with pytest.raises(error, match=message):
        stream(**changes)


def test_an_empty_corpus_is_refused():
    with pytest.raises(CorpusError, match="none of 3 is in it; add text, cut it into more documents"):
        stream(corpus(lengths=[0, 0, 0]))


def test_a_single_document_is_told_to_be_cut_and_nothing_that_does_not_help():
    with pytest.raises(CorpusError, match=r"a document a line: jq -cR '{text: \.}' TEXT\.txt > TEXT\.jsonl\)$"):
        stream(corpus(lengths=[0]))


def test_a_corpus_smaller_than_a_piece_is_not_told_to_lower_the_micro_batch():
    with pytest.raises(CorpusError, match=r"has 7 tokens in 1 document, fewer than one micro-batch of 128; add text$"):
        stream(corpus(lengths=[5]), held_out_fraction=0.0)


def test_a_store_on_disk_gives_the_batches_of_the_same_text_in_memory(tmp_path):
    memory = corpus(lengths=[n for n in LENGTHS if n])
    spans = list(pairwise(memory.offsets))
    documents = [
        StoredDocument(
            ids=memory.ids[first:last],
            source=memory.sources[memory.source_of[number]],
            content_hash=(number << 64) // len(spans),
            word_starts=memory.word_starts[first:last],
        )
        for number, (first, last) in enumerate(spans)
    ]
    disk = write_store(
        tmp_path / "store",
        documents,
        tokenizer_hash="0" * 64,
        vocab_size=VOCAB,
        special_ids=memory.special_ids,
        sources=memory.sources,
        batch_documents=50,
    )
    ours = stream(disk, held_out_fraction=0.0, ordinary_ids=memory.ordinary_ids)
    for one, two in islice(zip(ours.batches(), stream(memory, held_out_fraction=0.0).batches(), strict=False), 150):
        same(one, two)
    training, held_out = (
        make_stream(
            disk,
            max_length=32,
            held_out_fraction=0.2,
            micro_batch_tokens=128,
            ordinary_ids=memory.ordinary_ids,
            split=split,
        )
        for split in ("train", "held_out")
    )
    assert training.tokens_per_epoch + held_out.tokens_per_epoch == ours.tokens_per_epoch
