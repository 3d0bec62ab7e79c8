"""AdamW of fine-tuning: BERT's groups of parameters, with a learning rate for each layer if it decays downwards.

    rate(depth) = rate * layer_decay ^ (L + 1 - depth)     0: embeddings, 1 .. L: layers, L + 1: pooler, classifier

This is the layer-wise decay of ELECTRA (Clark et al. 2020, arXiv:2003.10555, appendix). Biases and layer norms have no
weight decay. Frozen parameters are in no group.
"""

import re
from collections import defaultdict

import torch
from torch import Tensor, nn

from unmask.model.task_model import TaskModel
from unmask.tasks.config import FinetuneOptimizerConfig
from unmask.train.optim import parameter_groups

__all__ = ["freeze_layers", "set_rates", "task_adamw"]

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def freeze_layers(model: TaskModel, count: int) -> None:
    """Leave the embeddings and the first `count` layers as they are; with 0, everything is trained."""
    if count:
        for module in (model.encoder.embeddings, *list(model.encoder.layers)[:count]):
            module.requires_grad_(False)


def task_adamw(model: TaskModel, config: FinetuneOptimizerConfig) -> torch.optim.AdamW:
    """Return fused AdamW; each group has its learning rate as a () fp32 tensor, and its `factor` of the run's rate."""
    by_name: dict[str, nn.Parameter] = dict(model.named_parameters())
    top = model.config.num_layers + 1
    members: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for kind, names in parameter_groups(model).items():
        for name in names:
            factor = config.layer_decay ** (top - _depth(name, top))
            members[config.weight_decay if kind == "decay" else 0.0, factor].append(by_name[name])
    device = next(model.parameters()).device
    groups = [
        {
            "params": parameters,
            "weight_decay": weight_decay,
            "factor": factor,
            "lr": torch.tensor(config.learning_rate * factor, dtype=torch.float32, device=device),
        }
        for (weight_decay, factor), parameters in members.items()
    ]
    return torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Write the learning rate of a step into the groups, each by its factor, without synchronising with the device."""
    for group in optimizer.param_groups:
        held: Tensor = group["lr"]
        held.fill_(rate * group["factor"])


def _depth(name: str, top: int) -> int:
    layer = _LAYER.match(name)
    if layer is not None:
        return int(layer[1]) + 1
    return 0 if name.startswith("encoder.embeddings.") else top
