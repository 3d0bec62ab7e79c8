"""drop_in: the encoder of this package inside a BERT model of transformers, in place; undo: the model as it was.

    model = unmask.drop_in(AutoModelForSequenceClassification.from_pretrained(folder))
    unmask.undo(model)

The modules of the model get classes with another forward pass (`bert_modules`). They stay the same objects with the
same parameters, so an optimizer, a trainer or an adapter that knows them goes on.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

import transformers
from torch import nn
from transformers.models.bert import modeling_bert as bert

import unmask.hf.bert_heads  # noqa: F401  its classes take places, too
from unmask.hf.bert_modules import REPLACED, change_class, has_own_forward, replace_classes, require_unwatched
from unmask.interop.config_json import ACTIVATIONS, REQUIRED

__all__ = ["TESTED", "drop_in", "undo"]

TESTED = "5.23"
"""The version of transformers with which this is tested. Another one is refused only if its BERT is another."""

Model = TypeVar("Model", bound=nn.Module)

_PARTS = {
    "attention": bert.BertAttention,
    "attention.self": bert.BertSelfAttention,
    "attention.self.dropout": nn.Dropout,
    "attention.output": bert.BertSelfOutput,
    "attention.output.dropout": nn.Dropout,
    "intermediate": bert.BertIntermediate,
    "output": bert.BertOutput,
    "output.dropout": nn.Dropout,
}
"""Modules of a layer that are read and not called."""
_STOCK = {ours: theirs for theirs, ours in REPLACED.items()}
_UNDO = "call unmask.undo(model) first"


def drop_in(model: Model) -> Model:
    """Replace the encoder inside a BERT model of `transformers`, in place.

    Args:
        model: a BertModel or one of its heads, or any module that holds one, for example a SentenceTransformer, a model
            of peft or your own.
    Returns:
        The model itself. Inputs, outputs, parameters, their names and `save_pretrained` stay as they are. Hidden states
        at padding are zeros.
    Raises:
        TypeError: it holds no BertModel.
        ValueError: it holds a model or a feature that is not computed here. The model is as it was.
    """
    _require_version()
    found = list(_encoders(model))
    for name, encoder in found:
        _check(name, encoder)
    for name, module in model.named_modules():
        if type(module) in REPLACED and not has_own_forward(module):
            raise ValueError(
                f"drop_in: {_place(name, module)} must have the forward of its class, and something replaced it, as "
                "accelerator.prepare does; call drop_in before, or take it off, for example with "
                "accelerator.unwrap_model(model, keep_fp32_wrapper=False)"
            )
    replace_classes(model)
    return model


def undo(model: Model) -> Model:
    """Give a model its own encoder back, in place.

    Args:
        model: what `drop_in` returned, with whatever was trained or changed since.
    Returns:
        The model itself, with the classes of transformers.
    Raises:
        ValueError: nothing in it was replaced, or something wrapped its forward pass since.
    """
    replaced = [(name, module) for name, module in model.named_modules() if type(module) in _STOCK]
    if not replaced:
        raise ValueError(
            f"undo: {type(model).__name__} must hold a model that unmask.drop_in replaced, and holds none; call "
            "unmask.drop_in(model) first, or leave undo out"
        )
    for name, module in replaced:
        if not has_own_forward(module):
            raise ValueError(
                f"undo: {_place(name, module)} must have the forward of its class, and something wrapped it since "
                "drop_in, as accelerator.prepare does; take it off first, for example with "
                "accelerator.unwrap_model(model, keep_fp32_wrapper=False)"
            )
    for _, module in replaced:
        change_class(module, _STOCK[type(module)])
    return model


def _encoders(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield each BertModel and its name; refuse a model without one, and one that is replaced already."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"drop_in: model must be a BERT model of transformers, got {type(model).__name__}; load one with "
            "AutoModel.from_pretrained(folder)"
        )
    none = True
    for name, module in model.named_modules():
        if type(module) in _STOCK:
            raise ValueError(f"drop_in: {_place(name, module)} is replaced already; {_UNDO}")
        if type(module) is bert.BertModel:
            none = False
            yield name, module
        elif isinstance(module, bert.BertModel):
            raise ValueError(
                f"drop_in: {_place(name, module)} must be a BertModel of transformers itself, and its class is another "
                "that may compute something else; call drop_in before what changes the class, for example fully_shard"
            )
    if none:
        raise TypeError(
            f"drop_in: model must hold a BertModel of transformers, and {type(model).__name__} holds none; load other "
            'models with attn_implementation="unmask" after import unmask.hf'
        )


def _check(name: str, encoder: Any) -> None:
    """Refuse an encoder that computes something else."""
    place, config = _place(name, encoder), encoder.config
    for field, needed in REQUIRED.items():
        value = getattr(config, field, needed)
        if value != needed:
            raise ValueError(
                f"drop_in: config.{field} of {place} must be {needed!r}, is {value!r}; keep this model as it is"
            )
    if config.hidden_act not in ACTIVATIONS:
        raise ValueError(
            f"drop_in: config.hidden_act of {place} must be one of {', '.join(ACTIVATIONS)}, is {config.hidden_act!r}; "
            "keep this model as it is"
        )
    for inner, parameter in encoder.named_parameters():
        if parameter.is_meta:
            raise ValueError(
                f"drop_in: {place} must have its weights, and {inner} is on the meta device, without values; load the "
                "model with from_pretrained, and without a device_map that offloads"
            )
        if not parameter.is_floating_point():
            raise ValueError(
                f"drop_in: {place} must have weights of floating point, and {inner} is {parameter.dtype}; load the "
                "model without quantization_config"
            )
    for index, layer in enumerate(encoder.encoder.layer):
        for inner, kind in _PARTS.items():
            part = layer.get_submodule(inner)
            if type(part) is not kind:
                raise ValueError(
                    f"drop_in: {inner} in layer {index} of {place} must be a {kind.__name__}, is "
                    f"{type(part).__name__}; call drop_in before what replaced it, or keep this model as it is"
                )
        require_unwatched(layer)


def _require_version() -> None:
    """Refuse a version of transformers whose BertModel takes arguments that are not known here."""
    known = inspect.signature(REPLACED[bert.BertModel].forward).parameters
    new = [name for name in inspect.signature(bert.BertModel.forward).parameters if name not in known]
    if new:
        raise ValueError(
            f"drop_in: transformers {transformers.__version__} has another BertModel, whose forward takes {new[0]}; "
            f"install transformers {TESTED}, with which drop_in is tested, or keep the model as it is"
        )


def _place(name: str, module: nn.Module) -> str:
    """Return what to call a module in an error."""
    return f"{name} ({type(module).__name__})" if name else f"the {type(module).__name__}"
