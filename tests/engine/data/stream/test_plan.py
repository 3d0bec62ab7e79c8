"""Blocks: every token once an epoch, nothing over a capacity, little room wasted, sources mixed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.documents import LengthCounts, Members, Selection
from unmask.data.stream import blocks
from unmask.data.stream.blocks import Source
from unmask.data.stream.plan import Capacities, Planner, pack_sequences


def planner(lengths, capacities, *, seed=3, source_of=None):
    lengths = np.asarray(lengths)
    source_of = np.zeros(lengths.size, dtype=int) if source_of is None else source_of
    sources = []
    for number in range(source_of.max() + 1):
        members = np.flatnonzero(source_of == number)
        sources.append(whole_source(members, lengths))
    return Planner(sources, lengths, capacities, mask_counts(capacities.max_length), seed=seed)


def whole_source(documents, lengths):
    none = np.zeros(0, dtype=np.int64)
    chosen = Selection(Members.of(documents), none, all_but=True)
    return Source(documents=chosen, lengths=LengthCounts.of(lengths[documents]))


def mask_counts(max_length):
    return np.maximum(1, np.arange(max_length + 1) * 3 // 20)


def roomy(tokens, max_length):
    return Capacities(tokens=tokens, sequences=tokens, masked=tokens, max_length=max_length)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two runs of eight documents, so that a small corpus has several."""
    monkeypatch.setattr(blocks, "GROUP_DOCUMENTS", 8)
    monkeypatch.setattr(blocks, "_MIN_GROUPS", 2)
    monkeypatch.setattr(blocks, "_MEAN_BATCHES", 1)


def spans(planner_, epoch):
    """Every (document, start, length) of an epoch."""
    plans = [planner_.plan(epoch, block) for block in range(planner_.blocks)]
    return [
        span for p in plans for span in zip(p.documents.tolist(), p.starts.tolist(), p.lengths.tolist(), strict=True)
    ]


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 90), min_size=60, max_size=120),
    max_length=st.integers(3, 40),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_every_token_comes_exactly_once_an_epoch(lengths, max_length, epoch, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "GROUP_DOCUMENTS", 8)
        patch.setattr(blocks, "_MIN_GROUPS", 2)
        source = st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths))
        planner_ = planner(lengths, roomy(64, max_length), source_of=np.array(data.draw(source)))
        covered = [np.zeros(n, dtype=int) for n in lengths]
        for document, start, length in spans(planner_, epoch):
            assert 0 < length <= max_length - 2
            covered[document][start : start + length] += 1
        assert all((tokens == 1).all() for tokens in covered)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(3, 32), min_size=1, max_size=200),
    tokens=st.integers(32, 200),
    more_slots=st.integers(0, 20),
    more_masked=st.integers(0, 20),
)
def test_no_micro_batch_overflows_a_capacity(sizes, tokens, more_slots, more_masked):
    sizes = np.array(sizes)
    masked = mask_counts(32)[sizes]
    room = Capacities(
        tokens=tokens, sequences=1 + -(-(tokens - 3) // 32) + more_slots, masked=4 + more_masked, max_length=32
    )
    order, bounds = pack_sequences(sizes, masked, room)
    assert np.array_equal(np.sort(order), np.arange(sizes.size))
    assert (np.diff(bounds) > 0).all()
    for first, last in itertools.pairwise(bounds):
        inside = order[first:last]
        real = sizes[inside].sum()
        assert real <= tokens
        assert masked[inside].sum() <= room.masked
        assert inside.size + -(-(tokens - real) // 32) <= room.sequences


def test_a_piece_that_fits_nowhere_is_named():
    small = Capacities(tokens=8, sequences=9, masked=9, max_length=8)
    with pytest.raises(ValueError, match="a sequence of 9 tokens, 1 of them masked, in 1 documents must fit"):
        pack_sequences(np.array([9]), np.array([1]), small)


@pytest.mark.parametrize(("tokens", "max_length"), [(4096, 512), (16_384, 512), (8192, 128)])
def test_less_than_one_percent_of_the_room_is_wasted(tokens, max_length):
    lengths = np.random.default_rng(0).lognormal(np.log(300) - 0.5, 1.0, 12_000).astype(int) + 1
    capacities = Capacities(
        tokens=tokens, sequences=tokens // 16, masked=int(1.02 * 0.15 * tokens) + 16, max_length=max_length
    )
    planned = planner(lengths, capacities).plan(0, 0)
    # the last micro-batch of a block is what remains
    filled = (planned.lengths + 2)[: planned.bounds[-2]].sum() / (len(planned) - 1) / tokens
    assert filled >= 0.99


def test_documents_are_cut_evenly_into_as_few_pieces_as_fit():
    lengths = np.array([1, 510, 511, 1020, 5001])
    planned = planner(lengths, roomy(4096, 512)).plan(0, 0)
    parts = {d: np.sort(planned.lengths[planned.documents == d]).tolist() for d in range(5)}
    assert parts[0] == [1]
    assert parts[1] == [510]
    assert parts[2] == [255, 256]
    assert parts[3] == [510, 510]
    assert len(parts[4]) == 10
    assert max(parts[4]) - min(parts[4]) <= 1


def test_pieces_have_their_own_keys_in_every_epoch():
    planner_ = planner(np.full(500, 40), roomy(256, 22))
    keys = [planner_.plan(epoch, 0).keys for epoch in range(3)]
    assert np.unique(np.concatenate(keys)).size == 3 * 1000


def test_keys_do_not_depend_on_capacities_or_seed():
    lengths = np.arange(1, 400)
    one = planner(lengths, roomy(1000, 500), seed=1).plan(2, 0)
    two = planner(lengths, roomy(5000, 500), seed=9).plan(2, 0)
    by_document = [dict(zip(p.documents.tolist(), p.keys.tolist(), strict=True)) for p in (one, two)]
    assert by_document[0] == by_document[1]


def test_keys_do_not_depend_on_what_other_sources_hold():
    def keys(before):
        source_of = np.repeat([0, 1], [before, 20])
        plan = planner(np.full(before + 20, 7), roomy(1000, 16), source_of=source_of).plan(0, 0)
        own = plan.documents >= before
        return dict(zip((plan.documents[own] - before).tolist(), plan.keys[own].tolist(), strict=True))

    assert keys(5) == keys(9)


def test_epochs_and_seeds_differ_in_order_and_repeat_themselves():
    lengths = np.full(300, 20)
    first = planner(lengths, roomy(256, 32)).plan(0, 0).documents
    np.testing.assert_array_equal(first, planner(lengths, roomy(256, 32)).plan(0, 0).documents)
    for seed, epoch in ((3, 1), (4, 0)):
        other = planner(lengths, roomy(256, 32), seed=seed).plan(epoch, 0)
        assert np.count_nonzero(first == other.documents) < 15


@pytest.mark.usefixtures("small_blocks")
def test_epochs_seeds_and_sources_differ_in_which_documents_share_a_block():
    lengths, source_of = np.full(320, 20), np.repeat([0, 1], 160)
    base = planner(lengths, roomy(64, 32), source_of=source_of)
    first = set(base.plan(0, 0).documents.tolist())
    assert len(first) == 16
    others = [base.plan(1, 0), planner(lengths, roomy(64, 32), source_of=source_of, seed=4).plan(0, 0)]
    assert all(len(first & set(other.documents.tolist())) < 8 for other in others)
    # the second source is not in the order of the first
    assert {document - 160 for document in first if document >= 160} != {d for d in first if d < 160}


@pytest.mark.usefixtures("small_blocks")
def test_blocks_hold_their_share_of_every_source():
    source_of = np.repeat([0, 1], [256, 64])
    planner_ = planner(np.full(320, 10), roomy(64, 16), source_of=source_of)
    assert planner_.blocks == 20
    shares = [np.bincount(source_of[planner_.plan(0, w).documents], minlength=2) for w in range(20)]
    assert all(sum(share) == 16 for share in shares)
    # a fifth of the documents is of the second source; runs of eight come whole
    assert {int(share[1]) for share in shares} <= {0, 8}
    for quarter in range(4):
        assert sum(int(share[1]) for share in shares[5 * quarter : 5 * quarter + 5]) == 16


@pytest.mark.usefixtures("small_blocks")
def test_a_block_holds_at_least_its_runs_and_its_batches():
    lengths = np.full(1000, 10)
    few = planner(lengths, roomy(64, 16))
    assert few.blocks == 125 // 2
    many = planner(lengths, roomy(800, 16))
    sizes = [many.plan(0, w).lengths.sum() for w in range(many.blocks)]
    assert len(sizes) == 12
    assert min(sizes) >= 800


def test_a_source_without_documents_is_passed_over():
    lengths = np.full(5, 7)
    empty, full = whole_source(np.zeros(0, dtype=np.int64), lengths), whole_source(np.arange(5), lengths)
    planner_ = Planner([empty, full], lengths, roomy(64, 16), mask_counts(16), seed=0)
    assert sorted(planner_.plan(0, 0).documents.tolist()) == [0, 1, 2, 3, 4]
