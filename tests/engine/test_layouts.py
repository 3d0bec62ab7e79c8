"""Padded and flat inputs of other encoders: the documents in them, the way back, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask import Encoder, EncoderConfig, mean_pool, pack, packed_inputs

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_positions=24)
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]]
LENGTHS = [len(ids) for ids in DOCUMENTS]
FLAT = torch.tensor([token for ids in DOCUMENTS for token in ids])[None]
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])[None]
BOUNDARIES = torch.tensor([0, 5, 8, 17, 20], dtype=torch.int32)
INPUT_IDS = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in DOCUMENTS], batch_first=True)
MASK = (torch.arange(9) < torch.tensor(LENGTHS)[:, None]).long()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(CONFIG, seed=4).eval()


@pytest.fixture(scope="module")
def expected(encoder: Encoder) -> Tensor:
    """The hidden states of the packed documents, (T, D)."""
    batch = pack(DOCUMENTS)
    with torch.no_grad():
        return encoder(batch.ids, batch.documents, batch.segments)


@pytest.mark.parametrize(
    "inputs",
    [
        {"position_ids": POSITIONS},
        {"cu_seq_lens_q": BOUNDARIES},
        {"cu_seq_lens_k": BOUNDARIES.long()},
        {"cu_seq_lens_q": BOUNDARIES[None], "cu_seq_lens_k": BOUNDARIES[None]},
        {"cu_seq_lens_q": BOUNDARIES, "max_length_q": 12, "max_length_k": torch.tensor(12)},
        {
            "position_ids": POSITIONS,
            "cu_seq_lens_q": BOUNDARIES,
            "cu_seq_lens_k": BOUNDARIES,
            "max_length_q": 9,
            "max_length_k": 9,
            "attention_mask": torch.ones_like(FLAT),
        },
    ],
    ids=lambda inputs: "+".join(inputs),
)
def test_flat_rows_give_what_packed_documents_give(encoder: Encoder, expected: Tensor, inputs: Any) -> None:
    found = encoder(input_ids=FLAT, **inputs)
    assert found.shape == (1, 20, 32)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=0)
    packed = packed_inputs(FLAT, **inputs)
    assert packed.places is None and packed.batch.real_documents == 4
    assert torch.equal(packed.batch.documents.cu_seqlens, BOUNDARIES)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32, torch.int32], ids=str)
def test_padded_rows_give_what_packed_documents_give_with_zeros_at_padding(
    encoder: Encoder, expected: Tensor, dtype: torch.dtype
) -> None:
    found = encoder(INPUT_IDS, MASK.to(dtype))
    assert found.shape == (4, 9, 32)
    torch.testing.assert_close(found[MASK.bool()], expected, rtol=0, atol=0)
    assert not found[~MASK.bool()].any()
    by_name = encoder(input_ids=INPUT_IDS, attention_mask=MASK, position_ids=torch.arange(9)[None])
    assert torch.equal(by_name, found)


def test_rows_of_several_documents_restart_in_each_row(encoder: Encoder) -> None:
    ids, positions = torch.tensor([[2, 5, 3, 2, 3], [2, 7, 8, 9, 3]]), torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])
    batch = pack([[2, 5, 3], [2, 3], [2, 7, 8, 9, 3]])
    found = encoder(ids, position_ids=positions)
    torch.testing.assert_close(found.flatten(0, 1), encoder(batch.ids, batch.documents))


def test_segments_and_labels_go_the_way_of_the_ids(encoder: Encoder) -> None:
    segments = (torch.arange(9) > 2).long() * MASK
    inputs = packed_inputs(input_ids=INPUT_IDS, attention_mask=MASK, token_type_ids=segments)
    assert torch.equal(inputs.batch.segments, segments[MASK.bool()])
    assert torch.equal(inputs.take(INPUT_IDS), inputs.batch.ids)
    assert torch.equal(inputs.restore(inputs.batch.ids), INPUT_IDS)
    by_place = encoder(INPUT_IDS, MASK, segments)
    assert not torch.allclose(by_place, encoder(INPUT_IDS, MASK), atol=1e-3)
    batch = inputs.batch
    assert mean_pool(encoder(batch.ids, batch.documents, batch.segments), batch).shape == (4, 32)
    with pytest.raises(ValueError, match=r"values must begin with the shape \(4, 9\) of input_ids, got \(9, 4\)"):
        inputs.take(INPUT_IDS.T)


def test_a_row_of_padding_alone_gives_zeros(encoder: Encoder) -> None:
    mask = MASK.clone()
    mask[1] = 0
    found = encoder(INPUT_IDS, mask)
    assert not found[1].any() and found[0, :5].all(1).any()


def test_padding_anywhere_is_left_out_and_tokens_keep_their_columns() -> None:
    mask = MASK.clone()
    mask[2, 3] = mask[0, 1] = mask[1, 0] = 0
    inputs = packed_inputs(INPUT_IDS, mask, padding_anywhere=True)
    assert torch.equal(inputs.batch.ids, INPUT_IDS[mask.bool()])
    assert inputs.batch.documents.cu_seqlens.tolist() == [0, 4, 6, 14, 17]
    assert torch.equal(inputs.positions, torch.arange(9).expand(4, 9)[mask.bool()])  # type: ignore[arg-type]
    assert torch.equal(inputs.restore(inputs.batch.ids), INPUT_IDS * mask)
    right = packed_inputs(INPUT_IDS, MASK, padding_anywhere=True)
    assert right.positions is None and torch.equal(right.restore(right.batch.ids), INPUT_IDS)
    with pytest.raises(ValueError, match="padding on the left or between tokens is not read"):
        packed_inputs(INPUT_IDS, mask)

    def compiled(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        found = packed_inputs(ids, mask, padding_anywhere=True)
        return found.batch.ids, found.restore(found.batch.ids), found.positions, found.batch.documents.cu_seqlens

    ids, again, positions, bounds = torch.compile(compiled, fullgraph=True, backend="eager")(INPUT_IDS, mask)
    assert torch.equal(again, INPUT_IDS * mask) and bounds.tolist()[:5] == [0, 4, 9, 11, 18]
    assert positions is not None
    assert positions[:9].tolist() == [0, 2, 3, 4, 1, 5, 6, 7, 8] and torch.equal(ids[:9], INPUT_IDS[0][positions[:9]])


def test_gradients_flow_through_the_way_back() -> None:
    encoder = Encoder(CONFIG, pooler=False).eval()
    weights = torch.randn(4, 9, 32, generator=torch.Generator().manual_seed(1))
    (encoder(INPUT_IDS, MASK) * weights).sum().backward()
    found = encoder.embeddings.word.weight.grad
    encoder.embeddings.word.weight.grad = None
    batch = pack(DOCUMENTS)
    (encoder(batch.ids, batch.documents) * weights[MASK.bool()]).sum().backward()
    torch.testing.assert_close(encoder.embeddings.word.weight.grad, found)


def test_dropout_differs_from_call_to_call_and_evaluation_draws_nothing() -> None:
    encoder = Encoder(CONFIG)
    assert not torch.equal(encoder(INPUT_IDS, MASK), encoder(INPUT_IDS, MASK))
    torch.manual_seed(3)
    one = encoder(INPUT_IDS, MASK)
    torch.manual_seed(3)
    assert torch.equal(encoder(INPUT_IDS, MASK), one)
    before = torch.get_rng_state()
    encoder.eval()(INPUT_IDS, MASK)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("inputs", [{"attention_mask": MASK}, {"cu_seq_lens_q": BOUNDARIES, "max_length_q": 9}])
def test_compiles_as_one_graph_of_the_padded_and_the_flat_inputs(inputs: Any) -> None:
    encoder = Encoder(replace(CONFIG, num_layers=1), pooler=False, seed=4).eval()
    ids = FLAT if "max_length_q" in inputs else INPUT_IDS
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(ids, **inputs), encoder(ids, **inputs), rtol=0, atol=1e-5)


def test_positions_are_not_read_under_the_compiler_and_the_advice_works() -> None:
    encoder = Encoder(replace(CONFIG, num_layers=1), pooler=False, seed=4).eval()
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"position_ids are not read under torch.compile; pass cu_seq_lens_q"):
        compiled(FLAT, position_ids=POSITIONS)
    compiled(FLAT, cu_seq_lens_q=BOUNDARIES, max_length_q=9)


def test_torch_export_takes_padded_inputs(encoder: Encoder) -> None:
    program = torch.export.export(encoder, (INPUT_IDS, MASK))
    mask = (torch.arange(9) < torch.tensor([3, 3, 9, 1])[:, None]).long()
    torch.testing.assert_close(program.module()(INPUT_IDS, mask), encoder(INPUT_IDS, mask), rtol=0, atol=1e-5)


WRONG: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "left padding": (
        {"input_ids": INPUT_IDS, "attention_mask": MASK.flip(1)},
        "attention_mask must be ones, then zeros, in each row, row 0 is [0, 0, 0, 0, 1, 1, 1, 1, 1]; padding on the "
        "left or between tokens is not read: set tokenizer.padding_side = 'right'",
        {"input_ids": INPUT_IDS, "attention_mask": MASK},
    ),
    "a hole": (
        {"input_ids": FLAT[:, :4], "attention_mask": torch.tensor([[1, 0, 1, 1]])},
        "row 0 is [1, 0, 1, 1]; padding on the left or between tokens is not read",
        {"input_ids": FLAT[:, :4], "attention_mask": torch.tensor([[1, 1, 1, 0]])},
    ),
    "an additive mask": (
        {"input_ids": INPUT_IDS, "attention_mask": (1.0 - MASK) * -1e4},
        "attention_mask must hold 1 for a token and 0 for padding, got -10000.0",
        {"input_ids": INPUT_IDS, "attention_mask": MASK},
    ),
    "a mask of 4 dimensions": (
        {"input_ids": INPUT_IDS, "attention_mask": MASK[:, None, None, :]},
        "attention_mask must have shape (B, L), 1 for a token and 0 for padding, got 4 dimensions, (4, 1, 1, 9); pass "
        "the tokenizer's own attention_mask",
        {"input_ids": INPUT_IDS, "attention_mask": MASK},
    ),
    "positions of neither layout": (
        {"input_ids": FLAT[:, :5], "position_ids": torch.tensor([[0, 1, 2, 7, 8]])},
        "position_ids must count from 0 in each document, the next one or 0 after each; at [0, 3] they are 7, row 0 is "
        "[0, 1, 2, 7, 8]; leave position_ids out if each row is one document",
        {"input_ids": FLAT[:, :5]},
    ),
    "positions of RoBERTa": (
        {"input_ids": FLAT[:, :3], "position_ids": torch.tensor([[2, 3, 4]])},
        "at [0, 0] they are 2, row 0 is [2, 3, 4]",
        {"input_ids": FLAT[:, :3]},
    ),
    "positions of padded rows": (
        {"input_ids": INPUT_IDS, "attention_mask": MASK, "position_ids": torch.arange(9).flip(0)[None]},
        "position_ids must be 0 to 8 in each row of a padded batch; at [0, 0] they are 8",
        {"input_ids": INPUT_IDS, "attention_mask": MASK},
    ),
    "boundaries against positions": (
        {"input_ids": FLAT, "position_ids": POSITIONS, "cu_seq_lens_q": torch.tensor([0, 6, 8, 17, 20])},
        "position_ids must restart at each boundary of cu_seq_lens_q: at token 5 they are 0, by cu_seq_lens_q 5; leave "
        "one of them out",
        {"input_ids": FLAT, "position_ids": POSITIONS},
    ),
    "keys against queries": (
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES, "cu_seq_lens_k": torch.tensor([0, 6, 8, 17, 20])},
        "cu_seq_lens_k must be cu_seq_lens_q, since each document attends to itself, and they differ; leave cu_seq",
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES},
    ),
    "a maximum that is too small": (
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES, "max_length_q": 8},
        "max_length_q must bound every document, is 8, one has 9 tokens; leave max_length_q out",
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES},
    ),
    "two maxima": (
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES, "max_length_q": 9, "max_length_k": 10},
        "max_length_q and max_length_k must be equal, got 9 and 10; leave max_length_k out",
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES, "max_length_q": 9},
    ),
    "a maximum alone": (
        {"input_ids": FLAT, "max_length_q": 9},
        "max_length_q and max_length_k need cu_seq_lens_q, got none; pass it, or leave them out",
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES, "max_length_q": 9},
    ),
    "boundaries of several rows": (
        {"input_ids": INPUT_IDS, "cu_seq_lens_q": BOUNDARIES},
        "with cu_seq_lens_q, input_ids must be one flat row (1, T), got (4, 9); leave cu_seq_lens_q out for padded",
        {"input_ids": INPUT_IDS},
    ),
    "boundaries of other tokens": (
        {"input_ids": FLAT, "cu_seq_lens_q": torch.tensor([0, 5, 8, 17, 21])},
        "cu_seq_lens_q must rise from 0 to the 20 tokens of input_ids, got [0, 5, 8, 17, 21]; give offsets, not",
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES},
    ),
    "lengths": (
        {"input_ids": FLAT, "cu_seq_lens_q": torch.tensor(LENGTHS)},
        "got [5, 3, 9, 3]; give offsets, not lengths",
        {"input_ids": FLAT, "cu_seq_lens_q": torch.tensor([0, *LENGTHS]).cumsum(0)},
    ),
    "boundaries that a loader cut": (
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES[:1]},
        "cu_seq_lens_q must have shape (S + 1,) with S >= 1, got (1,); if a loader cut it to the size of the batch, "
        "set dispatch_batches=False, or pass it as (1, S + 1)",
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES[None]},
    ),
    "padding in a flat row": (
        {"input_ids": FLAT, "cu_seq_lens_q": BOUNDARIES, "attention_mask": (torch.arange(20) < 17).long()[None]},
        "with cu_seq_lens_q every token is one of a document, but attention_mask holds zeros; leave attention_mask",
        {"input_ids": FLAT[:, :17], "cu_seq_lens_q": BOUNDARIES[:-1]},
    ),
    "one dimension": (
        {"input_ids": FLAT[0]},
        "input_ids must have shape (B, L), got (20,); use input_ids[None] for one flat row",
        {"input_ids": FLAT[0][None], "position_ids": POSITIONS},
    ),
    "no tokens": (
        {"input_ids": FLAT[:, :0]},
        "input_ids must hold at least one token, got shape (1, 0)",
        {"input_ids": FLAT[:, :1]},
    ),
    "padding alone": (
        {"input_ids": INPUT_IDS[:2], "attention_mask": MASK[:2] * 0},
        "attention_mask must hold 1 at one token at least, got zeros alone, shape (2, 9); leave batches without tokens",
        {"input_ids": INPUT_IDS[:2], "attention_mask": MASK[:2]},
    ),
    "another shape": (
        {"input_ids": INPUT_IDS, "token_type_ids": torch.zeros(4, 8)},
        "token_type_ids must have the shape of input_ids, (4, 9), got (4, 8)",
        {"input_ids": INPUT_IDS, "token_type_ids": torch.zeros(4, 9, dtype=torch.int64)},
    ),
    "a document beyond the positions": (
        {"input_ids": torch.ones(1, 25, dtype=torch.int64)},
        "documents.max_seqlen is 25 but the model has 24 positions; cut documents into pieces (a tokenizer of "
        "transformers does with truncation=True, max_length=24)",
        {"input_ids": torch.ones(1, 24, dtype=torch.int64)},
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses_inputs_that_are_neither_padded_nor_flat_and_the_advice_works(encoder: Encoder, name: str) -> None:
    inputs, message, advised = WRONG[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        encoder(**inputs)
    assert encoder(**advised).shape[2] == 32


def test_boundaries_must_be_whole_numbers(encoder: Encoder) -> None:
    with pytest.raises(TypeError, match=r"cu_seq_lens_q must be int32 or int64, got torch.float32; use cu_seq"):
        encoder(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES.float())
    encoder(input_ids=FLAT, cu_seq_lens_q=BOUNDARIES.float().int())


def test_a_call_without_ids_or_with_rows_of_another_layout_is_refused(encoder: Encoder) -> None:
    with pytest.raises(TypeError, match="encoder: input_ids must be given"):
        encoder(attention_mask=MASK)
    with pytest.raises(TypeError, match=r"rows needs ids and documents; call .*packed_inputs\(\.\.\.\)\.batch"):
        encoder(input_ids=INPUT_IDS, attention_mask=MASK, rows=torch.tensor([0]))
    batch = packed_inputs(INPUT_IDS, MASK).batch
    assert encoder(batch.ids, batch.documents, batch.segments, rows=torch.tensor([0])).shape == (1, 32)
    with pytest.raises(TypeError, match=r"must be Documents.* got DocumentRow; .*unmask.PackedBatch\(inputs\)"):
        encoder(batch["ids"][0], batch["documents"])


def test_lists_are_refused_with_the_call_that_makes_a_tensor() -> None:
    ids = torch.tensor([[2, 7, 3, 2, 3]])
    for name, value in (("cu_seq_lens_q", [0, 3, 5]), ("attention_mask", [[1, 1, 1, 1, 1]])):
        with pytest.raises(TypeError, match=rf"{name} must be a tensor, got list; use torch\.tensor\({name}\)"):
            packed_inputs(ids, **{name: value})  # type: ignore[arg-type]
        assert packed_inputs(ids, **{name: torch.tensor(value)}).batch.real_tokens == 5  # type: ignore[arg-type]
