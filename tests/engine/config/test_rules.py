"""The bounds of every setting: the last value that is taken, the first that is refused, and one sentence for all."""

import keyword
from pathlib import Path
from typing import Any

import pytest

from unmask.config import PhaseConfig, RunConfig, load_config
from unmask.config.mappings import ITEMS, defaults, groups_of, settings_of
from unmask.errors import ConfigError, SettingError, SettingTypeError

SIGNS = {"gt": "above", "ge": "at least", "le": "at most", "lt": "below"}


def bounds_of(setting: str) -> dict[str, float]:
    field, _ = (settings_of() | ITEMS)[setting]
    return {sign: field.metadata[sign] for sign in SIGNS if sign in field.metadata}


BOUNDED = [setting for setting in settings_of() if bounds_of(setting)]


# what has to change with a setting for its bound to be reached
WITH: dict[str, dict[str, Any]] = {
    "composition.bm25_buffer": {"composition.strategy": "bm25"},
    "composition.bm25_query_terms": {"composition.strategy": "bm25"},
    "composition.short_pairs": {"composition.strategy": "pairs", "objective.sop": 1},
    "masking.rate_steps": {"masking.rate_end": 0.3},
    "optimizer.power": {"optimizer.schedule": "polynomial"},
    "optimizer.decay_share": {"optimizer.schedule": "wsd"},
    "data.cache_gb": {"data.store": "s3://bucket/store"},
    "data.cache_patience": {"data.store": "s3://bucket/store"},
    "model.hidden_size": {"model.num_heads": 1},
    "model.max_positions": {"stream.max_length": 3},
    "objective.mlm": {"objective.clm": 1, "model.causal": True},
    **{f"distillation.{name}": {"distillation.teacher": "folder"} for name in ("embedding", "hidden", "attention")},
    "train.first_tokens_per_step": {"stream.micro_batch_tokens": 3, "stream.max_length": 3, "train.tokens_per_step": 6},
    "train.spike_limit": {"train.spike_guard": 5.0},
    "train.spike_rows": {"train.spike_guard": 5.0, "train.keep_checkpoints": 5},
    "train.growth_steps": {"train.first_tokens_per_step": 2048},
    "optimizer.momentum": {"optimizer.name": "muon"},
    "train.tokens_per_step": {"stream.micro_batch_tokens": 3, "stream.max_length": 3},
}
# where another rule asks for more than the bound does
TAKEN = {
    "train.first_tokens_per_step": 3,
    "train.tokens_per_step": 3,
    "stream.micro_batch_tokens": 128,
    "model.max_positions": 3,
}


def complaint(setting: str, value: object) -> str | None:
    try:
        load_config(None, WITH.get(setting, {}) | {setting: value})
    except ConfigError as error:
        return str(error)
    return None


def around(setting: str) -> tuple[list[float], list[float]]:
    """The values at the ends of a setting's range: those that are taken, and those that are not."""
    _, hint = settings_of()[setting]
    small = 1 if int in (hint, *getattr(hint, "__args__", ())) else 1e-6
    taken, refused = [], []
    for sign, bound in bounds_of(setting).items():
        inward = small if sign[0] == "g" else -small
        taken.append(bound if sign[1] == "e" else bound + inward)
        refused.append(bound - inward if sign[1] == "e" else bound)
    return taken, refused


@pytest.mark.parametrize("setting", BOUNDED)
def test_the_ends_of_a_range_are_taken_and_what_lies_outside_is_refused(setting: str) -> None:
    taken, refused = around(setting)
    assert refused
    for value in taken:
        assert complaint(setting, TAKEN.get(setting, value)) is None
    wanted = " and ".join(f"{SIGNS[sign]} {bound}" for sign, bound in bounds_of(setting).items())
    for value in refused:
        assert f"config: {setting} must be {wanted}, got " in (complaint(setting, value) or "")


@pytest.mark.parametrize("setting", BOUNDED)
def test_the_component_the_file_and_the_command_line_say_the_same(setting: str, tmp_path: Path) -> None:

    group, _, name = setting.rpartition(".")
    component = groups_of().get(group, RunConfig)
    for value in around(setting)[1]:
        with pytest.raises(SettingError) as from_component:
            component(**{name: value})
        assert isinstance(from_component.value, ValueError)
        assert issubclass(SettingTypeError, TypeError)
        assert str(from_component.value) == f"{component.__name__}: {name} {from_component.value.problem}"
        file = tmp_path / "mine.yaml"
        file.write_text(f"{group}:\n  {name}: {value!r}\n" if group else f"{name}: {value!r}\n", "utf-8")
        with pytest.raises(ConfigError) as from_file:
            load_config(file)
        line = 2 if group else 1
        sentence = f"{setting} {from_component.value.problem}"
        assert str(from_file.value) == f"config: {file}, line {line}: {sentence}"
        assert complaint(setting, value) == f"config: {sentence}"


WRONG = [1.5, "many", 5, ["abc", 2], None, {"a": "b"}]


@pytest.mark.parametrize("setting", settings_of())
def test_the_component_and_the_file_say_the_same_about_a_wrong_type(setting: str) -> None:
    group, _, name = setting.rpartition(".")
    component = groups_of().get(group, RunConfig)
    # a word that Python keeps for itself is no name of a field
    field = f"{name}_" if keyword.iskeyword(name) else name
    errors = [(value, error) for value in WRONG if (error := error_of(component, field, value)) is not None]
    assert errors
    for value, error in errors:
        told = error.setting.removeprefix(field)
        dotted = f"{group}.{name}{told}" if group else f"{name}{told}"
        assert complaint(setting, value) == f"config: {dotted} {error.problem}"


def error_of(component: Any, name: str, value: object) -> SettingTypeError | None:
    """The error of a component for a value of the wrong type; None if it takes the value or minds its range."""
    try:
        component(**{name: value})
    except SettingTypeError as error:
        return error
    except SettingError:
        return None
    return None


def test_an_item_of_a_list_is_checked_as_its_component_is() -> None:
    with pytest.raises(SettingError) as told:
        PhaseConfig(share=0.0, max_length=64)
    phases = [{"share": 0.0, "max_length": 64}]
    assert complaint("train.phases", phases) == f"config: train.phases.0.share {told.value.problem}"


@pytest.mark.parametrize(
    ("setting", "taken", "refused"),
    [
        ("seed", [2**63 - 1], [2**63]),
        ("masking.rate", [0.001, 1], [0, 1.01]),
        ("masking.rate_end", [0.001, 1], [0, 1.01]),
        ("composition.short_pairs", [0, 1], [-0.01, 1.01]),
        ("stream.held_out_fraction", [0, 0.5], [-0.01, 0.51]),
        ("composition.weights", [{"books": 0}], [{"books": -0.01}]),
        ("masking.split", [[1, 0, 0], [0, 0, 1]], [[1.5, 0, -0.5], [0.5, 0.4, 0]]),
        ("stream.max_length", [512], [513]),
        ("optimizer.warmup_steps", [2101], [-1]),
        ("stream.micro_batch_tokens", [128], [64]),
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
    pairs = {"composition.strategy": "pairs", "objective.nsp": 1}
    assert load_config(None, pairs | {"model.num_segments": 2}).model.num_segments == 2
    with pytest.raises(ConfigError, match=r"objective\.nsp is 1\.0 but model\.num_segments is 1; set it to 2"):
        load_config(None, pairs | {"model.num_segments": 1})


def test_the_nearest_multiple_that_is_offered_is_one() -> None:
    for given, nearest in ((100, 2048), (3000, 2048), (4000, 4096)):
        with pytest.raises(ConfigError, match=rf"got {given}; the nearest is {nearest}$"):
            load_config(None, {"train.tokens_per_step": given})


def test_phases_decide_where_they_are_and_not_the_length_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("stream: {max_length: 600}\ntrain: {phases: [{share: 1, max_length: 64}]}\n", "utf-8")
    assert load_config(file).train.phases[0].max_length == 64


def test_every_number_of_the_configuration_has_a_bound() -> None:
    numbers = {
        name for name, value in defaults().items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    # its range has a hole, which the encoder's configuration knows
    assert numbers <= {*BOUNDED, "model.global_every"}


def test_every_setting_says_what_it_means() -> None:
    for name, (field, _) in settings_of().items():
        assert field.metadata["description"][0].isupper(), name
        assert field.metadata["description"].endswith((".", ")")), name
