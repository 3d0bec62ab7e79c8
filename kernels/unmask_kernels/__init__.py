"""unmask_kernels: operations on packed documents, each with a plain reference and several fast backends.

Needs PyTorch only. See `unmask_kernels.dispatch` for how a backend is chosen.
"""

from .attention.op import attention
from .dispatch import BackendUnavailable, Family, known, using
from .distill.op import attention_relation_loss, attention_score_loss, hidden_state_loss, soft_cross_entropy
from .documents import Documents
from .embedding.op import embedding
from .gelu.op import gelu
from .layer_norm.op import layer_norm
from .linear_gelu.op import linear_gelu
from .masking.arguments import MaskedTokens
from .masking.op import masking
from .mlm_loss.op import MLMLoss, mlm_loss
from .optimizer import LAMB, AdamW
from .passes import note_passes

__all__ = [
    "FAMILIES",
    "LAMB",
    "AdamW",
    "BackendUnavailable",
    "Documents",
    "Family",
    "MLMLoss",
    "MaskedTokens",
    "attention",
    "attention_relation_loss",
    "attention_score_loss",
    "embedding",
    "gelu",
    "hidden_state_loss",
    "layer_norm",
    "linear_gelu",
    "masking",
    "mlm_loss",
    "soft_cross_entropy",
    "using",
]

# what has passed on this machine is read once: a choice is traced by the compiler, which must not read files
note_passes()

FAMILIES: dict[str, Family] = dict(known)
"""All families by name, for `unmask doctor` and for tests."""
