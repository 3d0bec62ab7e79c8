"""Ends what a test run left behind: `conftest.py` starts `python keeper.py MARK`, which outlives its pytest process.

A run may end without a chance to clean up: pytest-timeout ends a process at once, a scheduler kills it. Its children
then go on, and a product of bf16 on a CPU without fast bf16 goes on for hours. Every process that a test starts, and
every one that those start, has the variable UNMASK_TEST_RUN of its pytest process in its environment. When that
process is gone the keeper kills whatever has MARK there. It finds processes under /proc, so on Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

VARIABLE = "UNMASK_TEST_RUN"


def marked(mark: str) -> list[int]:
    """The processes whose environment had `mark` when they began."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def main() -> None:
    """Wait until the parent is gone, give its children two seconds to follow, kill the rest and name them."""
    mark, parent = sys.argv[1], os.getppid()
    # Ctrl-C and a closed terminal are for the tests; this process ends with them
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    while os.getppid() == parent:
        time.sleep(0.2)
    for _ in range(20):
        if not marked(mark):
            return
        time.sleep(0.1)
    for process in marked(mark):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            print(f"tests/keeper.py: killed what outlived its test: {command[:300]}", file=sys.stderr, flush=True)
            os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
