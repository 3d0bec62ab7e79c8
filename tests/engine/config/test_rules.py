"""The bounds of every setting: the last value that is taken, and the first that is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from unmask.config import RunConfig, load_config, to_mapping
from unmask.errors import ConfigError
from unmask.train.run_folder import flatten

AT_LEAST = {
    "seed": 0,
    "data.vocab_size": 100,
    "data.max_length": 3,
    "data.workers": 0,
    "data.bm25_buffer": 1,
    "data.bm25_query_terms": 1,
    "data.static_masks": 1,
    "model.num_layers": 1,
    "model.hidden_size": 1,
    "model.num_heads": 1,
    "model.intermediate_size": 1,
    "model.max_positions": 3,
    "model.num_segments": 1,
    "model.attention_window": 1,
    "objective.mlm": 0,
    "objective.nsp": 0,
    "objective.sop": 0,
    "objective.clm": 0,
    "train.steps": 1,
    "train.tokens_per_step": 1,
    "train.micro_batch_tokens": 1,
    "train.max_documents": 1,
    "train.warmup_steps": 0,
    "train.weight_decay": 0,
    "train.log_every": 1,
    "train.evaluate_every": 1,
    "train.evaluate_tokens": 1,
    "train.save_every": 1,
    "train.keep_checkpoints": 1,
    "train.threads": 1,
}
ABOVE_0 = (
    *("model.layer_norm_eps", "model.initializer_range", "train.learning_rate", "train.eps", "train.clip_norm"),
    *("train.epochs", "train.minutes"),
)
FROM_0_BELOW_1 = ("model.hidden_dropout", "model.attention_dropout", "train.beta1", "train.beta2")

# what has to change with a setting for its bound to be reached
WITH: dict[str, dict[str, Any]] = {
    "data.bm25_buffer": {"data.compose": "bm25"},
    "data.bm25_query_terms": {"data.compose": "bm25"},
    "data.short_pairs": {"data.compose": "pairs", "objective.sop": 1},
    "model.hidden_size": {"model.num_heads": 1},
    "model.max_positions": {"data.max_length": 3},
    "objective.mlm": {"objective.clm": 1, "model.causal": True},
    "train.tokens_per_step": {"train.micro_batch_tokens": 3, "data.max_length": 3},
}
# where another rule asks for more than the bound does
TAKEN = {"train.tokens_per_step": 3, "train.micro_batch_tokens": 128}


def complaint(setting: str, value: object) -> str | None:
    try:
        load_config(None, WITH.get(setting, {}) | {setting: value})
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("setting", "least"), AT_LEAST.items())
def test_the_least_value_is_taken_and_one_less_is_refused(setting: str, least: int) -> None:
    assert complaint(setting, TAKEN.get(setting, least)) is None
    told = complaint(setting, least - 1)
    assert told is not None
    assert told.startswith(f"config: {setting} must be at least {least}, got {least - 1}")


@pytest.mark.parametrize("setting", ABOVE_0)
def test_what_must_be_above_0_is_taken_however_small(setting: str) -> None:
    assert complaint(setting, 1e-30) is None
    assert complaint(setting, 0) == f"config: {setting} must be above 0, got 0.0"


@pytest.mark.parametrize("setting", FROM_0_BELOW_1)
def test_what_must_be_below_1_may_be_0(setting: str) -> None:
    assert complaint(setting, 0) is None
    assert complaint(setting, 0.999) is None
    for value in (-0.001, 1):
        assert complaint(setting, value) == f"config: {setting} must be at least 0 and below 1, got {float(value)}"


@pytest.mark.parametrize(
    ("setting", "taken", "refused"),
    [
        ("seed", [2**63 - 1], [2**63]),
        ("data.mask_rate", [0.001, 0.999], [0, 1]),
        ("data.mask_rate_end", [0.001, 0.999], [0, 1]),
        ("data.short_pairs", [0, 1], [-0.01, 1.01]),
        ("data.held_out", [0, 0.5], [-0.01, 0.51]),
        ("data.weights", [{"books": 0}], [{"books": -0.01}]),
        ("data.mask_split", [[1, 0, 0], [0, 0, 1]], [[1.5, 0, -0.5], [0.5, 0.4, 0]]),
        ("data.max_length", [512], [513]),
        ("train.warmup_steps", [2101], [-1]),
        ("train.micro_batch_tokens", [128], [64]),
        ("model.hidden_size", [4], [0]),
        ("model.num_heads", [128], [256]),
        ("train.phases", [[{"share": 1, "max_length": 3}]], [[{"share": 1, "max_length": 2}]]),
        ("train.phases", [[]], [[{"share": 1.5, "max_length": 9}, {"share": -0.5, "max_length": 9}]]),
    ],
)
def test_the_ends_of_a_range_are_where_they_are_said_to_be(setting: str, taken: list[Any], refused: list[Any]) -> None:
    for value in taken:
        assert complaint(setting, value) is None
    for value in refused:
        assert setting.rpartition(".")[2] in (complaint(setting, value) or "")


def test_a_pair_needs_two_segments() -> None:
    pairs = {"data.compose": "pairs", "objective.nsp": 1}
    assert load_config(None, pairs | {"model.num_segments": 2}).model.num_segments == 2
    with pytest.raises(ConfigError, match=r"objective\.nsp is 1\.0 but model\.num_segments is 1; set it to 2"):
        load_config(None, pairs | {"model.num_segments": 1})


def test_the_nearest_multiple_that_is_offered_is_one() -> None:
    for given, nearest in ((100, 2048), (3000, 2048), (4000, 4096)):
        with pytest.raises(ConfigError, match=rf"got {given}; the nearest is {nearest}$"):
            load_config(None, {"train.tokens_per_step": given})


def test_phases_decide_where_they_are_and_not_the_length_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("data: {max_length: 600}\ntrain: {phases: [{share: 1, max_length: 64}]}\n", "utf-8")
    assert load_config(file).train.phases[0].max_length == 64


def test_every_number_of_the_configuration_has_a_bound() -> None:
    bounded = {*AT_LEAST, *ABOVE_0, *FROM_0_BELOW_1, "model.global_every"}
    bounded |= {"data.held_out", "data.short_pairs", "data.mask_rate"}
    numbers = {
        name
        for name, value in flatten(to_mapping(RunConfig())).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    assert numbers <= bounded
