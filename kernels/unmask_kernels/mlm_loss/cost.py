"""What the masked-language-model loss must compute and move, for rooflines. Its products bound it, not its bytes.

Shapes: M masked tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

__all__ = ["bytes_between", "flops_backward", "flops_forward"]


def flops_forward(masked: int, hidden_size: int, vocabulary: int) -> int:
    """The product with the output projection."""
    return 2 * masked * hidden_size * vocabulary


def flops_backward(masked: int, hidden_size: int, vocabulary: int) -> int:
    """The gradients of hidden and of the projection."""
    return 4 * masked * hidden_size * vocabulary


def bytes_between(masked: int, hidden_size: int, vocabulary: int, itemsize: int, chunks: int) -> int:
    """What the Triton backend moves beside the products themselves, which write and read a chunk of logits.

    The statistics kernel reads the logits, the gradient kernel reads and writes them. The gradient of the projection,
    in fp32, is scaled in place; with several chunks, each further one is added to the sum.
    """
    return 3 * masked * vocabulary * itemsize + 4 * vocabulary * hidden_size * (2 + 3 * (chunks - 1))
