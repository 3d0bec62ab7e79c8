"""The `config.json` of a Hugging Face model: from its fields to `EncoderConfig` and back.

Only models that this engine computes are read: absolute positions, erf or tanh GELU, tied output projection. Any other
model is refused with the name of the setting. A model that `transformers` does not compute, for example a causal one,
is written only into our checkpoints, with a `model_type` that only we read. Code in a folder (`auto_map`) is never run:
`model_type` says what the model is, and all its weights must fit.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unmask.config import EncoderConfig
from unmask.errors import CheckpointError
from unmask.interop.model_folder import CONFIG, describe_value, read_object

__all__ = [
    "ACTIVATIONS",
    "MODEL_TYPE",
    "REQUIRED",
    "fields_of",
    "foreign_settings",
    "hugging_face_fields",
    "parse_config",
    "read_config",
    "write_config",
]

MODEL_TYPE = "unmask"
"""The model_type of a folder with settings that transformers' BERT does not have."""

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
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
"""Their hidden_act: our activation."""
REQUIRED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
"""Values that a BERT model has; a file may leave them out."""
# settings that transformers' BERT does not have
_OURS = ("causal", "attention_window", "global_every")
_READ = "BertModel, BertForMaskedLM and BertForPreTraining are read"


def read_config(folder: Path) -> EncoderConfig:
    """Read the sizes in a folder's config.json.

    Raises:
        CheckpointError: the file cannot be read, or this engine does not compute the model.
    """
    path = folder / CONFIG
    return parse_config(read_object(path), path)


def parse_config(theirs: Mapping[str, Any], path: Path) -> EncoderConfig:
    """Return the sizes in the values of a config.json; `path` is its name in errors.

    Raises:
        CheckpointError: this engine does not compute the model.
    """
    is_ours = theirs.get("model_type") == MODEL_TYPE
    if theirs.get("model_type", "bert") not in ("bert", MODEL_TYPE):
        found = describe_value(theirs["model_type"]).removesuffix(" (str)")
        raise CheckpointError(f"{path}: model_type must be 'bert' for a BERT encoder, is {found}; {_READ}")
    # Old folders have no model_type, and RoBERTa's weights have the same names as BERT's.
    classes = theirs.get("architectures")
    if "model_type" not in theirs and classes and "'Bert" not in str(classes):
        raise CheckpointError(
            f"{path} has no model_type, and architectures is {describe_value(classes)}; set model_type to 'bert' if it "
            "is BERT under another name"
        )
    if theirs.get("quantization_config") is not None:
        raise CheckpointError(
            f"{path}: the weights are quantized (quantization_config), which is not read; take the folder of the model "
            "in float32, bfloat16 or float16"
        )
    for name, needed in REQUIRED.items():
        found = theirs.get(name, needed)
        if type(found) is not type(needed) or found != needed:
            raise CheckpointError(
                f"{path}: {name} must be {needed!r} for a BERT encoder, is {describe_value(found)}; {_READ}"
            )
    activation = theirs.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        found = describe_value(activation).removesuffix(" (str)")
        raise CheckpointError(f"{path}: hidden_act must be one of {known}, is {found}")
    # `transformers` leaves out the values of BERT-base.
    fields = {ours: theirs[other] for ours, other in _FIELDS.items() if other in theirs}
    fields.setdefault("vocab_size", 30522)
    if is_ours:
        fields |= {name: theirs[name] for name in _OURS if name in theirs}
    try:
        config = EncoderConfig(**fields, activation=ACTIVATIONS[activation])  # type: ignore[arg-type]
        assert config.token_rows
        return config
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {_in_their_names(str(error))}") from None


def write_config(
    config: EncoderConfig,
    folder: Path,
    *,
    architecture: str,
    pad_id: int = 0,
    for_transformers: bool = True,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write config.json for the `transformers` class named by `architecture`, with `more` fields of it.

    Raises:
        CheckpointError: the class does not compute the model, and `for_transformers` is True.
    """
    foreign = foreign_settings(config)
    if foreign and for_transformers:
        raise CheckpointError(
            f"{folder}: transformers' {architecture} cannot compute this model, which has {' and '.join(foreign)}; "
            "keep the checkpoint, or save with for_transformers=False, for unmask's from_pretrained alone"
        )
    theirs: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": MODEL_TYPE if foreign else "bert",
        **(fields_of(config) if foreign else hugging_face_fields(config)),
        "position_embedding_type": "absolute",
        "pad_token_id": pad_id,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        **more,
    }
    (folder / CONFIG).write_text(json.dumps(theirs, indent=2) + "\n", encoding="utf-8")


def fields_of(config: EncoderConfig) -> dict[str, Any]:
    """Return the sizes and constants under their names in a config.json with our `model_type`."""
    return {**{name: getattr(config, name) for name in _OURS}, **hugging_face_fields(config)}


def hugging_face_fields(config: EncoderConfig) -> dict[str, Any]:
    """Return the sizes and constants under their names in config.json."""
    return {
        **{other: getattr(config, ours) for ours, other in _FIELDS.items()},
        "hidden_act": "gelu" if config.activation == "gelu" else "gelu_new",
    }


def foreign_settings(config: EncoderConfig) -> list[str]:
    """Return the settings of the model that transformers' BERT does not have, as `name=value`."""
    local = any(config.window(layer) is not None for layer in range(config.num_layers))
    found = [f"attention_window={config.attention_window}"] if local else []
    return found + (["causal=True"] if config.causal else [])


def _in_their_names(message: str) -> str:
    """Return a message of `EncoderConfig` with the names that the file uses."""
    return re.sub(r"\w+", lambda word: _FIELDS.get(word[0], word[0]), message.removeprefix("EncoderConfig: "))
