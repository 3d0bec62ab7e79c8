"""Make Triton's interpreter quicker, with the same results: leave out work that nothing reads, and repeat none.

The interpreter spends most of its time on the types of values, not on their numbers. `quicken_interpreter` changes four
things, only in a process that interprets kernels:

    Arithmetic of integers is repeated in int64 to detect overflow, and outside debug mode nothing reads the answer: it
    is left out.
    The NumPy dtype for a Triton dtype comes from a table, which each call builds: each answer is kept.
    A block type is made anew for each operand: a type keeps the types of the same shape with other elements.
    A tensor derives its shape and size from its type: they are kept with the type.
"""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["quicken_interpreter"]


def quicken_interpreter() -> None:
    """Spare the interpreter what it does in vain; idempotent. After it no kernel can be compiled in this process."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder: Any = interpreter.interpreter_builder
    if not builder.options.sanitize_overflow:
        return
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)

    numpy_dtype = interpreter._get_np_dtype
    numpy_dtypes: dict[str, Any] = {}

    def kept_numpy_dtype(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in numpy_dtypes:
            numpy_dtypes[name] = numpy_dtype(dtype)
        return numpy_dtypes[name]

    kept_numpy_dtype.slowly = numpy_dtype  # type: ignore[attr-defined]
    interpreter._get_np_dtype = kept_numpy_dtype

    block: Any = tl.core.block_type
    with_element = block.with_element_ty

    def kept_with_element(self: Any, scalar: Any) -> Any:
        kin = self.__dict__.setdefault("kin", {self.element_ty.name: self})
        if scalar.name not in kin:
            kin[scalar.name] = with_element(self, scalar)
            kin[scalar.name].kin = kin
        return kin[scalar.name]

    block.with_element_ty = kept_with_element
    block.to_ir = lambda self, builder: self

    tensor: Any = tl.core.tensor
    make = tensor.__init__

    def make_from_type(self: Any, handle: Any, type: Any) -> None:
        if "of_its_tensors" not in type.__dict__:
            make(self, None, type)
            type.of_its_tensors = dict(self.__dict__)
        self.__dict__.update(type.of_its_tensors)
        self.handle = handle

    make_from_type.slowly = make  # type: ignore[attr-defined]
    tensor.__init__ = make_from_type
