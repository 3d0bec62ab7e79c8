"""Model folders as they are found: whether a path is one, what lies in it instead, and its JSON files as objects.

Whatever is odd about a folder or a file is told in one sentence with its name, here once for every reader.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from unmask.errors import CheckpointError

__all__ = [
    "CONFIG",
    "describe_value",
    "is_pointer",
    "link_to_nothing",
    "on_the_hub",
    "pointer",
    "read_object",
    "require_folder",
    "require_model",
    "what_else",
]

CONFIG = "config.json"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# as `Path` leaves them, with one slash of two
_HUB_ADDRESS = re.compile(r"^(https?:/huggingface\.co/|hf:/)")
_LFS = b"version https://git-lfs"
# what other programs leave where weights are looked for, by the pattern of its name
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
    """Check that `folder` is one.

    Raises:
        CheckpointError: it is not there or is a file, with the way to a folder that is read.
    """
    try:
        if folder.is_dir():
            return
        is_file = folder.exists()
    # a name that is too long, or holds a NUL
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(folder)!r} cannot be the name of a folder ({error}); give another") from None
    if is_file:
        raise CheckpointError(f"{folder} is a file; give the folder that it lies in, with {CONFIG} and weights")
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a link to {folder.readlink()}, which is not there; give the folder itself")
    raise CheckpointError(
        f"{folder} does not exist; give a run directory, a checkpoint, or a folder with {CONFIG} and "
        f"weights{on_the_hub(folder)}"
    )


def require_model(folder: Path) -> None:
    """Check that a folder holds the config.json of a whole model.

    Raises:
        CheckpointError: it holds something else, with the way to a folder that is read.
    """
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
            f"BERT model, a run or one of its checkpoints{_nearby(folder)}"
        )


def on_the_hub(path: Path) -> str:
    """What to say of a path that is not there and may be the name of a model elsewhere, as the end of a sentence."""
    name = _HUB_ADDRESS.sub("", str(path))
    if not _HUB_NAME.fullmatch(name):
        return ""
    return f"; a model of the Hugging Face Hub is downloaded first: `hf download {name} --local-dir FOLDER`"


def what_else(folder: Path) -> str:
    """What a folder without weights holds in their place, as the end of a sentence; empty where nothing is known."""
    others = [name for pattern in _OTHER_NAMES for name in _files(folder, pattern)]
    other = f"; {others[0]} is there, rename it if it holds the weights" if others else ""
    return _foreign(folder) or other


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a byte order mark is passed over.

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
    """What to say of a link whose file is gone, as where a cache was cleaned or a folder copied without it."""
    return f"{path} is a link to {path.readlink()}, which is not there; copy or download it again"


def pointer(path: Path) -> str:
    """What to say of a file that git left in place of the real one."""
    return f"{path} is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"


def is_pointer(path: Path) -> bool:
    """Whether git left a few lines of text in place of the file."""
    with path.open("rb") as stream:
        return stream.read(len(_LFS)) == _LFS


def describe_value(value: object) -> str:
    """A value from a file, short enough for a sentence, and its kind."""
    if value is None:
        return "null"
    text = repr(value)
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{short} ({type(value).__name__})"


def _nearby(folder: Path) -> str:
    """Where the model may be instead."""
    snapshots = sorted(path.parent for path in folder.glob(f"snapshots/*/{CONFIG}"))
    if snapshots:
        return f"; {snapshots[0]} has one"
    # as sentence-transformers and Trainer lay them out; the config.json of a pooling has no weights beside it
    inside = sorted(
        path.parent for path in folder.glob(f"*/{CONFIG}") if any(_files(path.parent, one) for one in _WEIGHTS)
    )
    if inside:
        newest = max(inside, key=lambda path: (len(path.name), path.name))
        return f"; {newest} has one"
    if (folder / "bert_config.json").is_file():
        return "; bert_config.json is of the original TensorFlow release, which transformers converts"
    return _foreign(folder)


def _foreign(folder: Path) -> str:
    for pattern, kind in _FOREIGN.items():
        if found := _files(folder, pattern):
            return f"; {found[0]} is {kind}, convert it to safetensors or take a folder that has them"
    return ""


def _files(folder: Path, pattern: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file())
