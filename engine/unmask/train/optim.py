"""AdamW with BERT's parameter groups (Loshchilov & Hutter, arXiv:1711.05101; Devlin et al. 2019, arXiv:1810.04805).

Weight decay applies to matrices and embeddings, not to biases and layer norms. The update is `torch.optim.AdamW` in its
fused form, one kernel over all parameters on CPU and GPU. It corrects the bias of the moments, which the code published
with BERT does not. Moments are fp32, like the parameters: 8 bytes a parameter.
"""

import torch
from torch import Tensor, nn

from unmask.config import OptimizerConfig

__all__ = ["adamw", "parameter_groups", "set_learning_rate"]


def parameter_groups(model: nn.Module) -> dict[str, list[str]]:
    """Return the names of the trained parameters, as `{"decay": [...], "no_decay": [...]}`.

    Vectors have no decay. In a BERT these are all biases and all gains of layer norms, and nothing else. Tied weights
    appear once, under the first of their names.
    """
    groups: dict[str, list[str]] = {"decay": [], "no_decay": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["no_decay" if parameter.ndim < 2 else "decay"].append(name)
    return groups


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return fused AdamW for `model`. Its learning rate is a () fp32 tensor on the device of the model.

    Args:
        model: parameters in fp32, all on one device.
        config: its learning rate is the first one; `set_learning_rate` changes it. Weight decay is multiplied by the
            learning rate.
    """
    by_name = dict(model.named_parameters())
    names = parameter_groups(model)
    device = next(model.parameters()).device
    return torch.optim.AdamW(
        [
            {"params": [by_name[name] for name in names["decay"]], "weight_decay": config.weight_decay},
            {"params": [by_name[name] for name in names["no_decay"]], "weight_decay": 0.0},
        ],
        lr=torch.tensor(config.learning_rate, dtype=torch.float32, device=device),
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Write `rate` into the learning-rate tensors in place, without synchronising with the device."""
    for group in optimizer.param_groups:
        held: Tensor = group["lr"]
        held.fill_(rate)
