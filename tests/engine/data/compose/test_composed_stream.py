"""Composed sequences in the stream: same batches for any rank, worker and restart, in either scope."""

from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from streams import make_stream
from unmask import limits
from unmask.config import CompositionConfig
from unmask.data.compose import describe_composition
from unmask.data.stream import blocks
from unmask.data.stream.loader import Loader
from unmask.errors import ConfigError, CorpusError

pytestmark = pytest.mark.usefixtures("small_blocks")

WHOLE = ["documents", "doc_sentences", "full_sentences", "mix", "uni", "bm25", "best_fit"]
JOINING = ["full_sentences", "mix", "uni", "bm25", "best_fit"]
STRATEGIES = [*WHOLE, "pairs"]
LENGTHS = np.random.default_rng(5).integers(0, 70, 300)


@pytest.fixture
def stream(make_store):
    def make(
        strategy="documents", *, store=None, split="train", max_length=32, tokens=128, held_out=0.1, **composition
    ):
        return make_stream(
            make_store(LENGTHS) if store is None else store,
            max_length=max_length,
            micro_batch_tokens=tokens,
            held_out_fraction=held_out,
            composition=CompositionConfig(strategy=strategy, **composition),
            seed=1,
            split=split,
        )

    return make


def original(batch):
    """Ids of the real tokens before masking."""
    ids = batch.ids.clone()
    used = batch.labels >= 0
    ids[batch.masked[used]] = batch.labels[used]
    return ids[: batch.real_tokens]


def same(one, two):
    for name in ("ids", "segments", "word_starts", "masked", "labels"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert torch.equal(one.documents.cu_seqlens, two.documents.cu_seqlens)
    assert torch.equal(one.documents.keys, two.documents.keys)
    assert (one.pair_labels is None) == (two.pair_labels is None)
    assert one.pair_labels is None or torch.equal(one.pair_labels, two.pair_labels)
    assert (one.cursor, one.real_tokens) == (two.cursor, two.real_tokens)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ranks_together_see_what_one_sees(strategy, stream):
    whole = list(islice(stream(strategy).batches(), 40))
    for rank, world_size in [(rank, size) for size in (1, 2, 4, 8) for rank in range(size)]:
        own = stream(strategy).batches(3, rank=rank, world_size=world_size)
        for one, two in zip(islice(own, 32 // world_size), whole[3 + rank :: world_size], strict=False):
            same(one, two)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_number_of_workers_gives_the_same_batches(strategy, stream):
    expected = list(islice(stream(strategy).batches(), 24))
    for workers in (0, 1, 4):
        with Loader(stream(strategy), workers=workers) as loader:
            for one, two in zip(loader, expected, strict=False):
                same(one, two)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_known_place_however_far_costs_one_block(strategy, stream, monkeypatch):
    ours = stream(strategy)
    block = 77 * ours._planner.blocks + 1
    ours.remember(10**6, ours.locate(0)._replace(epoch=77, block=1))
    planned = []
    real = ours._planner.plan
    monkeypatch.setattr(ours._planner, "plan", lambda *where: planned.append(where) or real(*where))
    batch = next(ours.batches(10**6))
    assert planned == [divmod(block, ours._planner.blocks)]
    assert batch.cursor == (77, 1, 0)


@pytest.mark.parametrize("strategy", JOINING)
def test_both_scopes_hold_the_same_text_under_the_same_masks(strategy, stream):
    alone, joined = (stream(strategy, scope=scope) for scope in ("document", "sequence"))
    for one, two in islice(zip(alone.batches(), joined.batches(), strict=False), 40):
        assert one.cursor == two.cursor
        assert torch.equal(one.labels, two.labels)
        assert torch.equal(one.ids[one.masked], two.ids[two.masked])
        for kind in (original(one), original(two)):
            assert (kind == 2).sum() > 0
        assert torch.equal(original(one)[original(one) != 2], original(two)[original(two) != 2])
        assert torch.equal(
            one.word_starts[: one.real_tokens][one.ids[: one.real_tokens] != 2],
            two.word_starts[: two.real_tokens][two.ids[: two.real_tokens] != 2],
        )


def test_a_pair_is_one_document_in_either_scope(stream):
    alone, joined = (stream("pairs", scope=scope) for scope in ("document", "sequence"))
    for one, two in islice(zip(alone.batches(), joined.batches(), strict=False), 20):
        same(one, two)


def test_the_configuration_offers_every_strategy_and_joins_the_same_ones():
    offered = get_args(get_type_hints(CompositionConfig)["strategy"])
    assert list(offered) == list(STRATEGIES)
    assert tuple(s for s in offered if CompositionConfig(strategy=s).joins) == limits.JOINING == tuple(JOINING)


@pytest.mark.parametrize("strategy", JOINING)
@pytest.mark.parametrize("scope", ["document", "sequence"])
def test_a_document_of_the_mask_has_one_cls_and_ends_in_sep(strategy, scope, stream):
    most = 0
    for batch in islice(stream(strategy, scope=scope).batches(), 30):
        ids, edges = original(batch), batch.documents.cu_seqlens.tolist()
        for first, last in pairwise(edges):
            if last > batch.real_tokens or first == last:
                continue
            assert last - first <= 32
            assert ids[first] == 2
            assert ids[last - 1] == 3
            assert (ids[first:last] == 2).sum() == 1
            most = max(most, int((ids[first:last] == 3).sum()))
    assert (most > 1) == (scope == "sequence")


@pytest.mark.parametrize("strategy", WHOLE)
def test_every_token_comes_once_in_each_epoch(strategy, stream, make_store):
    store = make_store(LENGTHS)
    kept = np.flatnonzero(~store.held_out_mask(0.1))
    expected = Counter(np.concatenate([store.ids[store.offsets[d] : store.offsets[d + 1]] for d in kept]).tolist())
    epochs = [Counter(), Counter()]
    for batch in stream(strategy, store=store).batches():
        if batch.cursor.epoch == 2:
            break
        epochs[batch.cursor.epoch].update(original(batch).tolist())
    for counter in epochs:
        del counter[2], counter[3]
    assert epochs == [expected, expected]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_micro_batches_are_full(strategy, stream, make_store, monkeypatch):
    monkeypatch.setattr(blocks, "GROUP_DOCUMENTS", 1024)
    lengths = np.random.default_rng(0).lognormal(np.log(100) - 0.5, 1.0, 4000).astype(int) + 1
    ours = stream(strategy, store=make_store(lengths), max_length=128, tokens=4096)
    batches = list(islice(ours.batches(), 20))
    assert sum(batch.real_tokens for batch in batches) >= 0.96 * 20 * 4096


def test_weights_say_how_often_a_source_comes(stream, make_store):
    store = make_store([7] * 90)
    ours = stream(store=store, held_out=0.0, weights={"source-0": 2.0, "source-1": 0.5})
    seen = [Counter(), Counter()]
    for batch in ours.batches():
        if batch.cursor.epoch == 2:
            break
        seen[batch.cursor.epoch].update(
            tuple(original(batch)[a + 1 : a + 8].tolist())
            for a, b in pairwise(batch.documents.cu_seqlens.tolist())
            if b <= batch.real_tokens and b > a
        )
    texts = [tuple(row) for row in store.ids.reshape(90, 7).tolist()]
    for counter in seen:
        assert all(counter[text] == 2 for text in texts[0::3])
        assert sorted(counter[text] for text in texts[1::3]) == [0] * 15 + [1] * 15
        assert all(counter[text] == 1 for text in texts[2::3])
    # what one epoch leaves out of a half-weighted source the next one reads
    assert all(seen[0][text] + seen[1][text] == 1 for text in texts[1::3])


def test_copies_of_a_document_in_an_epoch_have_masks_of_their_own(stream, make_store):
    ours = stream(store=make_store([20] * 60), held_out=0.0, weights={"source-0": 3.0})
    keys = []
    for batch in ours.batches():
        if batch.cursor.epoch == 1:
            break
        keys += [key for key in batch.documents.keys.tolist() if key]
    assert len(set(keys)) == len(keys) == 60 + 2 * 20


def test_a_source_of_weight_0_is_left_out_by_name(stream, make_store):
    store = make_store(LENGTHS)
    ours = stream("uni", store=store, weights={"source-1": 0})
    assert "source-1 left out by weight 0" in describe_composition(ours.composition, store.sources, ours.pair_task)
    planned = [ours._planner.plan(0, block).documents for block in range(ours._planner.blocks)]
    assert set(store.source_of[np.concatenate(planned)]) == {0, 2}
    held_out = stream(store=store, split="held_out", weights={"source-1": 0, "source-0": 2})
    documents = np.concatenate([held_out._planner.plan(0, w).documents for w in range(held_out._planner.blocks)])
    assert set(store.source_of[documents]) == {0, 2}
    once = store.held_out_mask(0.1) & (store.source_of != 1) & (store.lengths > 0)
    pieces = -(-store.lengths[once] // 30)
    assert sorted(documents.tolist()) == np.repeat(np.flatnonzero(once), pieces).tolist()


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"sorce-1": 2}, ConfigError, "composition.weights names 'sorce-1', .*; did you mean source-1?"),
        ({"books": 2}, ConfigError, "no source of the store; the store has source-0, source-1, source-2"),
        (
            {"source-1": -1.0},
            ConfigError,
            r"CompositionConfig: weights\.source-1 must be at least 0 and at most 1000000, got -1",
        ),
        (
            {"source-1": float("inf")},
            ConfigError,
            r"CompositionConfig: weights\.source-1 must be at least 0 and at most 1000000, got inf",
        ),
        ({"source-1": "2"}, TypeError, r"CompositionConfig: weights\.source-1 must be a number, got '2' \(str\)"),
        ({f"source-{n}": 0 for n in range(3)}, CorpusError, "none of 300 is in it; .* or composition.weights"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, error, message, stream):
    with pytest.raises(error, match=message):
        stream(weights=weights)


def test_a_weight_is_the_decimal_that_was_written():
    weights = CompositionConfig(weights={"a": 0.1, "b": 1 / 3}).source_weights(["a", "b", "c"])
    assert weights == [Fraction(1, 10), Fraction(1, 3), 1]


def test_held_out_documents_stand_alone_whatever_is_composed(stream):
    plain = list(stream(split="held_out").batches())
    for strategy in JOINING:
        ours = stream(strategy, split="held_out", scope="sequence")
        text = Counter(token for batch in ours.batches() for token in original(batch).tolist())
        assert text == Counter(token for batch in plain for token in original(batch).tolist())
        assert ours.composition.strategy == "documents"


def test_composition_scope_and_weights_are_part_of_the_fingerprint(stream):
    kinds = [{"strategy": strategy} for strategy in STRATEGIES] + [{"strategy": "mix", "scope": "sequence"}]
    kinds += [{"weights": {"source-0": 2.0}}, {"weights": {"source-0": 0.0}}]
    assert len({stream(**kind).fingerprint for kind in kinds}) == len(kinds)


def test_too_few_document_slots_for_joined_documents_are_refused(make_store):
    store = make_store(LENGTHS)
    mix = CompositionConfig(strategy="mix")
    with pytest.raises(ConfigError, match="stream: max_documents must be at least 13, the documents of one sequence"):
        make_stream(store, max_length=30, micro_batch_tokens=120, max_documents=12, composition=mix)


@pytest.mark.parametrize("strategy", JOINING)
def test_sequences_of_the_shortest_documents_fit(strategy, stream, make_store):
    ours = stream(
        strategy, store=make_store([1] * 30 + [400] * 5, source_of=[0] * 35), max_length=30, tokens=30, held_out=0
    )
    for batch in ours.batches():
        if batch.cursor.epoch:
            break
        assert batch.real_tokens
