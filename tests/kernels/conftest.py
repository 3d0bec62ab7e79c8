"""Kernel tests under the interpreter get its bf16 repairs, and kernels that touch what a GPU would let them only."""

from unmask_kernels.capability import INTERPRETING

if INTERPRETING:
    from unmask_kernels.testing.guard import guard_memory
    from unmask_kernels.testing.interpreter import install

    install()
    guard_memory()
