"""Batches go to a GPU on a stream of their own, beside the step that runs there.

A copy that is launched on the stream of the steps waits for the step before it. On its own stream it is done by then,
since the host launches a step and the copies of the next one long before the GPU has done the first.
"""

import torch

from unmask.batch import PackedBatch
from unmask.train.batch_buffers import tensors_of

__all__ = ["SideStream"]


class SideStream:
    """Copies batches through page-locked memory to a GPU; the host waits for nothing.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def __call__(self, batch: PackedBatch) -> PackedBatch:
        """Return the batch on the GPU; what is launched from now on waits for it."""
        with torch.cuda.stream(self._stream):
            moved = batch.to(self._device, non_blocking=True)
        steps = torch.cuda.current_stream(self._device)
        steps.wait_stream(self._stream)
        for _, tensor in tensors_of(moved):
            # so that its memory is not used again while a step reads it
            tensor.record_stream(steps)
        return moved
