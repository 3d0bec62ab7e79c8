"""What a run asks: is everything verified that it will choose, and if not, one process of the machine verifies it.

Under `torchrun`, and when several runs start at once, the first process that gets the lock of the machine verifies. The
others wait for it, and read its record. Where the user's cache cannot be written, the record goes to a folder of this
machine that they all know.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch

from ..dispatch import known
from ..machine_record import locked, this_machine
from ..passes import note_passes
from .outcome import Verification
from .plan import plan
from .session import OLDEST_ARCHITECTURE, VerificationProgress, require_device, verify
from .shapes import Shapes

__all__ = ["among_ranks", "standing", "verify_once"]

Standing = Literal["verified", "failed", "unknown", "nothing to verify"]


def standing(shapes: Shapes, device: str = "cuda", operations: Sequence[str] | None = None) -> Standing:
    """What is known of the calls of a run on a device.

    Args:
        shapes: of the run.
        device: on which.
        operations: those to look at. Default: all.

    Returns:
        "verified" if all have passed, "failed" if some have failed and nothing is unknown, "unknown" if some were never
        run, "nothing to verify" if there is no kernel of ours that runs here.
    """
    machine = this_machine(device)
    capable = machine.architecture.removeprefix("sm_")
    checks = plan(shapes, torch.device(device).type, machine.architecture, operations)
    if not checks or (capable.isdecimal() and int(capable) < OLDEST_ARCHITECTURE):
        return "nothing to verify"
    failed = [known[check.family].has_failed(check.backend, check.call) for check in checks]
    passed = [known[check.family].has_passed(check.backend, check.call) for check in checks]
    if all(passed):
        return "verified"
    return "failed" if all(good or bad for good, bad in zip(passed, failed, strict=True)) else "unknown"


def among_ranks() -> bool:
    """Whether this process is one of several of `torchrun` on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1


def verify_once(
    shapes: Shapes,
    *,
    device: str = "cuda",
    seconds: float = 120.0,
    progress: Callable[[VerificationProgress], None] | None = None,
    operations: Sequence[str] | None = None,
    own_process: bool = True,
) -> Verification | None:
    """Verify what is unknown, once for all processes of this machine; return None if there was nothing to do.

    Raises:
        CannotVerify: there is no such device.
    """
    # a CPU has nothing to verify, and that is no error here
    if not device.startswith("cpu"):
        require_device(device)
    if standing(shapes, device, operations) != "unknown":
        return None
    machine = this_machine(device)
    shared = _folder_of_this_machine()
    _read_too(shared)
    with contextlib.ExitStack() as stack:
        if shared is not None:
            stack.enter_context(locked(shared / f"{machine.file_name}.lock", wait_seconds=seconds + 60.0))
        note_passes()
        if standing(shapes, device, operations) != "unknown":
            return None
        return verify(
            shapes,
            device=device,
            seconds=seconds,
            progress=progress,
            operations=operations,
            own_process=own_process,
            fallback=shared,
        )


def _folder_of_this_machine() -> Path | None:
    """A folder of this user in the temporary folder, which no other user can write."""
    if sys.platform == "win32":
        return None
    folder = Path(tempfile.gettempdir()) / f"unmask-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return None
    is_ours = state.st_uid == os.getuid() and not folder.is_symlink() and not state.st_mode & 0o022
    return folder if is_ours else None


def _read_too(folder: Path | None) -> None:
    if folder is not None:
        before = os.environ.get("UNMASK_SHARED_CACHE", "")
        if str(folder) not in before.split(os.pathsep):
            os.environ["UNMASK_SHARED_CACHE"] = os.pathsep.join(filter(None, (before, str(folder))))
