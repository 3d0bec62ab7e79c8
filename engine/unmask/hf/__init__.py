"""unmask for programs that are written for `transformers`. Needs `pip install unmask[transformers]`.

    UnmaskModel, UnmaskForMaskedLM, UnmaskForPreTraining, UnmaskConfig     models
    PackedCollator, TokenBatchSampler, EpochCallback                       batches for the Trainer

Importing it registers the models: `AutoModelForMaskedLM.from_pretrained(folder)` is then an `UnmaskForMaskedLM` if
`model_type` of the folder is "unmask". It also registers `attn_implementation="unmask"` for models of transformers.
"""

try:
    from transformers import (
        AttentionInterface,
        AttentionMaskInterface,
        AutoConfig,
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForPreTraining,
    )
except ImportError as error:
    raise ImportError(f"unmask.hf needs transformers ({error}); pip install unmask[transformers]") from None

from unmask.hf.attention_function import attention_of_layer
from unmask.hf.attention_mask import mask_of_batch
from unmask.hf.collator import PackedCollator
from unmask.hf.configuration import UnmaskConfig
from unmask.hf.epochs import EpochCallback
from unmask.hf.models import UnmaskForMaskedLM, UnmaskForPreTraining, UnmaskModel
from unmask.hf.sampler import TokenBatchSampler

__all__ = [
    "EpochCallback",
    "PackedCollator",
    "TokenBatchSampler",
    "UnmaskConfig",
    "UnmaskForMaskedLM",
    "UnmaskForPreTraining",
    "UnmaskModel",
]

AutoConfig.register(UnmaskConfig.model_type, UnmaskConfig, exist_ok=True)
AutoModel.register(UnmaskConfig, UnmaskModel, exist_ok=True)
AutoModelForMaskedLM.register(UnmaskConfig, UnmaskForMaskedLM, exist_ok=True)
AutoModelForPreTraining.register(UnmaskConfig, UnmaskForPreTraining, exist_ok=True)
AttentionInterface.register("unmask", attention_of_layer)
AttentionMaskInterface.register("unmask", mask_of_batch)
