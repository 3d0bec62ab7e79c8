"""Run Triton tests under Triton's interpreter, in a process of its own, and repair the interpreter's arithmetic.

Triton reads TRITON_INTERPRET when a kernel is *defined*, and an interpreted kernel can neither be compiled nor launched
on a GPU. So `run_interpreted(path)` starts `python -m pytest path -m triton` with TRITON_INTERPRET=1. In that process
`backends_here` yields only Triton, on CPU tensors. `test_interpreter.py` does this for every test module with Triton
tests, so a plain run of pytest covers them.

`repair_interpreter` changes four things in Triton 3.6 to 3.9. The interpreter stores bf16 as 16-bit integers, and
`tl.dot` multiplies these integers: operands are widened to fp32 first, as the hardware does. It truncates fp32 to bf16,
which makes every other value one bit too small: values are rounded to nearest even, as the hardware does. And `tl.dot`
calls a BLAS library, where the order of a sum may depend on the row of a tile: NumPy's own loop sums every row in one
order, as tensor cores do. A launch replaces the functions of `triton.language` by interpreted ones, and each call of a
function of a kernel does so again, which takes longer than most of them: it is done once a launch.
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

__all__ = ["InterpretedFailure", "product_by_row", "repair_interpreter", "run_interpreted"]


class InterpretedFailure(AssertionError):
    """Tests failed under the interpreter; the message is the output of pytest."""


def repair_interpreter() -> None:
    """Repair the interpreter's products, bf16 and calls; idempotent, and harmless where nothing is interpreted."""
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
    patch = interpreter._patch_lang

    def patch_once(function: Any) -> Any:
        languages = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        # an interpreted function is no builtin of Triton; the scope is for the end of a launch, which patches first
        return patch(function) if any(tl.core.is_builtin(language.load) for language in languages) else None

    interpreter._patch_lang = patch_once


def product_by_row(a: NDArray[Any], b: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Multiply matrices; the bits of a row of the result do not depend on the row's place in `a`.

    Args:
        a: (..., M, K).
        b: (..., K, N).
        dtype: of products and sums.
    Returns:
        (..., M, N) in `dtype`.
    """
    import numpy as np

    # einsum without `optimize` never calls BLAS: it runs one loop with the same strides for every row
    return np.einsum("...mk,...kn->...mn", np.ascontiguousarray(a, dtype), np.ascontiguousarray(b, dtype))


def run_interpreted(*paths: Path, options: tuple[str, ...] = (), slow: bool = False, seconds: float = 1200.0) -> str:
    """Run the Triton tests of some test modules under the interpreter, in one process.

    Args:
        paths: the test modules.
        options: further arguments for pytest, such as ("-k", "name").
        slow: run tests that are marked slow too.
        seconds: after this time the process is killed.
    Returns:
        The output of pytest, which names the tests that passed.
    Raises:
        InterpretedFailure: a test failed, no test of a module passed, or the process did not end; contains the output
            of pytest.
    """
    # not a worker of pytest-xdist, and without the options of the outer run
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    # loading every plugin of pytest takes longer than many a test; modules name a limit of pytest-timeout
    environment = inherited | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(entry for entry in sys.path if entry))
    command = [sys.executable, "-m", "pytest", *map(str, paths), "-q", "--tb=short", "-rap"]
    command += ["-m", "triton and not gpu" + ("" if slow else " and not slow")]
    command += ["-p", "pytest_timeout", "-p", "no:cacheprovider", "--color=no", *options]
    names = ", ".join(path.name for path in paths)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as expired:
        raise InterpretedFailure(f"{names} took more than {seconds:g} s under the interpreter") from expired
    # exit code 5 says that nothing was collected; if everything was skipped it is 0, which shows nothing either
    passed = re.findall(r"^PASSED .*?([^/\s]+\.py)::", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not {path.name for path in paths} <= set(passed):
        raise InterpretedFailure(f"under TRITON_INTERPRET=1, {names}:\n{done.stdout}{done.stderr}")
    return done.stdout
