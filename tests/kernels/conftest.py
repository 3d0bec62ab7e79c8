"""Kernel tests under the interpreter get its bf16 repairs, and kernels that keep to the tensors of their launch."""

from unmask_kernels.capability import INTERPRETING

if INTERPRETING:
    from unmask_kernels.testing import interpreter

    interpreter.install()
    interpreter.guard_memory()
