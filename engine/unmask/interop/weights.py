"""Reading the weights of a Hugging Face folder: safetensors or .bin, whole or in shards, as data only."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from torch import Tensor

from unmask.errors import CheckpointError

__all__ = ["read_weights"]

_SAFETENSORS, _BIN = "model.safetensors", "pytorch_model.bin"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name, on the CPU; layer norms of old TensorFlow conversions get today's names.

    Raises:
        CheckpointError: no weights, or a file that cannot be read.
    """
    for name in (_SAFETENSORS, _BIN):
        for files in ([folder / name], _shards(folder / f"{name}.index.json")):
            if files and all(path.is_file() for path in files):
                weights: dict[str, Tensor] = {}
                for path in files:
                    weights.update(_read_file(path))
                return {_modern_name(key): value for key, value in weights.items()}
    raise CheckpointError(f"{folder} has no weights; looked for {_SAFETENSORS} and {_BIN}, whole or in shards")


def _shards(index: Path) -> list[Path]:
    if not index.is_file():
        return []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {absent[0]}, which {index.name} names; the download is not complete"
        )
    return [index.parent / name for name in names]


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        return loaded
    except pickle.UnpicklingError as error:
        # PyTorch's own text is a page that advises to run whatever the file holds
        raise CheckpointError(
            f"{path} cannot be read, it is damaged or holds more than tensors; copy or download it again, or take a "
            "folder with safetensors"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read, {error}; copy or download it again") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise CheckpointError(f"{path} cannot be read, {error}; copy or download it again") from error


def _modern_name(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
