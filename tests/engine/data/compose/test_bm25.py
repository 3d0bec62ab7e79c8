"""BM25 sequences equal those of a brute-force search with dictionaries, and keep the promises of every strategy."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unmask.config import CompositionConfig
from unmask.data.compose import bm25_index, composer
from unmask.data.compose.bm25_index import K1, SCALE, B, TermIndex
from unmask.data.randomness import QUERIES, philox_4x32, site_key
from unmask.data.store.memory import MemoryStore

relaxed = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def compose(block, *, walk="path", buffer=2048, query_terms=300):
    composition = CompositionConfig(strategy="bm25", bm25_walk=walk, bm25_buffer=buffer, bm25_query_terms=query_terms)
    return composer(composition)(block)


def pieces_of(sequences):
    spans = list(zip(sequences.owners.tolist(), sequences.starts.tolist(), sequences.lengths.tolist(), strict=True))
    return [spans[a:b] for a, b in pairwise(sequences.firsts)]


class Brute:
    """BM25 over lists of words, one document after the other."""

    def __init__(self, block, documents, query_terms):
        words = [self._words(block, document) for document in documents]
        df = Counter(word for one in words for word in set(one))
        most = max(bm25_index.STOP_SHARE * len(words), bm25_index.STOP_DOCUMENTS)
        self.documents = [Counter(w for w in one if df[w] <= most) for one in words]
        self.sizes = [sum(one.values()) for one in self.documents]
        self.mean = sum(self.sizes) / len(self.sizes)
        self.idf = {w: math.log(1 + (len(words) - n + 0.5) / (n + 0.5)) for w, n in df.items()}
        self.queries = []
        for document, one in zip(documents, words, strict=True):
            order = list(range(len(one)))
            if len(one) > query_terms:
                name = int(block.keys(np.array([document]), np.array([0]))[0])
                draws = philox_4x32(
                    np.arange(len(one)), 0, name & 0xFFFFFFFF, name >> 32, *site_key(block.seed, QUERIES)
                )
                order = sorted(order, key=lambda i, draws=draws[0]: (int(draws[i]), i))[:query_terms]
            self.queries.append([one[i] for i in order])

    def _words(self, block, document):
        store = block.text
        first, last = store.offsets[block.documents[document] : block.documents[document] + 2]
        cuts = [i for i in range(first, last) if i == first or store.word_starts[i]]
        return [tuple(store.ids[a:b].tolist()) for a, b in pairwise([*cuts, last])]

    def score(self, query, document):
        total, terms = 0, self.documents[document]
        for word in self.queries[query]:
            if tf := terms[word]:
                norm = tf + K1 * (1 - B + B * self.sizes[document] / self.mean)
                total += round(self.idf[word] * (tf * (K1 + 1)) / norm * SCALE)
        return total


def brute_force(block, *, walk="path", buffer=2048, query_terms=300):
    made = []
    for documents in block.by_source():
        ours = Brute(block, documents.tolist(), query_terms)
        arrivals, rest = list(range(len(documents))), {}
        waiting = []
        while arrivals or waiting:
            while len(waiting) < buffer and arrivals:
                new, start = arrivals.pop(0), 0
                length = int(block.lengths[documents[new]])
                while length - start > block.max_length - 2:
                    made.append([(int(documents[new]), start, block.max_length - 2)])
                    start += block.max_length - 2
                rest[new] = (start, length)
                waiting.append(new)
            chosen = query = waiting[0]
            free, sequence = block.max_length, []
            while True:
                waiting.remove(chosen)
                start, length = rest[chosen]
                taken = min(length - start, free - 2)
                sequence.append((int(documents[chosen]), start, taken))
                free -= taken + 2
                if start + taken < length:
                    rest[chosen] = (start + taken, length)
                    waiting.append(chosen)
                    break
                if free < 3 or not waiting:
                    break
                query = chosen if walk == "path" else query
                chosen = min(waiting, key=lambda d, q=query: (-ours.score(q, d), d))
            made.append(sequence)
    return made


@relaxed
@given(
    data=st.data(),
    max_length=st.integers(3, 64),
    walk=st.sampled_from(["path", "star"]),
    buffer=st.integers(1, 20),
    query_terms=st.integers(1, 60),
    vocabulary=st.sampled_from([12, 40, 300]),
)
def test_sequences_equal_a_brute_force_search(
    data, max_length, walk, buffer, query_terms, vocabulary, make_store, whole_block
):
    lengths = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=30))
    store = make_store(lengths, seed=data.draw(st.integers(0, 99)), vocabulary=vocabulary)
    block = whole_block(store, max_length)
    options = {"walk": walk, "buffer": buffer, "query_terms": query_terms}
    expected = brute_force(block, **options)
    # those that long documents give whole come as they arrive, in both
    assert pieces_of(compose(block, **options)) == expected


def test_stop_words_are_the_same_in_a_brute_force_search(make_store, whole_block):
    store = make_store([12] * 120, source_of=[0] * 120, vocabulary=60)
    block = whole_block(store, 40)
    df = np.bincount(np.concatenate([np.unique(row) for row in store.ids.reshape(120, 12)]))
    assert (df > bm25_index.STOP_DOCUMENTS).any()
    assert pieces_of(compose(block, buffer=50)) == brute_force(block, buffer=50)


def test_constants_are_those_of_the_literature():
    assert (K1, B) == (1.2, 0.75)
    assert (bm25_index.STOP_SHARE, bm25_index.STOP_DOCUMENTS) == (0.1, 16)


def test_documents_of_one_subject_find_one_another(whole_block):
    rng = np.random.default_rng(0)
    subject = rng.permutation(np.repeat(np.arange(20), 10))
    ids = np.stack([5 + 30 * s + rng.integers(0, 30, 20) for s in subject]).astype(np.uint16)
    store = MemoryStore(ids.ravel(), [20] * 200, vocab_size=700)
    for walk in ("path", "star"):
        sequences = compose(whole_block(store, 10 * 22), walk=walk)
        together = [len(set(subject[[span[0] for span in sequence]])) for sequence in pieces_of(sequences)]
        assert np.mean(together) < 1.2


def test_a_path_asks_with_the_last_document_and_a_star_with_the_first(whole_block):
    # 0 is like 1, 1 is like 2 and still more like 3's neighbour; 0 and 2 share one rare word only
    texts = [[5, 6, 7, 8], [7, 8, 9, 10], [9, 10, 11, 12], [5, 13, 14, 15]]
    store = MemoryStore(np.array(texts, dtype=np.uint16).ravel(), [4] * 4, vocab_size=20)
    block = whole_block(store, 18)
    orders = {walk: [span[0] for span in pieces_of(compose(block, walk=walk))[0]] for walk in ("path", "star")}
    assert orders == {"path": [0, 1, 2], "star": [0, 1, 3]}


@relaxed
@given(data=st.data(), max_length=st.integers(3, 64), buffer=st.integers(1, 9))
def test_what_does_not_fit_waits_at_the_end_of_the_buffer(data, max_length, buffer, corpora, whole_block):
    block = whole_block(data.draw(corpora), max_length)
    for sequence in pieces_of(compose(block, buffer=buffer)):
        for owner, start, length in sequence[:-1]:
            # only the last document of a sequence is cut
            assert start + length == block.lengths[owner]


def test_a_query_of_a_long_document_is_a_sample_of_its_words(make_store, whole_block):
    store = make_store([400, 30, 30], source_of=[0, 0, 0], vocabulary=40)
    block = whole_block(store, 64)
    index = TermIndex(block, np.arange(3), query_terms=10, group=4)
    assert index._query_counts[: index._query_begins[1]].sum() <= 10
    other = TermIndex(whole_block(store, 64, seed=2), np.arange(3), query_terms=10, group=4)
    assert index._query_terms.tolist() != other._query_terms.tolist()
