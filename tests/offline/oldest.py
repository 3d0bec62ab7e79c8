"""Run Python with the oldest Triton that is supported, which is the one that CUDA builds of PyTorch require.

Beside a CPU build of PyTorch the newest Triton is installed, and tests compile with that. `make test` puts the oldest
one into a folder of its own, from which only processes started here import it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["FOLDER", "INSTALLED", "RELEASE", "run_tests_with_oldest", "run_with_oldest"]

RELEASE = "3.6.0"
FOLDER = Path(sys.prefix) / f"triton-{RELEASE}"
INSTALLED = (FOLDER / "triton").is_dir()
ROOT = Path(__file__).parents[2]


def run_with_oldest(arguments: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run `python arguments` at the root of the repository, where `import triton` finds the oldest release."""
    # not a worker of pytest-xdist, and without the options of an outer pytest
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (FOLDER, ROOT / "tests")))
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )


def run_tests_with_oldest(*tests: str, options: Sequence[str] = (), seconds: float = 1200.0) -> str:
    """Run tests, such as "tests/offline/test_aot.py", with the oldest release.

    Returns:
        The output of pytest.
    Raises:
        AssertionError: a test failed, or none ran, or another release was imported; the message is the output.
    """
    check = f"import sys, pytest, triton; assert triton.__version__ == {RELEASE!r}; sys.exit(pytest.main(sys.argv[1:]))"
    quiet = ("-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:benchmark", "--color=no")
    done = run_with_oldest(["-c", check, *quiet, *options, *tests], seconds)
    if done.returncode != 0:
        raise AssertionError(f"with Triton {RELEASE}: {' '.join(tests)}\n{done.stdout}{done.stderr}")
    return done.stdout
