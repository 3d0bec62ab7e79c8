"""unmask_kernels: operations on packed documents, each with a plain reference and several fast backends.

Needs PyTorch only. See `unmask_kernels.dispatch` for how a backend is chosen.
"""

from .dispatch import BackendUnavailable, Family, using
from .documents import Documents

__all__ = ["BackendUnavailable", "Documents", "Family", "using"]
