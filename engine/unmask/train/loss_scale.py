"""Loss scaling for activations in fp16 (Micikevicius et al. 2018, arXiv:1710.03740).

    gradient of (scale * loss)  ->  divided by scale in the update
    scale <- scale / 2    after a step whose gradient is not finite, which is skipped
    scale <- 2 * scale    after 2,000 steps in a row that are finite

The smallest number of fp16 is 6e-8, and gradients of activations are often smaller. Scaled, they are not lost. The rule
and its numbers are those of `torch.amp.GradScaler`; the norm that the training step computes anyway tells whether a
gradient is finite. Both numbers lie on the device, so the host never waits.
"""

import torch
from torch import Tensor

__all__ = ["LossScale"]

_FIRST, _GROWTH, _BACKOFF, _INTERVAL = 2.0**16, 2.0, 0.5, 2000


class LossScale:
    """The scale of the loss.

    Args:
        device: of the loss.
    Attributes:
        scale: () fp32, a power of two.
        finite_steps: finite steps since the last change, () int32.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.scale = torch.full((), _FIRST, device=device)
        self.finite_steps = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, skipped: Tensor) -> None:
        """Adapt the scale to a step; `skipped` is 1 if its gradient was not finite, else 0, () fp32."""
        torch._amp_update_scale_(self.scale, self.finite_steps, skipped, _GROWTH, _BACKOFF, _INTERVAL)

    def state(self) -> tuple[float, int]:
        """Return both numbers, which a checkpoint keeps; the host waits for the device."""
        return self.scale.item(), int(self.finite_steps.item())

    def restore(self, state: tuple[float, int]) -> None:
        """Continue from the numbers of `state`."""
        scale, finite_steps = state
        self.scale.fill_(scale)
        self.finite_steps.fill_(finite_steps)
