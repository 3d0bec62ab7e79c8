"""Parts of a model folder that are left out or made new: what the model gets, and the log message that says so."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from unmask.errors import CheckpointError

CONFIG = unmask.EncoderConfig(
    vocab_size=40, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24, max_positions=12
)
IDS = [[2, 5, 6, 3], [2, 7, 3]]


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="unmask")
    return caplog


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


def folder_of(path: Path, heads: tuple[str, ...] | None, *, pooler: bool = True) -> str:
    """The folder of a model with these heads; None: an encoder alone."""
    model = (
        unmask.Encoder(CONFIG, seed=3, pooler=pooler) if heads is None else unmask.PretrainingModel(CONFIG, heads=heads)
    )
    model.save_pretrained(path)
    return str(path)


def with_tensors(path: Path, **tensors: torch.Tensor) -> str:
    weights = load_file(path / "model.safetensors")
    save_file(weights | tensors, path / "model.safetensors", metadata={"format": "pt"})
    return str(path)


def test_what_matches_the_class_is_read_without_a_message(tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    unmask.Encoder.from_pretrained(folder_of(tmp_path / "a", None))
    unmask.Encoder.from_pretrained(folder_of(tmp_path / "b", None, pooler=False))
    unmask.PretrainingModel.from_pretrained(folder_of(tmp_path / "c", ("mlm",)))
    unmask.PretrainingModel.from_pretrained(folder_of(tmp_path / "d", ("mlm", "nsp")))
    assert said(messages) == []


@pytest.mark.parametrize(
    ("heads", "named", "asked"),
    [
        (("mlm",), "the masked-LM head (cls.predictions.*)", "('mlm',)"),
        (
            ("mlm", "nsp"),
            "the masked-LM head (cls.predictions.*), the next-sentence head (cls.seq_relationship.*)",
            "('mlm', 'nsp')",
        ),
    ],
)
def test_heads_that_an_encoder_leaves_out_are_named_with_the_call_that_reads_them(
    heads: tuple[str, ...], named: str, asked: str, tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path, heads)
    unmask.Encoder.from_pretrained(folder)
    way = f"read it with unmask.PretrainingModel.from_pretrained and heads={asked}"
    assert said(messages) == [("INFO", f"{folder}: left out {named}; {way}")]
    model = unmask.PretrainingModel.from_pretrained(folder, heads=heads)
    assert said(messages) == [] and (model.nsp is not None) == ("nsp" in heads)


def test_a_head_that_no_class_reads_is_named_in_a_warning(tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    folder_of(tmp_path, ("mlm",))
    tensors = {"classifier.weight": torch.zeros(3, 16), "classifier.bias": torch.zeros(3), "temperature": torch.ones(1)}
    folder = with_tensors(tmp_path, **tensors)
    for model in (unmask.Encoder, unmask.PretrainingModel):
        model.from_pretrained(folder)
        ((level, message),) = said(messages)
        assert level == "WARNING" and "classifier.*, temperature" in message
        assert message.endswith("load the tensors classifier.*, temperature into a module of your own")
        assert ("the masked-LM head" in message) == (model is unmask.Encoder)
    head = torch.nn.Linear(16, 3)
    loaded = load_file(tmp_path / "model.safetensors")
    head.load_state_dict(
        {name.removeprefix("classifier."): value for name, value in loaded.items() if "classifier" in name}
    )
    assert head.weight.abs().sum() == 0


@pytest.mark.filterwarnings("ignore")
def test_the_classifier_of_a_transformers_folder_is_named(tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 12}
    config = transformers.BertConfig(vocab_size=40, hidden_size=16, **sizes)
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    encoder = unmask.Encoder.from_pretrained(tmp_path)
    assert encoder.pooler is not None
    ((level, message),) = [one for one in said(messages) if "left out" in one[1]]
    assert level == "WARNING" and "left out classifier.*; load the tensors" in message


def test_a_pooler_can_be_asked_for_or_left_out(tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    without, with_one = folder_of(tmp_path / "a", None, pooler=False), folder_of(tmp_path / "b", None)
    batch = unmask.pack(IDS)
    assert unmask.Encoder.from_pretrained(without).pooler is None
    made = unmask.Encoder.from_pretrained(without, pooler=True, seed=9)
    ((level, message),) = said(messages)
    assert level == "WARNING"
    assert message == f"{without} has no pooler; the model gets new random weights there, so train it before use"
    vectors = made.pool(made(batch.ids, batch.documents), batch.documents)
    assert vectors.shape == (2, 16) and vectors.std() > 0
    again = unmask.Encoder.from_pretrained(without, pooler=True, seed=9)
    other = unmask.Encoder.from_pretrained(without, pooler=True, seed=10)
    assert made.pooler is not None and again.pooler is not None and other.pooler is not None
    assert torch.equal(again.pooler.weight, made.pooler.weight)
    assert not torch.equal(other.pooler.weight, made.pooler.weight)
    messages.clear()
    bare = unmask.Encoder.from_pretrained(with_one, pooler=False)
    assert said(messages) == [
        ("INFO", f"{with_one}: left out the pooler (pooler.*); read it with unmask.Encoder.from_pretrained")
    ]
    assert bare.pooler is None and unmask.Encoder.from_pretrained(with_one).pooler is not None
    whole = unmask.Encoder.from_pretrained(with_one, pooler=True)
    assert said(messages) == [] and torch.equal(bare.layers[0].up.weight, whole.layers[0].up.weight)  # type: ignore[union-attr]


def test_the_error_without_a_pooler_names_ways_that_work(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, None, pooler=False)
    encoder, batch = unmask.Encoder.from_pretrained(folder), unmask.pack(IDS)
    hidden, documents = encoder(batch.ids, batch.documents), batch.documents
    with pytest.raises(ValueError, match=r"take .* hidden\[documents.first_rows\(\)\], or make .* with pooler=True"):
        encoder.pool(hidden, documents)
    assert hidden[documents.first_rows()].shape == (2, 16)
    assert unmask.Encoder.from_pretrained(folder, pooler=True).pool(hidden, documents).shape == (2, 16)


def test_heads_can_be_asked_for_or_left_out(tmp_path: Path, messages: pytest.LogCaptureFixture) -> None:
    alone, both = folder_of(tmp_path / "a", None, pooler=False), folder_of(tmp_path / "b", ("mlm", "nsp"))
    with pytest.raises(
        CheckpointError, match=r"pass heads=\('mlm',\) to PretrainingModel.from_pretrained, which makes a new one"
    ):
        unmask.PretrainingModel.from_pretrained(alone)
    messages.clear()
    new = unmask.PretrainingModel.from_pretrained(alone, heads=("mlm",))
    ((level, message),) = said(messages)
    assert level == "WARNING" and "has no masked-LM head; the model gets new random weights" in message
    assert torch.equal(new.encoder.layers[0].up.weight, unmask.Encoder.from_pretrained(alone).layers[0].up.weight)  # type: ignore[union-attr]
    assert new.mlm.dense.weight.std() > 0
    unmask.PretrainingModel.from_pretrained(alone, heads=("mlm", "nsp"))
    assert "has no masked-LM head and next-sentence head and pooler" in said(messages)[0][1]
    one = unmask.PretrainingModel.from_pretrained(both, heads=["mlm"])
    assert one.nsp is None and one.encoder.pooler is None
    ((level, message),) = said(messages)
    assert level == "INFO" and "the next-sentence head (cls.seq_relationship.*), the pooler (bert.pooler.*)" in message
    with pytest.raises(ValueError, match=re.escape("heads must be ('mlm',) or ('mlm', 'nsp'), got ('nsp',)")):
        unmask.PretrainingModel.from_pretrained(both, heads=("nsp",))


def test_a_next_sentence_head_takes_the_pooler_of_the_folder(
    tmp_path: Path, messages: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path, None)
    model = unmask.PretrainingModel.from_pretrained(folder, heads=("mlm", "nsp"))
    assert "has no masked-LM head and next-sentence head; the model" in said(messages)[0][1]
    expected = unmask.Encoder.from_pretrained(folder)
    assert model.encoder.pooler is not None and expected.pooler is not None
    assert torch.equal(model.encoder.pooler.weight, expected.pooler.weight)


def test_a_next_sentence_head_without_its_pooler_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, ("mlm", "nsp"))
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for heads in (None, ("mlm", "nsp")):
        with pytest.raises(CheckpointError, match=r"lacks the weight bert\.pooler\.dense\.weight"):
            unmask.PretrainingModel.from_pretrained(tmp_path, heads=heads)


@pytest.mark.parametrize("kind", [unmask.Encoder, unmask.PretrainingModel])
def test_one_dropout_replaces_the_two_of_the_folder(kind: type, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", ("mlm",))
    assert kind.from_pretrained(folder).config == CONFIG
    model = kind.from_pretrained(folder, dropout=0.25).train()
    assert (model.config.hidden_dropout, model.config.attention_dropout) == (0.25, 0.25)
    still = kind.from_pretrained(folder, dropout=0).train()
    encoder = still if kind is unmask.Encoder else still.encoder
    dropping = model if kind is unmask.Encoder else model.encoder
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        batch = unmask.pack(IDS)
        outputs.append((encoder(batch.ids, batch.documents), dropping(batch.ids, batch.documents)))
    assert torch.equal(outputs[0][0], outputs[1][0]) and not torch.equal(outputs[0][1], outputs[1][1])
    model.save_pretrained(tmp_path / "b")
    assert kind.from_pretrained(tmp_path / "b").config.hidden_dropout == 0.25


@pytest.mark.parametrize("dropout", [1.0, -0.1, "0.1", True, float("nan")])
def test_a_dropout_that_is_no_rate_is_refused_by_its_name(dropout: object, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ("mlm",))
    needed = re.escape(f"dropout must be a number of at least 0 and below 1, got {dropout!r}; leave it out")
    for kind in (unmask.Encoder, unmask.PretrainingModel):
        with pytest.raises(ValueError, match=needed):
            kind.from_pretrained(folder, dropout=dropout)  # type: ignore[arg-type]
        assert kind.from_pretrained(folder).config == unmask.Encoder.from_pretrained(folder).config
