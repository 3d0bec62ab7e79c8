from typing import Any

import pytest
import torch
from torch import nn

from unmask.config import OptimizerConfig
from unmask.errors import ConfigError, SettingError, SettingTypeError
from unmask.model import EncoderConfig, PretrainingModel
from unmask.train.optim import adamw, parameter_groups, set_learning_rate

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
    optimizer = adamw(trained, OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    optimizer.step()
    for name, parameter in trained.named_parameters():
        expected = 0.95 if name in DECAYED else 1.0
        assert torch.allclose(parameter, torch.full_like(parameter, expected)), name


def test_an_update_is_adam_with_corrected_moments_and_decay_apart_from_the_gradient() -> None:
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(2.0)
    optimizer = adamw(layer, OptimizerConfig(learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.6, eps=1e-2))
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
    optimizer = adamw(model(), OptimizerConfig(learning_rate=0.1))
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
