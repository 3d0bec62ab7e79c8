"""What the errors about settings advise: each is followed here, and then the settings are taken."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from unmask.config import load_config
from unmask.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "news.yaml"


def refusal(source: Path | str | None, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides)
    return str(caught.value)


def test_a_text_in_the_place_of_a_list_is_told_its_brackets(file: Path) -> None:
    file.write_text("data:\n  input: a/\n")
    told = refusal(file)
    assert told == f"config: {file}, line 2: data.input must be a list, got 'a/' (str); write it in brackets, ['a/']"
    file.write_text(f"data:\n  input: {told.rpartition('brackets, ')[2]}\n")
    assert load_config(file).data.input == ["a/"]
    assert refusal(None, {"data.input": "a/"}).endswith("write it in brackets, ['a/']")


@pytest.mark.parametrize(("given", "fields"), [("[title, text]", "title,text"), ("['a,b', c]", '"a,b",c')])
def test_a_list_of_fields_is_told_its_commas(file: Path, given: str, fields: str) -> None:
    file.write_text(f"data:\n  input: [a.csv]\n  text_field: {given}\n")
    told = refusal(file)
    assert f"{file}, line 3: data.text_field must be text, got [" in told
    file.write_text(f"data:\n  input: [a.csv]\n  text_field: {told.rpartition('write ')[2]}\n")
    assert load_config(file).data.text_field == fields


@pytest.mark.parametrize("fields", ["title,text", "title, text", "title,lead,text"])
def test_a_comma_inside_braces_is_told_its_quotes(file: Path, fields: str) -> None:
    file.write_text(f"data: {{input: [a.csv], text_field: {fields}}}\n")
    told = refusal(file)
    assert "is not a setting; if it is of data.text_field, put the text in quotes, since a comma parts" in told
    file.write_text(f"data: {{input: [a.csv], {told.rpartition('braces: ')[2]}}}\n")
    assert load_config(file).data.text_field == fields.replace(" ", "")


def test_a_name_without_a_value_that_is_no_part_of_a_text_is_unknown(file: Path) -> None:
    file.write_text("train:\n  steps: 5\n  stops:\n")
    assert refusal(file) == f"config: {file}, line 3: train.stops is not a setting; did you mean train.steps?"


def test_text_that_is_no_yaml_is_told_its_quotes(file: Path) -> None:
    file.write_text("data: {input: [a.md], split_at: ^#{1,2} }\n")
    told = refusal(file)
    assert "line 1, is not YAML: " in told
    assert told.endswith(
        "those of a group below its name and indented, and put text with signs such as { [ , : # in quotes"
    )
    file.write_text("data: {input: [a.md], split_at: '^#{1,2} '}\n")
    assert load_config(file).data.split_at == "^#{1,2} "


@pytest.mark.parametrize(("asked", "there"), [("news.yml", "news.yaml"), ("news.yaml", "news.yml")])
def test_the_other_suffix_of_yaml_is_offered(tmp_path: Path, asked: str, there: str) -> None:
    (tmp_path / there).write_text("seed: 7\n")
    told = refusal(tmp_path / asked)
    assert told == f"config: there is no file {tmp_path / asked}; did you mean {tmp_path / there}?"
    assert load_config(told.rpartition("mean ")[2].rstrip("?")).seed == 7


def test_a_backend_that_does_not_exist_is_refused_with_the_nearest() -> None:
    told = refusal(None, {"kernels.attention": "tritn"})
    assert told == (
        "config: kernels.attention must be one of triton, flash, torch, reference, got 'tritn'; did you mean triton?"
    )
    assert load_config(None, {"kernels.attention": told.rpartition("mean ")[2].rstrip("?")}).kernels.attention
    told = refusal(None, {"kernels.gelu": "flash"})
    assert told.endswith("got 'flash'; `unmask doctor` says which of them run here")


def test_a_contradiction_names_the_line_of_the_file(file: Path) -> None:
    file.write_text("seed: 1\nstream:\n  max_length: 600\n")
    assert refusal(file).startswith(f"config: {file}, line 3: stream.max_length is 600 but model.max_positions is 512;")
    file.write_text("train:\n  steps: 9\n  phases:\n    - {share: 1, max_length: 600}\n")
    assert refusal(file).startswith(f"config: {file}, line 3: train.phases.0.max_length is 600 but ")
    file.write_text("model:\n  hidden_size: 33\n")
    assert refusal(file).startswith(f"config: {file}, line 2: model.hidden_size must be a multiple of num_heads")
    file.write_text("objective:\n  mlm: 0\n")
    assert refusal(file).startswith(f"config: {file}, line 1: objective must give one of")
    file.write_text("seed: 1\nmasking:\n  similar_words: a.tsv\n")
    assert refusal(file).startswith(f"config: {file}, line 3: masking.similar_words is 'a.tsv' but masking.strategy is")


def test_what_the_command_line_or_a_recipe_says_has_no_line(file: Path) -> None:
    file.write_text("objective:\n  mlm: 1\nstream:\n  max_length: 64\n")
    assert refusal(file, {"stream.max_length": 600}).startswith("config: stream.max_length is 600 but")
    assert refusal(file, {"objective.mlm": 0}).startswith("config: objective must give one of")
    assert re.match(r"config: objective\.nsp is 1\.0 but", refusal("bert-original", {"composition.strategy": "mix"}))


CAUSAL = {"model.causal": True, "objective.clm": 1, "objective.mlm": 0}
PAIRS = {"composition.strategy": "pairs", "objective.sop": 1}
TEXT = {"data.input": ["a.txt"]}
# a mistake, the advice in its error, and what following it changes; None takes a setting out
FOLLOWED: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"masking.rate": 2}, "got 2; BERT masks 0.15", {"masking.rate": 0.15}),
    ({"stream.workers": 300}, "got 300; two are enough for most", {"stream.workers": 2}),
    ({"model.hidden_size": 31}, "the nearest is 32", {"model.hidden_size": 32}),
    ({"model.global_every": 1, "model.attention_window": 8}, "at least 2, or 0", {"model.global_every": 2}),
    ({"model.global_every": 1, "model.attention_window": 8}, "or 0 to make every layer", {"model.global_every": 0}),
    (
        {"model.global_every": 1, "model.attention_window": 8},
        "leave attention_window out to make every layer global",
        {"model.attention_window": None, "model.global_every": None},
    ),
    ({"data.store": "s", **TEXT}, "give the prepared store or the text, not both", {"data.input": None}),
    ({"data.store": "s", **TEXT}, "give the prepared store or the text, not both", {"data.store": None}),
    ({"train.steps": 9, "train.epochs": 1}, "leave one of them out, or make it None", {"train.steps": None}),
    ({"masking.static_masks": 3, "masking.rate_end": 0.2}, "choose one of them", {"masking.rate_end": None}),
    ({"masking.static_masks": 3, "masking.rate_end": 0.2}, "choose one of them", {"masking.static_masks": None}),
    ({"masking.place": "device", "masking.strategy": "span"}, "set it to 'host'", {"masking.place": "host"}),
    ({"masking.place": "device", "masking.rate_end": 0.2}, "set it to 'host'", {"masking.place": "host"}),
    (
        {"masking.place": "device", "composition.strategy": "mix", "composition.scope": "sequence"},
        "not composition.scope 'sequence'; set it to 'host'",
        {"masking.place": "host"},
    ),
    (
        {"train.minutes": 5, "masking.rate_end": 0.2},
        "give masking.rate_steps, train.steps or train.epochs",
        {"train.minutes": None, "train.epochs": 1},
    ),
    ({"train.minutes": 5, "masking.rate_end": 0.2}, "give masking.rate_steps", {"masking.rate_steps": 100}),
    ({"train.minutes": 5, "masking.rate_end": 0.2}, "or leave out masking.rate_end", {"masking.rate_end": None}),
    (
        {"train.minutes": 5, "train.phases": [{"share": 0.5, "max_length": n} for n in (64, 128)]},
        "give steps or epochs, or phases [] for one phase",
        {"train.phases": []},
    ),
    (
        {"train.minutes": 5, "train.phases": [{"share": 0.5, "max_length": n} for n in (64, 128)]},
        "give steps or epochs",
        {"train.minutes": None, "train.epochs": 1},
    ),
    ({"train.tokens_per_step": 3000}, "the nearest is 2048", {"train.tokens_per_step": 2048}),
    (
        {"train.tokens_per_step": 1024},
        "the nearest is 2048, or set stream.micro_batch_tokens to 1024, too",
        {"stream.micro_batch_tokens": 1024},
    ),
    ({"stream.max_length": 600}, "cut the documents shorter", {"stream.max_length": 512}),
    ({"stream.max_length": 600}, "or lengthen the position table", {"model.max_positions": 600}),
    (
        {"stream.micro_batch_tokens": 64},
        "but stream.micro_batch_tokens is 64; shorten the one",
        {"stream.max_length": 64},
    ),
    ({"stream.micro_batch_tokens": 64}, "or raise the other", {"stream.micro_batch_tokens": 128}),
    ({"objective.mlm": 0}, "must give one of mlm, nsp, sop, clm a weight", {"objective.mlm": 1}),
    (
        {**PAIRS, "objective.nsp": 1},
        "; set objective.sop to 0",
        {"objective.sop": 0},
    ),
    (
        {"objective.sop": 1},
        "which gives no pairs of segments; set composition.strategy to 'pairs'",
        {"composition.strategy": "pairs"},
    ),
    ({"composition.strategy": "pairs"}, "give one of them a weight", {"objective.nsp": 1}),
    ({"composition.strategy": "pairs"}, "or set composition.strategy to 'documents'", {"composition.strategy": None}),
    ({**PAIRS, "model.num_segments": 1}, "set it to 2, the segments of a pair", {"model.num_segments": 2}),
    ({**PAIRS, "model.causal": True}, "sees nothing of the pair; set model.causal to false", {"model.causal": False}),
    (
        {**CAUSAL, "model.causal": False},
        "so each token would see its answer; set model.causal to true",
        {"model.causal": True},
    ),
    ({"train.phases.0.max_length": 64}, "give the whole list", {"train.phases.0.max_length": None, "train.phases": 2}),
    ({"train.phases": [{"share": 1.0}]}, "max_length is missing; give it a value", {"train.phases": 1}),
    ({"train.lr": 1e-3}, "did you mean optimizer.learning_rate?", {"train.lr": None, "optimizer.learning_rate": 1e-3}),
    ({"stream.len": 64}, "stream has max_length, ", {"stream.len": None, "stream.max_length": 64}),
    ({"data.masking": "span", "masking.strategy": "span"}, "leave one out", {"data.masking": None}),
    ({"data.masking": "span", "masking.strategy": "span"}, "leave one out", {"masking.strategy": None}),
    (
        {"train.phases": [{"share": 1.0, "max_length": 64, "longest": 64}]},
        "has a setting under its old name and its new one; leave one out",
        {"train.phases": 1},
    ),
    (
        {"train.batch_size": 32},
        "did you mean train.tokens_per_step, which counts tokens (32 sequences of 128 are 4096)?",
        {"train.batch_size": None, "train.tokens_per_step": 4096},
    ),
    (
        {"masking.split": 0.8},
        "must be a list of 3, got 0.8 (float)",
        {"masking.split": [0.8, 0.1, 0.1]},
    ),
    ({"model.vocab_size": 2**40}, "must be at most", {"model.vocab_size": 30522}),
    ({"run": 7}, "must be text, got 7 (int); write it in quotes", {"run": "7"}),
    ({"composition.weights": {7: 1.0}}, "write it in quotes", {"composition.weights": {"7": 1.0}}),
    # settings that nothing reads
    (
        {"data.store": "s", "data.vocab_size": 500},
        "which keeps its own vocabulary; leave data.store out, to train one,",
        {"data.store": None},
    ),
    ({"data.store": "s", "data.lowercase": False}, "or leave data.lowercase out", {"data.lowercase": None}),
    (
        {"data.store": "s", "data.allow_unknown": True},
        "whose text was read before; leave data.store out, to prepare text",
        {"data.store": None},
    ),
    ({"data.tokenizer": "t", "data.vocab_size": 500}, "leave data.tokenizer out, to train", {"data.tokenizer": None}),
    ({"data.text_field": "a"}, "so no text is read here; give the text as data.input", TEXT),
    (
        {"composition.bm25_buffer": 9},
        "which compares no documents; set composition.strategy to 'bm25'",
        {"composition.strategy": "bm25"},
    ),
    ({"composition.short_pairs": 0.5}, "which makes no pairs; set composition.strategy to 'pairs'", PAIRS),
    *(
        (
            {"composition.scope": "sequence"},
            "whose sequences hold one document each; set composition.strategy to one of full_sentences, mix, uni, "
            "bm25, "
            "best_fit",
            {"composition.strategy": strategy},
        )
        for strategy in ("full_sentences", "mix", "uni", "bm25", "best_fit")
    ),
    (
        {**CAUSAL, "masking.rate": 0.3},
        "which masks nothing; set objective.clm to 0",
        {"objective.clm": 0, "objective.mlm": 1},
    ),
    ({**CAUSAL, "masking.rate": 0.3}, "or leave masking.rate out", {"masking.rate": None}),
    (
        {"masking.similar_words": "a"},
        "which replaces no word by a similar one; set masking.strategy to 'mac'",
        {"masking.strategy": "mac"},
    ),
    (
        {"train.growth_steps": 9},
        "so all steps have the same tokens; give train.first_tokens_per_step the tokens of the first step",
        {"train.first_tokens_per_step": 2048},
    ),
    (
        {"train.tokens_per_step": 6144, "stream.micro_batch_tokens": 1024, "train.first_tokens_per_step": 4096},
        "and train.tokens_per_step (6144) a multiple of it, got 4096; the nearest is 3072",
        {"train.first_tokens_per_step": 3072},
    ),
    (
        {"train.tokens_per_step": 6144, "stream.micro_batch_tokens": 1024, "train.first_tokens_per_step": 1000},
        "must be a multiple of stream.micro_batch_tokens (1024)",
        {"train.first_tokens_per_step": 1024},
    ),
    (
        {"masking.rate_steps": 9},
        "so the mask rate stays; give masking.rate_end the rate after them",
        {"masking.rate_end": 0.3},
    ),
    (
        {"optimizer.power": 3.0},
        "which has no power; set optimizer.schedule to 'polynomial'",
        {"optimizer.schedule": "polynomial"},
    ),
    (
        {"optimizer.power": 3.0, "optimizer.schedule": "wsd"},
        "which has no power; set optimizer.schedule to 'polynomial' or leave optimizer.power out",
        {"optimizer.power": None},
    ),
    (
        {"optimizer.decay_share": 0.1},
        "which decays over the whole run; set optimizer.schedule to 'wsd'",
        {"optimizer.schedule": "wsd"},
    ),
    (
        {"kernels.masking": "torch"},
        "so the workers mask and no kernel does; set masking.place to 'device'",
        {"masking.place": "device"},
    ),
    (
        {"model.attention_window": 8, "model.num_layers": 1},
        "so the only layer is the first, which is global; set model.global_every to 0",
        {"model.global_every": 0},
    ),
    (
        {"stream.held_out_fraction": 0, "train.evaluate_every": 7},
        "so there is nothing to evaluate on; set stream.held_out_fraction to a share above 0",
        {"stream.held_out_fraction": 0.1},
    ),
    (
        {**PAIRS, "objective.mlm": 0, "kernels.mlm_loss": "torch"},
        "so no token is predicted; give objective.mlm a weight",
        {"objective.mlm": 1},
    ),
    (
        {"model.global_every": 4},
        "so every layer is global; give model.attention_window a number of tokens",
        {"model.attention_window": 8},
    ),
]
PHASES = {
    1: [{"share": 1.0, "max_length": 128}],
    2: [{"share": 0.9, "max_length": 128}, {"share": 0.1, "max_length": 512}],
}


@pytest.mark.parametrize(("mistake", "advice", "change"), FOLLOWED, ids=[row[1] for row in FOLLOWED])
def test_advice_about_settings_works(mistake: dict[str, Any], advice: str, change: dict[str, Any]) -> None:
    assert advice in refusal(None, mistake)
    followed = {name: value for name, value in (mistake | change).items() if change.get(name, "") is not None}
    if followed.get("train.phases") in (1, 2):
        followed["train.phases"] = PHASES[followed["train.phases"]]
    if "stream.micro_batch_tokens" in followed:
        followed.setdefault("train.tokens_per_step", followed["stream.micro_batch_tokens"])
    load_config(None, followed)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("leave it out", None),
        ("give --train.phases.0.max_length", {"train.phases.0.max_length": 64}),
        ("[] for one phase of this length", {"train.phases": [], "stream.max_length": 64}),
    ],
)
def test_a_length_that_the_phases_hide_has_three_ways(words: str, change: dict[str, Any] | None) -> None:
    assert words in refusal("bert-base", {"stream.max_length": 64})
    lengths = [phase.max_length for phase in load_config("bert-base", change).train.phases]
    assert lengths == {"leave it out": [128, 512], "[] for one phase of this length": []}.get(words, [64, 512])


@pytest.mark.parametrize(
    ("name", "advice", "followed"),
    [
        ("bert-mni", "did you mean bert-mini?", "bert-mini"),
        ("zzz", "no recipe or file is called 'zzz'; recipes are bert-base, ", "bert-base"),
    ],
)
def test_a_recipe_that_does_not_exist_has_a_near_one_or_a_list(name: str, advice: str, followed: str) -> None:
    assert advice in refusal(name)
    load_config(followed)


def test_a_file_in_another_encoding_or_with_a_folder_in_its_place_is_mended(file: Path) -> None:
    file.write_bytes("run: größer\n".encode("latin-1"))
    assert refusal(file).endswith("save it as UTF-8 text")
    file.write_text("run: größer\n", "utf-8")
    assert load_config(file).run == "größer"
    assert refusal(file.parent).endswith("cannot be read (Is a directory); give a YAML file that can")


def test_a_source_that_the_store_lacks_is_named_with_those_it_has() -> None:
    def weights(name: str) -> list[float]:
        composition = load_config(None, {"composition.weights": {name: 2.0}}).composition
        return [float(weight) for weight in composition.source_weights(["books", "peps"])]

    with pytest.raises(ConfigError, match=r"did you mean books\?$"):
        weights("book")
    with pytest.raises(ConfigError, match=r"the store has books, peps$"):
        weights("zzz")
    assert weights("books") == [2.0, 1.0]


def test_old_names_are_told_with_the_command_that_writes_new_ones(
    file: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from unmask.cli import main

    file.write_text("data: {masking: span, mask_rate: 0.2, longest: 64, held_out: 0.1}\n")
    old = load_config(file)
    [told] = caplog.messages
    command = told.partition("`unmask ")[2].partition("`")[0].split()
    assert main(command) == 0
    file.write_text(capsys.readouterr().out)
    caplog.clear()
    assert load_config(file) == old
    assert not caplog.messages


@pytest.mark.parametrize(
    ("run", "advice", "followed"),
    [
        ("~nobody-here/a", "write the path out, or ./~nobody-here/a", "./~nobody-here/a"),
        ("a\0b", "since it holds a NUL; leave that out", "ab"),
        ("caf\udce9", "rename it, for example with convmv", "café"),
        ("caf\ud800", "write the character", "café"),
    ],
)
def test_a_path_that_is_none_is_mended(run: str, advice: str, followed: str) -> None:
    assert advice in refusal(None, {"run": run})
    assert load_config(None, {"run": followed}).run == followed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: " + "[" * 300, "is nested too deep; write a setting a line, as in 'seed: 1', those of"),
        ("seed: \x07 1", "is not YAML: "),
        ("seed", "must hold settings as 'name: value' lines, got 'seed' (str)"),
    ],
)
def test_what_is_no_settings_becomes_a_setting_a_line(text: str, says: str, file: Path) -> None:
    file.write_text(text)
    limit = sys.getrecursionlimit()
    # a stack of this depth is reached at once
    sys.setrecursionlimit(limit if len(text) < 300 else 500)
    try:
        told = refusal(file)
    finally:
        sys.setrecursionlimit(limit)
    assert says in told
    file.write_text("seed: 1")
    assert load_config(file).seed == 1


@pytest.mark.parametrize("given", [{}, {"data.store": "s"}, {"data.input": ["a.txt"]}])
def test_a_table_of_similar_words_is_made_by_the_commands_of_the_error(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gensim")
    from unmask.cli import main

    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(
        "the mill and the barn stand by the river and the lake where the cat and the dog sleep . " * 20
    )
    told = refusal(None, {"masking.strategy": "mac", **given})
    assert "masking.strategy is 'mac', which needs masking.similar_words; " in told
    way = "and add --masking.similar_words" if "data.store" in given else "prepare the text with `unmask prepare"
    assert "make a table with `unmask similar-words --store " in told and way in told
    if "data.store" in given:
        assert main(["prepare", "--input", "a.txt", "--vocab-size", "100", "--out", "s"]) == 0
    commands = re.findall(r"`unmask ([^`]+)`", told)
    assert [command.split()[0] for command in commands] == ["prepare"] * ("data.store" not in given) + ["similar-words"]
    for command in commands:
        words = ["a.txt" if word == "TEXT" else word for word in shlex.split(command)]
        assert main([*words, *(["--vocab-size", "100"] if words[0] == "prepare" else ["--epochs", "1"])]) == 0
    store = shlex.split(commands[-1])[shlex.split(commands[-1]).index("--store") + 1]
    options = dict(re.findall(r"--(\S+) (\S+)", re.split("and (?:add|give) ", told)[-1]))
    added = {name: store if value == "STORE" else value for name, value in options.items()}
    assert added["masking.similar_words"] == "similar.tsv"
    changed = {name: value for name, value in given.items() if not told.endswith(f" in the place of {name}")}
    load_config(None, {"masking.strategy": "mac", **changed, **added})


def test_a_name_of_no_group_and_one_that_comes_twice_are_mended(file: Path) -> None:
    told = refusal(None, {"zzz.qqq": 1})
    assert "config: zzz.qqq is not a setting; there are the groups " in told
    assert set(re.split(", | and ", told.partition("groups ")[2])) >= {"data", "model", "train"}
    assert load_config(None, {"train.steps": 3}).train.steps == 3
    file.write_text("train.steps: 3\ntrain: {steps: 4}\n")
    assert "train.steps is given twice; leave one out" in refusal(file)
    for text, steps in (("train.steps: 3\n", 3), ("train: {steps: 4}\n", 4)):
        file.write_text(text)
        assert load_config(file).train.steps == steps
