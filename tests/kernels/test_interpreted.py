"""Triton kernels on the CPU: every test module that knows backends, again, under Triton's interpreter.

Nobody has to remember an environment variable: this is part of a plain `pytest` run, one test a module, so that
pytest-xdist spreads them.
"""

from pathlib import Path

import pytest

from unmask_kernels.capability import HAS_TRITON, INTERPRETING
from unmask_kernels.testing.interpreter import InterpretedFailure, run_interpreted

HERE = Path(__file__).parent
MODULES = sorted(
    path.name
    for path in HERE.glob("test_*.py")
    if path.name != Path(__file__).name
    and any(word in path.read_text(encoding="utf-8") for word in ("backends_here(", "mark.triton"))
)

pytestmark = [
    pytest.mark.skipif(not HAS_TRITON, reason="package triton is not installed"),
    pytest.mark.skipif(INTERPRETING, reason="already in an interpreted process"),
]


@pytest.mark.parametrize("module", MODULES)
def test_passes_under_the_interpreter(module: str) -> None:
    print(run_interpreted(HERE / module))


def test_a_failure_under_the_interpreter_is_shown_verbatim(tmp_path: Path) -> None:
    module = tmp_path / "test_broken.py"
    module.write_text(
        "import os, pytest\n"
        "@pytest.mark.triton\n"
        "def test_broken():\n"
        "    assert os.environ['TRITON_INTERPRET'] == 'no kernel gives this'\n"
    )
    with pytest.raises(InterpretedFailure, match="no kernel gives this"):
        run_interpreted(module, "--rootdir", str(tmp_path), "-o", "markers=triton", "-c", "/dev/null")
