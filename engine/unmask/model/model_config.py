"""The configuration of a model that exists: its sizes, and what other programs write and read there.

The Trainer of transformers writes `model.config.use_cache`, its loggers write `to_json_string()` into their records,
peft reads `to_dict()`. The sizes are those of the weights, so they cannot change; any other attribute can be set. What
is set belongs to this object alone: it is no part of equality, of the hash or of a folder.
"""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields
from typing import Any

from unmask.config import EncoderConfig

__all__ = ["ModelConfig"]

_NAMES = tuple(field.name for field in fields(EncoderConfig))
# what programs read from any model's configuration, beside the names of config.json
_DEFAULTS: dict[str, Any] = {
    "architectures": None,
    "is_encoder_decoder": False,
    "keys_to_ignore_at_inference": [],
    "name_or_path": "",
    "problem_type": None,
}


class ModelConfig(EncoderConfig):
    """The `EncoderConfig` of a model, and attributes that other programs set.

    Its attributes also have the names of a Hugging Face config.json, such as `num_hidden_layers`.
    """

    def __init__(self, config: EncoderConfig | None = None, **changes: Any) -> None:
        values = {} if config is None else {name: getattr(config, name) for name in _NAMES}
        super().__init__(**(values | changes))

    def __setattr__(self, name: str, value: Any) -> None:
        # A frozen class sets its own fields past this method.
        self._require_free(name)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._require_free(name)
        object.__delattr__(self, name)

    def __getattr__(self, name: str) -> Any:
        # called for a name that is neither a field nor set
        if name.startswith("__"):
            raise AttributeError(name)
        values = _DEFAULTS | _theirs(self)
        if name not in values:
            raise AttributeError(f"{type(self).__name__} has no {name}; set it, or read it with a default of your own")
        return values[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncoderConfig) and all(getattr(self, name) == getattr(other, name) for name in _NAMES)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in _NAMES))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self)._restored, ({name: getattr(self, name) for name in _NAMES}, self.__dict__))

    @classmethod
    def _restored(cls, values: dict[str, Any], others: dict[str, Any]) -> ModelConfig:
        config = cls(**values)
        config.__dict__.update(others)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return all values, by our names and by those of a Hugging Face config.json."""
        return {**{name: getattr(self, name) for name in _NAMES}, **_theirs(self), **self.__dict__}

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the same as `to_dict`; a configuration of transformers leaves its defaults out here."""
        return self.to_dict()

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return `to_dict()` as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, default=str) + "\n"

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or a default if there is none."""
        return getattr(self, name, default)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> ModelConfig:
        """Return this configuration: the model reads text and nothing else."""
        return self

    def _require_free(self, name: str) -> None:
        theirs = _theirs(self)
        if name in _NAMES or (name in theirs and name not in _DEFAULTS and name not in self.__dict__):
            raise FrozenInstanceError(
                f"{name} of a model cannot change, because its weights were made with it; make another model with "
                f"dataclasses.replace(config, {name if name in _NAMES else '...'}=...)"
            )


def _theirs(config: EncoderConfig) -> dict[str, Any]:
    """Return the values under the names of a Hugging Face config.json."""
    from unmask.interop.config_json import MODEL_TYPE, hugging_face_fields

    return {"model_type": MODEL_TYPE, "tie_word_embeddings": True, **hugging_face_fields(config)}
