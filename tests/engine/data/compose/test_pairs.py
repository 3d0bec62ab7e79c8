"""Pairs are built as the published code builds them, draw by draw, and their labels come at its rates."""

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams import make_stream
from unmask.config import CompositionConfig
from unmask.data.compose import composer
from unmask.data.compose.pairs import Draws
from unmask.data.randomness import PAIRS
from unmask.data.store.memory import MemoryStore
from unmask.errors import ConfigError, CorpusError

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pairs(block, task="nsp", short_pairs=0.1):
    return composer(CompositionConfig(strategy="pairs", short_pairs=short_pairs), task)(block)


def sentences(block, max_length):
    """Every document as a list of sentences, a sentence as a list of (document, token); long ones in even parts."""
    documents = []
    for number, document in enumerate(block.documents):
        first, last = block.text.offsets[document : document + 2]
        begins = [t for t in range(last - first) if t == 0 or block.text.sentence_starts[first + t]]
        parts = []
        for a, b in pairwise([*begins, last - first]):
            n = -(-(b - a) // max_length)
            cuts = [a + i * (b - a) // n for i in range(n + 1)]
            parts += [[(number, t) for t in range(c, d)] for c, d in pairwise(cuts)]
        documents.append(parts)
    return documents


def published(block, short_pairs):
    """The pairs of all documents, token by token, in the order of steps of BERT's create_pretraining_data.py."""
    room = block.max_length - 3
    documents = sentences(block, room)
    made = []
    for number, document in enumerate(documents):
        draws = Draws(int(block.draws(PAIRS)[number]))
        target = room
        if draws.chance(short_pairs):
            target = 2 + draws.below(room - 1)
        stretch, i = [], 0
        while i < len(document):
            stretch.append(document[i])
            if i == len(document) - 1 or sum(map(len, stretch)) >= target:
                a_end = 1 if len(stretch) == 1 else 1 + draws.below(len(stretch) - 1)
                a = [token for sentence in stretch[:a_end] for token in sentence]
                b, random = [], len(stretch) == 1 or draws.chance(0.5)
                if random:
                    for _ in range(10):
                        other = draws.below(len(documents))
                        if other != number:
                            break
                    for sentence in documents[other][draws.below(len(documents[other])) :]:
                        b += sentence
                        if len(b) >= target - len(a):
                            break
                    i -= len(stretch) - a_end
                else:
                    b = [token for sentence in stretch[a_end:] for token in sentence]
                while len(a) + len(b) > room:
                    longer = a if len(a) > len(b) else b
                    longer.pop(0 if draws.coin() else -1)
                made.append((a, b, int(random)))
                stretch = []
            i += 1
    return made


def as_tokens(sequences):
    spans = [
        [(int(owner), t) for t in range(start, start + length)]
        for owner, start, length in zip(sequences.owners, sequences.starts, sequences.lengths, strict=True)
    ]
    return [(spans[2 * p], spans[2 * p + 1], int(label)) for p, label in enumerate(sequences.pair_labels)]


@relaxed
@given(data=st.data(), max_length=st.integers(5, 64), short=st.sampled_from([0.0, 0.1, 1.0]), seed=st.integers(0, 99))
def test_nsp_pairs_are_those_of_the_published_code(data, max_length, short, seed, corpora, whole_block):
    block = whole_block(data.draw(corpora), max_length, seed=seed)
    if len(block):
        assert as_tokens(pairs(block, short_pairs=short)) == published(block, short)


@pytest.mark.parametrize("task", ["nsp", "sop"])
@relaxed
@given(data=st.data(), max_length=st.integers(5, 64))
def test_pairs_fit_and_neither_segment_is_empty(task, data, max_length, corpora, whole_block):
    sequences = pairs(whole_block(data.draw(corpora), max_length), task)
    assert (sequences.costs(np.zeros(max_length + 1, dtype=np.int64))[0] <= max_length).all()
    assert (sequences.lengths > 0).all()
    assert (np.diff(sequences.firsts) == 2).all()
    assert len(sequences.firsts) == len(sequences.pair_labels) + 1
    assert np.unique(sequences.keys).size == sequences.pair_labels.size


@relaxed
@given(data=st.data(), max_length=st.integers(5, 64))
def test_sop_takes_two_neighbours_of_one_document_and_swaps_those_of_label_1(data, max_length, corpora, whole_block):
    sequences = pairs(whole_block(data.draw(corpora), max_length), "sop")
    ends = sequences.starts + sequences.lengths
    for p, label in enumerate(sequences.pair_labels):
        first, second = (2 * p + 1, 2 * p) if label else (2 * p, 2 * p + 1)
        assert sequences.owners[first] == sequences.owners[second]
        assert ends[first] <= sequences.starts[second]
        # they touch unless a token was taken away for want of room
        if sequences.lengths[first] + sequences.lengths[second] < max_length - 3:
            assert ends[first] == sequences.starts[second]


@relaxed
@given(data=st.data())
def test_sop_with_room_enough_holds_every_token_once_but_lone_words(data, corpora, whole_block):
    block = whole_block(data.draw(corpora), 1000)
    sequences = pairs(block, "sop", short_pairs=0.0)
    covered = [np.zeros(n, dtype=int) for n in block.lengths]
    for owner, start, length in zip(sequences.owners, sequences.starts, sequences.lengths, strict=True):
        covered[owner][start : start + length] += 1
    for tokens, document in zip(covered, block.documents, strict=True):
        first, last = block.text.offsets[document : document + 2]
        words = 1 + block.text.word_starts[first + 1 : last].sum()
        assert (tokens == (words > 1)).all()


@pytest.mark.parametrize("sentences", [4, 1])
def test_sop_divides_at_any_border_of_sentences_or_of_the_words_of_one_alike(sentences, whole_block):
    count = 3000
    even = np.tile([True, False] * 4, count)
    flags = even if sentences == 4 else None
    ids = np.full(8 * count, 9, dtype=np.uint16)
    store = MemoryStore(ids, [8] * count, vocab_size=10, word_starts=even, sentence_starts=flags)
    sequences = pairs(whole_block(store), "sop", short_pairs=0.0)
    borders = np.bincount(sequences.lengths[sequences.starts == 0], minlength=9)
    assert np.flatnonzero(borders).tolist() == [2, 4, 6]
    assert np.abs(borders[[2, 4, 6]] - count / 3).max() < 5 * np.sqrt(count * 2 / 9)


def test_labels_come_at_the_rates_of_the_published_code(make_store, whole_block):
    store = make_store(np.random.default_rng(3).integers(20, 300, 600), source_of=[0] * 600)
    block = whole_block(store, 64)
    swapped = pairs(block, "sop").pair_labels
    assert abs(swapped.mean() - 0.5) < 4 * 0.5 / np.sqrt(swapped.size)
    sequences = pairs(block, "nsp")
    other = sequences.owners[0::2] != sequences.owners[1::2]
    assert np.array_equal(other, sequences.pair_labels == 1)
    # a coin for stretches of several sentences, and every stretch of a single one
    rate = np.mean([label for _, _, label in published(block, 0.1)])
    assert sequences.pair_labels.mean() == pytest.approx(rate)
    assert sequences.pair_labels.mean() > 0.5 + 2 * 0.5 / np.sqrt(sequences.pair_labels.size)


def test_a_lone_document_pairs_with_itself(make_store, whole_block):
    sequences = pairs(whole_block(make_store([40], source_of=[0]), 32), "nsp")
    assert set(sequences.owners) == {0}


def test_a_document_of_one_word_gives_no_sop_pair(make_store, whole_block):
    store = make_store([1, 1, 50], source_of=[0, 0, 0])
    sequences = pairs(whole_block(store, 32), "sop")
    assert set(sequences.owners) == {2}


def stream(store, task="nsp", split="train", **changes):
    settings = {"max_length": 32, "micro_batch_tokens": 256, "seed": 1, "held_out_fraction": 0.1} | changes
    composition = CompositionConfig(strategy="pairs")
    return make_stream(store, **settings, composition=composition, pair_task=task, split=split)


@pytest.mark.parametrize("task", ["nsp", "sop"])
@pytest.mark.parametrize("split", ["train", "held_out"])
def test_a_packed_pair_has_one_cls_two_sep_its_segments_and_its_label(task, split, make_store):
    store = make_store(np.random.default_rng(5).integers(0, 70, 300))
    labels = Counter()
    for batch in islice(stream(store, task, split).batches(), 20):
        real = batch.real_tokens
        ids = batch.ids.clone()
        used = batch.labels >= 0
        ids[batch.masked[used]] = batch.labels[used]
        assert not batch.segments[real:].any()
        count = 0
        for first, last in pairwise(batch.documents.cu_seqlens.tolist()):
            if last > real or first == last:
                continue
            pair, segments = ids[first:last], batch.segments[first:last]
            assert pair[0] == 2 and pair[-1] == 3
            middle = int((pair == 3).nonzero()[0]) + 1
            assert (pair == 2).sum() == 1 and (pair == 3).sum() == 2
            assert not segments[:middle].any() and segments[middle:].all() and middle < len(pair)
            count += 1
        assert set(batch.pair_labels[:count].tolist()) <= {0, 1}
        assert (batch.pair_labels[count:] == -100).all()
        labels.update(batch.pair_labels[:count].tolist())
    assert min(labels[0], labels[1]) > 10


def test_pairs_are_built_anew_in_each_epoch(make_store):
    store = make_store([60] * 40)
    seen = [set(), set()]
    for batch in stream(store).batches():
        if batch.cursor.epoch == 2:
            break
        edges = batch.documents.cu_seqlens.tolist()
        seen[batch.cursor.epoch].update(b - a for a, b in pairwise(edges) if b <= batch.real_tokens)
        assert batch.pair_labels.dtype == torch.int64
    plans = [stream(store)._planner.plan(p, 0) for p in (0, 1)]
    spans = [set(zip(plan.documents.tolist(), plan.starts.tolist(), strict=True)) for plan in plans]
    assert len(spans[0] & spans[1]) < 0.8 * len(spans[0])


def test_documents_that_give_no_pair_at_all_are_refused(make_store):
    with pytest.raises(CorpusError, match=r"composition.strategy makes no sequence of the 40 documents"):
        stream(make_store([1] * 40), "sop", held_out_fraction=0.0)


def test_a_length_that_holds_no_pair_is_refused(make_store):
    with pytest.raises(ConfigError, match=r"stream: max_length must be at least 5 for pairs, got 4"):
        stream(make_store([9] * 30), max_length=4)
