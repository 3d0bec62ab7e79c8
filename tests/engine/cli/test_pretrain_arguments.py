"""How `unmask pretrain` reads its arguments; the training itself is tested elsewhere."""

import re
import shlex
from pathlib import Path

import pytest

from unmask.cli.pretrain import parse
from unmask.config import RunConfig, load_config, to_mapping, to_yaml
from unmask.errors import ConfigError, RunError, UnmaskError


def test_without_arguments_it_is_the_embedded_default() -> None:
    assert parse([]) == (load_config(), None)


def test_recipe_then_overrides() -> None:
    config, resume = parse(["bert-mini", "--data.store", "store", "--train.steps", "200", "--run", "runs/mini"])
    overrides = {"data.store": "store", "train.steps": 200, "run": "runs/mini"}
    assert (config, resume) == (load_config("bert-mini", overrides), None)


def test_yaml_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {steps: 300, warmup_steps: 3}\n")
    config, _ = parse([str(file), "--train.steps", "400", "--train.tensorboard", "--masking.split", "1", "0", "0"])
    assert (config.train.steps, config.optimizer.warmup_steps, config.train.tensorboard) == (400, 3, True)
    assert config.masking.split == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("spelling", [["--train.steps", "1e6"], ["--train.steps=1.0e6"], ["--train.steps", "10E5"]])
def test_whole_numbers_may_be_written_as_in_yaml(spelling: list[str]) -> None:
    assert parse(spelling)[0].train.steps == 1_000_000


def test_whole_numbers_with_a_dash_in_their_name_and_none_as_default() -> None:
    config, _ = parse(["--stream.max_documents", "1e2", "--optimizer.learning_rate", "1e-3", "--run", "1e6"])
    assert (config.stream.max_documents, config.optimizer.learning_rate, config.run) == (100, 1e-3, "1e6")


def test_data_input_may_be_repeated() -> None:
    config, _ = parse(["--data.input", "a.txt", "--data.input", "b.txt", "--train.steps", "200"])
    assert config.data.input == ["a.txt", "b.txt"]
    assert config.train.steps == 200


def test_a_vocabulary_asked_for_beside_a_store_is_refused_and_a_recipes_gives_way(
    store_folder: Path, tmp_path: Path
) -> None:
    given = ["--data.input", str(store_folder)]
    told = f"but data.input is {[str(store_folder)]}, where a store keeps its own vocabulary; "
    for asked in (["--data.vocab-size", "1000"], ["--data.no-strip-accents"]):
        with pytest.raises(ConfigError) as caught:
            parse(["bert-mini", *given, *asked])
        assert told in str(caught.value)
    taken = parse(["bert-mini", "--data.input", f"old={store_folder}"])[0]
    assert taken.data.vocab_size == RunConfig().data.vocab_size
    assert load_config(None, to_mapping(taken)) == taken
    file = tmp_path / "mine.yaml"
    file.write_text(f"data: {{vocab_size: 1000, input: ['{store_folder}']}}\n")
    with pytest.raises(ConfigError, match=r"data\.vocab_size is 1000 but "):
        parse([str(file)])
    text = str(tmp_path / "text.txt")
    assert parse([str(file), "--data.input", text])[0].data.vocab_size == 1000
    file.write_text("data: {vocab_size: 1000}\n")
    assert parse([str(file), *given])[0].data.input == [str(store_folder)]


def test_weights_of_sources_are_pairs_that_may_be_repeated() -> None:
    assert parse(["--composition.weights", "a", "2", "b", "0.5"])[0].composition.weights == {"a": 2.0, "b": 0.5}
    assert parse(["--composition.weights", "a", "2", "--composition.weights", "b", "0"])[0].composition.weights == {
        "a": 2.0,
        "b": 0.0,
    }


def test_a_fraction_is_no_whole_number() -> None:
    with pytest.raises(ConfigError, match=r"train\.steps must be a whole number, got '1\.25e1'"):
        parse(["--train.steps", "1.25e1"])


def test_phases_of_a_recipe_survive_an_override() -> None:
    config, _ = parse(["bert-base", "--seed", "3"])
    assert config == load_config("bert-base", {"seed": 3})


def test_command_line_may_mend_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("stream: {max_length: 600}\n")
    with pytest.raises(ConfigError, match=r"stream\.max_length is 600"):
        parse([str(file)])
    config, _ = parse([str(file), "--model.max-positions", "1024"])
    assert config.stream.max_length == 600


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"stream\.max_length is 600 but model\.max_positions is 512"):
        parse(["--stream.max-length", "600"])


def test_few_steps_need_no_shorter_warm_up() -> None:
    config, _ = parse(["--train.steps", "2"])
    assert (config.train.steps, config.optimizer.warmup_steps) == (2, 100)


def test_a_budget_on_the_command_line_takes_the_place_of_the_steps_of_a_recipe() -> None:
    for words in (["--train.epochs", "3"], ["bert-mini", "--train.epochs", "0.5"], ["--train.minutes", "10"]):
        train = parse(words)[0].train
        assert train.steps is None
        assert (train.epochs, train.minutes).count(None) == 1


def test_two_budgets_on_the_command_line_are_refused_and_one_of_them_is_not() -> None:
    words = ["--train.epochs", "3", "--train.minutes", "10"]
    with pytest.raises(
        ConfigError, match=r"train\.epochs and minutes are given together.*leave one of them out, or make it None$"
    ):
        parse(words)
    assert parse(words[:2])[0].train.epochs == 3.0
    assert parse(words[2:])[0].train.minutes == 10.0
    # also if one of them has its default
    with pytest.raises(ConfigError, match=r"train\.steps and epochs are given together"):
        parse(["--train.steps", "2100", "--train.epochs", "3"])


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--train.stps", "--train.steps"),
        ("--lr", "--optimizer.learning_rate"),
        ("--train.lr", "--optimizer.learning_rate"),
        ("--learning-rate", "--optimizer.learning_rate"),
        ("--batch-size", "--train.tokens_per_step"),
        ("--mlm_probability", "--masking.rate"),
        ("--data.longst", "--stream.max_length"),
        ("--runn", "--run"),
        ("--resum", "--resume"),
    ],
)
def test_unknown_option_names_the_nearest_one(option: str, meant: str) -> None:
    with pytest.raises(
        UnmaskError,
        match=rf"{option.replace('-', '.')} is not an option; did you mean {meant}(, which counts tokens .*)?\?$",
    ):
        parse([option, "3"])


@pytest.mark.parametrize(
    ("name", "beside"), [("zzz", "there are the groups data, "), ("train.zzz", "train has steps, epochs, ")]
)
def test_an_unknown_name_without_a_near_one_is_told_alike_here_and_in_a_file(
    name: str, beside: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(f"{name}: 3\n")
    with pytest.raises(ConfigError) as in_file:
        load_config(tmp_path / "mine.yaml")
    with pytest.raises(UnmaskError) as here:
        parse([f"--{name}", "3"])
    told = str(in_file.value).partition("is not a setting; ")[2]
    assert told.startswith(beside)
    assert str(here.value) == (
        f"pretrain: --{name} is not an option; {told}; run `unmask pretrain --help` for the options"
    )


def test_a_run_too_short_for_its_phases_may_have_one(tmp_path: Path) -> None:
    from unmask.train.data import plan_phases

    words = ["bert-original", "--train.steps", "3", "--data.input", "a.txt"]

    def planned(words: list[str]) -> list[int]:
        config, _ = parse(words)
        assert config.train.steps is not None
        phases = plan_phases(
            config.train.steps, config.train.phases, max_length=config.stream.max_length, seed=config.seed
        )
        return [phase.max_length for phase in phases]

    with pytest.raises(ConfigError) as told:
        planned(words)
    way = re.search(r"or give (--train\.phases .+) for one phase at stream\.max_length$", str(told.value))
    assert way is not None
    assert planned([*words, *shlex.split(way[1])]) == [512]


def test_an_option_without_its_value_is_named() -> None:
    with pytest.raises(
        UnmaskError, match=r"--train\.steps: expected one argument; write one that begins with - as in --run=-x, or"
    ):
        parse(["--train.steps"])


def test_a_recipe_may_stand_behind_the_options() -> None:
    overrides = {"data.store": "x", "train.tensorboard": True}
    assert parse(["--data.store", "x", "--train.tensorboard", "true", "bert-mini"]) == (
        load_config("bert-mini", overrides),
        None,
    )
    with pytest.raises(ConfigError, match=r"'roberta' stands beside tiny; give one recipe or YAML file"):
        parse(["tiny", "--train.steps", "300", "roberta"])


def test_names_of_recipes_are_values_of_options_too() -> None:
    config, _ = parse(
        ["--run", "tiny", "--data.input", "composition", "--composition.weights", "a", "2", "tiny", "0.5"]
    )
    assert (config.run, config.data.input) == ("tiny", ["composition"])
    assert config.composition.weights == {"a": 2.0, "tiny": 0.5}


def test_help_shows_where_the_recipe_goes_and_what_it_sets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["bert-base", "--help"])
    told = capsys.readouterr().out
    assert "usage: unmask pretrain [RECIPE|FILE.yaml] [--group.field value ...]" in told
    assert "(default: 131072)" in " ".join(told.split())
    assert "--train.phases" in told
    assert "Backends: triton, flash, torch, reference." in " ".join(told.split())


def test_pairs_and_lists_that_are_none_are_named() -> None:
    with pytest.raises(ConfigError, match=r"composition\.weights: 'a 2 b' must be pairs of a name and a number, got 3"):
        parse(["--composition.weights", "a", "2", "b"])
    with pytest.raises(ConfigError, match=r"masking\.split must be a list of 3, got \(0\.8, 0\.2\)"):
        parse(["--masking.split", "0.8", "0.2"])


def test_phases_of_a_recipe_change_one_by_one() -> None:
    phases = parse(["bert-base", "--train.phases.0.max_length", "64"])[0].train.phases
    assert [phase.max_length for phase in phases] == [64, 512]
    with pytest.raises(ConfigError, match=r"give --train\.phases\.0\.max_length"):
        parse(["bert-base", "--stream.max_length", "64"])


@pytest.mark.parametrize("spelling", [["--resume", "{run}"], ["--resume={run}"]])
def test_resume_keeps_the_saved_configuration(tmp_path: Path, spelling: list[str]) -> None:
    saved = load_config("bert-mini", {"run": str(tmp_path), "seed": 9})
    (tmp_path / "config.yaml").write_text(to_yaml(saved), "utf-8")
    arguments = [word.format(run=tmp_path) for word in spelling]
    assert parse(arguments) == (saved, tmp_path)
    config, _ = parse([*arguments, "--train.log-every", "1"])
    assert config.train.log_every == 1
    assert config.seed == 9


def test_resume_of_what_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such directory"):
        parse(["--resume", str(tmp_path / "absent")])


def test_resume_needs_a_directory() -> None:
    with pytest.raises(UnmaskError, match="--resume: expected one argument"):
        parse(["--resume"])


def test_resume_with_a_recipe_is_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave 'bert-mini' out"):
        parse(["bert-mini", "--resume", str(tmp_path)])


@pytest.mark.parametrize("words", [["--data.longest", "64"], ["--data.longest=64"]])
def test_an_old_name_of_a_setting_is_taken(words: list[str]) -> None:
    assert parse(["tiny", *words])[0].stream.max_length == 64
