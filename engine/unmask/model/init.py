"""Initial weights as in BERT: truncated normal matrices and tables, zero biases, unit layer norms."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["initialise"]


# spreads the seeds of the parts of a model, so that a head does not begin with what the next run's encoder draws
_SEED_STRIDE = 0x9E3779B97F4A7C15


def initialise(module: nn.Module, std: float, seed: int, *, part: int = 0) -> None:
    """Draw all parameters of `module` anew, the same ones for the same seed, module and PyTorch build.

    Args:
        module: biases and layer norms are known by their last name and dimension; tables and matrices are 2-d.
        std: standard deviation of the normal distribution, cut at two of them.
        seed: of a generator of its own; PyTorch's global one is left alone.
        part: number of this module in the model: parts draw from different generators at one seed.
    """
    generator = torch.Generator().manual_seed((seed + part * _SEED_STRIDE) % 2**63)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)
