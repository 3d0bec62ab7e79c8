"""AdamW as a `torch.optim.Optimizer` (Loshchilov & Hutter, arXiv:1711.05101), in the place of `torch.optim.AdamW`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import FamilyOptimizer

__all__ = ["AdamW"]


class AdamW(FamilyOptimizer):
    """AdamW over all parameters in one call.

    Equivalent to  torch.optim.AdamW(params, lr, betas, eps, weight_decay)  and after
    torch.nn.utils.clip_grad_norm_(params, max_norm)  if there is a max_norm.

    State dicts are exchangeable with `torch.optim.AdamW`. Nothing is read from the device, and the learning rate may be
    a tensor that a captured CUDA graph reads at each replay.

    Args:
        params: parameters, or dicts of them with settings of their own, fp32, fp64, bf16 or fp16.
        lr: learning rate, >= 0; a number, or a tensor of one element on the device of the parameters.
        betas: decays of the two moments, in [0, 1).
        eps: added to the root of the second moment, >= 0. BERT has 1e-6.
        weight_decay: multiplied by the learning rate and the parameter, >= 0.
        amsgrad: not available.
        bias_correction: whether moments are corrected for their start at zero. BERT's published code does not correct.
        clip_update: StableAdamW (Wortsman et al. 2023, arXiv:2304.13013): divide the learning rate of a parameter by
            the root mean square of its gradient over the root of its second moment, where that is above 1.
        max_norm: largest global norm of the gradients, > 0; larger ones are scaled down to it. With one, even inf,
            an update whose norm is not finite is skipped, and `norm` has the norm. None computes no norm.
        master_weights: whether bf16 and fp16 parameters have fp32 master weights and moments, of which the parameters
            are rounded copies. Without, all is computed in 16 bits as in PyTorch, and small updates are lost.
        weight_copies: bf16 or fp16: fp32 parameters are kept in it too, written by the update, and the products of
            linear layers read them instead of casting. For training that runs them through `unmask_kernels.product`, as
            the encoder of unmask does on a GPU. 2 bytes a parameter. None keeps none.
        maximize, differentiable: not available.
        foreach, capturable, fused: taken for calls that were written for PyTorch's; updates are always fused and
            capturable, where the backend is.
        backend: "cuda", "torch" or "reference"; by default the best one that can run.
    Raises:
        TypeError, ValueError: a setting is out of range or not available, or a parameter is not a real number.
        BackendUnavailable: in `step`: the backend asked for cannot run this update.
    """

    algorithm = "adamw"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        bias_correction: bool = True,
        clip_update: bool = False,
        max_norm: float | None = None,
        master_weights: bool = True,
        weight_copies: torch.dtype | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        backend: str | None = None,
    ) -> None:
        if foreach or fused is False:
            asked = "foreach=True" if foreach else "fused=False"
            raise ValueError(
                f"AdamW: {asked} asks for another implementation than the one here; leave it out, or name a backend, "
                "such as backend='torch'"
            )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "clip_update": clip_update,
            # the names under which torch.optim.AdamW loads a state dict
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": None,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": True,
            "decoupled_weight_decay": True,
        }
        super().__init__(
            params,
            defaults,
            max_norm=max_norm,
            master_weights=master_weights,
            weight_copies=weight_copies,
            backend=backend,
        )

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        for name in ("amsgrad", "maximize", "differentiable"):
            if group[name]:
                self._refuse(name, "is not available here; leave it out, or use torch.optim.AdamW")
        if not group["decoupled_weight_decay"]:
            self._refuse("decoupled_weight_decay", "is False, which is Adam and not AdamW; use torch.optim.Adam")

    def _shared(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**super()._shared(group), "clip_update": group["clip_update"]}
