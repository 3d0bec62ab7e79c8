"""What a run says before its first step: each advice is followed here, and then it has its data and its weights."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import advice
from advice import Action
from unmask import EncoderConfig, PretrainingModel
from unmask.config import PhaseConfig, RunConfig, load_config, to_yaml
from unmask.data.prepare.encoding import content_hash
from unmask.data.store import Store
from unmask.data.tokenizer import Tokenizer
from unmask.errors import ConfigError, CorpusError, RunError, StoreError, UnmaskError
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.checkpoint.tokenizer_hash import bind, require_bound
from unmask.train.data import RunData, plan_phases
from unmask.train.initial import InitialCheckpoint
from unmask.train.logging.destinations import DESTINATIONS, require_installed
from unmask.train.logging.log import destinations_of
from unmask.train.logging.metrics import Meter
from unmask.train.logging.progress import Display
from unmask.train.precision import choose_precision
from unmask.train.pretrain import build_trainer, pretrain
from unmask.train.run_folder import RunFolder, saved_config
from unmask.train.step import StepReport
from unmask.train.store import open_store

WORDS = "the mill turns by the river and the river runs past the mill where a cat sleeps on the warm wall all day"
SMALL: dict[str, Any] = {"stream.max_length": 32, "stream.micro_batch_tokens": 64, "data.vocab_size": 100}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Twenty chapters of one file."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"CHAPTER {number}\n{WORDS} {number}" for number in range(20)))
    return path


def data(run: Path, **changes: Any) -> RunData:
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    config = load_config(None, SMALL | changes)
    found = RunData(*open_store(config, run), config)
    next(found.stream(found.phases[-1]).batches())
    return found


def refusal(run: Path, **changes: Any) -> str:
    with pytest.raises(UnmaskError) as told:
        data(run, **changes)
    return str(told.value)


def held_out(text: Path, run: Path, given: dict[str, Any]) -> str:
    """Add lines to a text until all of it is held out, and return what is said."""
    for number in range(40):
        text.write_text(text.read_text() + f"\nline {number}")
        try:
            data(run, **given)
        except CorpusError as error:
            return str(error)
    pytest.fail("no text was held out")


@pytest.mark.parametrize(
    ("advice", "change"),
    [
        ("cut it into more documents when it is prepared (--split-at", {"data.split_at": "^CHAPTER"}),
        ("--blank-line-documents", {"data.blank_line_documents": True}),
    ],
)
def test_a_text_that_is_held_out_as_a_whole_is_cut(
    advice: str, change: dict[str, Any], text: Path, tmp_path: Path
) -> None:
    given = {"stream.held_out_fraction": 0.5, "data.input": [str(text)]}
    assert advice in held_out(text, tmp_path / "run", given)
    data(tmp_path / "run", **(given | change))


def few_held_out(text: Path, run: Path, fraction: float, caplog: pytest.LogCaptureFixture) -> tuple[str, int]:
    """Return what the run says of few held-out tokens, if anything, and how many there are."""
    config = load_config(None, SMALL | {"data.input": [str(text)], "stream.held_out_fraction": fraction})
    caplog.clear()
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    with caplog.at_level("INFO", "unmask"):
        made = build_trainer(config, run, Checkpoints(folder=run), Display())
    told = [message for message in caplog.messages if "few for a held-out loss" in message]
    return "".join(told), made.data.text_tokens("held_out")


def test_few_held_out_tokens_name_the_share_that_holds_out_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 62 documents a short one is held out first, by its hash, for any small share."""
    short = min((f"mill {number}" for number in range(5000)), key=content_hash)
    longer = sorted((f"{WORDS} {number}" for number in range(200)), key=content_hash)
    # none of the longer ones is held out by a share of 0.05
    longer = [one for one in longer if content_hash(one) > 0.06 * 2**64][:61]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in [short, *longer]))
    for fraction in (0.01, 0.05):
        told, tokens = few_held_out(path, tmp_path / "run", fraction, caplog)
        found = re.search(
            rf"{tokens} tokens are few .*; --stream\.held_out_fraction ([\d.]+) holds out ([\d,]+), in", told
        )
        assert found is not None, told
        assert float(found[1]) == 0.1
    assert few_held_out(path, tmp_path / "run", 0.1, caplog) == ("", int(found[2].replace(",", "")))


def test_one_long_document_beside_a_short_held_out_one_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    long = "\n\n".join(f"{WORDS} {number}" for number in range(40))
    short = next(f"mill {number}" for number in range(5000) if content_hash(f"mill {number}") < content_hash(long))
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in (short, long)))
    told, _ = few_held_out(path, tmp_path / "run", 0.1, caplog)
    assert "no share up to 0.3 holds out enough of so few documents; prepare more text, or cut it" in told
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in (short, *long.split("\n\n"))))
    assert few_held_out(path, tmp_path / "run", 0.1, caplog)[0] == ""


def test_weights_that_leave_out_all_text_are_changed(text: Path, tmp_path: Path) -> None:
    given = {"data.input": [str(text)], "data.blank_line_documents": True}
    told = refusal(tmp_path / "run", **given, **{"composition.weights": {"text": 0.0}})
    assert told.endswith("or change stream.held_out_fraction (0.01) or composition.weights")
    data(tmp_path / "run", **given)


def test_a_line_is_a_document_after_the_command_of_the_error(text: Path, tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    told = refusal(tmp_path / "run", **{"data.input": [str(text)], "composition.weights": {"text": 0.0}})
    command = told.partition("a document a line: ")[2].partition(")")[0]
    command = command.replace("TEXT.txt", str(text)).replace("TEXT.jsonl", str(tmp_path / "lines.jsonl"))
    subprocess.run(["sh", "-c", command], check=True)
    assert len(data(tmp_path / "run", **{"data.input": [str(tmp_path / "lines.jsonl")]}).store.lengths) > 20


def test_a_text_smaller_than_a_micro_batch_is_read_in_smaller_ones_or_grows(text: Path, tmp_path: Path) -> None:
    given = {"data.input": [str(text)], "stream.micro_batch_tokens": 2048, "stream.held_out_fraction": 0.0}
    told = refusal(tmp_path / "run", **given)
    most = re.search(r"add text, or lower stream\.micro_batch_tokens to at most (\d+)$", told)
    assert most is not None, told
    fitting = {"stream.micro_batch_tokens": int(most[1]), "train.tokens_per_step": int(most[1])}
    data(tmp_path / "run", **(given | fitting))
    text.write_text(text.read_text() * 20)
    data(tmp_path / "run", **given)


def test_documents_too_short_for_pairs_are_joined_or_read_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "{letter}"}}\n' for letter in "abcdefghijklmnopqrstuvwxyz"))
    pairs = {"composition.strategy": "pairs", "objective.sop": 1.0, "data.input": [str(path)]}
    told = refusal(tmp_path / "run", **pairs)
    assert "join them to longer ones or choose another composition.strategy" in told
    data(tmp_path / "run", **{"data.input": [str(path)], "composition.strategy": "mix"})
    path.write_text("".join('{"text": "' + "The mill turns. " * 9 + f'{number}."}}\n' for number in range(200)))
    data(tmp_path / "run", **pairs)


def test_a_store_of_other_words_is_prepared_again_or_taken_as_it_is(text: Path, tmp_path: Path) -> None:
    from unmask.cli import main

    def prepared(name: str, *options: str) -> str:
        made = ["prepare", "--input", str(text), "--blank-line-documents", "--vocab-size", "100", *options]
        assert main([*made, "--out", str(tmp_path / name)]) == 0
        return str(tmp_path / name)

    small = {name: value for name, value in SMALL.items() if not name.startswith("data.")}

    def opened(store: str, segmenter: str | None) -> None:
        config = load_config(None, small | {"data.store": store, "data.segmenter": segmenter})
        open_store(config, tmp_path)

    plain, words = prepared("plain"), prepared("words", "--segmenter", "spaces")
    with pytest.raises(StoreError, match=r"again with --segmenter spaces, or give --data\.segmenter None"):
        opened(plain, "spaces")
    opened(plain, None)
    opened(words, "spaces")
    with pytest.raises(StoreError, match=r"again with --segmenter jieba, or give --data\.segmenter spaces"):
        opened(words, "jieba")


def test_a_vocabulary_smaller_than_the_tokenizer_is_left_out_or_given_as_many(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.cli import main

    words = "--model.num_layers 1 --model.hidden_size 16 --model.intermediate_size 32 --train.tokens_per_step 64 "
    words += "--stream.workers 0 --train.steps 1 --train.evaluate_tokens 64 --stream.held_out_fraction 0.3"
    given = ["pretrain", "--data.input", str(text), "--data.blank_line_documents", *words.split()]
    given += [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        assert main([*given, "--model.vocab_size", "7", "--run", "a"]) == 2
        told = capsys.readouterr().err
        assert "config: model.vocab_size is 7 but the tokenizer has " in told
        assert told.strip().endswith(" ids; leave it out, or give at least as many")
        assert main([*given, "--run", "b"]) == 0
        assert main([*given, "--model.vocab_size", "100", "--run", "c"]) == 0


def test_a_source_that_the_store_lacks_is_named(text: Path, tmp_path: Path) -> None:
    cut = {"data.input": [str(text)], "data.blank_line_documents": True}
    with pytest.raises(ConfigError, match=r"did you mean text\?"):
        data(tmp_path / "run", **cut, **{"composition.weights": {"texts": 2.0}})
    data(tmp_path / "run", **cut, **{"composition.weights": {"text": 2.0}})


MODEL = EncoderConfig(vocab_size=12, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32, max_positions=32)
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mill", "river", "the", "##s", "runs", "cat", "wall"]


def tokenizer_folder(folder: Path, words: list[str] = VOCABULARY, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True} | settings))
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The folder of a model with its tokenizer."""
    PretrainingModel(MODEL).save_pretrained(tmp_path / "model")
    return tokenizer_folder(tmp_path / "model")


def initial(checkpoint: Path, **changes: Any) -> InitialCheckpoint:
    return InitialCheckpoint.open(load_config(None, {"init.from": str(checkpoint), **changes}))


# the other tokenizer, and what is said of it
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "rules": ({"do_lower_case": False}, "it cuts text by other rules than the checkpoint's ("),
    "roles": ({"mask_token": "mill"}, "it has other special tokens than the checkpoint's"),
    "ids": (
        {"words": [*VOCABULARY[:5], "river", "mill", *VOCABULARY[7:]]},
        "it gives 'mill', 'river' other ids than the",
    ),
    "entries": ({"words": VOCABULARY[:-1]}, "it lacks 'wall' of the checkpoint's 12 entries: its vocabulary shrank"),
}


@pytest.mark.parametrize("differing", OTHERS)
def test_text_of_another_tokenizer_is_read_with_the_checkpoint_s_or_its_rows_are_replaced(
    differing: str, checkpoint: Path, tmp_path: Path, text: Path
) -> None:
    from unmask.cli import main

    settings, says = OTHERS[differing]
    other = tokenizer_folder(tmp_path / "other", **settings)
    begin = f"init.from: the tokenizer of {other} is not that of {checkpoint}: {says}"
    replaced = "or give --init.vocabulary replace, which takes over the rows of equal entries alone"
    given = {"data.input": [str(text)], "data.tokenizer": str(other)}

    def with_tokenizer(**changes: Any) -> RunConfig:
        config = load_config(None, {"init.from": str(checkpoint), **given, **changes})
        return InitialCheckpoint.open(config).with_tokenizer(config)

    advice.follow(
        with_tokenizer,
        f"{begin} ... ; leave data.tokenizer out, to read the text with the checkpoint's, {replaced}",
        lambda: with_tokenizer(**{"data.tokenizer": None}),
        lambda: with_tokenizer(**{"init.vocabulary": "replace"}),
    )
    tokenizer = Tokenizer.load(other)
    told = advice.refusal(lambda: initial(checkpoint).require_vocabulary(tokenizer, other))
    assert told.startswith(begin) and told.endswith(f" and give --data.store STORE, {replaced}")
    [command] = re.findall(r"prepare the text again with `unmask (prepare [^`]+)`", told)
    places = {"TEXT": str(text), "STORE": str(tmp_path / "store")}
    assert main([*(places.get(word, word) for word in shlex.split(command)), "--allow-unknown"]) == 0
    initial(checkpoint).require_vocabulary(Store.open(tmp_path / "store").load_tokenizer(), tmp_path / "store")
    initial(checkpoint, **{"init.vocabulary": "replace"}).require_vocabulary(tokenizer, other)


def test_more_entries_extend_a_vocabulary_and_equal_ones_keep_it(checkpoint: Path, tmp_path: Path) -> None:
    more = Tokenizer.load(tokenizer_folder(tmp_path / "more", [*VOCABULARY, "barn"]))
    advice.follow(
        lambda: initial(checkpoint).require_vocabulary(more, "more"),
        f"init.from: the tokenizer of more is not that of {checkpoint}: it has 1 new entries and keeps all others; "
        f"give "
        "--init.vocabulary extend, whose new entries start from the mean of their pieces",
        lambda: initial(checkpoint, **{"init.vocabulary": "extend", "data.store": "s"}).require_vocabulary(
            more, "more"
        ),
    )
    same = Tokenizer.load(checkpoint)
    advice.follow(
        lambda: initial(checkpoint, **{"init.vocabulary": "replace"}).require_vocabulary(same, "s"),
        f"init.vocabulary: it is 'replace' but the tokenizer of s is that of {checkpoint} already; leave "
        f"init.vocabulary "
        "out",
        lambda: initial(checkpoint).require_vocabulary(same, "s"),
    )


def test_a_checkpoint_gives_its_sizes_and_its_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(checkpoint)
    loaded = load_config(None, {"init.from": str(checkpoint)}).model
    advice.follow(
        lambda: initial(checkpoint).sizes_for(EncoderConfig(), tokenizer),
        f"config: model.hidden_size is 768 but init.from, {checkpoint}, has 16; make the configuration with "
        "unmask.load_config, which takes the sizes from the checkpoint",
        lambda: initial(checkpoint).sizes_for(loaded, tokenizer),
    )
    advice.follow(
        lambda: initial(checkpoint).sizes_for(replace(loaded, vocab_size=9), tokenizer),
        f"config: model.vocab_size is 9 but init.from, {checkpoint}, with init.vocabulary 'keep' has 12 rows; leave "
        "model.vocab_size out",
        lambda: initial(checkpoint).sizes_for(replace(loaded, vocab_size=None), tokenizer),
    )
    (checkpoint / "vocab.txt").rename(tmp_path / "vocab.txt")
    advice.follow(
        lambda: initial(checkpoint),
        f"init.from: {checkpoint} has no tokenizer (tokenizer.json or vocab.txt), so nothing says what its ids mean; "
        f"copy "
        "the tokenizer that the model was trained with into the folder",
        lambda: (shutil.copy(tmp_path / "vocab.txt", checkpoint), initial(checkpoint)),
    )


def test_a_phase_of_less_than_a_step_grows_or_goes() -> None:
    def plan(steps: int, *shares: float) -> object:
        phases = [PhaseConfig(share=share, max_length=32) for share in shares]
        return plan_phases(steps, phases, max_length=64, seed=1)

    advice.follow(
        lambda: plan(10, 0.01, 0.99),
        "config: train.phases.0 has a share of 0.01, less than one of 10 steps; raise its share or train.steps, or "
        "give "
        "--train.phases '[]' for one phase at stream.max_length",
        lambda: plan(10, 0.1, 0.9),
        lambda: plan(100, 0.01, 0.99),
        lambda: plan(10),
    )


@pytest.mark.parametrize("name", DESTINATIONS)
def test_the_package_of_a_destination_is_installed_or_left_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, DESTINATIONS[name][0], None)
        told = advice.refusal(lambda: require_installed([name]))
    assert told == (
        f"config: train.{name} needs the package {name}, which is not installed; `pip install 'unmask[{name}]'`, or "
        "leave it off: log.jsonl holds the same numbers"
    )
    assert destinations_of(load_config(None, {f"train.{name}": True}).train) == [name]
    require_installed(destinations_of(load_config(None).train))


def test_a_dtype_is_one_of_three_and_a_reading_needs_a_step() -> None:
    advice.follow(
        lambda: choose_precision("float64", device="cpu"),
        "precision: train.dtype must be auto, float32, bfloat16 or float16, got 'float64'",
        *(
            lambda name=name: choose_precision(name, device="cpu")
            for name in ("auto", "float32", "bfloat16", "float16")
        ),
    )
    meter = Meter(["mlm"])
    one = torch.ones(1)
    step = StepReport(loss=one[0], means=one, accuracy=one, counts=one, gradient_norm=one[0], skipped=0 * one[0])
    advice.follow(
        lambda: meter.read(waited_seconds=0.0),
        "meter: read needs at least one step since the last reading, got none",
        lambda: (meter.add(step, tokens=1, flops=0), meter.read(waited_seconds=0.0)),
    )


def test_pretrain_takes_what_its_errors_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that is taken reaches the directory of the run."""
    begun = "the run begins"

    def create(config: RunConfig) -> None:
        raise RunError(begun)

    monkeypatch.setattr(RunFolder, "create", create)
    monkeypatch.setattr(RunFolder, "reopen", lambda path, config: create(config))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(load_config("tiny")))
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    settings = {"train.steps": 3}
    for given, way, followed in (
        (None, "needs config or resume, got neither; pass unmask.load_config('tiny')", {"config": load_config("tiny")}),
        (7, "pass unmask.load_config('tiny')", {"config": load_config("tiny")}),
        ("tiny", "pass unmask.load_config('tiny')", {"config": load_config("tiny")}),
        (
            tmp_path / "mine.yaml",
            f"pass unmask.load_config('{tmp_path}/mine.yaml')",
            {"config": load_config(tmp_path / "mine.yaml")},
        ),
        (
            settings,
            "pass unmask.load_config(None, ...) of these settings",
            {"config": load_config(None, settings)},
        ),
        (run, f"pass resume='{run}' to continue this run", {"resume": run}),
    ):
        told = advice.refusal(lambda given=given: pretrain(given))  # type: ignore[misc, arg-type]
        assert told.startswith("pretrain: ") and told.endswith(way)
        assert given is None or "pretrain: config must be a RunConfig, got " in told
        assert advice.refusal(lambda followed=followed: pretrain(**followed)) == begun  # type: ignore[misc]


def test_a_directory_that_cannot_be_written_is_made_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask.train import run_folder

    config = load_config(None, {"run": str(tmp_path / "run")})
    too_large = (27, "raise the limit for the size of a file (ulimit -f)")
    for number, first in ((13, "make the directory writable"), (28, "make room"), too_large):
        with monkeypatch.context() as patched:

            def refuses(path: Path, text: str, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            patched.setattr(run_folder, "replace_text", refuses)
            told = advice.refusal(lambda: RunFolder.create(config).save_config())
        assert told == (
            f"{tmp_path}/run/config.yaml could not be written ({os.strerror(number)}); {first} and start again"
        )
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        RunFolder.create(config).save_config()
        (tmp_path / "run" / "checkpoints").mkdir()
        with monkeypatch.context() as patched:
            patched.setattr(run_folder, "replace_text", refuses)
            told = advice.refusal(
                lambda: RunFolder.reopen(tmp_path / "run", saved_config(tmp_path / "run")).save_config()
            )
        assert told.endswith(f"; {first} and continue with `unmask pretrain --resume {tmp_path}/run`")
        RunFolder.reopen(tmp_path / "run", saved_config(tmp_path / "run")).save_config()
        shutil.rmtree(tmp_path / "run")


def test_a_model_gets_the_tokenizer_that_it_was_trained_with(checkpoint: Path, tmp_path: Path) -> None:
    def check() -> None:
        require_bound(checkpoint, Tokenizer.load(checkpoint), 12)

    bind(checkpoint, Tokenizer.load(checkpoint))
    check()
    way = "put the tokenizer that the model was trained with into the folder"
    for words, says in (
        ([*VOCABULARY, "barn"], f"{checkpoint}: the tokenizer has 13 tokens, the model 12 rows; {way}"),
        ([*VOCABULARY[:-1], "barn"], f"and gives other ids; {way}"),
    ):
        tokenizer_folder(checkpoint, words)
        advice.follow(check, says, lambda: (tokenizer_folder(checkpoint), check()))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"tokenizer_hash": 7}))
    told = "config.json: tokenizer_hash must be the hash of a tokenizer, is 7 (int); take the line out if the tokenizer"
    advice.follow(
        check,
        told,
        lambda: (
            (checkpoint / "config.json").write_text(
                json.dumps({name: value for name, value in config.items() if name != "tokenizer_hash"})
            ),
            check(),
        ),
    )


def test_a_directory_that_is_taken_or_impossible_gets_another_name(tmp_path: Path) -> None:
    def create(name: str) -> RunFolder:
        return RunFolder.create(load_config(None, {"run": str(tmp_path / name)}))

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "text.txt").touch()
    (tmp_path / "file").touch()
    advice.follow(
        lambda: create("mine"),
        f"run directory {tmp_path}/mine exists already and holds no run; choose another name with --run",
        lambda: create("other"),
    )
    advice.follow(
        lambda: create("file/run"),
        f"run directory {tmp_path}/file cannot be made ( ... ); choose another place with --run",
        lambda: create("place"),
    )


def test_a_run_that_another_process_has_waits_ends_it_or_gets_another_name(tmp_path: Path) -> None:
    folder = RunFolder.create(load_config(None, {"run": str(tmp_path / "run")}))
    script = (
        "import sys; from pathlib import Path; from unmask.config import load_config\n"
        "from unmask.train.run_folder import RunFolder\n"
        "with RunFolder(path=Path(sys.argv[1]), config=load_config(None)).locked():\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"

        def lock(run: RunFolder) -> None:
            with run.locked():
                pass

        advice.follow(
            lambda: lock(folder),
            f"run {folder.path} is in use by another process; wait for it, stop it, or choose another name with --run",
            lambda: lock(RunFolder.create(load_config(None, {"run": str(tmp_path / "other")}))),
            lambda: (other.kill(), other.wait(), lock(folder)),
        )


@pytest.mark.parametrize("group", ["settings", "recipe"])
def test_an_analysis_of_a_run_has_its_settings(group: str, tmp_path: Path) -> None:
    from unmask.commands.analyse import analyse

    (tmp_path / "config.yaml").write_text(to_yaml(load_config(None, {"data.store": str(tmp_path / "gone")})))
    given: dict[str, Any] = {"settings": {"masking.rate": 0.3}} if group == "settings" else {"recipe": "macbert"}
    named = "--masking.rate" if group == "settings" else "--recipe macbert"
    told = advice.refusal(lambda: analyse(tmp_path, **given))
    assert told == f"analyse: {tmp_path} has its own configuration; leave {named} out"
    # it goes on to what the run lacks here
    assert advice.refusal(lambda: analyse(tmp_path)).startswith(f"store: {tmp_path}/gone does not exist; ")


def test_settings_beside_a_checkpoint_are_left_out_or_read(checkpoint: Path) -> None:
    def load(**changes: Any) -> Action:
        return lambda: load_config(None, {name.replace("__", "."): value for name, value in changes.items()})

    given: dict[str, Any] = {"init__from": str(checkpoint), "data__input": ["a"]}
    advice.follow(
        load(**given, data__vocab_size=100),
        "config: data.vocab_size is 100 but init.from is ... , which has a vocabulary; set init.vocabulary to "
        "'replace', to "
        "train another one, or leave data.vocab_size out",
        load(**given, data__vocab_size=100, init__vocabulary="replace"),
        load(**given),
    )
    advice.follow(
        load(init__vocabulary="replace"),
        "config: init.vocabulary is 'replace' but init.from is None, so all weights are new; give the checkpoint to "
        "start "
        "from as init.from or leave init.vocabulary out",
        load(**given, init__vocabulary="replace"),
        load(),
    )
    advice.follow(
        load(**given, model__num_layers=3),
        f"config: model.num_layers is 3 but init.from, {checkpoint}, has 1; leave it out to take it from there, or "
        f"leave "
        "init.from out to start with new weights",
        load(**given),
        load(model__num_layers=3),
    )
