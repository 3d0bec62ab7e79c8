"""Configuration: precedence, YAML 1.2 numbers, and an error for everything that cannot work."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from unmask.config import RunConfig, load_config, to_mapping, to_yaml
from unmask.config.load import recipe_names
from unmask.config.yaml_text import parse_yaml
from unmask.errors import ConfigError


def complaint(overrides: Mapping[str, Any], source: str | Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value)


# what a recipe cannot bring along
NEEDED = {name: {"masking.similar_words": "similar.tsv"} for name in ("macbert", "macbert-mini")}
NEEDED["continue"] = {"init.from": "model"}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_survives_a_round_trip(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    config = load_config(name, NEEDED.get(name, {}))
    assert load_config(None, to_mapping(config)) == config
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config), "utf-8")
    assert load_config(saved) == config


def test_the_recipes_of_the_literature_are_shipped() -> None:
    shipped = {"tiny", "bert-mini", "bert-base", "bert-large", "bert-original", "roberta", "macbert", "composition"}
    assert shipped <= set(recipe_names())


def test_the_chinese_recipe_asks_for_its_table_of_similar_words() -> None:
    assert "'mac', which needs masking.similar_words" in complaint({}, "macbert")


def test_no_argument_is_the_tiny_recipe() -> None:
    assert load_config() == load_config("tiny")


@pytest.mark.parametrize(("name", "shape"), [("bert-base", (12, 768, 12, 3072)), ("bert-large", (24, 1024, 16, 4096))])
def test_bert_has_the_paper_s_shape_schedule_and_tokens_a_step_but_no_next_sentence_loss(
    name: str, shape: tuple[int, ...]
) -> None:
    config = load_config(name)
    model = config.model
    assert (model.num_layers, model.hidden_size, model.num_heads, model.intermediate_size) == shape
    assert (config.objective.mlm, config.objective.nsp) == (1, 0)
    assert config.train.tokens_per_step == 256 * 512
    assert (config.train.steps, config.optimizer.warmup_steps, config.optimizer.learning_rate) == (10**6, 10**4, 1e-4)
    assert [(phase.share, phase.max_length) for phase in config.train.phases] == [(0.9, 128), (0.1, 512)]


def test_bert_mini_accepts_a_short_run() -> None:
    assert load_config("bert-mini", {"train.steps": 200}).train.steps == 200


def test_overrides_win_over_the_file_which_wins_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 7\ntrain:\n  steps: 1e3\n  learning_rate: 2e-4\n")
    config = load_config(file, {"train.steps": 500, "data": {"max_length": 64}})
    assert (config.seed, config.train.steps, config.optimizer.learning_rate, config.stream.max_length) == (
        7,
        500,
        2e-4,
        64,
    )
    assert config.optimizer.beta1 == RunConfig().optimizer.beta1


def test_an_empty_file_or_group_keeps_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n# nothing yet\n")
    assert load_config(file) == RunConfig()


def test_lists_are_replaced_not_joined() -> None:
    config = load_config("bert-base", {"train.phases": [{"share": 1, "max_length": 64}]})
    assert [phase.max_length for phase in config.train.phases] == [64]


def test_a_length_that_the_phases_of_the_recipe_hide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stream.max_length 64 would change nothing.* \(128, 512\)"):
        load_config("bert-base", {"stream.max_length": 64})
    with pytest.raises(ConfigError, match=r"stream.max_length 96 would change nothing.* \(64\)"):
        load_config("bert-base", {"stream.max_length": 96, "train.phases": [{"share": 1, "max_length": 64}]})
    for phases in ([], [{"share": 1, "max_length": 64}]):
        assert load_config("bert-base", {"stream.max_length": 64, "train": {"phases": phases}}).stream.max_length == 64
    for recipe in (None, "bert-base"):
        assert load_config(recipe, to_mapping(load_config("bert-base"))) == load_config("bert-base")


def test_numbers_follow_yaml_1_2() -> None:
    text = "a: 1e6\nb: 010\nc: no\nd: 0o10\ne: .5\nf: 1:30\ng: ~\nh: true\ni: 0x1F"
    expected = {"a": 1e6, "b": 10, "c": "no", "d": 8, "e": 0.5, "f": "1:30"}
    expected |= {"g": None, "h": True, "i": 31}
    assert parse_yaml(text, source="text") == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.stps": 3}, "train.stps is not a setting; did you mean train.steps?"),
        ({"steps": 3}, "steps is not a setting; did you mean train.steps?"),
        ({"trian": {"steps": 3}}, "trian is not a setting; did you mean train?"),
        ({"train.phases": [{"share": 1, "max_lenght": 9}]}, "did you mean train.phases.0.max_length?"),
        (
            {"qqq": 1},
            "qqq is not a setting; there are the groups data, stream, composition, masking, model, init, distillation",
        ),
    ],
)
def test_unknown_name_is_refused_with_the_nearest_one(overrides: dict[str, Any], message: str) -> None:
    assert message in complaint(overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.steps": "many"}, "train.steps must be a whole number, got 'many' (str)"),
        ({"train.steps": 1.5}, "train.steps must be a whole number, got 1.5 (float)"),
        ({"train.steps": True}, "train.steps must be a whole number, got True (bool)"),
        ({"train.threads": "all"}, "train.threads must be a whole number, got 'all' (str)"),
        ({"optimizer.learning_rate": []}, "optimizer.learning_rate must be a number, got [] (list)"),
        ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate must be a finite number, got nan"),
        (
            {"train.dtype": "fp16"},
            "train.dtype must be one of 'auto', 'float32', 'bfloat16', 'float16', got 'fp16' (str)",
        ),
        ({"train.tensorboard": "perhaps"}, "train.tensorboard must be true or false, got 'perhaps' (str)"),
        ({"train": 3}, "train must be a group of settings, got 3 (int)"),
        ({"data.input": "corpus.txt"}, "data.input must be a list, got 'corpus.txt' (str)"),
        ({"data.store": 5}, "data.store must be text, got 5 (int)"),
        ({"train.phases": [{"share": 1}]}, "train.phases.0.max_length is missing"),
    ],
)
def test_wrong_type_names_what_was_expected_and_what_came(overrides: dict[str, Any], message: str) -> None:
    assert message in complaint(overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"train.epochs": 2, "train.steps": 10000},
            "train.steps and epochs are given together, but one of them ends a run; leave one of them out",
        ),
        ({"train.steps": None}, "train.steps and epochs and minutes are all None; give one of them"),
        (
            {"train.minutes": 5, "masking.rate_end": 0.3},
            "give masking.rate_steps, train.steps or train.epochs, or leave out masking.rate_",
        ),
        (
            {"train.minutes": 5, "train.phases": [{"share": 0.5, "max_length": 16}, {"share": 0.5, "max_length": 32}]},
            "train.minutes is 5 but phases has 2 phases, which are shares of the steps",
        ),
        ({"stream.max_length": 600}, "stream.max_length is 600 but model.max_positions is 512"),
        ({"train.phases": [{"share": 1, "max_length": 513}]}, "train.phases.0.max_length is 513"),
        ({"stream.max_length": 512, "stream.micro_batch_tokens": 256}, "a piece must fit in one micro-batch"),
        (
            {"model.hidden_size": 130, "model.num_heads": 4},
            "model.hidden_size must be a multiple of num_heads (4), got 130; the nearest is 128",
        ),
        (
            {"train.tokens_per_step": 10000},
            "multiple of stream.micro_batch_tokens (2048), got 10000; the nearest is 10240",
        ),
        (
            {"train.phases": [{"share": 0.5, "max_length": 64}]},
            "shares above 0 that sum to 1, got [0.5] (sum 0.5)",
        ),
        ({"masking.rate": 0}, "masking.rate must be above 0 and at most 1, got 0; BERT masks 0.15"),
        ({"masking.rate": 1.5}, "masking.rate must be above 0 and at most 1, got 1.5"),
        ({"masking.split": [0.8, 0.1, 0.2]}, "masking.split must be three shares that sum to 1"),
        ({"objective.mlm": 0}, "objective must give one of mlm, nsp, sop, clm a weight, got 0 for all"),
        ({"objective.sop": 1}, "objective.sop is 1.0 but composition.strategy is 'documents', which gives no pairs"),
        ({"objective.nsp": 1, "objective.sop": 1}, "objective.nsp and objective.sop are both above 0"),
        ({"objective.clm": 1}, "objective.clm and objective.mlm are both above 0"),
        ({"objective": {"clm": 1, "mlm": 0}}, "objective.clm is above 0 but model.causal is false"),
        (
            {"objective": {"clm": 1, "mlm": 0}, "model.causal": True, "masking.strategy": "span"},
            "masking.strategy is 'span' but objective.clm is 1.0, which masks nothing; set objective.clm to 0 or leave",
        ),
        (
            {"objective.nsp": 1, "composition.strategy": "pairs", "model.causal": True},
            "objective.nsp is 1.0 but model.causal is true, so [CLS], which predicts the pair's label, "
            "sees nothing of the pair",
        ),
        ({"masking.strategy": "mac"}, "masking.strategy is 'mac', which needs masking.similar_words"),
        ({"masking.similar_words": "a.tsv"}, "masking.similar_words is 'a.tsv' but masking.strategy is 'token'"),
        ({"masking.rate_end": 1.1}, "masking.rate_end must be above 0 and at most 1, got 1.1"),
        ({"masking.static_masks": 0}, "masking.static_masks must be at least 1, got 0"),
        (
            {"masking.static_masks": 2, "masking.rate_end": 0.3},
            "masking.static_masks and rate_end are both set",
        ),
        (
            {"composition.strategy": "pairs"},
            "composition.strategy is 'pairs' but objective.nsp and objective.sop are both 0",
        ),
        (
            {"composition.strategy": "pairs", "objective.sop": 1, "stream.max_length": 4},
            "stream.max_length must be at least 5 for pairs, got 4",
        ),
        (
            {"composition.scope": "sequence"},
            "composition.scope is 'sequence' but composition.strategy is 'documents', whose sequences hold one",
        ),
        (
            {"composition.weights": {"books": -1}},
            "composition.weights.books must be at least 0 and at most 1000000, got -1",
        ),
        (
            {"composition.strategy": "pairs", "composition.short_pairs": 2},
            "composition.short_pairs must be at least 0 and at most 1, got 2",
        ),
        ({"data.store": "a", "data.input": ["b"]}, "data.store and input are both set"),
        ({"train.steps": 0}, "train.steps must be at least 1, got 0"),
        ({"optimizer.learning_rate": 0}, "optimizer.learning_rate must be above 0, got 0"),
        ({"model.hidden_dropout": 1}, "model.hidden_dropout must be at least 0 and below 1, got 1"),
        ({"model.attention_window": 0}, "model.attention_window must be at least 1, got 0"),
        (
            {"model.attention_window": 8, "model.global_every": 1},
            "model.global_every must be at least 2, or 0 to make every layer local, got 1",
        ),
        ({"seed": 2**63}, "seed must be below 2^63"),
        (
            {"masking.place": "device", "masking.strategy": "span"},
            "masking.place is 'device', which masks by 'token' and 'whole_word', not strategy 'span'; set it to 'host'",
        ),
        (
            {"masking.place": "device", "masking.static_masks": 10},
            "draws new masks at one rate, not static_masks",
        ),
        ({"kernels.masking": "torch"}, "kernels.masking is 'torch' but masking.place is 'host'"),
        (
            {"masking.place": "device", "composition.strategy": "mix", "composition.scope": "sequence"},
            "not composition.scope 'sequence'",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(overrides: dict[str, Any], message: str) -> None:
    assert message in complaint(overrides)


def test_shares_of_phases_may_carry_rounding() -> None:
    thirds = [{"share": share, "max_length": 64} for share in (0.1, 0.2, 0.7)]
    assert len(load_config(None, {"train.phases": thirds}).train.phases) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\na: 2", 'line 2, is not YAML: found duplicate key "a"'),
        (b"train: [", "line 1, is not YAML"),
        (b"- a list", "must hold settings as 'name: value' lines"),
        (b"seed: 1 # \xff", "is not UTF-8 at byte 10"),
    ],
)
def test_file_that_is_not_yaml_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    told = complaint({}, file)
    assert message in told
    assert "mine.yaml" in told


def test_missing_recipe_names_the_nearest_one(tmp_path: Path) -> None:
    assert "did you mean bert-mini?" in complaint({}, "bert-mni")
    assert "recipes are bert-base" in complaint({}, tmp_path / "absent.yaml")
    assert "cannot be read" in complaint({}, tmp_path)


def test_settings_are_read_under_their_old_names(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(
        "data: {longest: 96}\ntrain: {phases: [{share: 0.5, longest: 32}, {share: 0.5, longest: 96}]}\n", "utf-8"
    )
    config = load_config(file)
    assert config.stream.max_length == 96
    assert [phase.max_length for phase in config.train.phases] == [32, 96]
    assert load_config("tiny", {"data.longest": 64}) == load_config("tiny", {"stream.max_length": 64})
    pair = ({"share": 0.5, "longest": 32}, {"share": 0.5, "longest": 96})
    assert load_config("tiny", {"train.phases": pair}).train.phases == config.train.phases


def test_a_setting_under_both_names_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text("data: {longest: 96, max_length: 64}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"data\.longest is the old name of stream\.max_length, .* leave one out"):
        load_config(file)


def test_the_default_case_that_0_1_wrote_decides_nothing_about_a_given_tokenizer(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("data: {tokenizer: folder, lowercase: true}\ntrain: {learning_rate: 1e-3}\n")
    assert load_config(file).data.lowercase is None
    file.write_text("data: {lowercase: false}\ntrain: {learning_rate: 1e-3}\n")
    assert load_config(file).data.lowercase is False
    file.write_text("data: {tokenizer: folder, lowercase: true}\n")
    assert load_config(file).data.lowercase is True


def test_a_misspelt_old_name_suggests_the_current_one() -> None:
    assert "did you mean stream.max_length?" in complaint({"data.longst": 96})
    phases = [{"share": 1, "longst": 96}]
    assert "did you mean train.phases.0.max_length?" in complaint({"train.phases": phases})
    assert "did you mean" not in complaint({"model.longst": 96})


def test_a_file_may_have_dotted_names_and_each_setting_once(tmp_path: Path) -> None:
    file = tmp_path / "dotted.yaml"
    file.write_text("stream.max_length: 96\ntrain.steps: 200\n", "utf-8")
    assert (load_config(file).stream.max_length, load_config(file).train.steps) == (96, 200)
    file.write_text("train.steps: 200\ntrain: {steps: 300}\n", "utf-8")
    assert "train.steps is given twice; leave one out" in complaint({}, file)


def test_a_budget_takes_the_place_of_that_of_the_file_and_is_saved_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epochs: 2}\n", "utf-8")
    assert load_config(file).train.steps is None
    config = load_config(file, {"train.steps": 2100})
    assert (config.train.steps, config.train.epochs) == (2100, None)
    config = load_config("bert-base", {"train.epochs": 40})
    assert (config.train.steps, config.train.epochs, config.train.minutes) == (None, 40.0, None)
    file.write_text(to_yaml(config), "utf-8")
    assert load_config(file, saved=True) == config
    file.write_text("train: {epochs: 2, minutes: 3}\n", "utf-8")
    assert "train.epochs and minutes are given together" in complaint({}, file)


def test_the_ways_out_of_a_run_by_the_clock_work(tmp_path: Path) -> None:
    phases = {"train.phases": [{"share": 0.5, "max_length": 16}, {"share": 0.5, "max_length": 32}]}
    for budget in ({"train.steps": 10}, {"train.epochs": 1}):
        load_config(None, {**budget, **phases})
        load_config(None, {**budget, "masking.rate_end": 0.3})
    load_config(None, {"train.minutes": 5})
    file = tmp_path / "mine.yaml"
    file.write_text("train: {minutes: 5, phases: []}\n", "utf-8")
    assert load_config(file).train.minutes == 5.0
