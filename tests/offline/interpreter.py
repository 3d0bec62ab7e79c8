"""Triton kernels without a GPU: its interpreter, in a process of its own.

TRITON_INTERPRET is read when a kernel is *defined*, and an interpreted kernel can neither be compiled ahead
of time nor launched on a GPU, so the interpreter gets a process to itself: `run_interpreted(path)` starts
`python -m pytest path -m triton` with TRITON_INTERPRET=1. There `backends_here` yields the Triton targets,
which run on CPU tensors, and nothing else. A test that calls it for every test module makes plain `pytest`
cover both worlds.

`install` repairs what the interpreter gets wrong (Triton 3.6 to 3.9). It stores bf16 as 16-bit integers: `tl.dot`
multiplies the integers, so its operands are widened to fp32 first, as the hardware does; and fp32 is cut off to bf16
where the hardware rounds to nearest even, so that every other value would be one bit too small. And `tl.dot` asks a
BLAS library, which may sum in another order for another row of a tile; tensor cores sum every row in one order, and
so does NumPy's own loop.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["InterpretedFailure", "install", "product_by_row", "run_interpreted"]


class InterpretedFailure(AssertionError):
    """Tests failed under the interpreter; the message is what pytest printed."""


def install() -> None:
    """Repair the interpreter's products and its bf16; idempotent, and harmless where nothing is interpreted."""
    import torch
    import triton.language as tl
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    if hasattr(builder.create_dot, "sums_by_row"):
        return

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        a, b = (self.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return interpreter.TensorHandle(product_by_row(a.data, b.data, d.data.dtype) + d.data, d.dtype.scalar)

    create_dot.sums_by_row = True  # type: ignore[attr-defined]
    builder.create_dot = create_dot
    cut_off = builder.cast_impl

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        if source.dtype.scalar != tl.float32 or to.scalar != tl.bfloat16:
            return cut_off(self, source, to)
        rounded = torch.from_numpy(source.data.copy()).bfloat16().view(torch.int16).numpy()
        return interpreter.TensorHandle(rounded.view("uint16"), to.scalar)

    builder.cast_impl = cast_impl


def product_by_row(a: NDArray[Any], b: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Multiplies matrices so that the bits of a row do not depend on where in `a` it stands.

    Args:
        a: (..., M, K).
        b: (..., K, N).
        dtype: what is multiplied and summed in.
    Returns:
        (..., M, N) in `dtype`.
    """
    import numpy as np

    # einsum without `optimize` never calls BLAS: one loop with the same strides for every row
    return np.einsum("...mk,...kn->...mn", np.ascontiguousarray(a, dtype), np.ascontiguousarray(b, dtype))


def run_interpreted(path: Path, *arguments: str, slow: bool = False, timeout_seconds: float = 1200.0) -> str:
    """Run the Triton tests of one test module under the interpreter.

    Args:
        path: the test module.
        arguments: further arguments for pytest, such as "-k", "name".
        slow: run what is marked slow too.
        timeout_seconds: stop the process after this long.
    Returns:
        What pytest printed; it says how many tests ran.
    Raises:
        InterpretedFailure: a test failed, none passed, or the process did not finish; carries pytest's output verbatim.
    """
    # A worker of pytest-xdist must not pass its identity on, nor options meant for the outer run.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    environment = inherited | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
    command = [sys.executable, "-m", "pytest", str(path), "-q", "--tb=short"]
    command += ["-m", "triton and not gpu" + ("" if slow else " and not slow")]
    command += ["-p", "no:cacheprovider", "--color=no", *arguments]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as expired:
        raise InterpretedFailure(f"{path.name} took more than {timeout_seconds:g} s under the interpreter") from expired
    # nothing collected is exit code 5, everything skipped is 0: neither has shown anything
    if done.returncode != 0 or not re.search(r"\b[1-9]\d* passed", done.stdout):
        raise InterpretedFailure(f"under TRITON_INTERPRET=1, {path.name}:\n{done.stdout}{done.stderr}")
    return done.stdout
