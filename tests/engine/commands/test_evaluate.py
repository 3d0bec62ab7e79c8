"""`unmask evaluate`: the numbers of a run's own evaluation, on any store of the model's tokenizer."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from unmask import analyse, evaluate
from unmask.cli import main
from unmask.commands.evaluate import EvaluationProgress
from unmask.config import load_config
from unmask.data.prepare import prepare
from unmask.data.store import Store
from unmask.errors import CheckpointError, ConfigError, RunError, StoreError, UnmaskError
from unmask.train.evaluate import Score
from unmask.train.logging.log import read_evaluations
from unmask.train.pretrain import pretrain

WORDS = "the cat sat on a mat dog ran fast tree house river blue green seven under".split()  # noqa: SIM905
SMALL: dict[str, Any] = {
    "stream.max_length": 32,
    "stream.held_out_fraction": 0.3,
    "stream.workers": 0,
    "model": {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "max_positions": 32},
    "train.steps": 4,
    "train.tokens_per_step": 128,
    "stream.micro_batch_tokens": 128,
    "stream.max_documents": 40,
    "train.evaluate_tokens": 256,
    "train.threads": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a run on it, its model exported, a second store of that tokenizer, and one of another."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, many, step in (("one", 60, 1), ("two", 20, 3), ("three", 20, 5)):
        texts = [". ".join(WORDS[(i * step + k * k) % 16] for k in range(8 + i % 20)) for i in range(many)]
        (folder / f"{name}.txt").write_text("\n\n".join(texts))
    common: dict[str, Any] = {"blank_line_documents": True, "workers": 1}
    prepare([folder / "one.txt"], folder / "store", vocab_size=120, **common)
    prepare([folder / "two.txt"], folder / "second", tokenizer=folder / "store" / "tokenizer", **common)
    prepare([folder / "three.txt"], folder / "foreign", vocab_size=110, **common)
    pretrain(load_config(None, {**SMALL, "data.store": str(folder / "store"), "run": str(folder / "run")}))
    assert main(["export", str(folder / "run"), str(folder / "model")]) == 0
    return folder


def pretrained(folder: Path, run: Path, **changes: Any) -> Path:
    settings = {**SMALL, "data.store": str(folder / "store"), "run": str(run)}
    return pretrain(load_config(None, settings | {name.replace("__", "."): value for name, value in changes.items()}))


def last_row(run: Path) -> dict[str, Any]:
    row = read_evaluations(run)[-1]
    del row["event"]
    return row


def test_a_run_has_the_numbers_of_its_own_evaluation(folder: Path) -> None:
    found = evaluate(folder / "run").numbers()
    row = last_row(folder / "run")
    assert row["step"] == 4
    assert {name: found[name] for name in row} == row


@pytest.mark.parametrize(
    "changes",
    [
        {
            "train__phases": [{"share": 0.5, "max_length": 16}, {"share": 0.5, "max_length": 32}],
            "masking__rate_end": 0.4,
        },
        {"train__steps": None, "train__epochs": 0.2, "train__dtype": "bfloat16"},
        {"composition__strategy": "pairs", "objective__sop": 0.5},
        {"objective__clm": 1, "objective__mlm": 0, "model": {**SMALL["model"], "causal": True}},
    ],
    ids=["phases", "epochs in bfloat16", "pairs", "next tokens"],
)
def test_so_has_a_run_of_any_kind(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = pretrained(folder, tmp_path / "run", **changes)
    found, row = evaluate(run).numbers(), last_row(run)
    assert {name: found[name] for name in row} == row
    assert evaluate(run, split="all").tokens > 0


def test_a_checkpoint_in_an_earlier_phase_is_scored_at_its_length(folder: Path, tmp_path: Path) -> None:
    phases = [{"share": 0.5, "max_length": 16}, {"share": 0.5, "max_length": 32}]
    run = pretrained(
        folder,
        tmp_path / "run",
        train__phases=phases,
        train__evaluate_every=1,
        train__save_every=1,
        train__keep_checkpoints=9,
    )
    rows = {row["step"]: row for row in read_evaluations(run)}
    for step, length in ((1, 16), (2, 16), (3, 32), (4, 32)):
        found = evaluate(run / "checkpoints" / f"step-{step:06d}").numbers()
        assert (found["max_length"], found["loss"]) == (length, rows[step]["loss"])


def test_the_command_prints_each_objective_and_its_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(folder / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = last_row(folder / "run")
    score = Score(name="mlm", loss=row["loss"], accuracy=row["masked_accuracy"], count=row["masked_tokens"])
    assert lines[0] == f"{folder / 'run' / 'checkpoints' / 'step-000004'}: trained for 4 steps"
    assert re.fullmatch(rf"held-out documents of {folder / 'store'}: \d+ tokens, at most 32 in a sequence", lines[1])
    assert lines[2] == str(score)
    assert lines[3].startswith(f"a model that knows only token frequencies has loss {row['unigram_loss']:.3f}")


def test_a_loss_that_says_little_is_said_to(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = evaluate(folder / "run")
    assert found.unigram_loss is not None and "predictions are few, so the loss is rough" in found.lines()
    scored = found.scores["mlm"]
    for loss, count, rough, learnt in ((9.0, 100, True, False), (0.1, 10_000, False, True)):
        made = replace(found, scores={"mlm": replace(scored, loss=loss, count=count)}).lines()
        assert ("predictions are few" in made) == rough
        assert ("has learnt no more than that; train longer" in made) != learnt
    with caplog.at_level("INFO"):
        pretrained(folder, tmp_path / "run", train__steps=1, optimizer__learning_rate=1e-9)
    assert "that of token frequencies alone: the run was too short to learn more" in caplog.text


def test_a_store_that_has_moved_is_asked_for(folder: Path, tmp_path: Path) -> None:
    run = pretrained(folder, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(folder / "store"), str(tmp_path / "gone")))
    with pytest.raises(StoreError, match=r"gone, the store of .*run, is not there; give its place now with --store$"):
        evaluate(run)
    assert evaluate(run, folder / "store").tokens > 0


def test_json_has_the_same_numbers_and_nothing_else_on_standard_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(folder / "run"), "--json", "--data.store", str(folder / "second")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == evaluate(folder / "run", folder / "second").numbers()
    assert found["store"] == str(folder / "second")
    assert found["step"] == 4


def test_an_exported_folder_has_the_numbers_of_its_run(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "data: {max_length: 32, held_out: 0.3}\ntrain: {micro_batch_tokens: 128, tokens_per_step: 128, "
        "max_documents: 40, evaluate_tokens: 256, dtype: float32}\n"
    )
    run = pretrained(folder, tmp_path / "run", train__dtype="float32")
    assert main(["export", str(run), str(tmp_path / "model")]) == 0
    found = evaluate(tmp_path / "model", folder / "store", recipe=str(recipe)).numbers()
    row = last_row(run)
    assert found["step"] is None
    assert {name: found[name] for name in row if name != "step"} == {name: row[name] for name in row if name != "step"}


def test_a_longer_recipe_is_cut_to_what_the_model_reads(folder: Path) -> None:
    assert evaluate(folder / "model", folder / "store", recipe="bert-base").max_length == 32


def test_the_parts_of_a_store_make_up_all_of_it(folder: Path) -> None:
    parts = {split: evaluate(folder / "run", split=split, tokens=0) for split in ("held_out", "train", "all")}
    tokens = {split: found.tokens for split, found in parts.items()}
    assert 0 < tokens["held_out"] < tokens["train"]
    assert tokens["held_out"] + tokens["train"] == tokens["all"]
    store = Store.open(folder / "store")
    assert tokens["all"] == store.num_tokens + 2 * sum(-(-int(n) // 30) for n in store.lengths)
    # what is expected of each is counted on the documents to train on
    assert len({found.unigram_loss for found in parts.values()}) == 3


def test_fewer_tokens_are_read_where_asked(folder: Path) -> None:
    assert evaluate(folder / "run", tokens=1).tokens <= 128
    assert main(["evaluate", str(folder / "run"), "--tokens", "-1"]) == 2


def test_a_recipe_that_needs_a_setting_gets_it_from_a_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"and give --recipe mine\.yaml$") as told:
        evaluate(folder / "model", folder / "store", recipe="macbert")
    command = re.search(r"`unmask (config macbert .*) > mine\.yaml`", str(told.value))
    assert command is not None
    Path("similar.tsv").write_text("cat\tdog:0.9\n")
    capsys.readouterr()
    assert main([*command[1].split(), "--objective.sop", "0", "--composition.strategy", "documents"]) == 0
    Path("mine.yaml").write_text(capsys.readouterr().out)
    assert evaluate(folder / "model", folder / "store", recipe="mine.yaml").tokens > 0


def test_a_store_of_another_tokenizer_is_refused_with_both_and_the_way_out_works(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError) as caught:
        evaluate(folder / "run", folder / "foreign")
    told = str(caught.value)
    store = Store.open(folder / "foreign")
    assert f"{store.folder} was made by tokenizer {store.tokenizer_hash[:12]} with {store.vocab_size:,} tokens" in told
    assert f"step-000004 has {Store.open(folder / 'store').tokenizer_hash[:12]} with" in told
    follow(told, folder, tmp_path, monkeypatch)
    assert evaluate(folder / "run", tmp_path / "STORE", split="all").tokens > 0


def test_a_folder_without_a_store_is_told_to_have_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        StoreError, match="is no run, so no store belongs to it; give one with --store, made by"
    ) as caught:
        evaluate(folder / "model")
    follow(str(caught.value), folder, tmp_path, monkeypatch)
    assert evaluate(folder / "model", tmp_path / "STORE", split="all").tokens > 0


def follow(message: str, folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command of a message on the text of the foreign store, in the folder `here`."""
    command = re.search(r"`unmask (prepare --input TEXT .*)`", message)
    assert command is not None
    monkeypatch.chdir(here)
    shutil.copy(folder / "three.txt", here / "TEXT")
    (here / "TEXT").rename(here / "TEXT.txt")
    words = [word if word != "TEXT" else "TEXT.txt" for word in shlex.split(command[1])]
    assert main(words) == 0


def test_a_part_without_documents_is_told(folder: Path, tmp_path: Path) -> None:
    run = pretrained(folder, tmp_path / "run", stream__held_out_fraction=0, train__evaluate_tokens=32768)
    with pytest.raises(StoreError, match=r"store has no document in the split 'held_out'; give --split all$"):
        evaluate(run)
    assert evaluate(run, split="all").tokens > 0
    assert evaluate(run, split="train").numbers()["masked_tokens"] > 0


def test_analyse_and_the_start_of_a_run_tell_the_same_loss_of_token_frequencies(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unigram = f"{last_row(folder / 'run')['unigram_loss']:.3f}"
    report = analyse(folder / "run", micro_batches=2)
    assert f"{report.numbers()['unigram_loss']:.3f}" == unigram
    assert f"the frequency of each token | {unigram}" in report.tables()
    run = [
        "pretrain",
        "--data.store",
        str(folder / "store"),
        "--run",
        str(tmp_path / "run"),
        "--stream.held-out-fraction",
        "0.3",
    ]
    small = "--stream.max-length 32 --train.tokens-per-step 128 --stream.micro-batch-tokens 128 --train.threads 1"
    assert main([*run, *small.split(), "--train.steps", "2"]) == 0
    told = capsys.readouterr().out
    assert f"{unigram} nats is the loss of a model that knows only token frequencies" in told
    assert "the warm-up is cut to a tenth" in told


def test_a_recipe_beside_a_run_is_refused(folder: Path) -> None:
    with pytest.raises(RunError, match=r"run has its own configuration; leave --recipe tiny out$"):
        evaluate(folder / "run", recipe="tiny")
    assert evaluate(folder / "run").tokens > 0


def test_a_model_without_a_head_for_pairs_is_not_asked_for_them(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"has no head for pairs, which objective\.nsp needs; give a recipe without"
    ):
        evaluate(folder / "model", folder / "store", recipe="bert-original")
    assert evaluate(folder / "model", folder / "store", recipe="roberta").tokens > 0


def test_what_is_no_model_is_told(folder: Path) -> None:
    with pytest.raises(UnmaskError, match="does not exist"):
        evaluate(folder / "nothing")
    with pytest.raises(UnmaskError, match="holds neither a run"):
        evaluate(folder / "store")


def test_the_loss_and_each_score_have_names(folder: Path, tmp_path: Path) -> None:
    found = evaluate(str(folder / "run"))
    row = last_row(folder / "run")
    assert (found.loss, found.scores["mlm"].loss) == (row["loss"], row["loss"])
    assert found.scores["mlm"].accuracy == row["masked_accuracy"]
    run = pretrained(folder, tmp_path / "run", composition__strategy="pairs", objective__sop=0.5)
    found = evaluate(run)
    assert list(found.scores) == ["mlm", "sop"]
    assert found.loss == found.scores["mlm"].loss + 0.5 * found.scores["sop"].loss


def test_a_store_may_be_given_as_prepare_returns_it(folder: Path) -> None:
    store = Store.open(folder / "second")
    assert evaluate(folder / "run", store, split="all") == evaluate(folder / "run", folder / "second", split="all")


def test_a_long_evaluation_reports_where_it_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def look(self: object, threads: int, *, option: str) -> str:
        return f"busy; {option}1"

    monkeypatch.setattr("unmask.commands.evaluate._WATCH_AFTER_SECONDS", 0.0)
    monkeypatch.setattr("unmask.train.threads.CrowdWatch.look", look)
    reports: list[EvaluationProgress] = []
    with caplog.at_level("INFO", "unmask"):
        found = evaluate(folder / "run", split="all", tokens=0, progress=reports.append)
    assert re.search(r"scoring about [\d,]+ tokens of .*store on cpu", caplog.text)
    assert "busy; OMP_NUM_THREADS=1" in caplog.messages
    tokens = [report.tokens for report in reports]
    assert len(tokens) > 3 and tokens == sorted(tokens) and tokens[-1] == found.tokens
    assert all(report.tokens <= report.expected and report.tokens_per_second > 0 for report in reports)


def test_the_command_shows_a_bar_on_a_terminal_and_lines_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(folder / "run"), "--split", "all", "--tokens", "0", "--json"]
    assert main(command) == 0
    assert "tokens/s" not in capsys.readouterr().err
    monkeypatch.setattr("unmask.cli.evaluate._FIRST_LINE_SECONDS", 1e-9)
    assert main(command) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["split"] == "all"
    pattern = r"score: [\d,]+ tokens/s  until \d\d:\d\d  [\d,]+ of about [\d,]+ tokens so far"
    assert re.search(pattern, told.err)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(command) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["split"] == "all"
    bar = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", told.err)
    assert re.search(r"score ━+ [\d,]+ tokens/s  until \d\d:\d\d  [\d,]+ of about [\d,]+ tokens", bar)


def test_a_folder_is_scored_with_tiny_and_told_how_its_run_would_be(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = "length, masks and composition of recipe tiny; --recipe RUN/config.yaml for those of the run"
    with caplog.at_level("INFO", "unmask"):
        evaluate(folder / "model", folder / "store", tokens=256)
    assert told in caplog.messages
    caplog.clear()
    with caplog.at_level("INFO", "unmask"):
        found = evaluate(folder / "model", folder / "store", recipe=str(folder / "run" / "config.yaml"))
    assert told not in caplog.messages
    assert found.max_length == 32
    assert found.scores == evaluate(folder / "run").scores
