"""Vectors of documents: the pooler on rows of choice, and the mean of the hidden states as of padded batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import unmask
from unmask import Encoder, EncoderConfig, mean_pool, pack

CONFIG = EncoderConfig(vocab_size=60, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32, max_positions=24)
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]]


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(CONFIG, seed=4).eval()


def padded_mean(hidden: Tensor, lengths: list[int]) -> Tensor:
    """As sentence-transformers has it: the sum over a padded rectangle, by its attention mask."""
    rectangle = torch.nn.utils.rnn.pad_sequence(hidden.split(lengths), batch_first=True, padding_value=7.0)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    weights = mask[:, :, None].to(hidden.dtype)
    return (rectangle * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def test_the_mean_is_that_of_a_padded_batch_with_its_gradient(encoder: Encoder) -> None:
    batch = pack(DOCUMENTS)
    lengths = [len(ids) for ids in DOCUMENTS]
    one = encoder(batch.ids, batch.documents, batch.segments).detach().requires_grad_()
    other = one.detach().clone().requires_grad_()
    vectors, expected = mean_pool(one, batch), padded_mean(other, lengths)
    assert vectors.shape == (4, 16)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-6)
    weights = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    (vectors * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-6)


def test_the_mean_is_that_of_transformers_on_a_padded_batch(encoder: Encoder, tmp_path: object) -> None:
    transformers = pytest.importorskip("transformers")
    encoder.save_pretrained(str(tmp_path))
    theirs = transformers.BertModel.from_pretrained(str(tmp_path)).eval()
    lengths = [len(ids) for ids in DOCUMENTS]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in DOCUMENTS], batch_first=True)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        states = theirs(ids, attention_mask=mask.long()).last_hidden_state
        expected = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        batch = pack(DOCUMENTS, tokens=64, max_seqlen=12)
        vectors = mean_pool(encoder(batch.ids, batch.documents, batch.segments), batch)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)


def test_padding_gives_no_vector_and_changes_none(encoder: Encoder) -> None:
    tight, wide = pack(DOCUMENTS), pack(DOCUMENTS, tokens=64, max_seqlen=12)
    one, other = (mean_pool(encoder(b.ids, b.documents, b.segments), b) for b in (tight, wide))
    assert wide.real_documents == 4 < len(wide.documents.keys)
    assert one.shape == other.shape == (4, 16)
    torch.testing.assert_close(other, one, rtol=0, atol=1e-6)


def test_an_empty_document_has_the_mean_0_between_its_neighbours() -> None:
    batch = pack([[2, 3], [], [4]])
    hidden = torch.tensor([[1.0], [2.0], [5.0]])
    assert mean_pool(hidden, batch).tolist() == [[1.5], [0.0], [5.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_means_keep_the_dtype_and_are_summed_in_at_least_fp32(dtype: torch.dtype) -> None:
    batch = pack([[5] * 600])
    hidden = torch.ones(600, 1, dtype=dtype)  # a sum in bf16 would stop at 256
    vectors = mean_pool(hidden, batch)
    assert vectors.dtype == dtype and vectors.tolist() == [[1.0]]


def test_the_mean_of_a_batch_is_compiled_in_one_graph(encoder: Encoder) -> None:
    batch = pack(DOCUMENTS, tokens=64, max_seqlen=12)
    hidden = torch.randn(64, 16, generator=torch.Generator().manual_seed(3))
    compiled = torch.compile(mean_pool, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(hidden, batch), mean_pool(hidden, batch))


def test_rows_that_are_not_the_tokens_of_the_batch_are_refused_and_the_advice_works(encoder: Encoder) -> None:
    batch = pack(DOCUMENTS)
    chosen = encoder(batch.ids, batch.documents, rows=batch.documents.first_rows())
    with pytest.raises(
        ValueError, match=r"mean_pool: hidden must have the shape \(20, D\).* got \(4, 16\); call .* rows="
    ):
        mean_pool(chosen, batch)
    assert mean_pool(encoder(batch.ids, batch.documents), batch).shape == (4, 16)
    with pytest.raises(ValueError, match=r"pool: hidden must have a row for each of the 20 tokens .* got 4; leave"):
        encoder.pool(chosen, batch.documents)
    assert encoder.pool(chosen).shape == (4, 16)


def test_the_documents_in_the_place_of_the_batch_and_the_reverse_are_told_apart(encoder: Encoder) -> None:
    batch = pack(DOCUMENTS)
    hidden = encoder(batch.ids, batch.documents, batch.segments)
    with pytest.raises(TypeError, match=r"batch must be a PackedBatch, got Documents; .*mean_pool\(hidden, batch\)"):
        mean_pool(hidden, batch.documents)  # type: ignore[arg-type]
    assert mean_pool(hidden, batch).shape == (4, 16)
    with pytest.raises(TypeError, match=r"documents must be Documents, got PackedBatch; pass batch\.documents"):
        encoder.pool(hidden, batch)  # type: ignore[arg-type]
    assert encoder.pool(hidden, batch.documents).shape == (4, 16)


def test_an_input_that_is_no_tensor_is_named_with_the_call_that_works(encoder: Encoder) -> None:
    batch = pack(DOCUMENTS)
    call = r"call encoder\(batch\.ids, batch\.documents, batch\.segments\)"
    for inputs in ((batch,), (batch, batch.documents)):
        with pytest.raises(TypeError, match=rf"must be a tensor, got PackedBatch; {call}"):
            encoder(*inputs)
    with pytest.raises(TypeError, match=rf"documents must be Documents, got a PackedBatch; {call}"):
        encoder(batch.ids, batch)
    with pytest.raises(
        TypeError, match=rf"got list; pack lists of ids with batch = unmask\.pack\(documents\) and {call}"
    ):
        encoder(DOCUMENTS)
    assert encoder(batch.ids, batch.documents, batch.segments).shape == (20, 16)
    inputs = {"input_ids": torch.tensor([DOCUMENTS[0]]), "attention_mask": torch.ones(1, 5, dtype=torch.int64)}
    with pytest.raises(TypeError, match=r"got dict; call encoder\(\*\*inputs\)"):
        encoder(inputs)
    assert encoder(**inputs).shape == (1, 5, 16)


def test_rows_of_choice_are_pooled_as_the_first_tokens_are(encoder: Encoder) -> None:
    batch = pack(DOCUMENTS)
    hidden = encoder(batch.ids, batch.documents)
    first = batch.documents.first_rows()
    expected = encoder.pool(hidden, batch.documents)
    torch.testing.assert_close(encoder.pool(hidden[first]), expected, rtol=0, atol=0)
    torch.testing.assert_close(encoder.pool(encoder(batch.ids, batch.documents, rows=first)), expected)
    rows = torch.tensor([3, 19, 3])
    assert encoder.pooler is not None
    torch.testing.assert_close(encoder.pool(hidden[rows]), encoder.pooler(hidden)[rows].tanh())


def test_a_batch_counts_its_documents_without_padding() -> None:
    assert pack(DOCUMENTS).real_documents == 4
    assert pack([[2, 3], []], tokens=9, max_seqlen=3).real_documents == 2
    assert unmask.pack([[2, 3]]).to("cpu").real_documents == 1
