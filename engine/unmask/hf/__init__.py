"""unmask for programs that are written for `transformers`. Needs `pip install unmask[transformers]`."""

try:
    import transformers  # noqa: F401
except ImportError as error:
    raise ImportError(f"unmask.hf needs transformers ({error}); pip install unmask[transformers]") from None

from unmask.hf.collator import PackedCollator
from unmask.hf.epochs import EpochCallback
from unmask.hf.sampler import TokenBatchSampler

__all__ = ["EpochCallback", "PackedCollator", "TokenBatchSampler"]
