"""Settings that nothing reads: refused where someone gave them, dropped where another choice left them over."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from unmask.config import RunConfig, load_config, to_mapping, to_yaml
from unmask.config.yaml_text import dump_yaml
from unmask.errors import ConfigError
from unmask.train.run_folder import saved_config


def complaint(overrides: Mapping[str, Any], source: str | Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value)


# settings with a value other than the default, the choices that do not read them, and choices that do
CAUSAL = {"objective": {"clm": 1, "mlm": 0}, "model.causal": True}
UNUSED: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"composition.bm25_walk": "star"}, {"composition.strategy": "mix"}, {"composition.strategy": "bm25"}),
    ({"composition.bm25_buffer": 64}, {"composition.strategy": "documents"}, {"composition.strategy": "bm25"}),
    ({"composition.bm25_query_terms": 9}, {"composition.strategy": "uni"}, {"composition.strategy": "bm25"}),
    (
        {"composition.short_pairs": 0.5},
        {"composition.strategy": "documents"},
        {"composition.strategy": "pairs", "objective.sop": 1},
    ),
    ({"composition.scope": "sequence"}, {"composition.strategy": "documents"}, {"composition.strategy": "best_fit"}),
    ({"masking.similar_words": "a.tsv"}, {"masking.strategy": "ngram"}, {"masking.strategy": "mac"}),
    ({"masking.rate": 0.3}, CAUSAL, {}),
    ({"masking.rate_end": 0.3}, CAUSAL, {}),
    ({"masking.rate_steps": 9}, {"masking.rate_end": None}, {"masking.rate_end": 0.3}),
    ({"masking.split": [1, 0, 0]}, CAUSAL, {}),
    ({"masking.strategy": "span"}, CAUSAL, {}),
    ({"masking.place": "device"}, CAUSAL, {}),
    ({"masking.static_masks": 4}, CAUSAL, {}),
    ({"masking.similar_words": "a.tsv"}, CAUSAL, {"masking.strategy": "mac"}),
    ({"train.spike_rows": 2}, {"train.spike_guard": None}, {"train.spike_guard": 6.0}),
    ({"train.spike_limit": 1}, {"train.spike_guard": None}, {"train.spike_guard": 6.0}),
    ({"optimizer.power": 3.0}, {"optimizer.schedule": "cosine"}, {"optimizer.schedule": "polynomial"}),
    ({"optimizer.decay_share": 0.1}, {"optimizer.schedule": "linear"}, {"optimizer.schedule": "wsd"}),
    ({"kernels.masking": "torch"}, {"masking.place": "host"}, {"masking.place": "device"}),
    ({"kernels.mlm_loss": "torch"}, {"composition.strategy": "pairs", "objective": {"sop": 1, "mlm": 0}}, {}),
    ({"model.attention_window": 8}, {"model.num_layers": 1}, {}),
    ({"train.evaluate_every": 7}, {"stream.held_out_fraction": 0}, {}),
    ({"train.growth_steps": 9}, {"train.first_tokens_per_step": None}, {"train.first_tokens_per_step": 2048}),
    ({"train.evaluate_tokens": 7}, {"stream.held_out_fraction": 0}, {}),
    ({"distillation.map": "top"}, {"distillation.teacher": None}, {"distillation.teacher": "folder"}),
    ({"masking.rate": 0.3}, {"distillation.teacher": "folder", "objective.mlm": 0}, {}),
    ({"optimizer.momentum": 0.9}, {"optimizer.name": "lamb"}, {"optimizer.name": "muon"}),
    ({"model.global_every": 2}, {"model.attention_window": None}, {"model.attention_window": 8}),
    ({"data.text_field": "body"}, {"data.store": "store"}, {"data.input": ["a.jsonl"]}),
    ({"data.blank_line_documents": True}, {"data.store": "store"}, {"data.input": ["a.txt"]}),
    ({"data.split_at": "^#"}, {"data.store": "store"}, {"data.input": ["a.md"]}),
    ({"data.lowercase": False}, {"data.store": "store"}, {"data.tokenizer": "vocab.txt"}),
    ({"data.keep_indentation": True}, {"data.tokenizer": "vocab.txt"}, {}),
    ({"data.allow_unknown": True}, {"data.store": "store"}, {"data.input": ["a.txt"]}),
]


@pytest.mark.parametrize(("setting", "without", "reader"), UNUSED, ids=[next(iter(row[0])) for row in UNUSED])
def test_a_setting_that_nothing_reads_is_refused_by_name_and_the_default_never(
    setting: dict[str, Any], without: dict[str, Any], reader: dict[str, Any], tmp_path: Path
) -> None:
    name = next(iter(setting))
    told = complaint(setting | without)
    assert told.startswith(f"config: {name} is ")
    assert told.endswith(f"or leave {name} out")
    whole = load_config(None, setting | reader)
    group, leaf = name.split(".")
    default = to_mapping(RunConfig())[group][leaf]
    assert load_config(None, {name: default} | without)
    # a file that gives both is as wrong; one that gives a reader is no trap for who chooses otherwise
    file = tmp_path / "mine.yaml"
    file.write_text(to_yaml(whole), "utf-8")
    assert load_config(file) == whole
    others = {"objective.sop": 0} if "objective.sop" in reader else {"data.input": []} if "data.input" in reader else {}
    assert to_mapping(load_config(file, without | others))[group][leaf] == default
    file.write_text(dump_yaml(setting | without), "utf-8")
    assert re.fullmatch(rf"config: {file}, line \d: {re.escape(told.removeprefix('config: '))}", complaint({}, file))


@pytest.mark.parametrize("choice", ["data.store", "data.tokenizer"])
def test_a_recipes_vocabulary_gives_way_to_a_store_and_who_asks_for_one_beside_it_is_refused(choice: str) -> None:
    config = load_config("bert-mini", {choice: "there"})
    assert config.data.vocab_size == RunConfig().data.vocab_size
    assert load_config(None, to_mapping(config)) == config
    assert f"data.vocab_size is 1000 but {choice} is 'there', which keeps its own vocabulary; leave {choice} out" in (
        complaint({choice: "there", "data.vocab_size": 1000}, "bert-mini")
    )
    assert "data.strip_accents is False" in complaint({choice: "there", "data.strip_accents": False})


def test_a_setting_whose_choice_went_back_to_its_default_goes_back_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("masking: {place: device}\nkernels: {masking: torch}\n", "utf-8")
    causal = {"objective.clm": 1, "objective.mlm": 0, "model.causal": True}
    config = load_config(file, causal)
    assert (config.masking.place, config.kernels.masking) == ("host", None)
    assert "kernels.masking is 'torch'" in complaint(causal | {"kernels.masking": "torch"}, file)


def test_a_run_goes_on_with_settings_that_nothing_reads_and_takes_no_new_ones(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("composition: {strategy: mix, bm25_walk: star}\n", "utf-8")
    assert saved_config(tmp_path).composition.bm25_walk == "star"
    with pytest.raises(ConfigError, match=r"masking.similar_words is 'a.tsv' but masking.strategy is 'token'"):
        saved_config(tmp_path, {"masking.similar_words": "a.tsv"})
    (tmp_path / "config.yaml").write_text("data: {bm25_walk: star, mask_rate: 1.5}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"masking.rate must be above 0 and at most 1, got 1.5"):
        saved_config(tmp_path)


def test_the_recipe_of_compositions_takes_every_composition() -> None:
    for compose in ("documents", "mix", "uni", "best_fit", "full_sentences"):
        assert load_config("composition", {"composition.strategy": compose}).composition.strategy == compose
    assert (
        load_config("bert-original", {"composition.strategy": "documents", "objective.nsp": 0}).masking.static_masks
        == 10
    )
