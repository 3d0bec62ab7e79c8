"""The optimizer of a run, with BERT's parameter groups (Devlin et al. 2019, arXiv:1810.04805).

Weight decay applies to matrices and embeddings, not to biases and layer norms. AdamW, StableAdamW and LAMB are those of
`unmask_kernels.optimizer`, which updates all parameters in one call. AdamW without bias correction is the optimizer of
the code published with BERT. Moments are fp32, like the parameters: 8 bytes a parameter, and 4 for a matrix that Muon
updates.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from unmask.config import OptimizerConfig
from unmask_kernels.optimizer import LAMB, AdamW

__all__ = ["LAYERS", "MuonAndAdamW", "build_optimizer", "copies_for", "parameter_groups", "set_learning_rate"]

LAYERS = "encoder.layers."
"""How the names of parameters begin whose matrices Muon updates."""


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


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, *, copies: torch.dtype | None = None
) -> torch.optim.Optimizer:
    """Return the optimizer of a run. It reads `grad_scale` and `found_inf`, as `torch.amp.GradScaler` sets them.

    Args:
        model: parameters in fp32, all on one device.
        config: its learning rate is the first one; `set_learning_rate` changes it. Weight decay is multiplied by the
            learning rate.
        copies: dtype of copies of the weights, see `copies_for`; None for none.
    """
    by_name = dict(model.named_parameters())
    names = parameter_groups(model)
    matrices = [name for name in names["decay"] if config.name == "muon" and name.startswith(LAYERS)]
    groups: list[dict[str, Any]] = [
        {
            "params": [by_name[name] for name in names["decay"] if name not in matrices],
            "weight_decay": config.weight_decay,
        },
        {"params": [by_name[name] for name in names["no_decay"]], "weight_decay": 0.0},
    ]
    device = next(model.parameters()).device
    settings: dict[str, Any] = {
        "lr": torch.tensor(config.learning_rate, dtype=torch.float32, device=device),
        "betas": (config.beta1, config.beta2),
        "eps": config.eps,
        "bias_correction": config.bias_correction,
        # most weights of layers are Muon's, which writes no copies
        "weight_copies": None if config.name == "muon" else copies,
    }
    if config.name == "lamb":
        return LAMB(groups, **settings)
    adamw = AdamW(groups, clip_update=config.name == "stable_adamw", **settings)
    return adamw if config.name != "muon" else MuonAndAdamW([by_name[name] for name in matrices], adamw, config)


def copies_for(compute_dtype: torch.dtype, device: torch.device, *, compiles: bool) -> torch.dtype | None:
    """Return the dtype of the copies of the weights that the update writes, so that no layer casts; None for none.

    On a GPU in 16 bits the products read the copies (`unmask_kernels.narrow`). A compiler casts by itself.
    """
    return compute_dtype if compute_dtype.itemsize == 2 and device.type == "cuda" and not compiles else None


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982) for some matrices, and AdamW for the rest.

    An update of Muon has the root mean square of one of AdamW, so both have one learning rate and one weight decay.
    PyTorch's Muon takes numbers of the host. So its learning rate is a tensor on the CPU, and on a GPU a step waits
    until it knows whether the update is skipped.

    Args:
        matrices: parameters for Muon, (N, D) each.
        adamw: the optimizer of the rest.
        config: the first learning rate, weight decay and momentum.
    """

    grad_scale: Tensor | None
    found_inf: Tensor | None
    _step_supports_amp_scaling = True

    def __init__(self, matrices: list[Tensor], adamw: AdamW, config: OptimizerConfig) -> None:
        self.adamw = adamw
        self.muon = torch.optim.Muon(
            matrices,
            lr=torch.tensor(config.learning_rate, dtype=torch.float32),  # type: ignore[arg-type]
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        super().__init__([*self.muon.param_groups, *adamw.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient, and return what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if found is not None and bool(found):
            return loss
        if scale is not None:
            matrices = [p.grad for group in self.muon.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_div_(matrices, scale)
        self.adamw.grad_scale, self.adamw.found_inf = scale, None
        self.muon.step()
        self.adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of another optimizer of this class."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Give both optimizers the groups and the state of this one."""
        first = len(self.muon.param_groups)
        self.muon.param_groups, self.adamw.param_groups = self.param_groups[:first], self.param_groups[first:]
        self.muon.state = self.adamw.state = self.state


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Write `rate` into the learning-rate tensors in place, without synchronising with the device."""
    for group in optimizer.param_groups:
        held: Tensor = group["lr"]
        held.fill_(rate)
