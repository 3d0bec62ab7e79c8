"""LAMB as a `torch.optim.Optimizer` (You et al. 2020, arXiv:1904.00962), for large batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import FamilyOptimizer

__all__ = ["LAMB"]


class LAMB(FamilyOptimizer):
    """LAMB over all parameters in one call: the update of each parameter is as long as a share of the parameter.

    The direction is that of AdamW, with the decay inside. Its length is lr times the norm of the parameter.

    Args:
        params: parameters, or dicts of them with settings of their own, fp32, fp64, bf16 or fp16.
        lr: learning rate, >= 0; a number, or a tensor of one element on the device of the parameters. The paper trains
            BERT-large with 5e-3 at 32,768 sequences, and at fewer with the root of their share: 6.25e-4 at 512.
        betas: decays of the two moments, in [0, 1).
        eps: added to the root of the second moment, >= 0.
        weight_decay: added to the direction, multiplied by the parameter, >= 0.
        bias_correction: whether moments are corrected for their start at zero.
        always_adapt: whether groups without weight decay have a trust ratio too. In a BERT these are biases and norms,
            which by default move as far as AdamW moves them.
        max_norm, master_weights, weight_copies, backend: as for `AdamW`. The paper clips at 1.
    Raises:
        TypeError, ValueError: a setting is out of range, or a parameter is not a real number.
        BackendUnavailable: in `step`: the backend asked for cannot run this update.
    """

    algorithm = "lamb"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        bias_correction: bool = True,
        always_adapt: bool = False,
        max_norm: float | None = None,
        master_weights: bool = True,
        weight_copies: torch.dtype | None = None,
        backend: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "always_adapt": always_adapt,
        }
        super().__init__(
            params,
            defaults,
            max_norm=max_norm,
            master_weights=master_weights,
            weight_copies=weight_copies,
            backend=backend,
        )

    def _trusts(self, group: dict[str, Any]) -> bool:
        return bool(group["always_adapt"] or group["weight_decay"])
