"""Kill the processes that a test run leaves behind.

`conftest.py` starts `python reaper.py MARK`, which outlives the pytest process. A run may end before it can clean up:
pytest-timeout or a scheduler kills it. Its children then go on, for hours if they multiply bf16 on a CPU without fast
bf16. Every process that a test starts, directly or not, inherits UNMASK_TEST_RUN=MARK from the pytest process. When
pytest has ended, the reaper kills all processes with that value. It finds them under /proc, so on Linux only.
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
    """Return the processes that started with `mark` in their environment."""
    wanted = f"{VARIABLE}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def main() -> None:
    """Wait until the parent has ended, give its children two seconds to end, then kill the others and name them."""
    mark, parent = sys.argv[1], os.getppid()
    # Ctrl-C and a closed terminal end the tests, after which this process ends by itself
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
            print(f"tests/reaper.py: killed what outlived its test: {command[:300]}", file=sys.stderr, flush=True)
            os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main()
