"""What a run that starts from a checkpoint takes from it: the sizes in `model`.

dropout, initializer_range    those of the settings; the default is the checkpoint's
max_positions                 that of the settings; else the checkpoint's, or more for longer sequences
vocab_size                    the checkpoint's rows with init.vocabulary keep; else it depends on the tokenizer
all others                    the checkpoint's; another value in the settings is a contradiction
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from unmask.config.encoder import EncoderConfig
from unmask.config.mappings import defaults

__all__ = ["contradicting_sizes", "same_architecture", "sizes_from"]

_FREE = ("hidden_dropout", "attention_dropout", "initializer_range", "max_positions", "vocab_size")


def contradicting_sizes(settings: Mapping[str, Any], sizes: EncoderConfig) -> Iterator[tuple[str, str]]:
    """Yield each given setting of `model` that is not the checkpoint's, and the problem.

    Args:
        settings: flat settings as given, without defaults.
        sizes: the checkpoint's.
    """
    kept = settings.get("init.vocabulary", "keep") == "keep"
    for name, found in asdict(_plain(sizes)).items():
        given = settings.get(f"model.{name}", found)
        fixed = name not in _FREE or (name == "vocab_size" and kept and given is not None)
        if fixed and given != found:
            yield (
                f"model.{name}",
                f"is {given} but init.from, {settings['init.from']}, has {found}; leave it out to take it from there, "
                "or leave init.from out to start with new weights",
            )


def sizes_from(settings: Mapping[str, Any], sizes: EncoderConfig) -> dict[str, Any]:
    """Return all settings of `model`, flat, of a run that starts from a checkpoint of these sizes.

    Args:
        settings: flat settings as given, without defaults; none of them contradicts `sizes`.
        sizes: the checkpoint's.
    """
    phases = settings.get("train.phases") or []
    lengths = [phase.max_length for phase in phases]
    lengths = lengths or [settings.get("stream.max_length", defaults()["stream.max_length"])]
    found = asdict(_plain(sizes)) | {"max_positions": max(sizes.max_positions, *lengths)}
    if settings.get("init.vocabulary", "keep") != "keep":
        found["vocab_size"] = None
    given = {name: settings[f"model.{name}"] for name in found if settings.get(f"model.{name}") is not None}
    return {f"model.{name}": value for name, value in (found | given).items()}


def same_architecture(model: EncoderConfig, sizes: EncoderConfig) -> str | None:
    """Return the name of a size of `model` that is not that of the checkpoint; None if all fixed ones agree."""
    ours, theirs = asdict(_plain(model)), asdict(_plain(sizes))
    return next((name for name in ours if name not in _FREE and ours[name] != theirs[name]), None)


def _plain(sizes: EncoderConfig) -> EncoderConfig:
    """Return the same model without the settings of local layers that it does not have."""
    if any(sizes.window(layer) is not None for layer in range(sizes.num_layers)):
        return sizes
    return replace(sizes, attention_window=None, global_every=EncoderConfig().global_every)
