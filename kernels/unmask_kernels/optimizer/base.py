"""What the optimizers share: a `torch.optim.Optimizer` that gathers its tensors into one call of the family.

    gradients ->  one record for each device, dtype and set of decays  ->  `op.step`

State of a parameter: `step` (), fp32; `exp_avg` and `exp_avg_sq`, as `torch.optim.AdamW` has them; and with master
weights `master`, fp32. The moments of a 16-bit parameter with master weights are fp32 too. A state dict therefore
does not depend on the backend.

Outside of this file `torch.amp.GradScaler`, or a training loop, sets two attributes, () tensors on a device: gradients
are divided by `grad_scale`, and `found_inf` that is not 0 skips the update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import is_
from typing import Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor

from ..narrow import Copy, keep
from .arguments import Algorithm, Arguments
from .choice import FAMILY
from .op import run
from .shards import Shards, is_sharded, local

__all__ = ["FamilyOptimizer"]

_NARROW = (torch.bfloat16, torch.float16)
_OF_ALL = ("max_norm", "master_weights", "weight_copies", "backend")


class _Batch(NamedTuple):
    """The parameters of one call, with what a step finds again in the next one.

    Attributes:
        grad_dtype: of their gradients.
        shared: settings that all of them have, by their names in the record.
        counts: how many of them each group has, by its place, in the order of the lists.
        sharded: whether they are DTensor.
        owners: the parameters, whose `.grad` is read.
        states: of the optimizer, for each of them.
        moments: first moments, as the states have them.
        params: what is updated: the parameters, or their master weights.
        exp_avg, exp_avg_sq, steps: from the states; of shards, what lies here.
        copies: the parameters if there are master weights, or the tensors of `kept`, else none.
        kept: what is kept in 16 bits beside the parameters, or none.
    """

    grad_dtype: torch.dtype
    shared: dict[str, Any]
    counts: dict[int, int]
    sharded: bool
    owners: list[Tensor]
    states: list[dict[str, Any]]
    moments: list[Tensor]
    params: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]
    steps: list[Tensor]
    copies: list[Tensor]
    kept: list[Copy]


class FamilyOptimizer(torch.optim.Optimizer):
    """An optimizer of this family; `AdamW` and `LAMB` are its algorithms.

    Attributes:
        norm: global norm of the last gradients, after division by `grad_scale` and before clipping, () fp32 on the
            device of the parameters; None without `max_norm`, and before the first update.
    """

    algorithm: Algorithm
    grad_scale: Tensor | None
    found_inf: Tensor | None
    # what GradScaler asks: whether `step` reads the two
    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        *,
        max_norm: float | None,
        master_weights: bool,
        weight_copies: torch.dtype | None,
        backend: str | None,
    ) -> None:
        name = type(self).__name__
        if max_norm is not None and not max_norm > 0.0:
            raise ValueError(
                f"{name}: max_norm must be above 0, got {max_norm}; inf never clips, None computes no norm"
            )
        if weight_copies not in (None, *_NARROW):
            raise ValueError(
                f"{name}: weight_copies must be torch.bfloat16, torch.float16 or None, got {weight_copies}; None keeps "
                "no copies"
            )
        if backend is not None:
            FAMILY.require_known(backend)
        self.max_norm, self.master_weights, self.backend = max_norm, master_weights, backend
        self.weight_copies = weight_copies
        self.norm: Tensor | None = None
        self._rates: dict[tuple[int, torch.device], tuple[float, Tensor]] = {}
        self._written: dict[Tensor, int] = {}
        self._batches: list[_Batch] | None = None
        self._idle: list[Tensor] = []
        self._known: list[Tensor] = []
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with settings of its own in place of the defaults.

        Raises:
            TypeError, ValueError: a setting or a parameter that this optimizer does not take.
        """
        super().add_param_group(param_group)
        self._batches = None
        try:
            self._check_group(self.param_groups[-1])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient.

        Args:
            closure: computes the loss anew, and its gradients.
        Returns:
            What the closure returns; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._update()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of another optimizer of this class, of any backend.

        `AdamW` also takes that of `torch.optim.AdamW`, and the other way round. Settings of the groups, such as the
        learning rate, come from the state dict.

        Raises:
            ValueError: the groups differ, or one of them asks for what this optimizer does not have.
        """
        before = self.__getstate__()
        super().load_state_dict(state_dict)
        try:
            for group in self.param_groups:
                self._check_group(group)
        except (TypeError, ValueError):
            self.__setstate__(before)
            raise
        # PyTorch rounds what it loads to the dtype of the parameter
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for index, param in zip(saved, params, strict=True):
            given = state_dict["state"].get(index, {})
            for key, value in self.state[param].items() if param in self.state else ():
                if key == "step" or isinstance(value, Tensor):
                    kind = torch.float32 if key == "step" else self._state_dtype(param)
                    self.state[param][key] = _moved(given[key], param.device, kind)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy, or a pickle, consists of."""
        names = ("max_norm", "master_weights", "weight_copies", "backend")
        settings = {name: getattr(self, name) for name in names}
        return {**super().__getstate__(), **settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a copy or a state dict; what an older one lacks gets its default."""
        self.norm, self._batches, self._rates, self._written, self._idle, self._known = None, None, {}, {}, [], []
        super().__setstate__({"weight_copies": getattr(self, "weight_copies", None), **state})
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise for settings and parameters that this optimizer does not take."""
        for name in _OF_ALL:
            if name in group:
                self._refuse(
                    name,
                    f"is a setting of all groups together, got {group[name]} in one; give it to "
                    f"{type(self).__name__}(..., {name}=...)",
                )
        lr, betas = group["lr"], group["betas"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            self._refuse("lr", f"must be a number or a tensor of one element, got shape {tuple(lr.shape)}")
        if not isinstance(lr, Tensor) and not 0.0 <= lr < math.inf:
            self._refuse("lr", f"must be at least 0 and finite, got {lr}")
        if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
            self._refuse("betas", f"must be two numbers, each at least 0 and below 1, got {betas}")
        for name in ("eps", "weight_decay"):
            if not 0.0 <= group[name] < math.inf:
                self._refuse(name, f"must be at least 0 and finite, got {group[name]}")
        for param in group["params"]:
            if not param.is_floating_point():
                self._refuse(
                    "params",
                    f"must be floating-point tensors, got {_name(param.dtype)}; train the real and the imaginary part "
                    "of a complex one as two parameters",
                    TypeError,
                )

            if is_sharded(param):
                self._check_shards(param)

    def _check_shards(self, param: Any) -> None:
        if any(placement.is_partial() for placement in param.placements):
            self._refuse(
                "params", "are partial sums (DTensor); redistribute them, as param.redistribute(placements=[Shard(0)])"
            )
        if self._has_master(param):
            self._refuse(
                "params",
                f"are sharded (DTensor) in {_name(param.dtype)}, for which there are no master weights; shard fp32 "
                "parameters, with MixedPrecisionPolicy(param_dtype=...), or set master_weights=False",
            )

    def _refuse(self, argument: str, problem: str, error: type[Exception] = ValueError) -> NoReturn:
        raise error(f"{type(self).__name__}: {argument} {problem}")

    def _state_dtype(self, param: Tensor) -> torch.dtype:
        """The dtype of moments: that of the parameter, or of its master weights."""
        return torch.float32 if self._has_master(param) else param.dtype

    def _has_master(self, param: Tensor) -> bool:
        return self.master_weights and param.dtype in _NARROW

    def _may_keep(self, param: Tensor) -> bool:
        """Whether a parameter can be kept in 16 bits too."""
        return param.dtype == torch.float32 and not is_sharded(param) and not torch.compiler.is_compiling()

    def _shared(self, group: dict[str, Any]) -> dict[str, Any]:
        """Settings of a group that all parameters of a call must share, by their names in the record."""
        (beta1, beta2), eps = group["betas"], group["eps"]
        correct = group["bias_correction"]
        return {"beta1": beta1, "beta2": beta2, "eps": eps, "bias_correction": correct, "clip_update": False}

    def _trusts(self, group: dict[str, Any]) -> bool:
        """Whether updates of a group are scaled by their trust ratios."""
        return False

    def _update(self) -> None:
        calls = self._calls()
        if not calls:
            return
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        max_norm = math.inf if self.max_norm is None else self.max_norm
        first = calls[0][0].params[0].device
        if self.max_norm is None:
            self.norm = None
        elif self.norm is None or self.norm.device != first:
            self.norm = torch.zeros((), device=first)
        norm = self.norm
        if norm is not None and len(calls) > 1:
            scale, found = _clipped(calls, norm, max_norm, scale, found)
            norm, max_norm = None, math.inf
        for call, shards in calls:
            device = call.params[0].device
            call = call._replace(
                norm=norm, max_norm=max_norm, grad_scale=_on(scale, device), found_inf=_on(found, device)
            )
            run(call, self.backend, shards)
        for batch in self._batches or ():
            if batch.kept:
                for owner, kept in zip(batch.owners, batch.kept, strict=True):
                    kept.version = owner._version
            else:
                self._written.update((copy, copy._version) for copy in batch.copies)

    def _calls(self) -> list[tuple[Arguments, Shards | None]]:
        """A record for each device, dtype and set of shared settings, of the parameters that have a gradient.

        With it comes how the parameters are cut, if they are and their norms are needed.
        """
        compiling = torch.compiler.is_compiling()
        gradients = None if self._batches is None or compiling else self._gradients(self._batches)
        batches = self._batches
        if gradients is None or batches is None:
            batches = self._gather()
            self._batches = None if compiling else batches
            gradients = [[cast(Tensor, owner.grad) for owner in batch.owners] for batch in batches]
        calls = []
        for batch, grads in zip(batches, gradients, strict=True):
            if batch.sharded:
                grads = [local(grad) for grad in grads]
            lr: list[Tensor] = []
            weight_decay: list[float] = []
            trust: list[bool] = []
            for place, count in batch.counts.items():
                group = self.param_groups[place]
                lr += [self._rate(place, group["lr"], batch.params[0])] * count
                weight_decay += [group["weight_decay"]] * count
                trust += [self._trusts(group)] * count
            needs_sums = self.algorithm == "lamb" or batch.shared["clip_update"] or self.max_norm is not None
            shards = Shards.of(batch.owners) if batch.sharded and needs_sums else None
            call = Arguments(
                params=batch.params,
                grads=grads,
                exp_avg=batch.exp_avg,
                exp_avg_sq=batch.exp_avg_sq,
                steps=batch.steps,
                copies=batch.copies,
                norm=None,
                lr=lr,
                grad_scale=None,
                found_inf=None,
                weight_decay=weight_decay,
                trust=trust,
                max_norm=math.inf,
                algorithm=self.algorithm,
                **batch.shared,
            )
            calls.append((call, shards))
        return calls

    def _gradients(self, batches: list[_Batch]) -> list[list[Tensor]] | None:
        """The gradients of the batches of the step before; None if these do not hold any more."""
        state, found = self.state, []
        known = [param for group in self.param_groups for param in group["params"]]
        if len(known) != len(self._known) or not all(map(is_, known, self._known)):
            return None
        if any(param.grad is not None for param in self._idle):
            return None
        for batch in batches:
            if any(self._shared(self.param_groups[place]) != batch.shared for place in batch.counts):
                return None
            grads: list[Tensor] = []
            for owner, held, first in zip(batch.owners, batch.states, batch.moments, strict=True):
                grad = owner.grad
                if grad is None or grad.dtype != batch.grad_dtype or grad.layout != torch.strided:
                    return None
                # somebody may have put other tensors into the state
                if state.get(owner) is not held or held["exp_avg"] is not first:
                    return None
                grads.append(grad)
            for copy, held in zip(() if batch.kept else batch.copies, batch.states, strict=False):
                if self._written.get(copy) != copy._version:
                    self._master(copy, held)
            found.append(grads)
        return found

    def _gather(self) -> list[_Batch]:
        """Sort the parameters that have a gradient into batches, and begin the state of those that had none."""
        batches: dict[tuple[Any, ...], _Batch] = {}
        self._idle, self._known = [], [param for group in self.param_groups for param in group["params"]]
        for place, group in enumerate(self.param_groups):
            shared = self._shared(group)
            for param in group["params"]:
                grad = param.grad
                if grad is None:
                    self._idle.append(param)
                    continue
                if grad.layout != torch.strided:
                    self._refuse(
                        "params",
                        f"have a sparse gradient, of shape {tuple(grad.shape)}; make it dense, as nn.Embedding(..., "
                        "sparse=False) does",
                        TypeError,
                    )
                state = self.state[param]
                if not state:
                    state["step"] = torch.zeros((), device=param.device)
                    for name in ("exp_avg", "exp_avg_sq"):
                        state[name] = torch.zeros_like(param, dtype=self._state_dtype(param))
                weight, copied, kept = param, None, None
                if self._has_master(param):
                    weight, copied = self._master(param, state), param.dtype
                elif self.weight_copies is not None and self._may_keep(param):
                    kept, copied = keep(param, self.weight_copies), self.weight_copies
                cut = (cast(Any, param).device_mesh, cast(Any, param).placements) if is_sharded(param) else None
                key = (param.device, weight.dtype, grad.dtype, copied, cut, *shared.values())
                if key not in batches:
                    batches[key] = _Batch(grad.dtype, shared, {}, cut is not None, [], [], [], [], [], [], [], [], [])
                batch = batches[key]
                batch.counts[place] = batch.counts.get(place, 0) + 1
                batch.owners.append(param)
                batch.states.append(state)
                batch.moments.append(state["exp_avg"])
                batch.params.append(local(weight))
                batch.exp_avg.append(local(state["exp_avg"]))
                batch.exp_avg_sq.append(local(state["exp_avg_sq"]))
                batch.steps.append(state["step"])
                if copied is not None:
                    batch.copies.append(param if kept is None else kept.tensor)
                if kept is not None:
                    batch.kept.append(kept)
        return list(batches.values())

    def _master(self, param: Tensor, state: dict[str, Any]) -> Tensor:
        """The master weights of a parameter. Where somebody else has changed the parameter, they follow it."""
        master = state.get("master")
        if master is None:
            state["master"] = param.detach().float()
        elif not torch.compiler.is_compiling() and self._written.get(param) != param._version:
            torch.where(master.to(param.dtype) == param, master, param.float(), out=master)
        return cast(Tensor, state["master"])

    def _rate(self, place: int, lr: float | Tensor, like: Tensor) -> Tensor:
        """The learning rate of a group as a () tensor on the device of a parameter.

        On a GPU, a number becomes a tensor that stays, so that a captured graph finds it there.
        """
        device = like.device
        if isinstance(lr, Tensor):
            return lr.reshape(()).to(device=device, dtype=lr.dtype if lr.dtype == torch.float64 else torch.float32)
        if device.type == "cpu":
            return torch.tensor(lr, dtype=torch.float64)
        value, held = self._rates.get((place, device), (math.nan, None))
        if held is None:
            held = torch.full((), lr, device=device)
        elif value != lr:
            held.fill_(lr)
        self._rates[place, device] = (lr, held)
        return held


def _clipped(
    calls: list[tuple[Arguments, Shards | None]],
    norm: Tensor,
    max_norm: float,
    scale: Tensor | None,
    found: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The global norm of several calls, and the divisor and the flag that make each of them clip by it."""
    norms = []
    for call, shards in calls:
        here = torch.nn.utils.get_total_norm(call.grads).float()
        norms.append((here if shards is None else shards.norms(here)).to(norm.device))
    norm.copy_(torch.linalg.vector_norm(torch.stack(norms)) / (1.0 if scale is None else scale.to(norm.device)))
    broken = 1.0 - torch.isfinite(norm).float()
    found = broken if found is None else torch.maximum(broken, (found != 0).float().to(norm.device))
    clip = (norm / max_norm).clamp(min=1.0)
    return clip if scale is None else clip * scale.to(norm.device), found


def _on(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.reshape(()).to(device=device, dtype=torch.float32, non_blocking=True)


def _moved(x: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of a state dict, which may hold a step count as a number, as a tensor of this optimizer's own."""
    return torch.as_tensor(x).detach().clone().to(device=device, dtype=dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
