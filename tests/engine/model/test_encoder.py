"""Encoder: packed equals alone, dropout by address, shapes it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import unmask.model.layer as layer_module
from unmask import Encoder, EncoderConfig, pack
from unmask.batch import PackedBatch
from unmask.model.layer import Linear
from unmask_kernels import BackendUnavailable, using

CONFIG = EncoderConfig(
    vocab_size=60,
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    intermediate_size=64,
    max_positions=24,
    hidden_dropout=0.0,
    attention_dropout=0.0,
)
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]]


def changed(**fields: Any) -> EncoderConfig:
    values = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    return EncoderConfig(**{**values, **fields})


def hidden_of(encoder: Encoder, batch: PackedBatch) -> torch.Tensor:
    return encoder(batch.ids, batch.documents, batch.segments)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_packed_equals_alone_outputs_and_gradients(
    p: float, dtype: torch.dtype, tolerance: float, backend: str
) -> None:
    encoder = Encoder(changed(hidden_dropout=p, attention_dropout=p), compute_dtype=dtype, seed=4)
    packed = pack(DOCUMENTS, keys=[11, 12, 13, 14], tokens=32, max_seqlen=12)
    incoming = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    incoming[20:] = 0.0
    with using(backend):
        together = hidden_of(encoder, packed)
        (together.float() * incoming).sum().backward()
        gradients = {name: parameter.grad.clone() for name, parameter in encoder.named_parameters() if _used(parameter)}
        encoder.zero_grad()
        start = 0
        for index, ids in enumerate(DOCUMENTS):
            rows = slice(start, start + len(ids))
            alone = hidden_of(encoder, pack([ids], keys=[11 + index]))
            torch.testing.assert_close(together[rows], alone, rtol=0, atol=tolerance)
            (alone.float() * incoming[rows]).sum().backward()
            start = rows.stop
    for name, parameter in encoder.named_parameters():
        if _used(parameter):
            scale = float(gradients[name].abs().max()) or 1.0
            torch.testing.assert_close(
                parameter.grad / scale, gradients[name] / scale, rtol=0, atol=tolerance, msg=name
            )


def _used(parameter: torch.nn.Parameter) -> bool:
    return parameter.grad is not None


@pytest.mark.parametrize("p", [0.0, 0.2])
def test_rows_of_the_last_layer_are_what_all_rows_give_there(p: float) -> None:
    encoder = Encoder(changed(hidden_dropout=p, attention_dropout=p))
    batch = pack(DOCUMENTS, keys=[11, 12, 13, 14])
    rows = torch.tensor([3, 19, 0, 7, 3])  # in any order, one of them twice
    incoming = torch.randn(5, 32, generator=torch.Generator().manual_seed(1))
    gradients = []
    outputs = [hidden_of(encoder, batch)[rows], encoder(batch.ids, batch.documents, batch.segments, rows=rows)]
    for hidden in outputs:
        encoder.zero_grad()
        (hidden * incoming).sum().backward()
        gradients.append({name: one.grad.clone() for name, one in encoder.named_parameters() if _used(one)})
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-5, atol=1e-5, msg=name)


def test_a_bias_added_by_what_follows_a_product_gives_what_one_inside_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(linear: Linear, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.nn.functional.linear(x, linear.weight.to(x.dtype)), linear.bias

    encoder = Encoder(changed(hidden_dropout=0.2))
    batch = pack(DOCUMENTS, keys=[11, 12, 13, 14])
    incoming = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    results = []
    for _ in range(2):
        encoder.zero_grad()
        hidden = hidden_of(encoder, batch)
        (hidden * incoming).sum().backward()
        results.append((hidden, {name: one.grad.clone() for name, one in encoder.named_parameters() if _used(one)}))
        monkeypatch.setattr(layer_module, "product_and_bias", outside)  # as on a GPU
    (inside, expected), (hidden, gradients) = results
    torch.testing.assert_close(hidden, inside, rtol=0, atol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_the_feed_forward_product_takes_the_backend_asked_for_by_name() -> None:
    encoder, batch = Encoder(CONFIG, seed=4).eval(), pack(DOCUMENTS)
    with using(linear_gelu="reference"):
        plain = hidden_of(encoder, batch)
    torch.testing.assert_close(hidden_of(encoder, batch), plain, rtol=0, atol=1e-5)
    refused = pytest.raises(
        BackendUnavailable, match="linear_gelu: backend 'triton' cannot run this call: needs a CUDA"
    )
    with using(linear_gelu="triton"), refused:
        hidden_of(encoder, batch)


def test_a_document_does_not_see_its_neighbours() -> None:
    encoder = Encoder(CONFIG).eval()
    before = hidden_of(encoder, pack([DOCUMENTS[0], DOCUMENTS[1]]))[:5]
    after = hidden_of(encoder, pack([DOCUMENTS[0], [2, 50, 51, 52, 53, 3]]))[:5]
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


def test_dropout_is_off_in_evaluation_and_repeats_for_the_same_keys() -> None:
    encoder = Encoder(changed(hidden_dropout=0.3, attention_dropout=0.3))
    batch = pack(DOCUMENTS, keys=[1, 2, 3, 4])
    first, again = hidden_of(encoder, batch), hidden_of(encoder, batch)
    assert torch.equal(first, again)
    other = hidden_of(encoder, pack(DOCUMENTS, keys=[5, 6, 7, 8]))
    assert not torch.allclose(first, other)
    plain = Encoder(CONFIG)
    plain.load_state_dict(encoder.state_dict())
    assert torch.equal(hidden_of(encoder.eval(), batch), hidden_of(plain, batch))


def test_dropout_keeps_the_mean_of_the_embeddings() -> None:
    encoder = Encoder(changed(num_layers=1, hidden_dropout=0.5))
    batch = pack([list(range(20))] * 40, keys=range(40))
    hidden = encoder.embeddings(batch.ids, batch.documents, None, None, torch.float32)
    encoder.layers = torch.nn.ModuleList()
    dropped = hidden_of(encoder, batch)
    assert 0.47 < float((dropped == 0).float().mean()) < 0.53
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * hidden[kept])


@pytest.mark.parametrize("place", ["hidden", "attention"])
def test_each_of_the_two_dropouts_works_without_the_other(place: str) -> None:
    encoder = Encoder(changed(**{f"{place}_dropout": 0.3}))
    batch = pack(DOCUMENTS, keys=[1, 2, 3, 4])
    trained = hidden_of(encoder, batch)
    assert not torch.allclose(trained, hidden_of(encoder.eval(), batch), atol=1e-2)


def test_every_place_of_every_layer_drops_under_a_key_of_its_own_at_its_own_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, int, float, float | None]] = []

    def watch(name: str) -> None:
        original = getattr(layer_module, name)

        def watched(*arguments: Any, key: torch.Tensor, p: float, **options: Any) -> torch.Tensor:
            seen.append((name, int(key), p, options.get("eps")))
            return original(*arguments, key=key, p=p, **options)

        monkeypatch.setattr(layer_module, name, watched)

    for name in ("embedding", "attention", "layer_norm"):
        watch(name)
    encoder = Encoder(changed(hidden_dropout=0.1, attention_dropout=0.2, layer_norm_eps=1e-3))
    hidden_of(encoder, pack(DOCUMENTS))
    layer = [("attention", 0.2, None), ("layer_norm", 0.1, 1e-3), ("layer_norm", 0.1, 1e-3)]
    assert [(name, p, eps) for name, _, p, eps in seen] == [("embedding", 0.1, 1e-3), *(3 * layer)]
    keys = {key for _, key, _, _ in seen}
    assert len(keys) == len(seen)
    seen.clear()
    encoder.dropout_seed += 1
    hidden_of(encoder, pack(DOCUMENTS))
    assert keys.isdisjoint(key for _, key, _, _ in seen)


def test_parameters_stay_fp32_and_get_fp32_gradients() -> None:
    encoder = Encoder(CONFIG, compute_dtype=torch.bfloat16)
    hidden = hidden_of(encoder, pack(DOCUMENTS))
    assert hidden.dtype == torch.bfloat16
    hidden.float().square().sum().backward()
    for parameter in encoder.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or parameter.grad.dtype == torch.float32


def test_starts_from_the_same_weights_for_the_same_seed() -> None:
    first, again, other = Encoder(CONFIG, seed=1), Encoder(CONFIG, seed=1), Encoder(CONFIG, seed=2)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.embeddings.word.weight, other.embeddings.word.weight)
    table = first.embeddings.word.weight.detach()
    assert float(table.abs().max()) <= 0.04
    assert float(table.std()) == pytest.approx(0.0176, rel=0.05)  # of a normal cut at 2 deviations
    assert int(other.dropout_seed) == 2
    wide = Encoder(changed(initializer_range=0.1), seed=1)
    torch.testing.assert_close(wide.embeddings.word.weight, 5 * first.embeddings.word.weight)
    assert not any(value.any() for name, value in wide.state_dict().items() if name.endswith("bias"))


def test_segments_default_to_the_first_kind() -> None:
    encoder = Encoder(CONFIG).eval()
    batch = pack(DOCUMENTS)
    without = encoder(batch.ids, batch.documents)
    torch.testing.assert_close(without, hidden_of(encoder, batch), rtol=0, atol=1e-6)


def test_compiles_as_one_graph() -> None:
    encoder = Encoder(changed(num_layers=1, hidden_dropout=0.1, attention_dropout=0.1), compute_dtype=torch.bfloat16)
    batch = pack(DOCUMENTS, keys=[1, 2, 3, 4])
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    expected = hidden_of(encoder, batch)
    torch.testing.assert_close(compiled(batch.ids, batch.documents, batch.segments), expected, rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 30}, "EncoderConfig: hidden_size must be a multiple of num_heads (4), got 30"),
        *(
            ({name: 0}, f"EncoderConfig: {name} must be at least 1, got 0")
            for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions")
        ),
        ({"hidden_dropout": 1.0}, "EncoderConfig: hidden_dropout must be at least 0 and below 1, got 1"),
        ({"attention_dropout": -0.1}, "EncoderConfig: attention_dropout must be at least 0 and below 1, got -0.1"),
        ({"activation": "relu"}, "EncoderConfig: activation must be one of 'gelu', 'gelu_tanh', got 'relu' (str)"),
    ],
)
def test_refuses_sizes_that_make_no_encoder(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        changed(**fields)


def test_refuses_documents_longer_than_the_position_table() -> None:
    batch = pack([list(range(25))])
    with pytest.raises(ValueError, match=r"documents\.max_seqlen is 25 but the model has 24 positions; cut documents"):
        hidden_of(Encoder(CONFIG), batch)
    assert len(hidden_of(Encoder(CONFIG), pack([list(range(24))]))) == 24


def test_refuses_ids_of_other_documents() -> None:
    batch = pack(DOCUMENTS)
    with pytest.raises(ValueError, match=r"ids must have shape \(20,\), the tokens of documents, got \(19,\)"):
        Encoder(CONFIG)(batch.ids[:-1], batch.documents)


def test_an_encoder_without_pooler_says_so() -> None:
    batch = pack(DOCUMENTS)
    encoder = Encoder(CONFIG, pooler=False)
    hidden = hidden_of(encoder, batch)
    with pytest.raises(ValueError, match=r"has no pooler; take .* \[CLS\], hidden\[documents.first_rows\(\)\]"):
        encoder.pool(hidden, batch.documents)
    assert hidden[batch.documents.first_rows()].shape == (len(DOCUMENTS), CONFIG.hidden_size)


@pytest.mark.parametrize("wrong", [60, 1000, -1])
def test_an_id_that_is_not_of_the_vocabulary_is_named_with_the_way_out(wrong: int) -> None:
    encoder = Encoder(CONFIG)
    message = rf"ids must be in \[0, 60\), the rows of word; use the tokenizer .* trained with, got {wrong}"
    with pytest.raises(ValueError, match=message):
        hidden_of(encoder, pack([[2, 5, wrong, 3]]))
