"""What every test shares: one thread a process, so that numbers repeat; an end of what a test started; a GPU's faults.

A fault on the GPU ends one process alone.
"""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

# before the first import of torch, which reads it once; xdist gives every core its own process
os.environ.setdefault("OMP_NUM_THREADS", "1")
# before the first product on a GPU, when cuBLAS reads it once; deterministic algorithms need it
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_configure() -> None:
    """Start the process that ends what the tests leave behind, however this process ends."""
    if Path("/proc/self/environ").exists():
        environment = {name: value for name, value in os.environ.items() if name != "UNMASK_TEST_RUN"}
        mark = uuid.uuid4().hex
        keeper = [sys.executable, "-S", "-E", str(Path(__file__).with_name("keeper.py")), mark]
        subprocess.Popen(keeper, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.environ["UNMASK_TEST_RUN"] = mark


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """End a worker of pytest-xdist whose last test left a fault on the GPU, once its report is sent.

    Nothing runs on the device in that process any more: every later test would fail too. Another worker takes over.
    """
    torch = sys.modules.get("torch")
    if "PYTEST_XDIST_WORKER" not in os.environ or torch is None or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        os._exit(1)
