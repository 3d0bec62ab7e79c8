"""What an update has to move, at best: fp32 parameters and moments of so many elements, all of them in memory."""

from __future__ import annotations

__all__ = ["bytes_step"]


def bytes_step(
    elements: int,
    grad_itemsize: int = 4,
    *,
    algorithm: str = "adamw",
    clip_update: bool = False,
    clip_norm: bool = False,
    copies: bool = False,
) -> int:
    """Read parameter, gradient and moments, write parameter and moments, and what else is asked for.

    A global norm reads the gradients once more. A factor for each parameter (the trust ratio of "lamb", the clipping of
    StableAdamW) is known after a pass that has written the moments, so a second pass reads them and the parameters; the
    first pass of "lamb" reads the parameters too. A copy has 2 bytes.
    """
    moved = 12 + grad_itemsize + 12
    if algorithm == "lamb":
        moved += 12
    elif clip_update:
        moved += 8
    return elements * (moved + (grad_itemsize if clip_norm else 0) + (2 if copies else 0))
