"""What a stream masks: by every strategy, on a schedule, again after k epochs, or nothing but the next token."""

from contextlib import closing
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from streams import make_stream
from unmask.config import CompositionConfig, MaskingConfig
from unmask.data.masking.similar_words import SimilarWords
from unmask.data.store.memory import MemoryStore
from unmask.data.stream import blocks
from unmask.data.stream.loader import Loader
from unmask.errors import ConfigError

VOCAB = 400
MASK = 4


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "GROUP_DOCUMENTS", 8)
    monkeypatch.setattr(blocks, "_MIN_GROUPS", 4)
    monkeypatch.setattr(blocks, "_MEAN_BATCHES", 1)


def corpus(documents=120, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, documents)
    ids = rng.integers(5, 100, lengths.sum()).astype(np.uint16)
    return MemoryStore(ids, lengths, vocab_size=VOCAB, word_starts=rng.random(lengths.sum()) < 0.6)


def similar_words():
    return SimilarWords([((word,), (word + 100,)) for word in range(5, 100)])


SETTINGS = {"max_length": 32, "micro_batch_tokens": 256, "seed": 3, "held_out_fraction": 0.2}


def stream(strategy="token", *, split="train", composition=None, rate_over=1, **masking):
    """A stream that masks by a strategy of `MaskingConfig`, with its other settings, or labels the next token."""
    return make_stream(
        corpus(),
        **SETTINGS,
        split=split,
        composition=composition,
        masking="next_token" if strategy == "next_token" else MaskingConfig(strategy=strategy, **masking),
        rate_over=rate_over,
        similar_words=similar_words() if strategy == "mac" else None,
    )


def originals(batch):
    ids = batch.ids.clone()
    used = batch.labels >= 0
    ids[batch.masked[used]] = batch.labels[used]
    return ids


@pytest.mark.parametrize("masking", ["whole_word", "ngram", "span", "mac"])
def test_words_are_chosen_whole_whatever_the_composition(masking):
    for composition in (CompositionConfig(), CompositionConfig(strategy="mix", scope="sequence")):
        for batch in islice(stream(masking, composition=composition).batches(), 10):
            chosen = torch.zeros(256, dtype=torch.bool)
            chosen[batch.masked[batch.labels >= 0]] = True
            assert chosen.any()
            word = batch.word_starts.long().cumsum(0)
            for number in word[chosen].unique():
                assert chosen[word == number].all()
            assert (batch.ids == MASK).any() != (masking == "mac")


def test_every_strategy_masks_the_same_text_in_its_own_stream():
    texts = {m: originals(next(stream(m).batches())).tolist() for m in ("token", "whole_word", "span", "mac")}
    assert all(text == texts["token"] for text in texts.values())
    prints = {stream(m).fingerprint for m in ("token", "whole_word", "ngram", "span", "mac", "next_token")}
    assert len(prints) == 6


def test_the_table_is_part_of_the_identity_of_a_stream():
    masking = MaskingConfig(strategy="mac")
    one, two = (
        make_stream(corpus(), **SETTINGS, masking=masking, similar_words=SimilarWords([((9,), (other,))])).fingerprint
        for other in (10, 11)
    )
    assert one != two


def test_the_rate_moves_with_the_micro_batch_and_stays_at_its_end():
    changes = {"rate": 0.4, "rate_end": 0.1, "rate_over": 20}
    shares = [int((batch.labels >= 0).sum()) / batch.real_tokens for batch in islice(stream(**changes).batches(), 40)]
    for index, share in enumerate(shares):
        expected = 0.4 - 0.3 * min(index, 20) / 20
        # Every piece has at least one, and rounding is by the piece.
        assert abs(share - expected) < 0.06
    same = next(iter(stream(**changes).batches(13)))
    assert torch.equal(same.masked, list(islice(stream(**changes).batches(), 14))[13].masked)
    assert stream(**changes).capacities == stream(**changes | {"rate": 0.1, "rate_end": 0.4}).capacities


def test_held_out_text_has_one_rate():
    changes = {"rate": 0.4, "rate_end": 0.1, "rate_over": 2}
    for batch in stream(split="held_out", **changes).batches():
        assert abs(int((batch.labels >= 0).sum()) / batch.real_tokens - 0.4) < 0.06


def test_static_masks_come_again_after_k_epochs_under_other_dropout():
    def epochs(again):
        found = {}
        for batch in stream(static_masks=again).batches():
            if batch.cursor.epoch == 5:
                return found
            found.setdefault(batch.cursor.epoch, []).append(batch)
        return found

    static, dynamic = epochs(2), epochs(None)
    for one, other in ((0, 2), (1, 3), (0, 4)):
        for a, b in zip(static[one], static[other], strict=True):
            assert torch.equal(a.ids, b.ids)
            assert torch.equal(a.masked, b.masked)
            assert torch.equal(a.labels, b.labels)
            named = a.documents.keys != 0
            assert (a.documents.keys[named] != b.documents.keys[named]).all()
    assert not torch.equal(static[0][0].ids, static[1][0].ids)
    assert not torch.equal(dynamic[0][0].ids, dynamic[2][0].ids)
    # The first k epochs are those of a stream that masks anew in each.
    assert torch.equal(static[1][0].ids, dynamic[1][0].ids)
    assert torch.equal(static[1][0].documents.keys, dynamic[1][0].documents.keys)


@pytest.mark.parametrize("scope", ["document", "sequence"])
def test_a_causal_stream_labels_each_token_with_the_next(scope):
    composition = CompositionConfig(strategy="mix", scope=scope)
    for batch in islice(stream("next_token", composition=composition).batches(), 6):
        assert not (batch.ids == MASK).any()
        used = batch.labels >= 0
        labels = dict(zip(batch.masked[used].tolist(), batch.labels[used].tolist(), strict=True))
        ids, edges = batch.ids.tolist(), batch.documents.cu_seqlens.tolist()
        expected = {}
        for first, last in pairwise(edges):
            if first < last <= batch.real_tokens:
                expected |= {row: ids[row + 1] for row in range(first, last - 1)}
        assert labels == expected


def test_both_scopes_of_a_causal_stream_predict_the_same_tokens():
    one, two = (
        next(stream("next_token", composition=CompositionConfig(strategy="mix", scope=scope)).batches())
        for scope in ("document", "sequence")
    )
    assert sorted(one.labels.tolist()) == sorted(two.labels.tolist())


@pytest.mark.parametrize("masking", ["whole_word", "span", "mac"])
@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0), (4, 1)])
def test_masks_are_the_same_for_any_number_of_ranks_and_workers(masking, ranks, workers):
    config = {"strategy": masking, "rate": 0.3, "rate_end": 0.15, "rate_over": 6}
    alone = list(islice(stream(**config).batches(), 8))
    for rank in range(ranks):
        with closing(Loader(stream(**config), rank=rank, world_size=ranks, workers=workers)) as loader:
            for ours, expected in zip(islice(loader, 8 // ranks), alone[rank::ranks], strict=True):
                for name in ("ids", "masked", "labels", "word_starts"):
                    assert torch.equal(getattr(ours, name), getattr(expected, name)), name


def test_mac_without_a_table_is_refused():
    with pytest.raises(ConfigError, match="masking: strategy is 'mac' without a table"):
        make_stream(corpus(), max_length=32, micro_batch_tokens=1024, masking=MaskingConfig(strategy="mac"))
