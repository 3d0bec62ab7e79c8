"""A process of its own for the checks: a kernel that reads where it must not takes its process down, and no other.

It reads one line of JSON, which says what to run, and answers with lines of JSON: {"begin": number} before a check and
{"outcome": {...}} after it. After a fault the device is of no more use to a process, so it ends, and another one goes
on. It ends with its parent too, even if a kernel hangs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

import torch

from .plan import plan
from .run_check import run_check
from .shapes import Shapes

__all__ = ["serve"]


def serve() -> None:
    """Be the worker."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # what a compiler prints goes to standard error, not between the answers
    os.dup2(2, 1)
    question = json.loads(sys.stdin.readline())
    shapes, device = Shapes.from_json(question["shapes"]), question["device"]
    checks = plan(shapes, torch.device(device).type, question["architecture"], question["operations"])

    def answer(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=answers, flush=True)

    for number in question["numbers"]:
        answer({"begin": number})
        outcome = run_check(checks[number], shapes.dtype, device, shapes.tokens)
        answer({"outcome": outcome.to_json()})
        if outcome.verdict == "failed" and not _device_lives(device):
            return


def _end_with(parent: int) -> None:
    """End this process once its parent has died; a kernel that hangs leaves no other way."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _device_lives(device: str) -> bool:
    if torch.device(device).type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True
