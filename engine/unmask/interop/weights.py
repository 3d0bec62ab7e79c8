"""Reads the weights of a Hugging Face folder: safetensors or .bin, whole or in shards. It runs no code from a file.

`LayerNorm.gamma` and `beta` become `weight` and `bias`. Prefixes that trainers add (`module.`, ...) are removed.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.errors import CheckpointError
from unmask.interop.model_folder import describe_value, is_pointer, link_to_nothing, pointer, read_object, what_else

__all__ = ["files_of_weights", "read_weights"]

_SAFETENSORS, _BIN = "model.safetensors", "pytorch_model.bin"
# keys under which trainers keep the state dict in a checkpoint
_NESTED = ("state_dict", "model_state_dict", "model", "module")
# parts of a name that DDP, FSDP, torch.compile and activation checkpointing add
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_AGAIN = "copy or download it again"


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder by name, on the CPU.

    Raises:
        CheckpointError: there are no weights, or a file cannot be read or holds something else.
    """
    return _joined(files_of_weights(folder))


def files_of_weights(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a folder.

    Raises:
        CheckpointError: there are none, or an index of shards is damaged.
    """
    for name in (_SAFETENSORS, _BIN):
        # The whole file comes first: an index may be left over from before the shards were joined.
        files = [folder / name] if _is_there(folder / name) else _shards(folder / f"{name}.index.json")
        if files:
            return files
    way = what_else(folder) or "; copy or download them too"
    raise CheckpointError(f"{folder} has no weights; looked for {_SAFETENSORS} and {_BIN}, whole or in shards{way}")


def _is_there(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        raise CheckpointError(link_to_nothing(path))
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder and not a file of weights; {_AGAIN}")
    return path.is_file()


def _shards(index: Path) -> list[Path]:
    if not _is_there(index):
        return []
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(
            f"{index} must hold 'weight_map', the file of each weight by its name, holds {describe_value(places)}; "
            f"{_AGAIN}"
        )
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for weight, name in places.items():
        # A path out of the folder would read a file that is not part of the model.
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != suffix or "\0" in name:
            raise CheckpointError(
                f"{index} must name a {suffix} file of its folder for {weight}, names {describe_value(name)}; {_AGAIN}"
            )
    names = sorted(set(places.values()))
    absent = [name for name in names if not _is_there(index.parent / name)]
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {absent[0]}, which {index.name} names, the download is not complete; {_AGAIN}"
        )
    return [index.parent / name for name in names]


def _joined(files: list[Path]) -> dict[str, Tensor]:
    """Return the tensors of all files, under their names in current folders."""
    weights: dict[str, Tensor] = {}
    seen: dict[str, str] = {}
    for path in files:
        for name, value in _read_file(path).items():
            new = ".".join(step for step in name.split(".") if step not in _WRAPPERS)
            new = new.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            here = f"{name} of {path.name}"
            if new in weights:
                raise CheckpointError(
                    f"{path.parent} holds one weight twice, as {seen[new]} and as {here}; remove one of them"
                )
            weights[new], seen[new] = value, here
    return weights


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        if is_pointer(path):
            raise CheckpointError(pointer(path))
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        # PyTorch's own message is a page long and suggests running any code in the file.
        raise CheckpointError(
            f"{path} cannot be read, it is damaged or holds more than tensors; copy or download it again, or take a "
            "folder with safetensors"
        ) from error
    # The readers raise errors of any class for a damaged file.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path} cannot be read, {reason[0]}; {_AGAIN}") from error
    return _state_dict(loaded, path)


def _state_dict(loaded: object, path: Path) -> Mapping[str, Any]:
    """Return the tensors by name from a loaded .bin file, which may hold the whole state of a trainer."""
    needed = f"{path} must hold tensors by their names, a state dict"
    if not isinstance(loaded, Mapping):
        kind = "a tensor" if isinstance(loaded, Tensor) else f"a {type(loaded).__name__}"
        raise CheckpointError(f"{needed}, holds {kind}; save the model's state_dict() there")
    nested = [name for name in _NESTED if isinstance(loaded.get(name), Mapping)]
    if len(nested) > 1:
        raise CheckpointError(f"{needed}, holds several: {', '.join(nested)}; save the model's alone")
    if nested:
        return _state_dict(loaded[nested[0]], path)
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = describe_value(value) if not isinstance(value, Tensor) else "a tensor"
            raise CheckpointError(f"{needed}, holds {kind} under {name!r}; save the model's state_dict() alone")
    return loaded
