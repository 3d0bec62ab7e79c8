"""unmask: pre-train BERT-style encoders on packed documents.

Importing the package loads nothing; a public name brings its module, which needs PyTorch and NumPy only.

    encoder = unmask.Encoder.from_pretrained("folder")
    batch = unmask.pack([[101, 7592, 102], [101, 2088, 999, 102]])
    hidden = encoder(batch.ids, batch.documents, batch.segments)      # (T, hidden)
"""

import importlib

# as type checkers take it; typing would bring re, and `python -m unmask` looks in the current folder first
TYPE_CHECKING = False
if TYPE_CHECKING:
    from unmask.batch import PackedBatch, pack
    from unmask.model import Encoder, EncoderConfig, PretrainingModel

__all__ = ["Encoder", "EncoderConfig", "PackedBatch", "PretrainingModel", "__version__", "pack"]

__version__ = "0.1.0"

_HOMES = {
    "Encoder": "unmask.model",
    "EncoderConfig": "unmask.model",
    "PackedBatch": "unmask.batch",
    "PretrainingModel": "unmask.model",
    "pack": "unmask.batch",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
