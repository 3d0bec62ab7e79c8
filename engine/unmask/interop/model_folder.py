"""Checks of model folders: whether a path is one, what it holds instead, and its JSON files.

All readers of model folders share these checks, so one problem always gives the same error.
"""

import json
from pathlib import Path
from typing import Any

from unmask.errors import CheckpointError
from unmask.paths import nearest_name

__all__ = [
    "CONFIG",
    "absent",
    "describe_value",
    "is_pointer",
    "link_to_nothing",
    "pointer",
    "read_object",
    "require_folder",
    "require_model",
    "what_else",
]

CONFIG = "config.json"

_LFS = b"version https://git-lfs"
# files of other programs in the place of weights: pattern of the name, and what the file is
_FOREIGN = {
    "adapter_model.*": "an adapter, not a model",
    "tf_model*.h5": "of TensorFlow",
    "*.ckpt.index": "of TensorFlow",
    "saved_model.pb": "of TensorFlow",
    "flax_model*.msgpack": "of Flax",
    "*.onnx": "of ONNX",
    "onnx/*.onnx": "of ONNX",
    "openvino_model*.xml": "of OpenVINO",
    "*.gguf": "of llama.cpp",
    "rust_model.ot": "of Rust",
    "*.mlmodel": "of Core ML",
}
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_OTHER_NAMES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt")


def require_folder(folder: Path) -> None:
    """Raise a `CheckpointError` if `folder` does not exist or is a file."""
    try:
        if folder.is_dir():
            return
        is_file = folder.exists()
    # The name is too long or contains a NUL.
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(folder)!r} cannot be the name of a folder ({error}); give another") from None
    if is_file:
        raise CheckpointError(f"{folder} is a file; give the folder that it lies in, with {CONFIG} and weights")
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link to {folder.readlink()}, which is not there; give the folder itself")
    raise CheckpointError(absent(folder))


def absent(folder: Path, problem: str = "") -> str:
    """Return the error for a folder that does not exist; `problem` ends it unless one of nearly its name does."""
    if (near := nearest_name(folder)) is not None:
        return f"{folder} does not exist; did you mean {near}?"
    return f"{folder} does not exist; give a run, a checkpoint of one, or a folder with {CONFIG} and weights{problem}"


def require_model(folder: Path) -> None:
    """Raise a `CheckpointError` if a folder does not hold the config.json of a whole model."""
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds an adapter (adapter_config.json), which is not read; merge it into its model with peft's "
            "merge_and_unload and save that"
        )
    config = folder / CONFIG
    if config.is_symlink() and not config.exists():
        raise CheckpointError(link_to_nothing(config))
    if not config.exists():
        raise CheckpointError(
            f"{folder} holds neither a run (config.yaml) nor a model ({CONFIG}); give the folder of a Hugging Face "
            f"BERT model or a checkpoint of a run{_nearby(folder)}"
        )


def what_else(folder: Path) -> str:
    """Return the end of an error that names other weights in a folder without ours; empty if there are none."""
    others = [name for pattern in _OTHER_NAMES for name in _files(folder, pattern)]
    other = f"; {others[0]} is there, rename it if it holds the weights" if others else ""
    return _foreign(folder) or other


def read_object(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file, with or without a byte order mark.

    Raises:
        CheckpointError: no such file, or one that is not a JSON object in UTF-8.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_LFS):
            raise CheckpointError(pointer(path))
        value = json.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); make it readable") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON: byte {error.start} is not UTF-8; save it as UTF-8 or download it again"
        ) from None
    except (ValueError, RecursionError) as error:
        reason = str(error) if content.strip() else "it is empty"
        raise CheckpointError(f"{path} cannot be read as JSON: {reason}; copy or download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} must hold a JSON object, holds {describe_value(value)}; copy or download it again"
        )
    return value


def link_to_nothing(path: Path) -> str:
    """Return the error for a link to a file that does not exist, for example after a cache was cleaned."""
    return f"{path} is a link to {path.readlink()}, which is not there; copy or download it again"


def pointer(path: Path) -> str:
    """Return the error for a Git LFS pointer in the place of a file."""
    return f"{path} is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"


def is_pointer(path: Path) -> bool:
    """Return whether a file is a Git LFS pointer."""
    with path.open("rb") as stream:
        return stream.read(len(_LFS)) == _LFS


def describe_value(value: object) -> str:
    """Return a value from a file and its type, shortened for an error."""
    if value is None:
        return "null"
    text = repr(value)
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{short} ({type(value).__name__})"


def _nearby(folder: Path) -> str:
    """Return the end of an error that says where the model may be instead."""
    snapshots = sorted(path.parent for path in folder.glob(f"snapshots/*/{CONFIG}"))
    if snapshots:
        return f"; {snapshots[0]} has one"
    # Folders of sentence-transformers and of Trainer. The config.json of a pooling layer has no weights beside it.
    inside = [path.parent for path in folder.glob(f"*/{CONFIG}") if any(_files(path.parent, one) for one in _WEIGHTS)]
    if inside:
        newest = max(inside, key=lambda path: (len(path.name), path.name))
        return f"; {newest} has one"
    if (folder / "bert_config.json").is_file():
        return "; bert_config.json is of the original TensorFlow release, convert it with version 4 of transformers"
    return _foreign(folder)


def _foreign(folder: Path) -> str:
    for pattern, kind in _FOREIGN.items():
        if found := _files(folder, pattern):
            return f"; {found[0]} is {kind}, convert it to safetensors or take a folder that has them"
    return ""


def _files(folder: Path, pattern: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file())
