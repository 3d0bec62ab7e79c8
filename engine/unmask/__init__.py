"""unmask: pre-train BERT-style encoders on packed documents.

Importing the package imports nothing else. The first use of a public name imports its module, which needs only PyTorch
and NumPy.

    encoder = unmask.Encoder.from_pretrained("folder")
    batch = unmask.pack([[101, 7592, 102], [101, 2088, 999, 102]])
    hidden = encoder(batch.ids, batch.documents, batch.segments)      # (T, hidden)
"""

import importlib

# Type checkers take this for typing.TYPE_CHECKING. `typing` imports `re`, and `python -m unmask` would look for that in
# the current folder first.
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
