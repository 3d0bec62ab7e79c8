"""Kernel tests under the interpreter get its bf16 repairs."""

from unmask_kernels.capability import INTERPRETING

if INTERPRETING:
    from unmask_kernels.testing import interpreter

    interpreter.install()
