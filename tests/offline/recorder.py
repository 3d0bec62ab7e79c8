"""Record Triton launches instead of starting them: what a public function would run on a GPU.

The function runs forward and backward on CPU tensors, as if on a GPU of the given architecture. The types and
specialisations of its launches are derived as Triton derives them.

This does not work in a process with TRITON_INTERPRET=1, where a kernel has no compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmask_kernels import capability
from unmask_kernels.testing.inputs import Inputs, run

__all__ = ["Launch", "launches", "redirected"]

_TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One recorded launch.

    Attributes:
        kernel: the `triton.JITFunction`.
        signature: the Triton type of each argument by name, such as "*bf16"; "constexpr" for a compile-time value.
        constants: the compile-time values by name.
        aligned: names of the arguments that are divisible by 16.
        options: num_warps, num_stages and other options of the compiler.
    """

    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the kernel's function."""
        return str(self.kernel.fn.__name__)


def launches(function: Callable[..., Any], inputs: Inputs, architecture: int = 90) -> list[Launch]:
    """Return the Triton launches of `function` on CPU inputs, in order, as on `architecture`; nothing is computed.

    Raises:
        RuntimeError: the process interprets kernels.
    """
    if capability.INTERPRETING:
        raise RuntimeError("recorder: kernels of a process with TRITON_INTERPRET=1 cannot be compiled; unset it")
    recorded: list[Launch] = []
    with redirected(lambda launch, values, grid: recorded.append(launch), architecture):
        run(function, inputs)
    return recorded


@contextmanager
def redirected(to: Callable[[Launch, dict[str, Any], Any], None], architecture: int) -> Iterator[None]:
    """Hand Triton launches inside the block to a function, and accept CPU tensors where a GPU's are needed.

    Args:
        to: takes the launch, its arguments by name, and its grid.
        architecture: compute capability that the backends see, such as 90.
    """
    from triton.runtime.jit import JITFunction

    def launch(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        described = _describe(kernel, arguments, named)
        to(described, dict(zip(kernel.arg_names, arguments, strict=False)) | named, grid)

    run_for_real, real = JITFunction.run, capability.architecture
    JITFunction.run = launch
    capability.INTERPRETING = True
    capability.architecture = lambda x: f"sm_{architecture}"
    try:
        yield
    finally:
        JITFunction.run = run_for_real
        capability.INTERPRETING = False
        capability.architecture = real


def _describe(kernel: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Launch:
    """Derive types and specialisations from the arguments of a launch, as Triton does."""
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | named
    options = {name: values.pop(name) for name in tuple(values) if name not in kernel.arg_names}
    signature, constants, aligned = {}, {}, []
    for parameter in kernel.params:
        name, value = parameter.name, values[parameter.name]
        specialised = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialised and type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = _type(value)
        # PyTorch's allocators start a tensor at a multiple of 16 bytes
        if parameter.do_not_specialize_on_alignment:
            continue
        if specialised and (isinstance(value, Tensor) or (type(value) is int and value % 16 == 0)):
            aligned.append(name)
    return Launch(kernel=kernel, signature=signature, constants=constants, aligned=tuple(aligned), options=options)


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"
    return "fp32"
