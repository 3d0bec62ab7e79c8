"""The configuration of a model: what trainers write and read, and what stays as the weights are."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, asdict, replace
from typing import Any

import pytest

from unmask import Encoder, EncoderConfig, PretrainingModel

CONFIG = EncoderConfig(vocab_size=60, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=24)


@pytest.fixture
def config() -> Any:
    return Encoder(CONFIG).config


def test_any_other_attribute_can_be_set_and_removed(config: Any) -> None:
    config.use_cache = False
    config.pad_token_id = 1
    assert config.use_cache is False and config.to_dict()["use_cache"] is False and config.get("pad_token_id") == 1
    del config.use_cache
    assert not hasattr(config, "use_cache") and config.get("use_cache", 3) == 3
    with pytest.raises(AttributeError, match="ModelConfig has no use_cache; set it, or read it with a default"):
        _ = config.use_cache
    config.use_cache = True
    assert config.use_cache


@pytest.mark.parametrize("name", ["hidden_size", "hidden_dropout", "num_hidden_layers", "model_type"])
def test_the_sizes_of_a_model_cannot_change_and_the_advice_works(config: Any, name: str) -> None:
    with pytest.raises(FrozenInstanceError, match=f"{name} of a model cannot change, because its weights were made"):
        setattr(config, name, 3)
    with pytest.raises(FrozenInstanceError, match="of a model cannot change"):
        delattr(config, name)
    other = Encoder(replace(config, hidden_size=16))
    assert other.embeddings.word.weight.shape == (60, 16) and other.config.hidden_size == 16


def test_it_has_the_names_of_a_config_json(config: Any) -> None:
    assert (config.num_hidden_layers, config.num_attention_heads, config.max_position_embeddings) == (2, 2, 24)
    assert (config.model_type, config.tie_word_embeddings, config.hidden_act) == ("unmask", True, "gelu")
    assert config.problem_type is None and config.is_encoder_decoder is False
    assert config.get_text_config() is config
    values = json.loads(config.to_json_string())
    assert values == config.to_dict() == config.to_diff_dict()
    assert values["hidden_size"] == 32 and values["num_hidden_layers"] == values["num_layers"] == 2


def test_it_equals_the_sizes_it_was_made_of_and_copies_keep_what_was_set(config: Any) -> None:
    assert config == CONFIG and config == CONFIG and hash(config) == hash(CONFIG)
    assert config != replace(CONFIG, hidden_size=16) and config != 3
    assert isinstance(config, EncoderConfig) and asdict(config) == asdict(CONFIG)
    config.use_cache = False
    assert config == CONFIG
    for again in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), copy.copy(config)):
        assert again == config and again.use_cache is False
    assert not hasattr(replace(config), "use_cache")


def test_a_configuration_of_settings_takes_no_new_attribute() -> None:
    with pytest.raises((AttributeError, TypeError)):
        CONFIG.use_cache = False  # type: ignore[attr-defined]


def test_a_model_and_its_encoder_have_one_configuration() -> None:
    model = PretrainingModel(CONFIG)
    assert model.config is model.encoder.config
    model.config.use_cache = False  # type: ignore[attr-defined]
    assert model.encoder.config.to_dict()["use_cache"] is False
