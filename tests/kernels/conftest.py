"""Kernel tests under the interpreter get its bf16 repairs, and kernels that touch what a GPU would let them only."""

from unmask_kernels.capability import INTERPRETING

if INTERPRETING:
    from offline.interpreter import install
    from offline.memory_guard import guard_memory

    install()
    guard_memory()
