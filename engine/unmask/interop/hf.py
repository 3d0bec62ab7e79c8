"""Hugging Face BERT folders: read and write weights under the names of `names.py`, with their `config.json`.

    BertModel              encoder with pooler            <-> Encoder
    BertForMaskedLM        encoder, MLM head              <-> PretrainingModel(heads=("mlm",))
    BertForPreTraining     encoder, pooler, MLM and NSP   <-> PretrainingModel(heads=("mlm", "nsp"))

Weights are compared with config.json before a model is made, so that files that disagree are refused whatever sizes
they claim. What the names of an encoder begin with, be it `bert.`, nothing, or what a trainer put in front, is what the
token table's name begins with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from unmask.errors import CheckpointError
from unmask.model import Encoder, EncoderConfig, PretrainingModel

from . import names
from .config_json import read_config, write_config
from .model_folder import CONFIG, read_object
from .names import Parameter
from .weights import read_weights

__all__ = ["load_encoder", "load_pretraining_model", "save_encoder", "save_pretraining_model"]

_TABLE = "embeddings.word_embeddings.weight"
# the field of config.json that says how long a table is
_LENGTHS = {
    _TABLE: "vocab_size",
    "embeddings.position_embeddings.weight": "max_position_embeddings",
    "embeddings.token_type_embeddings.weight": "type_vocab_size",
}
# what people call an encoder that they build something around; another architecture has its own name
_AROUND = frozenset({"model", "base_model", "bert", "encoder", "backbone", "net", "auto_model"})
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def load_encoder(folder: Path, *, compute_dtype: torch.dtype = torch.float32) -> Encoder:
    """See `Encoder.from_pretrained`."""
    config = read_config(folder)
    weights = read_weights(folder)
    theirs = _encoder_prefix(weights, folder)
    pooler = f"{theirs}pooler.dense.weight" in weights
    _check(_encoder_parameters(config, pooler, "", theirs), weights, theirs, folder)
    encoder = Encoder(config, compute_dtype=compute_dtype, pooler=pooler)
    _fill(encoder, _encoder_parameters(config, pooler, "", theirs), weights)
    return encoder.eval()


def load_pretraining_model(folder: Path, *, compute_dtype: torch.dtype = torch.float32) -> PretrainingModel:
    """See `PretrainingModel.from_pretrained`."""
    config = read_config(folder)
    weights = read_weights(folder)
    theirs = _encoder_prefix(weights, folder)
    outer = theirs.removesuffix("bert.")
    bias, copy_of_bias = (f"{outer}cls.predictions.{name}" for name in ("bias", "decoder.bias"))
    if bias not in weights and copy_of_bias in weights:
        # tied as well, and a file that holds no tensor twice may have kept either
        weights[bias] = weights[copy_of_bias]
    if bias not in weights:
        raise CheckpointError(
            f"{folder} has no masked-LM head (no weights named cls.predictions.*); "
            "read its encoder with unmask.Encoder.from_pretrained"
        )
    heads = ("mlm", "nsp") if f"{outer}cls.seq_relationship.weight" in weights else ("mlm",)
    _check(_model_parameters(config, heads, theirs), weights, theirs, folder)
    projection = f"{outer}cls.predictions.decoder.weight"
    if projection not in weights and read_object(folder / CONFIG).get("tie_word_embeddings", True) is not True:
        raise CheckpointError(
            f"{folder}: {CONFIG} says tie_word_embeddings false, but there is no output projection ({projection}); set "
            "it to true if the token table is the projection, or read the encoder alone with "
            "unmask.Encoder.from_pretrained"
        )
    tied = {projection: f"{theirs}{_TABLE}", copy_of_bias: bias}
    for name, original in tied.items():
        if name in weights and not _equal(weights[name], weights[original]):
            what = (
                "projection differs from the token table" if original != bias else "bias differs from that of the head"
            )
            raise CheckpointError(
                f"{folder}: the output {what} ({name}), and both are one tensor here; read the encoder alone "
                "with unmask.Encoder.from_pretrained"
            )
    model = PretrainingModel(config, heads=heads, compute_dtype=compute_dtype)
    _fill(model, _model_parameters(config, heads, theirs), weights)
    return model.eval()


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """See `Encoder.save_pretrained`."""
    parameters = _encoder_parameters(encoder.config, encoder.pooler is not None, "", "")
    _save(encoder, parameters, folder, architecture="BertModel")


def save_pretraining_model(
    model: PretrainingModel, folder: Path, *, pad_id: int = 0, for_transformers: bool = True
) -> None:
    """See `PretrainingModel.save_pretrained`."""
    heads = ("mlm",) if model.nsp is None else ("mlm", "nsp")
    architecture = "BertForMaskedLM" if model.nsp is None else "BertForPreTraining"
    parameters = _model_parameters(model.config, heads, "bert.")
    _save(model, parameters, folder, architecture=architecture, pad_id=pad_id, for_transformers=for_transformers)


def _encoder_parameters(config: EncoderConfig, pooler: bool, ours: str, theirs: str) -> Iterator[Parameter]:
    table = names.ENCODER | (names.POOLER if pooler else {})
    return names.parameter_names(table, config, ours=ours, theirs=theirs)


def _model_parameters(config: EncoderConfig, heads: tuple[str, ...], theirs: str) -> Iterator[Parameter]:
    table = names.MLM | (names.NSP if "nsp" in heads else {})
    outer = theirs.removesuffix("bert.")
    return chain(
        _encoder_parameters(config, "nsp" in heads, "encoder.", theirs),
        names.parameter_names(table, config, theirs=outer),
    )


def _encoder_prefix(weights: dict[str, Tensor], folder: Path) -> str:
    """What stands in front of `embeddings.` and `encoder.` in the names of the one encoder in a folder."""
    found = [name.removesuffix(_TABLE) for name in weights if f".{name}".endswith(f".{_TABLE}")]
    if len(found) > 1:
        begin = " and ".join(map(repr, sorted(found)))
        raise CheckpointError(
            f"{folder} holds {len(found)} encoders, with names that begin with {begin}; save the one to be read alone"
        )
    if not found:
        return "bert." if any(name.startswith("bert.") for name in weights) else ""
    steps = found[0].split(".")[:-1]
    if steps and steps[-1] != "bert" and not all(step in _AROUND or step.isdecimal() for step in steps):
        raise CheckpointError(
            f"{folder}: the names of its weights begin with {found[0]!r}, which is not BERT; if they are BERT's, "
            "rename them so that they begin with 'bert.'"
        )
    return found[0]


def _check(parameters: Iterable[Parameter], weights: dict[str, Tensor], prefix: str, folder: Path) -> None:
    """Refuse weights that are not all of the model of config.json, and nothing but it."""
    used = set()
    for parameter in parameters:
        for name in parameter.theirs:
            if name not in weights:
                raise CheckpointError(f"{folder} lacks the weight {name}; is it the folder of a BERT model?")
            _check_weight(name, weights[name], parameter.shape, folder)
            used.add(name)
    for name in weights:
        inner = name.removeprefix(prefix)
        # an encoder without some of its weights would be another model; heads and buffers may stay unread
        of_encoder = name.startswith(prefix) and inner.startswith(("encoder.", "embeddings."))
        if of_encoder and name not in used and not inner.endswith(("position_ids", "token_type_ids")):
            raise CheckpointError(
                f"{folder} has the weight {name}, for which the model of its config.json has no place; are both of one "
                "model, and num_hidden_layers the number of its layers?"
            )


def _check_weight(name: str, value: Tensor, shape: tuple[int, ...], folder: Path) -> None:
    if tuple(value.shape) != shape:
        longer = value.dim() == len(shape) and value.shape[1:] == shape[1:] and len(value) > shape[0]
        field = next((field for table, field in _LENGTHS.items() if longer and name.endswith(table)), None)
        remedy = f"set {field} to {len(value)}" if field else "take both from one model"
        if field == "vocab_size":
            remedy += " if the table was padded"
        raise CheckpointError(
            f"{folder}: {name} must have shape {shape}, as config.json says, got {tuple(value.shape)}; {remedy}"
        )
    if value.dtype not in _DTYPES or value.layout != torch.strided or value.is_meta:
        kind = str(value.dtype).removeprefix("torch.")
        if value.layout != torch.strided or value.is_meta:
            kind += " without its values" if value.is_meta else " and sparse"
        raise CheckpointError(
            f"{folder}: {name} must be dense float32, float64, bfloat16 or float16, is {kind}; take the folder of a "
            "model that was not quantized or compressed"
        )
    if not value.float().isfinite().all():
        raise CheckpointError(
            f"{folder}: {name} holds numbers that are no finite float32; take another checkpoint of the model"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    comparable = one.shape == other.shape and one.dtype in _DTYPES and one.layout == torch.strided and not one.is_meta
    return comparable and torch.equal(one.float(), other.float())


def _fill(module: nn.Module, parameters: Iterable[Parameter], weights: dict[str, Tensor]) -> None:
    ours = dict(module.named_parameters())
    with torch.no_grad():
        for parameter in parameters:
            ours[parameter.ours].copy_(torch.cat([weights[name].float() for name in parameter.theirs]))


def _save(
    module: nn.Module,
    layout: Iterable[Parameter],
    folder: Path,
    *,
    architecture: str,
    pad_id: int = 0,
    for_transformers: bool = True,
) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    config = module.config
    assert isinstance(config, EncoderConfig)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder, architecture=architecture, pad_id=pad_id, for_transformers=for_transformers)
    parameters = dict(module.named_parameters())
    weights: dict[str, Tensor] = {}
    for ours, theirs, _ in layout:
        parts = parameters[ours].detach().cpu().chunk(len(theirs))
        weights.update({name: part.contiguous().clone() for name, part in zip(theirs, parts, strict=True)})
    file = folder / "model.safetensors"
    try:
        save_file(weights, file, metadata={"format": "pt"})
    except SafetensorError as error:
        # the library keeps the number only as text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from None
