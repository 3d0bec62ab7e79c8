import copy
import math
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unmask.batch import assemble
from unmask.config import OptimizerConfig, load_config
from unmask.errors import ConfigError, SettingError, SettingTypeError
from unmask.model import EncoderConfig, PretrainingModel
from unmask.objectives import build_objectives
from unmask.train.optim import MuonAndAdamW, build_optimizer, copies_for, parameter_groups, set_learning_rate
from unmask.train.run_folder import saved_config
from unmask.train.step import TrainingStep
from unmask_kernels import narrow, product
from unmask_kernels.optimizer import LAMB, AdamW

CONFIG = EncoderConfig(vocab_size=30, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=16, max_positions=16)

DECAYED = {
    "encoder.embeddings.word.weight",
    "encoder.embeddings.position.weight",
    "encoder.embeddings.segment.weight",
    "encoder.layers.0.qkv.weight",
    "encoder.layers.0.attention_output.weight",
    "encoder.layers.0.up.weight",
    "encoder.layers.0.down.weight",
    "encoder.pooler.weight",
    "mlm.dense.weight",
    "nsp.classifier.weight",
}
LEFT_ALONE = {
    "encoder.embeddings.norm.weight",
    "encoder.embeddings.norm.bias",
    "encoder.layers.0.qkv.bias",
    "encoder.layers.0.attention_output.bias",
    "encoder.layers.0.attention_norm.weight",
    "encoder.layers.0.attention_norm.bias",
    "encoder.layers.0.up.bias",
    "encoder.layers.0.down.bias",
    "encoder.layers.0.norm.weight",
    "encoder.layers.0.norm.bias",
    "encoder.pooler.bias",
    "mlm.dense.bias",
    "mlm.norm.weight",
    "mlm.norm.bias",
    "mlm.bias",
    "nsp.classifier.bias",
}


def model() -> PretrainingModel:
    return PretrainingModel(CONFIG, heads=("mlm", "nsp"))


def test_every_parameter_is_in_one_group_and_biases_and_norms_do_not_decay() -> None:
    groups = parameter_groups(model())
    assert set(groups["decay"]) == DECAYED
    assert set(groups["no_decay"]) == LEFT_ALONE
    assert len(groups["decay"]) + len(groups["no_decay"]) == len(DECAYED | LEFT_ALONE)


def test_without_a_gradient_signal_only_the_decayed_group_shrinks() -> None:
    trained = model()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer(trained, OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    optimizer.step()
    for name, parameter in trained.named_parameters():
        expected = 0.95 if name in DECAYED else 1.0
        assert torch.allclose(parameter, torch.full_like(parameter, expected)), name


def test_an_update_is_adam_with_corrected_moments_and_decay_apart_from_the_gradient() -> None:
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(2.0)
    optimizer = build_optimizer(
        layer, OptimizerConfig(learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.6, eps=1e-2)
    )
    weight, bias, first, second = 2.0, 2.0, 0.0, 0.0
    for number, gradient in enumerate((4.0, -0.5, 0.25), start=1):
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        first, second = 0.8 * first + 0.2 * gradient, 0.6 * second + 0.4 * gradient**2
        step = 0.1 * first / (1 - 0.8**number) / ((second / (1 - 0.6**number)) ** 0.5 + 1e-2)
        weight, bias = weight * (1 - 0.1 * 0.5) - step, bias - step
        assert (layer.weight.item(), layer.bias.item()) == pytest.approx((weight, bias), rel=1e-5)


def test_a_parameter_that_is_not_trained_is_in_no_group() -> None:
    frozen = model()
    frozen.encoder.embeddings.requires_grad_(False)
    names = {name for group in parameter_groups(frozen).values() for name in group}
    assert names == {name for name in DECAYED | LEFT_ALONE if "embeddings" not in name}


def test_the_learning_rate_is_written_into_tensors_that_stay() -> None:
    optimizer = build_optimizer(model(), OptimizerConfig(learning_rate=0.1))
    held = [group["lr"] for group in optimizer.param_groups]
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] is before for group, before in zip(optimizer.param_groups, held, strict=True)] == [
        True,
        True,
    ]
    assert [float(rate) for rate in held] == [0.25, 0.25]
    assert all(rate.dtype == torch.float32 for rate in held)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"learning_rate": 0.0}, ConfigError, "learning_rate must be above 0, got 0"),
        ({"learning_rate": float("nan")}, SettingError, "learning_rate must be a finite number, got nan"),
        ({"weight_decay": -0.1}, ConfigError, "weight_decay must be at least 0, got -0.1"),
        ({"beta1": 1.0}, ConfigError, "beta1 must be at least 0 and below 1, got 1"),
        ({"beta2": -0.5}, ConfigError, "beta2 must be at least 0 and below 1, got -0.5"),
        ({"eps": 0.0}, ConfigError, "eps must be above 0, got 0"),
        ({"clip_norm": 0.0}, ConfigError, "clip_norm must be above 0, got 0"),
        ({"warmup_steps": -1}, ConfigError, "warmup_steps must be at least 0, got -1"),
        ({"warmup_steps": 2.5}, SettingTypeError, r"warmup_steps must be a whole number, got 2.5 \(float\)"),
        ({"beta1": "0.9"}, SettingTypeError, r"beta1 must be a number, got '0.9' \(str\)"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^OptimizerConfig: {message}$"):
        OptimizerConfig(**changes)


@pytest.mark.parametrize("name", ["lamb", "stable_adamw", "muon"])
def test_a_run_of_another_optimizer_learns_and_goes_on_to_the_same_bits(
    name: str, tiny: ModuleType, tmp_path: Path
) -> None:
    rate = {"lamb": 3e-2}.get(name, 3e-3)
    whole = tiny.pretrain(tiny.config(tmp_path / "whole", name=name, learning_rate=rate, save_every=7))
    losses = [row["loss"] for row in tiny.read_evaluations(whole)]
    assert losses[-1] < losses[0] - 0.1
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "checkpoints" / "step-000016")
    tiny.pretrain(saved_config(run), resume=run)
    tiny.assert_same_end(run, whole)


def trained(
    config: OptimizerConfig, steps: int = 200, dtype: torch.dtype = torch.float32, copies: torch.dtype | None = None
) -> tuple[PretrainingModel, list[list[Tensor]]]:
    """A model of two layers after steps on one batch, and the gradients of each step."""
    sizes = EncoderConfig(
        vocab_size=30, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=16, max_positions=16
    )
    made = PretrainingModel(sizes, seed=3, compute_dtype=dtype).train()
    ids = torch.arange(24).remainder(25) + 5
    batch = assemble(
        ids.numpy(),
        np.array([10, 14]),
        keys=np.arange(2),
        tokens=32,
        sequences=4,
        max_seqlen=16,
        masked=np.array([2, 5, 13, 20]),
        labels=ids[[3, 6, 14, 21]].numpy(),
        masked_capacity=6,
    )
    step = TrainingStep(
        model=made,
        objectives=build_objectives({"mlm": 1.0}),
        optimizer=build_optimizer(made, config, copies=copies),
        clip_norm=math.inf,
    )
    gradients = []
    for _ in range(steps):
        step.optimizer.zero_grad()
        step.accumulate([batch])
        gradients.append([p.grad.clone() for p in made.parameters() if p.grad is not None])
        step.update()
    return made, gradients


def test_200_steps_of_adamw_have_the_bits_of_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OptimizerConfig(learning_rate=1e-2)
    ours, _ = trained(config)
    monkeypatch.setattr(
        "unmask.train.optim.AdamW",
        lambda groups, *, clip_update, bias_correction, weight_copies, **rest: torch.optim.AdamW(
            groups, fused=True, **rest
        ),
    )
    theirs, _ = trained(config)
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon"])
def test_copies_of_the_weights_change_no_bit_of_training(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # the products that read copies run on GPUs only
    monkeypatch.setattr(product, "applies_to", lambda x: torch.is_grad_enabled())
    read = []

    def narrowed(weight: Tensor, dtype: torch.dtype) -> Tensor:
        result = narrow.narrowed(weight, dtype)
        read.append(result is narrow.keep(weight, dtype).tensor)
        return result

    monkeypatch.setattr(product, "narrowed", narrowed)
    config = OptimizerConfig(name=name, learning_rate=1e-2)
    (cast, _), (copied, _) = (trained(config, 4, torch.bfloat16, copies) for copies in (None, torch.bfloat16))
    assert all(torch.equal(one, other) for one, other in zip(cast.parameters(), copied.parameters(), strict=True))
    # from the second step on, and without Muon
    share = sum(read[len(read) // 2 :]) / (len(read) // 2)
    assert share == (0.75 if name != "muon" else 0.0) and not any(read[: len(read) // 2])


def test_copies_are_kept_where_layers_read_them() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert copies_for(torch.bfloat16, gpu, compiles=False) == torch.bfloat16
    assert copies_for(torch.float16, gpu, compiles=False) == torch.float16
    for dtype, device, compiles in (
        (torch.float32, gpu, False),
        (torch.bfloat16, cpu, False),
        (torch.bfloat16, gpu, True),
    ):
        assert copies_for(dtype, device, compiles=compiles) is None


@pytest.mark.parametrize(("name", "corrects"), [("lamb", True), ("adamw", False)])
def test_200_steps_are_those_of_the_formula_in_fp64(name: str, corrects: bool) -> None:
    rate, decay, beta1, beta2, eps = 1e-2, 0.1, 0.9, 0.99, 1e-6
    made, gradients = trained(
        OptimizerConfig(
            name=name,  # type: ignore[arg-type]
            learning_rate=rate,
            weight_decay=decay,
            beta2=beta2,
            bias_correction=corrects,
        )
    )
    rate = float(torch.tensor(rate))
    params = [p.detach().double() for p in PretrainingModel(made.config, seed=3).parameters()]
    firsts, seconds = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for count, grads in enumerate(gradients, start=1):
        for place, (p, g) in enumerate(zip(params, grads, strict=True)):
            m = firsts[place] = beta1 * firsts[place] + (1 - beta1) * g.double()
            v = seconds[place] = beta2 * seconds[place] + (1 - beta2) * g.double() ** 2
            if corrects:
                m, v = m / (1 - beta1**count), v / (1 - beta2**count)
            update = m / (v.sqrt() + eps) + (decay * p if p.ndim > 1 else 0.0)
            ratio = p.norm() / update.norm() if name == "lamb" and p.ndim > 1 else 1.0
            params[place] = p - rate * ratio * update
    for expected, got in zip(params, made.parameters(), strict=True):
        assert float((got.detach().double() - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", AdamW), ("stable_adamw", AdamW), ("lamb", LAMB), ("muon", MuonAndAdamW)]
)
def test_every_name_is_an_optimizer_that_skips_what_is_not_finite(name: Any, kind: type) -> None:
    made = model()
    optimizer = build_optimizer(made, OptimizerConfig(name=name))
    assert type(optimizer) is kind
    assert all(float(group["lr"]) == pytest.approx(1.5e-3) for group in optimizer.param_groups)
    set_learning_rate(optimizer, 0.5)
    before = [parameter.detach().clone() for parameter in made.parameters()]
    for found, moves in ((1.0, False), (0.0, True)):
        for parameter in made.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(found)  # type: ignore[attr-defined]
        optimizer.step()
        moved = [not torch.equal(one, other) for one, other in zip(made.parameters(), before, strict=True)]
        assert all(moved) if moves else not any(moved)


def test_muon_updates_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    made = model()
    optimizer = build_optimizer(made, OptimizerConfig(name="muon", momentum=0.5))
    assert isinstance(optimizer, MuonAndAdamW)
    by_parameter = {parameter: name for name, parameter in made.named_parameters()}
    matrices, decayed, others = ([by_parameter[p] for p in group["params"]] for group in optimizer.param_groups)
    assert set(matrices) == {name for name in DECAYED if ".layers." in name}
    assert set(decayed) == DECAYED - set(matrices)
    assert set(others) == LEFT_ALONE
    assert optimizer.param_groups[0]["momentum"] == 0.5
    for _ in range(2):
        for parameter in made.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    held = {name: set(optimizer.state[parameter]) for parameter, name in by_parameter.items()}
    assert {name for name, state in held.items() if state == {"momentum_buffer"}} == set(matrices)
    again = build_optimizer(made, OptimizerConfig(name="muon"))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    found = []
    for each in (optimizer, again):
        for parameter in made.parameters():
            parameter.grad = torch.ones_like(parameter)
        before = {parameter: parameter.detach().clone() for parameter in made.parameters()}
        each.step()
        found.append([parameter.detach().clone() for parameter in made.parameters()])
        with torch.no_grad():
            for parameter, value in before.items():
                parameter.copy_(value)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_momentum_is_a_setting_of_muon_alone() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(None, {"optimizer.momentum": 0.9})
    assert str(raised.value) == (
        "config: optimizer.momentum is 0.9 but optimizer.name is 'adamw', which has betas; set optimizer.name to "
        "'muon' or leave optimizer.momentum out"
    )
    assert load_config(None, {"optimizer.momentum": 0.9, "optimizer.name": "muon"}).optimizer.momentum == 0.9
    assert load_config(None, {}).optimizer.momentum == 0.95
