"""Hugging Face BERT folders: read and write `config.json` and weights, with the names of `names.py`.

    BertModel              encoder with pooler            <-> Encoder
    BertForMaskedLM        encoder, MLM head              <-> PretrainingModel(heads=("mlm",))
    BertForPreTraining     encoder, pooler, MLM and NSP   <-> PretrainingModel(heads=("mlm", "nsp"))

Only what this engine computes is read: absolute positions, erf or tanh GELU, tied output projection. Anything else
is refused by name rather than loaded as something it is not; so is, when written, a model that BERT's classes do not
compute. A checkpoint of such a model holds the same files with a `model_type` of our own, which only we read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmask.errors import CheckpointError
from unmask.model import Encoder, EncoderConfig, PretrainingModel

from . import names
from .weights import read_weights

__all__ = [
    "load_encoder",
    "load_pretraining_model",
    "read_config",
    "save_encoder",
    "save_pretraining_model",
    "write_config",
]

# our field: theirs
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
# what a config must say, if it says it, for the model to be BERT's
_REQUIRED = {"position_embedding_type": "absolute", "is_decoder": False}
# what BERT's classes in transformers do not have, and the model_type of a folder that says one of them
_OURS = ("causal", "attention_window", "global_every")
_OUR_TYPE = "unmask"


def read_config(folder: Path) -> EncoderConfig:
    """The sizes in a folder's config.json.

    Raises:
        CheckpointError: no such file, or a model that this engine does not compute.
    """
    path = folder / "config.json"
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} has no config.json; give the folder of a Hugging Face BERT model or a checkpoint of a run"
        ) from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    ours_alone = theirs.get("model_type") == _OUR_TYPE
    for name, needed in {"model_type": _OUR_TYPE if ours_alone else "bert", **_REQUIRED}.items():
        found = theirs.get(name, needed)
        if found != needed:
            raise CheckpointError(f"{path}: {name} must be {needed!r} for a BERT encoder, is {found!r}")
    activation = theirs.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        known = ", ".join(map(repr, _ACTIVATIONS))
        raise CheckpointError(f"{path}: hidden_act must be one of {known}, is {activation!r}")
    if not theirs.get("tie_word_embeddings", True):
        raise CheckpointError(
            f"{path}: tie_word_embeddings must be true, the output projection is the token table here"
        )
    # a config may leave out what equals BERT-base, as `transformers` itself writes it
    fields = {ours: theirs[other] for ours, other in _FIELDS.items() if other in theirs}
    fields.setdefault("vocab_size", 30522)
    if ours_alone:
        fields |= {name: theirs[name] for name in _OURS if name in theirs}
    try:
        return EncoderConfig(**fields, activation=_ACTIVATIONS[activation])  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def write_config(
    config: EncoderConfig, folder: Path, *, architecture: str, pad_id: int = 0, for_transformers: bool = True
) -> None:
    """Write config.json for the `transformers` class named by `architecture`.

    Raises:
        CheckpointError: with `for_transformers`, a model that the class does not compute.
    """
    foreign = _foreign(config)
    if foreign and for_transformers:
        raise CheckpointError(
            f"{folder}: transformers' {architecture} cannot compute this model, which has {' and '.join(foreign)}; "
            "a checkpoint of a run keeps it, and unmask.PretrainingModel.from_pretrained reads that"
        )
    theirs: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": _OUR_TYPE if foreign else "bert",
        **{name: getattr(config, name) for name in _OURS if foreign},
        **{other: getattr(config, ours) for ours, other in _FIELDS.items()},
        "hidden_act": "gelu" if config.activation == "gelu" else "gelu_new",
        "position_embedding_type": "absolute",
        "pad_token_id": pad_id,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(theirs, indent=2) + "\n", encoding="utf-8")


def _foreign(config: EncoderConfig) -> list[str]:
    """What transformers' BERT does not have, by name and value."""
    local = any(config.window(layer) is not None for layer in range(config.num_layers))
    found = [f"attention_window={config.attention_window}"] if local else []
    return found + (["causal=True"] if config.causal else [])


def load_encoder(folder: Path, *, compute_dtype: torch.dtype = torch.float32) -> Encoder:
    """See `Encoder.from_pretrained`."""
    config = read_config(folder)
    weights = read_weights(folder)
    theirs = _encoder_prefix(weights)
    pooler = f"{theirs}pooler.dense.weight" in weights
    encoder = Encoder(config, compute_dtype=compute_dtype, pooler=pooler)
    _fill(encoder, _encoder_names(config, pooler, "", theirs), weights, folder)
    return encoder.eval()


def load_pretraining_model(folder: Path, *, compute_dtype: torch.dtype = torch.float32) -> PretrainingModel:
    """See `PretrainingModel.from_pretrained`."""
    config = read_config(folder)
    weights = read_weights(folder)
    if "cls.predictions.bias" not in weights:
        raise CheckpointError(
            f"{folder} has no masked-LM head (no weights named cls.predictions.*); "
            "read its encoder with unmask.Encoder.from_pretrained"
        )
    theirs = _encoder_prefix(weights)
    table = weights.get(f"{theirs}embeddings.word_embeddings.weight")
    projection = weights.get("cls.predictions.decoder.weight", table)
    if table is not None and projection is not None and not torch.equal(table, projection):
        raise CheckpointError(f"{folder}: the output projection differs from the token table; both are one tensor here")
    heads = ("mlm", "nsp") if "cls.seq_relationship.weight" in weights else ("mlm",)
    model = PretrainingModel(config, heads=heads, compute_dtype=compute_dtype)
    _fill(model, _model_names(config, heads, theirs), weights, folder)
    return model.eval()


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """See `Encoder.save_pretrained`."""
    pairs = _encoder_names(encoder.config, encoder.pooler is not None, "", "")
    _save(encoder, pairs, folder, architecture="BertModel")


def save_pretraining_model(
    model: PretrainingModel, folder: Path, *, pad_id: int = 0, for_transformers: bool = True
) -> None:
    """See `PretrainingModel.save_pretrained`."""
    heads = ("mlm",) if model.nsp is None else ("mlm", "nsp")
    architecture = "BertForMaskedLM" if model.nsp is None else "BertForPreTraining"
    pairs = _model_names(model.config, heads, "bert.")
    _save(model, pairs, folder, architecture=architecture, pad_id=pad_id, for_transformers=for_transformers)


Pairs = list[tuple[str, tuple[str, ...]]]


def _encoder_names(config: EncoderConfig, pooler: bool, ours: str, theirs: str) -> Pairs:
    table = names.ENCODER | (names.POOLER if pooler else {})
    return list(names.parameter_names(table, config.num_layers, ours=ours, theirs=theirs))


def _model_names(config: EncoderConfig, heads: tuple[str, ...], theirs: str) -> Pairs:
    table = names.MLM | (names.NSP if "nsp" in heads else {})
    pairs = _encoder_names(config, "nsp" in heads, "encoder.", theirs)
    return pairs + list(names.parameter_names(table, config.num_layers))


def _encoder_prefix(weights: dict[str, Tensor]) -> str:
    return "bert." if any(name.startswith("bert.") for name in weights) else ""


def _fill(module: nn.Module, pairs: Pairs, weights: dict[str, Tensor], folder: Path) -> None:
    _refuse_leftovers(pairs, weights, folder)
    parameters = dict(module.named_parameters())
    for ours, theirs in pairs:
        missing = [name for name in theirs if name not in weights]
        if missing:
            raise CheckpointError(f"{folder} lacks the weight {missing[0]}; is it the folder of a BERT model?")
        value = torch.cat([weights[name].float() for name in theirs])
        expected = tuple(parameters[ours].shape)
        if tuple(value.shape) != expected:
            raise CheckpointError(
                f"{folder}: {' + '.join(theirs)} must have shape {expected}, as config.json says, "
                f"got {tuple(value.shape)}"
            )
        with torch.no_grad():
            parameters[ours].copy_(value)


def _refuse_leftovers(pairs: Pairs, weights: dict[str, Tensor], folder: Path) -> None:
    """An encoder without some of its weights would be another model; heads and buffers may stay unread."""
    used = {name for _, theirs in pairs for name in theirs}
    for name in weights:
        inner = name.removeprefix("bert.")
        of_encoder = inner.startswith(("encoder.", "embeddings."))
        if of_encoder and name not in used and not inner.endswith(("position_ids", "token_type_ids")):
            raise CheckpointError(
                f"{folder} has the weight {name}, for which the model of its config.json has no place; are both of one "
                "model, and num_hidden_layers the number of its layers?"
            )


def _save(
    module: nn.Module,
    pairs: Pairs,
    folder: Path,
    *,
    architecture: str,
    pad_id: int = 0,
    for_transformers: bool = True,
) -> None:
    from safetensors.torch import save_file

    config = module.config
    assert isinstance(config, EncoderConfig)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder, architecture=architecture, pad_id=pad_id, for_transformers=for_transformers)
    parameters = dict(module.named_parameters())
    weights: dict[str, Tensor] = {}
    for ours, theirs in pairs:
        parts = parameters[ours].detach().cpu().chunk(len(theirs))
        weights.update({name: part.contiguous().clone() for name, part in zip(theirs, parts, strict=True)})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
