"""Initial weights as in BERT: truncated normal matrices and tables, zero biases, unit layer norms."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["initialise"]


def initialise(module: nn.Module, std: float, seed: int) -> None:
    """Draw all parameters of `module` anew, the same ones for the same seed, module and PyTorch build.

    Args:
        module: biases and layer norms are known by their last name and dimension; tables and matrices are
            2-d.
        std: standard deviation of the normal distribution, cut at two of them.
        seed: of a generator of its own; PyTorch's global one is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)
