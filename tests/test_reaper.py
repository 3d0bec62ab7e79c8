"""No process that a test starts outlives the test run, however the run ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent

TEST = """
import os, subprocess, sys
from pathlib import Path

def test_starts_a_process_in_a_session_of_its_own_and_ends_at_once(tmp_path):
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(3600)"
    shell = f"{sys.executable} -c '{sleeper}' > {os.environ['PID_FILE']} & wait"
    subprocess.Popen(["sh", "-c", shell], start_new_session=True)
    while not Path(os.environ["PID_FILE"]).read_text().strip():
        pass
    os._exit(1)
"""


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found under /proc")
def test_what_a_test_started_ends_with_the_run(tmp_path: Path) -> None:
    for name in ("conftest.py", "reaper.py"):
        shutil.copy(HERE / name, tmp_path / name)
    (tmp_path / "test_leaves.py").write_text(TEST)
    pid_file = tmp_path / "pid"
    pid_file.touch()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*command, str(tmp_path)], env=os.environ | {"PID_FILE": str(pid_file)}, stdout=subprocess.DEVNULL, check=False,
        stderr=subprocess.PIPE, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1
    pid, end = int(pid_file.read_text()), time.monotonic() + 600
    while _alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(pid)
    # the reaper writes to the stderr of the run, so the pipe stays open until the reaper has ended
    assert "killed what outlived its test" in done.stderr
