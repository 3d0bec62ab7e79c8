"""What every strategy promises of its sequences, on corpora with empty, tiny and overlong documents."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unmask.config import CompositionConfig
from unmask.data.compose import composer
from unmask.data.store.memory import MemoryStore

WHOLE = ["documents", "doc_sentences", "full_sentences", "mix", "uni", "bm25", "best_fit"]
OF_ONE_SOURCE = ["documents", "doc_sentences", "uni", "bm25"]

relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def compose(strategy, block):
    return composer(CompositionConfig(strategy=strategy))(block)


def sizes(sequences):
    """Tokens of each sequence with its special ones."""
    return sequences.costs(np.zeros(10_000, dtype=np.int64))[0]


@pytest.mark.parametrize("strategy", WHOLE)
@relaxed
@given(data=st.data(), max_length=st.integers(3, 64))
def test_every_token_comes_exactly_once(strategy, data, max_length, corpora, whole_block):
    store = data.draw(corpora)
    block = whole_block(store, max_length)
    sequences = compose(strategy, block)
    covered = [np.zeros(n, dtype=int) for n in block.lengths]
    for owner, start, length in zip(sequences.owners, sequences.starts, sequences.lengths, strict=True):
        assert length > 0
        covered[owner][start : start + length] += 1
    assert all((tokens == 1).all() for tokens in covered)
    assert (sizes(sequences) <= max_length).all()
    assert (np.diff(sequences.firsts) > 0).all()
    assert (sequences.firsts[0], sequences.firsts[-1]) == (0, len(sequences.owners))
    assert np.unique(sequences.keys).size == sequences.keys.size


@pytest.mark.parametrize("strategy", OF_ONE_SOURCE)
@relaxed
@given(data=st.data(), max_length=st.integers(3, 64))
def test_sequences_never_mix_sources(strategy, data, max_length, corpora, whole_block):
    block = whole_block(data.draw(corpora), max_length)
    sequences = compose(strategy, block)
    for first, last in pairwise(sequences.firsts):
        assert np.unique(block.sources[sequences.owners[first:last]]).size == 1


@pytest.mark.parametrize("strategy", ["mix", "uni"])
@relaxed
@given(data=st.data(), max_length=st.integers(8, 64))
def test_streams_are_cut_where_the_sequence_is_full_and_nowhere_else(strategy, data, max_length, corpora, whole_block):
    block = whole_block(data.draw(corpora), max_length)
    sequences = compose(strategy, block)
    streams = 1 if strategy == "mix" else np.unique(block.sources).size
    assert np.count_nonzero(sizes(sequences) < max_length - 2) <= streams
    # a stretch that does not reach the end of its document is the last of a full sequence
    unfinished = np.flatnonzero(sequences.starts + sequences.lengths < block.lengths[sequences.owners])
    assert set(unfinished + 1) <= set(sequences.firsts)
    assert (sizes(sequences)[np.searchsorted(sequences.firsts, unfinished + 1) - 1] == max_length).all()


@pytest.mark.parametrize("strategy", ["mix", "full_sentences"])
def test_sources_are_mixed_in_one_random_order(strategy, make_store, whole_block):
    block = whole_block(make_store([10] * 90), max_length=48)
    sequences = compose(strategy, block)
    kinds = [np.unique(block.sources[sequences.owners[a:b]]).size for a, b in pairwise(sequences.firsts)]
    assert np.mean(kinds) > 1.5
    other = compose(strategy, whole_block(make_store([10] * 90), max_length=48, seed=2))
    assert np.count_nonzero(other.owners == sequences.owners) < 20


@pytest.mark.parametrize("strategy", WHOLE)
def test_sequences_are_a_function_of_seed_and_reading(strategy, make_store, whole_block):
    store = make_store(list(range(1, 90)))
    first, again, later = (compose(strategy, whole_block(store, reading=reading)) for reading in (0, 0, 1))
    for name in ("owners", "starts", "lengths", "keys", "firsts"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.isin(later.keys, first.keys).any()


@pytest.mark.parametrize("strategy", WHOLE)
def test_no_documents_give_no_sequences(strategy, make_store, whole_block):
    sequences = compose(strategy, whole_block(make_store([0, 0])))
    assert len(sequences.owners) == 0
    assert sequences.firsts.tolist() == [0]
    assert sizes(sequences).size == 0


@pytest.mark.parametrize("strategy", ["doc_sentences", "full_sentences"])
@relaxed
@given(data=st.data(), max_length=st.integers(8, 64))
def test_only_sentences_too_long_for_a_sequence_are_cut(strategy, data, max_length, corpora, whole_block):
    block = whole_block(data.draw(corpora), max_length)
    sequences = compose(strategy, block)
    for owner, start, length in zip(sequences.owners, sequences.starts, sequences.lengths, strict=True):
        first = block.text.offsets[block.documents[owner]]
        flags = block.text.sentence_starts[first : first + block.lengths[owner]]
        for cut in (start, start + length):
            if cut in (0, block.lengths[owner]) or flags[cut]:
                continue
            begin = cut - np.argmax(flags[cut::-1])
            after = np.flatnonzero(flags[cut:])
            end = cut + after[0] if after.size else block.lengths[owner]
            assert end - begin > max_length - 2


@relaxed
@given(data=st.data(), max_length=st.integers(8, 64))
def test_a_sequence_of_sentences_closes_only_before_one_that_does_not_fit(data, max_length, corpora, whole_block):
    block = whole_block(data.draw(corpora), max_length)
    sequences = compose("doc_sentences", block)
    taken = sizes(sequences)
    for p, (one, two) in enumerate(pairwise(sequences.owners)):
        if one != two:
            continue
        first = block.text.offsets[block.documents[one]]
        flags = block.text.sentence_starts[first : first + block.lengths[one]]
        start = sequences.starts[p + 1]
        after = np.flatnonzero(flags[start + 1 :])
        end = start + 1 + after[0] if after.size else block.lengths[one]
        if end - start <= max_length - 2 and flags[start]:
            assert taken[p] + end - start > max_length


def test_sentences_of_several_documents_fill_a_sequence_to_the_last_token(whole_block):
    store = MemoryStore.generated([6] * 40, vocab_size=50)
    sequences = compose("full_sentences", whole_block(store, 4 * (6 + 2)))
    assert np.diff(sequences.firsts).tolist() == [4] * 10


def test_best_fit_takes_the_sequence_that_has_the_least_room(whole_block):
    # with their special tokens 17, 14 and 3 of 20 tokens: the last fills the first to the end
    block = whole_block(MemoryStore.generated([15, 12, 1], vocab_size=50), 20)
    sequences = compose("best_fit", block)
    lengths = np.split(block.lengths[sequences.owners], sequences.firsts[1:-1])
    assert sorted(sorted(one.tolist()) for one in lengths) == [[1, 15], [12]]


@relaxed
@given(data=st.data(), max_length=st.integers(3, 64))
def test_best_fit_cuts_only_what_is_too_long_and_opens_few_sequences(data, max_length, corpora, whole_block):
    block = whole_block(data.draw(corpora), max_length)
    sequences = compose("best_fit", block)
    room = max_length - 2
    assert (sequences.starts % room == 0).all()
    assert (sequences.lengths == np.minimum(room, block.lengths[sequences.owners] - sequences.starts)).all()
    # any two sequences together hold more than one can, or the later one would not have been opened
    taken = np.sort(sizes(sequences))
    assert taken.size < 2 or taken[0] + taken[1] > max_length


def test_best_fit_needs_hardly_more_sequences_than_cutting_every_l_tokens(make_store, whole_block):
    lengths = np.random.default_rng(0).lognormal(np.log(200), 1.0, 2000).astype(int) + 1
    sequences = compose("best_fit", whole_block(make_store(lengths), 512))
    assert len(sequences.firsts) - 1 <= 1.01 * (sequences.lengths + 2).sum() / 512
