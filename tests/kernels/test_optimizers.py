"""`AdamW` and `LAMB` as optimizers of PyTorch: what they equal, what they share with others, what they refuse."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unmask_kernels import BackendUnavailable, using
from unmask_kernels.optimizer import LAMB, AdamW, _torch
from unmask_kernels.optimizer._torch_lists import update_lists

OURS = [AdamW, LAMB]


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1, bias=False)).to(dtype)


X = torch.linspace(-1, 1, 40).view(8, 5)
TARGET = X.sin().sum(1, keepdim=True)


def loss_of(model: nn.Module) -> Tensor:
    dtype = next(model.parameters()).dtype
    return ((model(X.to(dtype)) - TARGET.to(dtype)) ** 2).mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return values(model)


def values(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def groups(model: nn.Module) -> list[dict[str, Any]]:
    split: dict[bool, list[Tensor]] = {True: [], False: []}
    for parameter in model.parameters():
        split[parameter.ndim > 1].append(parameter)
    return [{"params": split[True], "weight_decay": 0.1}, {"params": split[False], "weight_decay": 0.0}]


def equal(ours: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours, others, strict=True))


@pytest.mark.parametrize("lr", [0.03, torch.tensor(0.03)])
def test_adamw_has_the_bits_of_pytorchs_fused_one(lr: float | Tensor) -> None:
    one, other = network(), network()
    theirs = train(one, torch.optim.AdamW(groups(one), lr=lr, fused=True), 30)
    assert equal(train(other, AdamW(groups(other), lr=lr), 30), theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_computed_as_pytorch_does_without_master_weights(dtype: torch.dtype) -> None:
    one, other = network(dtype), network(dtype)
    theirs = train(one, torch.optim.AdamW(groups(one), lr=0.03, fused=True), 10)
    assert equal(train(other, AdamW(groups(other), lr=0.03, master_weights=False), 10), theirs)


@pytest.mark.parametrize("changes", [{}, {"clip_update": True}, {"bias_correction": False}])
def test_adamw_learns_with_every_backend_alike(changes: dict[str, Any]) -> None:
    found = []
    for backend in ("torch", "reference"):
        model = network()
        found.append(train(model, AdamW(groups(model), lr=0.03, max_norm=0.5, backend=backend, **changes), 30))
        assert loss_of(model) < 0.2 * loss_of(network())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", OURS)
def test_lists_of_operations_give_what_the_definition_gives(
    optimizer: type[AdamW] | type[LAMB], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU runs in the place of the loop over parameters."""
    monkeypatch.setattr(_torch, "update_each", update_lists)
    found = []
    for backend in ("torch", "reference"):
        model = network()
        settings: dict[str, Any] = {"clip_update": True} if optimizer is AdamW else {}
        made = optimizer(groups(model), lr=0.02, max_norm=0.5, backend=backend, **settings)
        train(model, made, 8)
        before = values(model)
        made.found_inf = torch.ones(())
        train(model, made, 1)
        assert equal(values(model), before)
        assert {float(state["step"]) for state in made.state.values()} == {8.0}
        # an update that is skipped because of its gradient
        made.found_inf = None
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, math.nan)
        made.step()
        assert equal(values(model), before)
        found.append(train(model, made, 8))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_step_of_lamb_is_a_share_of_the_parameter() -> None:
    model = network()
    before = values(model)
    made = LAMB(groups(model), lr=0.125)
    after = train(model, made, 1)
    lengths = [float((y - x).norm() / x.norm()) for x, y in zip(before, after, strict=True) if x.ndim > 1]
    assert lengths == pytest.approx([0.125, 0.125], rel=1e-5)
    # a bias without decay moves as far as AdamW moves it
    assert (after[1] - before[1]).abs().max() == pytest.approx(0.125, rel=1e-3)
    adapted = network()
    after = train(adapted, LAMB(groups(adapted), lr=0.125, always_adapt=True), 1)
    assert float((after[1] - before[1]).norm() / before[1].norm()) == pytest.approx(0.125, rel=1e-5)


def test_stable_adamw_moves_less_after_a_sudden_large_gradient() -> None:
    moved = []
    for clip in (False, True):
        weight = nn.Parameter(torch.zeros(4))
        made = AdamW([weight], lr=1.0, betas=(0.0, 0.99), weight_decay=0.0, clip_update=clip, max_norm=math.inf)
        for size in (*[0.01] * 5, 1.0):
            weight.grad = torch.full((4,), size)
            before = weight.detach().clone()
            made.step()
        moved.append(float((weight.detach() - before).abs().max()))
    # v is 0.01 + the small ones, corrected by 1 - 0.99^6
    ratio = 1.0 / math.sqrt((0.01 + 0.0001 * 0.05) / (1 - 0.99**6))
    assert moved[0] == pytest.approx(ratio, rel=1e-2)
    assert moved[1] == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_the_state_of_pytorchs_adamw_goes_on_here_and_the_other_way_round(first: str) -> None:
    def theirs(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups(model), lr=0.03, fused=True)

    def ours(model: nn.Module) -> torch.optim.Optimizer:
        # the settings come from the state
        return AdamW(groups(model), lr=0.5, eps=1e-3)

    whole = network()
    expected = train(whole, theirs(whole), 20)
    model = network()
    before, after = (theirs, ours) if first == "theirs" else (lambda model: AdamW(groups(model), lr=0.03), theirs)
    began = before(model)
    train(model, began, 10)
    goes_on = after(model)
    goes_on.load_state_dict(copy.deepcopy(began.state_dict()))
    assert equal(train(model, goes_on, 10), expected)


def test_the_state_of_an_adamw_that_is_not_fused_goes_on_here() -> None:
    model = network()
    began = torch.optim.AdamW(groups(model), lr=0.03)
    train(model, began, 3)
    ours = AdamW(groups(model))
    ours.load_state_dict(began.state_dict())
    assert {float(state["step"]) for state in ours.state.values()} == {3.0}
    train(model, ours, 1)
    assert {float(state["step"]) for state in ours.state.values()} == {4.0}
    # its own tensors: the other optimizer keeps its state
    assert {float(state["step"]) for state in began.state.values()} == {3.0}


@pytest.mark.parametrize("optimizer", OURS)
def test_the_state_is_exchanged_between_backends(optimizer: type[AdamW] | type[LAMB]) -> None:
    whole, model = network(), network()
    expected = train(whole, optimizer(groups(whole), lr=0.02, backend="reference"), 10)
    began = optimizer(groups(model), lr=0.02, backend="reference")
    train(model, began, 5)
    goes_on = optimizer(groups(model), backend="torch")
    goes_on.load_state_dict(began.state_dict())
    for one, other in zip(train(model, goes_on, 5), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("again", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy])
def test_a_copy_has_the_settings_and_the_state(again: Callable[[Any], Any]) -> None:
    model = network()
    made = LAMB(groups(model), lr=0.02, max_norm=0.5, backend="torch")
    train(model, made, 3)
    expected = made.state_dict()
    other = again(made)
    assert (other.max_norm, other.master_weights, other.backend) == (0.5, True, "torch")
    for index, state in other.state_dict()["state"].items():
        assert all(torch.equal(value, expected["state"][index][name]) for name, value in state.items())


def test_a_parameter_may_come_later_and_another_may_rest() -> None:
    model, other = network(), network()
    first, second, third = model.parameters()
    ours = AdamW([first], lr=0.03)
    theirs = torch.optim.AdamW([next(other.parameters())], lr=0.03, fused=True)
    for one, each in ((model, ours), (other, theirs)):
        train(one, each, 2)
        parameters = list(one.parameters())
        each.add_param_group({"params": parameters[1:], "lr": 0.1})
        train(one, each, 2)
        parameters[0].requires_grad_(False)
        train(one, each, 2)
        parameters[0].requires_grad_(True)
        train(one, each, 1)
    assert equal(values(model), values(other))
    assert [float(ours.state[parameter]["step"]) for parameter in (first, second, third)] == [5.0, 5.0, 5.0]


def test_other_parameters_in_a_group_are_updated_from_then_on() -> None:
    """As wrappers that shard a model put them there."""
    model, other = network(), network()
    made = AdamW(model.parameters(), lr=0.03)
    train(model, made, 2)
    before = values(model)
    made.param_groups[0]["params"][:] = list(other.parameters())
    train(other, made, 3)
    plain = network()
    assert equal(values(other), train(plain, AdamW(plain.parameters(), lr=0.03), 3))
    assert equal(values(model), before)


def test_tensors_that_somebody_puts_into_the_state_are_used() -> None:
    model, other = network(), network()
    ours, plain = AdamW(groups(model), lr=0.03), AdamW(groups(other), lr=0.03)
    train(model, ours, 3)
    train(other, plain, 3)
    for made, parameters in ((ours, model.parameters()), (plain, other.parameters())):
        for parameter in parameters:
            made.state[parameter]["exp_avg_sq"] = torch.ones_like(parameter)
            made.state[parameter]["exp_avg"] = torch.zeros_like(parameter)
    # a resumed run replaces the whole state
    kept = {parameter: dict(state) for parameter, state in plain.state.items()}
    plain.state.clear()
    plain.state.update(kept)
    assert equal(train(model, ours, 2), train(other, plain, 2))
    assert float(max(state["exp_avg_sq"].min() for state in ours.state.values())) > 0.9


def test_schedulers_of_pytorch_change_rates_and_betas() -> None:
    made: dict[str, list[Tensor]] = {}
    for name, optimizer, lr in (("theirs", torch.optim.AdamW, 0.03), ("ours", AdamW, 0.03), ("tensor", AdamW, None)):
        model = network()
        rate = torch.tensor(0.03, dtype=torch.float64) if lr is None else lr
        each: Any = optimizer(groups(model), lr=rate, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(each, max_lr=0.1, total_steps=12)
        for _ in range(10):
            train(model, each, 1)
            schedule.step()
        made[name] = values(model)
    assert equal(made["ours"], made["theirs"])
    for one, other in zip(made["tensor"], made["theirs"], strict=True):
        torch.testing.assert_close(one, other)


def test_a_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    model = network()
    made = AdamW(model.parameters(), lr=0.03)

    def closure() -> Tensor:
        made.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    losses = [made.step(closure).item() for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert made.step() is None


@pytest.mark.parametrize("optimizer", OURS)
def test_gradscaler_divides_and_skips(optimizer: type[AdamW] | type[LAMB]) -> None:
    plain, scaled = network(), network()
    expected = train(plain, optimizer(groups(plain), lr=0.03, max_norm=0.1), 4)
    made = optimizer(groups(scaled), lr=0.03, max_norm=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for number in range(5):
        made.zero_grad()
        scaler.scale(loss_of(scaled) * (math.inf if number == 2 else 1.0)).backward()
        before = values(scaled)
        scaler.step(made)
        scaler.update()
        assert equal(values(scaled), before) == (number == 2)
    assert scaler.get_scale() == 2.0**9
    for one, other in zip(values(scaled), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_clipping_inside_is_pytorchs_clipping_before() -> None:
    inside, before = network(), network()
    ours, theirs = AdamW(groups(inside), lr=0.03, max_norm=0.2), torch.optim.AdamW(groups(before), lr=0.03)
    assert ours.norm is None
    for _ in range(10):
        for model, made in ((inside, ours), (before, theirs)):
            made.zero_grad()
            loss_of(model).backward()
            norm = nn.utils.clip_grad_norm_(before.parameters(), 0.2) if made is theirs else None
            made.step()
        assert ours.norm is not None
        assert float(ours.norm) == pytest.approx(float(norm or 0.0), rel=1e-5)
    for one, other in zip(values(inside), values(before), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_one_norm_is_taken_over_parameters_of_several_dtypes_and_betas() -> None:
    parameters = [nn.Parameter(torch.ones(4, dtype=kind)) for kind in (torch.float32, torch.float64, torch.bfloat16)]
    split = [{"params": parameters[:1], "betas": (0.5, 0.9)}, {"params": parameters[1:]}]
    made = AdamW(split, lr=0.1, weight_decay=0.0, max_norm=1.0)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    assert made.norm is not None
    assert float(made.norm) == pytest.approx(math.sqrt(12))
    moments = [state["exp_avg"] for state in made.state.values()]
    clipped = 1 / math.sqrt(12)
    assert [float(x[0]) for x in moments] == pytest.approx([0.5 * clipped, 0.1 * clipped, 0.1 * clipped], rel=1e-5)
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    parameters[1].grad = torch.full_like(parameters[1], math.inf)
    made.step()
    assert equal([parameter.detach() for parameter in parameters], before)
    assert {float(state["step"]) for state in made.state.values()} == {1.0}


@pytest.mark.parametrize("optimizer", OURS)
def test_narrow_parameters_are_rounded_master_weights(optimizer: type[AdamW] | type[LAMB]) -> None:
    weight = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    wide = nn.Parameter(torch.ones(64))
    ours, exact = optimizer([weight], lr=1e-4, weight_decay=0.01), optimizer([wide], lr=1e-4, weight_decay=0.01)
    for _ in range(50):
        weight.grad, wide.grad = torch.ones_like(weight), torch.ones_like(wide)
        ours.step()
        exact.step()
    state = ours.state[weight]
    assert torch.equal(state["master"], wide)
    assert torch.equal(weight, wide.bfloat16())
    # every update alone is below half of the distance of two bf16 numbers
    assert float(weight.detach()[0]) < 1.0
    again = optimizer([weight], lr=1.0)
    again.load_state_dict(ours.state_dict())
    assert all(torch.equal(again.state[weight][name], value) for name, value in state.items())
    assert again.state[weight]["exp_avg"].dtype == torch.float32


def test_master_weights_follow_a_parameter_that_somebody_else_changes() -> None:
    weight = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    made = AdamW([weight], lr=1e-4, weight_decay=0.0)
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        made.step()
    master = made.state[weight]["master"].clone()
    with torch.no_grad():
        weight[0] = 5.0
    weight.grad = torch.zeros_like(weight)
    made.step()
    assert float(weight.detach()[0]) == 5.0
    # the other one kept what 16 bits do not hold
    assert float(made.state[weight]["master"][1]) < float(master[1])


def test_a_backend_is_asked_for_by_name_or_by_a_block() -> None:
    model = network()
    with pytest.raises(BackendUnavailable, match=r"^optimizer: backend 'cuda' cannot run"):
        train(model, AdamW(model.parameters(), backend="cuda"), 1)
    with using(optimizer="cuda"), pytest.raises(BackendUnavailable, match="leave it out, and one that can is chosen"):
        train(model, AdamW(model.parameters()), 1)
    train(model, AdamW(model.parameters()), 1)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"amsgrad": True}, {}, "AdamW: amsgrad is not available here; leave it out, or use torch.optim.AdamW"),
    ({"maximize": True}, {}, "AdamW: maximize is not available here; leave it out, or use torch.optim.AdamW"),
    ({"differentiable": True}, {}, "AdamW: differentiable is not available here; leave it out, or use torch"),
    ({"foreach": True}, {}, "AdamW: foreach=True asks for another implementation than the one here; leave it out, or"),
    ({"fused": False}, {"backend": "torch"}, "AdamW: fused=False asks for another implementation than the one here;"),
    ({"lr": -1.0}, {"lr": 1.0}, "AdamW: lr must be at least 0 and finite, got -1.0"),
    ({"lr": torch.ones(2)}, {"lr": torch.ones(1)}, "AdamW: lr must be a number or a tensor of one element, got shape"),
    ({"betas": (0.9, 1.0)}, {}, "AdamW: betas must be two numbers, each at least 0 and below 1, got (0.9, 1.0)"),
    ({"eps": -1.0}, {}, "AdamW: eps must be at least 0 and finite, got -1.0"),
    ({"weight_decay": math.inf}, {}, "AdamW: weight_decay must be at least 0 and finite, got inf"),
    ({"max_norm": 0.0}, {"max_norm": math.inf}, "AdamW: max_norm must be above 0, got 0.0; inf never clips, None"),
    ({"backend": "cudda"}, {"backend": "torch"}, "optimizer: backend must be one of 'cuda', 'torch', 'reference', got"),
]


@pytest.mark.parametrize(("asked", "advised", "message"), REFUSED, ids=lambda value: str(value)[:20])
def test_what_is_not_available_is_refused_by_name(asked: dict[str, Any], advised: dict[str, Any], message: str) -> None:
    model = network()
    with pytest.raises(ValueError) as raised:
        AdamW(model.parameters(), **asked)
    assert str(raised.value).startswith(message)
    train(model, AdamW(model.parameters(), **advised), 1)


@pytest.mark.parametrize(("name", "value"), [("max_norm", 1.0), ("backend", "torch"), ("master_weights", False)])
def test_a_setting_of_all_groups_is_refused_in_one(name: str, value: object) -> None:
    model = network()
    with pytest.raises(ValueError) as raised:
        AdamW([{"params": list(model.parameters()), name: value}])
    assert str(raised.value) == (
        f"AdamW: {name} is a setting of all groups together, got {value} in one; give it to AdamW(..., {name}=...)"
    )
    train(model, AdamW(model.parameters(), **{name: value}), 1)


def test_a_state_that_asks_for_what_is_not_here_is_refused_and_changes_nothing() -> None:
    model = network()
    theirs = torch.optim.AdamW(groups(model), lr=0.03, amsgrad=True)
    train(model, theirs, 1)
    ours = AdamW(groups(model), lr=0.01)
    train(model, ours, 2)
    with pytest.raises(ValueError, match="AdamW: amsgrad is not available here"):
        ours.load_state_dict(theirs.state_dict())
    assert [group["lr"] for group in ours.param_groups] == [0.01, 0.01]
    assert {float(state["step"]) for state in ours.state.values()} == {2.0}
    adam = torch.optim.Adam(groups(model))
    with pytest.raises(
        ValueError, match=r"decoupled_weight_decay is False, which is Adam and not AdamW; use torch.opt"
    ):
        ours.load_state_dict(adam.state_dict())
    torch.optim.Adam(groups(model)).load_state_dict(adam.state_dict())


def test_complex_parameters_and_sparse_gradients_are_refused() -> None:
    with pytest.raises(TypeError, match="AdamW: params must be floating-point tensors, got complex64; train the"):
        AdamW([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    parts = torch.view_as_real(torch.ones(2, dtype=torch.complex64)).unbind(-1)
    AdamW([nn.Parameter(part.clone()) for part in parts])
    for sparse in (True, False):
        table = nn.Embedding(4, 2, sparse=sparse)
        made = LAMB(table.parameters(), lr=0.1)
        table(torch.tensor([1])).sum().backward()
        if sparse:
            with pytest.raises(TypeError) as raised:
                made.step()
            assert str(raised.value) == (
                "LAMB: params have a sparse gradient, of shape (4, 2); make it dense, as nn.Embedding(..., "
                "sparse=False) does"
            )
        else:
            made.step()


def test_a_group_that_is_refused_is_not_added() -> None:
    model = network()
    made = AdamW([next(model.parameters())])
    with pytest.raises(ValueError, match="AdamW: eps must be at least 0"):
        made.add_param_group({"params": list(model.parameters())[1:], "eps": -1.0})
    assert len(made.param_groups) == 1
    made.add_param_group({"params": list(model.parameters())[1:], "eps": 1.0})


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=12),
    offset=st.integers(0, 7),
    kind=st.sampled_from(["adamw", "stable", "original", "lamb"]),
    max_norm=st.sampled_from([None, 0.5, math.inf]),
    decay=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 1000),
)
def test_any_sizes_at_any_offset_are_updated_as_the_definition_says(
    sizes: list[int], offset: int, kind: str, max_norm: float | None, decay: float, seed: int
) -> None:
    check_sizes(sizes, offset, kind, max_norm, decay, seed)


@pytest.mark.parametrize("sizes", [[1] * 1000, [100_000, 1, 99_999], [3]], ids=["1000 of 1", "large", "small"])
@pytest.mark.parametrize("kind", ["adamw", "lamb"])
def test_many_and_large_parameters(sizes: list[int], kind: str) -> None:
    check_sizes(sizes, 1, kind, 1.0, 0.1, 0)


def check_sizes(sizes: list[int], offset: int, kind: str, max_norm: float | None, decay: float, seed: int) -> None:
    changes: dict[str, Any] = {"stable": {"clip_update": True}, "original": {"bias_correction": False}}.get(kind, {})
    optimizer = LAMB if kind == "lamb" else AdamW
    torch.manual_seed(seed)
    start = torch.randn(offset + sum(sizes))
    grads = [[torch.randn(size) for size in sizes] for _ in range(2)]
    found = []
    for backend in ("torch", "reference"):
        flat = start.clone()
        parameters = [nn.Parameter(part) for part in flat[offset:].split(sizes)]
        made = optimizer(parameters, lr=0.02, weight_decay=decay, max_norm=max_norm, backend=backend, **changes)
        for given_ in grads:
            for parameter, grad in zip(parameters, given_, strict=True):
                parameter.grad = grad.clone()
            made.step()
        found.append(flat)
        # what lies before the first parameter is no parameter's
        assert torch.equal(flat[:offset], start[:offset])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
