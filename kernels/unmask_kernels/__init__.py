"""unmask_kernels: operations on packed documents, each with a plain reference and several fast backends.

Needs PyTorch only. See `unmask_kernels.dispatch` for how a backend is chosen.
"""

from .attention.choice import FAMILY as _ATTENTION
from .attention.op import attention
from .dispatch import BackendUnavailable, Family, using
from .documents import Documents
from .embedding.choice import FAMILY as _EMBEDDING
from .embedding.op import embedding
from .gelu.choice import FAMILY as _GELU
from .gelu.op import gelu
from .layer_norm.choice import FAMILY as _LAYER_NORM
from .layer_norm.op import layer_norm
from .linear_gelu.choice import FAMILY as _LINEAR_GELU
from .linear_gelu.op import linear_gelu
from .masking.arguments import MaskedTokens
from .masking.choice import FAMILY as _MASKING
from .masking.op import masking
from .mlm_loss.choice import FAMILY as _MLM_LOSS
from .mlm_loss.op import MLMLoss, mlm_loss

__all__ = [
    "FAMILIES",
    "BackendUnavailable",
    "Documents",
    "Family",
    "MLMLoss",
    "MaskedTokens",
    "attention",
    "embedding",
    "gelu",
    "layer_norm",
    "linear_gelu",
    "masking",
    "mlm_loss",
    "using",
]

FAMILIES: dict[str, Family] = {
    family.name: family for family in (_ATTENTION, _EMBEDDING, _GELU, _LAYER_NORM, _LINEAR_GELU, _MASKING, _MLM_LOSS)
}
"""All families by name, for `unmask doctor` and for tests."""
