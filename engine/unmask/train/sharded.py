"""A model in shards: each rank holds a part of every parameter, of its gradient and of its moments (FSDP2).

    parameters of a layer    gathered before its forward pass, dropped behind it, gathered again for its backward pass
    all others               gathered from the forward pass to the end of the backward pass: tables and heads
    gradients                summed over the ranks, and each rank gets its part of the sum

`fully_shard` of PyTorch does it (Rajbhandari et al. 2020, arXiv:1910.02054, stage 3). With N ranks, parameters,
gradients and moments take 16 / N bytes a parameter on each, and the gathered ones come on top. The network carries half
as much again as for whole models (`gradient_sum`), and that for each micro-batch instead of each step.

The loss of a step is divided by the counts of all ranks, as everywhere here. So gradients are summed and not averaged.
Evaluations and checkpoints need whole weights, so they gather them: 4 bytes a parameter for as long as they take.
Why the state of a checkpoint is gathered too: docs/decisions/0029-saves-and-shards.md.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from unmask.distillation.student import Student
from unmask.model import PretrainingModel
from unmask.train.parallel import Ranks

__all__ = ["ShardedModel", "gathered", "scatter_state", "whole"]


class ShardedModel:
    """Shards a model in place, and does for a training step what `GradientSum` does for a whole model.

    The ranks begin with the weights of rank 0.

    Args:
        model: a whole model on the device to train on.
        ranks: two ranks or more.
    """

    def __init__(self, model: PretrainingModel | Student, ranks: Ranks) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard

        self._ranks = ranks
        ranks.send([parameter.detach() for parameter in model.parameters()])
        mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.size,))
        for module in (*model.encoder.layers, model):
            fully_shard(module, mesh=mesh)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                # gloo has no other reduction, and a factor of 1 needs none
                module.set_force_sum_reduction_for_comms(True)

    def counts(self, counts: Tensor) -> None:
        """Replace the counts of the objectives by those of all ranks, in place."""
        self._ranks.sum(counts)

    def last_backward(self, totals: Mapping[Tensor, Tensor]) -> AbstractContextManager[None]:
        """Do nothing: each backward pass sums its gradients."""
        return nullcontext()

    def finish(self, totals: Mapping[Tensor, Tensor], *tallies: Tensor) -> None:
        """Sum the small fp32 tensors `tallies` over the ranks, in place."""
        flat = torch.cat([tally.flatten() for tally in tallies])
        self._ranks.sum(flat)
        for tally, summed in zip(tallies, flat.split([tally.numel() for tally in tallies]), strict=True):
            tally.copy_(summed.view_as(tally))


def whole(value: Tensor) -> Tensor:
    """Return a tensor with the parts of all ranks, which must all call this; one that is not in shards as it is."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def gathered(state: Iterable[tuple[str, Tensor]], ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """Yield named tensors whole, one after the other; all ranks must take all of them."""
    for name, value in state:
        with ranks.waiting():
            found = whole(value)
        yield name, found


def scatter_state(
    state: Mapping[str, Tensor], model: PretrainingModel | Student, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Give each rank its parts of parameters and moments, as `checkpoint.state` names them.

    Args:
        state: what rank 0 has read; empty on all others.
        model: a model in shards.
        optimizer: its state is replaced.
        ranks: the ranks.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = dict(model.named_parameters())
    entries = ranks.first(lambda: [(name, value.shape, value.dtype) for name, value in state.items()])
    optimizer.state.clear()
    for name, shape, dtype in entries:
        kind, _, rest = name.partition("/")
        if kind not in ("model", "optimizer"):
            continue
        owner, key = (rest, None) if kind == "model" else rest.rsplit("/", 1)
        parameter = parameters[owner]
        assert isinstance(parameter, DTensor)
        device = parameter.device
        value = state[name].to(device) if ranks.is_first else torch.empty(shape, dtype=dtype, device=device)
        if shape == parameter.shape:
            with ranks.waiting():
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        else:
            ranks.send([value])
        if key is None:
            parameter.detach().copy_(value)
        else:
            optimizer.state[parameter][key] = value
