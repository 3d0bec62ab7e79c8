"""What all tests share: one thread a process, an end of processes left behind, recovery from GPU faults."""

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

# torch reads it at its first import; with one thread numbers repeat, and xdist gives every core a process
os.environ.setdefault("OMP_NUM_THREADS", "1")
# cuBLAS reads it at the first product on a GPU; deterministic algorithms need it
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# no test asks the Hugging Face Hub for the name of a folder that does not exist; huggingface_hub reads it at its import
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# no test reads what was verified or measured on this machine; a test that writes a record names its own folder
os.environ["UNMASK_CACHE"] = str(Path(tempfile.gettempdir()) / f"no-cache-of-unmask-{os.getpid()}")
os.environ.pop("UNMASK_SHARED_CACHE", None)


def pytest_configure() -> None:
    """Start the process that kills what the tests leave behind, however this process ends."""
    if Path("/proc/self/environ").exists():
        environment = {name: value for name, value in os.environ.items() if name != "UNMASK_TEST_RUN"}
        mark = uuid.uuid4().hex
        reaper = [sys.executable, "-S", "-E", str(Path(__file__).with_name("reaper.py")), mark]
        subprocess.Popen(reaper, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.environ["UNMASK_TEST_RUN"] = mark


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name contents of files by length: a gzip header holds the time, and every process must name a test alike."""
    return f"{len(val)} bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tests: at the end of the run one process would wait for the other's."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """After its report is sent, end a worker of pytest-xdist whose last test caused a fault on the GPU.

    That process can use the device no more, so every later test would fail. Another worker takes over.
    """
    torch = sys.modules.get("torch")
    if "PYTEST_XDIST_WORKER" not in os.environ or torch is None or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        os._exit(1)
