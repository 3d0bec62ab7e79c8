"""Model folders that are odd: every reader says the same one sentence, with the name of the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from unmask.cli import main
from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError

TABLE = "bert.embeddings.word_embeddings.weight"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
Change = Callable[[Path], object]


@pytest.fixture(scope="session")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    tokenizer = Tokenizer.train(["the river runs past the old mill", "a cat sat on the warm wall"] * 4, 110)
    tokenizer.save(folder)
    config = unmask.EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=8,
        num_layers=1,
        num_heads=2,
        intermediate_size=12,
        max_positions=16,
    )
    unmask.PretrainingModel(config, seed=3).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_folder, tmp_path / "model"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def set_config(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def write(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def set_weight(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def change(folder: Path) -> None:
        weights = weights_of(folder)
        weights[name] = value(weights[name]).contiguous()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def as_bin(make: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def change(folder: Path) -> None:
        torch.save(make(weights_of(folder)), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    return change


def with_index(content: object, *, shards: tuple[str, ...] = ("model-1.safetensors",)) -> Change:
    def change(folder: Path) -> None:
        for shard in shards:
            shutil.copy(folder / "model.safetensors", folder / shard)
        (folder / "model.safetensors").unlink()
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "model.safetensors.index.json").write_bytes(text)

    return change


def instead_of_weights(name: str, content: bytes = b"x") -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def cut(name: str, size: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


CONFIGS: dict[str, tuple[Change, str]] = {
    "a list": (write("config.json", b"[{}]"), r"config\.json must hold a JSON object, holds \[\{\}\] \(list\)"),
    "empty": (write("config.json", b""), r"config\.json cannot be read as JSON: it is empty"),
    "cut": (cut("config.json", 40), r"config\.json cannot be read as JSON: "),
    "latin-1": (write("config.json", b'{"a": "\xe9"}'), r"config\.json cannot be read as JSON: byte 7 is not UTF-8"),
    "deep": (write("config.json", b"[" * 100_000), r"config\.json cannot be read as JSON: "),
    "many digits": (write("config.json", b'{"vocab_size": ' + b"9" * 5000 + b"}"), r"config\.json cannot be read as"),
    "link": (
        lambda folder: [(folder / "config.json").unlink(), (folder / "config.json").symlink_to("../blobs/2")],
        r"config\.json is a link to \.\./blobs/2, which is not there",
    ),
    "folder": (
        lambda folder: [(folder / "config.json").unlink(), (folder / "config.json").mkdir()],
        r"config\.json cannot be read \(Is a directory\)",
    ),
    "UTF-16": (
        write("config.json", "{}".encode("utf-16")),
        r"config\.json cannot be read as JSON: byte 0 is not UTF-8",
    ),
    "LFS": (write("config.json", b"version https://git-lfs.github.com/spec/v1\n"), r"config\.json is a pointer of Git"),
    "eps null": (set_config(layer_norm_eps=None), r"config\.json: layer_norm_eps must be a number, got nothing"),
    "eps text": (set_config(layer_norm_eps="1e-12"), r"layer_norm_eps must be a number, got '1e-12' \(str\)"),
    "eps nan": (
        set_config(layer_norm_eps=float("nan")),
        r"config\.json: layer_norm_eps must be a finite number, got nan",
    ),
    "eps huge": (set_config(layer_norm_eps=10**400), r"config\.json: "),
    "dropout bool": (set_config(hidden_dropout_prob=True), r"hidden_dropout_prob must be a number, got True \(bool\)"),
    "no segments": (set_config(type_vocab_size=0), r"config\.json: type_vocab_size must be at least 1, got 0"),
    "negative": (set_config(max_position_embeddings=-4), r"max_position_embeddings must be at least 1, got -4"),
    "bool": (set_config(vocab_size=True), r"vocab_size must be a whole number, got True \(bool\)"),
    "float": (set_config(num_hidden_layers=1.0), r"num_hidden_layers must be a whole number, got 1.0 \(float\)"),
    "huge": (
        set_config(hidden_size=2 * 10**30),
        r"hidden_size must be at most 9223372036854775808, got a number of some 30 digits",
    ),
    "many layers": (set_config(num_hidden_layers=2**31 - 1), r"lacks the weight bert\.encoder\.layer\.1\."),
    "large": (
        set_config(vocab_size=2**30),
        r"word_embeddings\.weight must have shape \(1073741824, 8\), as config.json",
    ),
    "heads": (set_config(num_attention_heads=3), r"hidden_size must be a multiple of num_attention_heads \(3\), got 8"),
    "activation": (set_config(hidden_act=["gelu"]), r"hidden_act must be one of .* is \['gelu'\] \(list\)"),
    "decoder": (set_config(is_decoder=1), r"is_decoder must be False for a BERT encoder, is 1 \(int\)"),
    "cross": (set_config(add_cross_attention=True), r"add_cross_attention must be False"),
    "quantized": (set_config(quantization_config={"bits": 4}), r"config\.json: the weights are quantized"),
    **{
        kind: (set_config(model_type=kind), rf"model_type must be 'bert' for a BERT encoder, is '{kind}'; BertModel, ")
        for kind in ("roberta", "distilbert", "modernbert", "t5")
    },
    "type": (set_config(model_type=["bert"]), r"model_type must be 'bert' for a BERT encoder, is \['bert'\] \(list\)"),
}
WEIGHTS: dict[str, tuple[Change, str]] = {
    "list": (as_bin(lambda w: [torch.zeros(2)]), r"pytorch_model\.bin must hold tensors by .* holds a list"),
    "tensor": (as_bin(lambda w: torch.zeros(2)), r"pytorch_model\.bin must hold tensors by .* holds a tensor"),
    "numbers": (as_bin(lambda w: w | {"epoch": 3}), r"pytorch_model\.bin must hold .* holds 3 \(int\) under 'epoch'"),
    "unnamed": (as_bin(lambda w: {0: torch.zeros(2)}), r"pytorch_model\.bin must hold .* holds a tensor under 0"),
    "two": (as_bin(lambda w: {"model": w, "state_dict": w}), r"holds several: state_dict, model; save the model's"),
    "sparse": (as_bin(lambda w: w | {TABLE: w[TABLE].to_sparse()}), rf"{TABLE} must be dense .* sparse"),
    "empty .bin": (instead_of_weights("pytorch_model.bin", b""), r"pytorch_model\.bin cannot"),
    "empty file": (cut("model.safetensors", 0), r"model\.safetensors cannot be read, "),
    "cut file": (cut("model.safetensors", 400), r"model\.safetensors cannot be read, .*download it again"),
    "LFS": (write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), r"is a pointer of Git LFS"),
    "int8": (set_weight(QUERY, lambda t: t.to(torch.int8)), rf"{QUERY} must be dense float32, .* is int8; take"),
    "float8": (set_weight(QUERY, lambda t: t.to(torch.float8_e4m3fn)), rf"{QUERY} must be dense .* is float8_e4m3fn"),
    "complex": (as_bin(lambda w: w | {QUERY: w[QUERY] + 0j}), rf"{QUERY} must be dense float32, .* is complex64"),
    "nan": (set_weight(QUERY, lambda t: t / 0), rf"{QUERY} holds numbers that are no finite float32"),
    "too large": (set_weight(QUERY, lambda t: t.double() * 1e60), rf"{QUERY} holds numbers that are no finite float32"),
    "shape": (
        set_weight(QUERY, lambda t: t[1:]),
        rf"{QUERY} must have shape \(8, 8\), as config\.json says, got \(7, 8",
    ),
    "padded table": (
        set_weight(TABLE, lambda t: torch.cat([t, t])),
        r"set vocab_size to \d+ if the table was padded",
    ),
    "missing": (as_bin(lambda w: {k: v for k, v in w.items() if k != QUERY}), rf"lacks the weight {QUERY}"),
    "unexpected": (
        as_bin(lambda w: w | {"bert.encoder.layer.0.adapter.weight": torch.zeros(2)}),
        r"has the weight bert\.encoder\.layer\.0\.adapter\.weight, for which",
    ),
    "untied": (
        as_bin(lambda w: w | {"cls.predictions.decoder.weight": w[TABLE] + 1}),
        r"output projection differs from the token table",
    ),
    "untied shape": (
        as_bin(lambda w: w | {"cls.predictions.decoder.weight": w[TABLE][1:]}),
        r"output projection differs from the token table",
    ),
    "untied bias": (
        as_bin(lambda w: w | {"cls.predictions.decoder.bias": w["cls.predictions.bias"] + 1}),
        r"output bias differs from that of the head",
    ),
    "two encoders": (
        as_bin(lambda w: w | {f"query.{TABLE}": w[TABLE]}),
        r"holds 2 encoders, with names that begin with 'bert\.' and 'query\.bert\.'",
    ),
    "another architecture": (
        as_bin(lambda w: {name.replace("bert.", "roberta.", 1): value for name, value in w.items()}),
        r"the names of its weights begin with 'roberta\.', which is not BERT",
    ),
    "one weight twice": (
        as_bin(lambda w: w | {f"module.{QUERY}": w[QUERY]}),
        rf"holds one weight twice, as {QUERY} of pytorch_model\.bin and as module\.{QUERY}",
    ),
    **{
        name: (instead_of_weights(name), rf"has no weights; looked for .*; {name} is of {whose}")
        for name, whose in {
            "tf_model.h5": "TensorFlow",
            "flax_model.msgpack": "Flax",
            "onnx/model.onnx": "ONNX",
            "model.gguf": "llama.cpp",
        }.items()
    },
    "other name": (
        instead_of_weights("model.fp16.safetensors"),
        r"has no weights; .*model\.fp16\.safetensors is there",
    ),
    "link": (
        lambda folder: [
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors").symlink_to("../blobs/1"),
        ],
        r"model\.safetensors is a link to \.\./blobs/1, which is not there",
    ),
    "folder": (
        lambda folder: [(folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()],
        r"model\.safetensors is a folder and not a file of weights",
    ),
    "adapter": (write("adapter_config.json", b"{}"), r"holds an adapter \(adapter_config\.json\), which is not read"),
    "index empty": (with_index(b""), r"model\.safetensors\.index\.json cannot be read as JSON: it is empty"),
    "index cut": (
        with_index(b'{"weight_map": {"bert.emb\n'),
        r"model\.safetensors\.index\.json cannot be read as JSON",
    ),
    "index list": (with_index([]), r"model\.safetensors\.index\.json must hold a JSON object, holds \[\] \(list\)"),
    "index no map": (with_index({"metadata": {}}), r"index\.json must hold 'weight_map', .* holds null"),
    "index map list": (with_index({"weight_map": ["x"]}), r"index\.json must hold 'weight_map', .* holds \['x'\]"),
    "index number": (with_index({"weight_map": {QUERY: 1}}), r"index\.json must name a \.safetensors file .* names 1 "),
    "index config": (
        with_index({"weight_map": {QUERY: "config.json"}}),
        r"must name a \.safetensors file of its folder",
    ),
    "index above": (with_index({"weight_map": {QUERY: "../x.safetensors"}}), r"must name a \.safetensors file of its"),
    "index absolute": (with_index({"weight_map": {QUERY: "/x.safetensors"}}), r"must name a \.safetensors file of its"),
    "index absent": (with_index({"weight_map": {QUERY: "a.safetensors"}}), r"lacks a\.safetensors, which model\.safe"),
    "index repeats": (
        with_index(
            {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}, shards=("a.safetensors", "b.safetensors")
        ),
        r"holds one weight twice, as \S+ of a\.safetensors and as \S+ of b\.safetensors; remove one",
    ),
}
CASES = {f"config: {name}": case for name, case in CONFIGS.items()} | WEIGHTS


@pytest.mark.parametrize("case", CASES)
def test_every_reader_says_the_same_sentence(
    case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = CASES[case]
    change(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        unmask.PretrainingModel.from_pretrained(folder)
    sentence = str(raised.value)
    assert "\n" not in sentence
    for command in (["fill-mask", str(folder), "a [MASK]"], ["export", str(folder), str(tmp_path / "out")]):
        assert main(command) == 2
        assert capsys.readouterr().err == f"unmask: {sentence}\n"
    assert not (tmp_path / "out").exists()
    if "untied" not in case:
        with pytest.raises(CheckpointError, match=message):
            unmask.Encoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        as_bin(lambda w: {f"module.{name}": value for name, value in w.items()}),
        as_bin(lambda w: {f"_orig_mod.module.{name}": value for name, value in w.items()}),
        as_bin(lambda w: {name.replace("bert.", "bert._orig_mod.", 1): value for name, value in w.items()}),
        as_bin(lambda w: {f"model.{name}": value for name, value in w.items()}),
        as_bin(lambda w: {name.removeprefix("bert."): value for name, value in w.items()}),
        as_bin(lambda w: {f"net.backbone.{name.removeprefix('bert.')}": value for name, value in w.items()}),
        as_bin(lambda w: {f"0.auto_model.{name}": value for name, value in w.items()}),
        write("model.safetensors.index.json", b"{}"),
        write("pytorch_model.bin", b"of before"),
        as_bin(lambda w: {"state_dict": {f"model.{n}": v for n, v in w.items()}, "epoch": 3, "optimizer": {"lr": 1.0}}),
        as_bin(lambda w: {"model": w, "step": torch.tensor(3)}),
        as_bin(lambda w: {name.replace("predictions.bias", "predictions.decoder.bias"): v for name, v in w.items()}),
        as_bin(
            lambda w: w | {"cls.predictions.decoder.weight": w[TABLE], "optimizer_state": torch.zeros(1, dtype=int)}
        ),
        set_weight(QUERY, torch.Tensor.double),
        set_config(auto_map={"AutoModel": "code.Model"}, unknown=[1], architectures=None),
        lambda folder: (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()),
        write("generation_config.json", b"not JSON"),
        write("manifest.json", b'{"name": "of a web page", "icons": []}'),
    ],
    ids=[
        "module.",
        "_orig_mod.module.",
        "bert._orig_mod.",
        "model.",
        "without bert.",
        "net.backbone.",
        "0.auto_model.",
        "an index of before",
        "weights of before",
        "state_dict",
        "model",
        "bias of the decoder",
        "tied",
        "float64",
        "auto_map",
        "byte order mark",
        "generation_config",
        "manifest of others",
    ],
)
def test_what_can_mean_one_model_only_is_read(
    change: Change, folder: Path, whole_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "code.py").write_text("raise RuntimeError('code of a folder ran')")
    change(folder)
    model = unmask.PretrainingModel.from_pretrained(folder)
    for name, value in unmask.PretrainingModel.from_pretrained(whole_folder).state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    expected = unmask.Encoder.from_pretrained(whole_folder).state_dict()
    for name, value in unmask.Encoder.from_pretrained(folder).state_dict().items():
        assert torch.equal(expected[name], value), name
    assert main(["fill-mask", str(folder), "a [MASK]"]) == 0
    assert main(["export", str(folder), str(tmp_path / "out")]) == 0


def test_paths_that_are_no_folder_say_what_to_give(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = folder.with_name("link")
    link.symlink_to(folder)
    assert main(["fill-mask", str(link), "a [MASK]"]) == 0
    (folder / "gone").symlink_to("nowhere")
    cache = folder.with_name("models--owner--name")
    shutil.copytree(folder, cache / "snapshots" / "0a1b", symlinks=True)
    sentences, trainer = folder.with_name("sentences"), folder.with_name("trainer")
    shutil.copytree(folder, sentences / "0_Transformer", symlinks=True)
    (sentences / "1_Pooling").mkdir()
    (sentences / "1_Pooling" / "config.json").write_text("{}")
    for step in (500, 1000):
        shutil.copytree(folder, trainer / f"checkpoint-{step}", symlinks=True)
    original = folder.with_name("original")
    original.mkdir()
    (original / "bert_config.json").write_text("{}")
    for path, message in {
        folder / "model.safetensors": "model.safetensors is a file; give the folder that it lies in",
        folder / "gone": "gone is a link to nowhere, which is not there",
        folder / "absent": "absent does not exist; give a run, a checkpoint of one, or a folder with config.json",
        Path("x" * 5000): "cannot be the name of a folder",
        cache: "neither a run (config.yaml) nor a model (config.json); give the folder of a Hugging Face BERT model",
        sentences: f"; {sentences / '0_Transformer'} has one",
        trainer: f"; {trainer / 'checkpoint-1000'} has one",
        original: "bert_config.json is of the original TensorFlow release, convert it with version 4 of transformers",
    }.items():
        with pytest.raises(CheckpointError) as raised:
            unmask.PretrainingModel.from_pretrained(path)
        assert message in str(raised.value)
        for command in (["fill-mask", str(path), "a [MASK]"], ["export", str(path), str(folder / "out")]):
            capsys.readouterr()
            assert main(command) == 2
            assert capsys.readouterr().err == f"unmask: {raised.value}\n"
    with pytest.raises(CheckpointError, match=r"snapshots/0a1b has one"):
        unmask.Encoder.from_pretrained(cache)
