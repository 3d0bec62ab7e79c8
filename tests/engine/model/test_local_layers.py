"""Local and causal layers of the encoder: which tokens a token depends on, and where such a model may be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from unmask import Encoder, EncoderConfig, PretrainingModel, pack
from unmask.errors import CheckpointError
from unmask_kernels import using

CONFIG: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_layers": 4,
    "num_heads": 4,
    "intermediate_size": 64,
    "max_positions": 24,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
}
DOCUMENTS = [[2, 5, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 12, 13, 14, 15, 3], [2, 9, 3]]
LONGEST = 9


def make(**fields: Any) -> Encoder:
    return Encoder(EncoderConfig(**{**CONFIG, **fields}), seed=4)


def hidden(encoder: Encoder, documents: list[list[int]], keys: list[int] | None = None) -> torch.Tensor:
    batch = pack(documents, keys=keys)
    return encoder(batch.ids, batch.documents, batch.segments)


def test_layers_are_global_local_local_as_in_modernbert() -> None:
    config = EncoderConfig(**{**CONFIG, "num_layers": 7}, attention_window=64)
    assert [config.window(layer) for layer in range(7)] == [None, 64, 64, None, 64, 64, None]
    assert [layer.window for layer in Encoder(config).layers] == [None, 64, 64, None, 64, 64, None]
    local = EncoderConfig(**CONFIG, attention_window=2, global_every=0)
    assert [local.window(layer) for layer in range(4)] == [2, 2, 2, 2]
    assert {EncoderConfig(**CONFIG).window(layer) for layer in range(12)} == {None}


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("fields", [{"attention_window": 2}, {"causal": True}, {"causal": True, "attention_window": 1}])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_packed_equals_alone(p: float, fields: dict[str, Any], backend: str) -> None:
    encoder = make(**fields, hidden_dropout=p, attention_dropout=p)
    with using(backend):
        together = hidden(encoder, DOCUMENTS, [11, 12, 13, 14]).split([len(ids) for ids in DOCUMENTS])
        for index, ids in enumerate(DOCUMENTS):
            alone = hidden(encoder, [ids], [11 + index])
            torch.testing.assert_close(together[index], alone, rtol=0, atol=1e-5)


def test_a_window_as_long_as_the_longest_document_is_none() -> None:
    wide = hidden(make(attention_window=LONGEST, global_every=0), DOCUMENTS)
    assert torch.equal(wide, hidden(make(), DOCUMENTS))
    narrow = hidden(make(attention_window=LONGEST - 3, global_every=0), DOCUMENTS)
    assert not torch.equal(narrow, wide)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_token_depends_on_its_window_only_exactly(causal: bool, backend: str) -> None:
    encoder = make(num_layers=1, attention_window=2, global_every=0, causal=causal)
    batch = pack(DOCUMENTS)
    row = 8 + 4  # the fifth token of the third document, which starts at 8
    embedded = []
    encoder.embeddings.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    with using(backend):
        out = encoder(batch.ids, batch.documents, batch.segments)
        (gradient,) = torch.autograd.grad(out[row].square().sum(), embedded[0])
    touched = gradient.abs().sum(1).nonzero().flatten().tolist()
    assert touched == list(range(row - 2, row + 1 if causal else row + 3))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"attention_window": 64}, "attention_window=64;"),
        ({"causal": True}, "causal=True;"),
        ({"attention_window": 8, "causal": True}, "attention_window=8 and causal=True;"),
    ],
)
def test_transformers_gets_no_model_that_it_would_compute_as_another(
    fields: dict[str, Any], named: str, tmp_path: Path
) -> None:
    model = PretrainingModel(EncoderConfig(**CONFIG, **fields))
    for write in (model.save_pretrained, model.encoder.save_pretrained):
        needed = f"transformers' Bert.* cannot compute this model, .* {named} .* save with for_transformers=False"
        with pytest.raises(CheckpointError, match=needed):
            write(tmp_path / "hf")
    model.encoder.save_pretrained(tmp_path / "encoder", for_transformers=False)
    assert Encoder.from_pretrained(tmp_path / "encoder").config == model.config
    model.save_pretrained(tmp_path / "ours", for_transformers=False)
    again = PretrainingModel.from_pretrained(tmp_path / "ours")
    assert again.config == model.config
    assert torch.equal(hidden(again.encoder, DOCUMENTS), hidden(model.encoder.eval(), DOCUMENTS))


def test_transformers_reads_no_checkpoint_that_only_we_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    # another test of this process may have imported unmask.hf, which registers the model type
    monkeypatch.delitem(transformers.CONFIG_MAPPING._extra_content, "unmask", raising=False)
    model = PretrainingModel(EncoderConfig(**CONFIG, attention_window=2))
    model.save_pretrained(tmp_path, for_transformers=False)
    with pytest.raises(ValueError, match="unmask"):
        transformers.AutoModel.from_pretrained(tmp_path)


def test_a_window_that_no_layer_has_is_written_for_transformers(tmp_path: Path) -> None:
    PretrainingModel(EncoderConfig(**{**CONFIG, "num_layers": 1}, attention_window=2)).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").is_file()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_window": 0}, "attention_window must be at least 1, got 0"),
        ({"global_every": 1}, "global_every must be at least 2, or 0 to make every layer local, got 1"),
    ],
)
def test_refuses_patterns_without_a_meaning(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"EncoderConfig: {message}"):
        make(**fields)
