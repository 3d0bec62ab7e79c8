"""Verify the kernels on the GPU at hand and record what has passed: `unmask verify`, `python -m unmask_kernels.verify`.

A kernel that we have not run on a kind of GPU is not chosen there by itself. Whoever has one runs the checks, which are
those of our tests, for the shapes of a run; from then on what has passed is chosen on that machine (`passes`).
"""

from .node import among_ranks, standing, verify_once
from .outcome import Outcome, Verification
from .session import CannotVerify, VerificationProgress, is_interpreting, require_device, verify
from .shapes import Shapes

__all__ = [
    "CannotVerify",
    "Outcome",
    "Shapes",
    "Verification",
    "VerificationProgress",
    "among_ranks",
    "is_interpreting",
    "require_device",
    "standing",
    "verify",
    "verify_once",
]
