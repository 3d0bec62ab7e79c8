"""What the errors about a run's data advise: each is followed here, and then the run has its data."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from unmask.config import load_config
from unmask.data.prepare.encoding import content_hash
from unmask.errors import ConfigError, CorpusError, StoreError, UnmaskError
from unmask.train.checkpoint.checkpoints import Checkpoints
from unmask.train.data import RunData
from unmask.train.logging.progress import Display
from unmask.train.pretrain import build_trainer
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


def test_a_vocabulary_smaller_than_the_tokenizer_is_left_out_or_given_as_many(text: Path, tmp_path: Path) -> None:
    from unmask.cli import main

    words = "--model.num_layers 1 --model.hidden_size 16 --model.intermediate_size 32 --train.tokens_per_step 64 "
    words += "--stream.workers 0 --train.steps 1 --train.evaluate_tokens 64 --stream.held_out_fraction 0.3"
    given = ["pretrain", "--data.input", str(text), "--data.blank_line_documents", *words.split()]
    given += [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        assert main([*given, "--model.vocab_size", "7", "--run", "a"]) == 2
        assert main([*given, "--run", "b"]) == 0
        assert main([*given, "--model.vocab_size", "100", "--run", "c"]) == 0


def test_a_source_that_the_store_lacks_is_named(text: Path, tmp_path: Path) -> None:
    cut = {"data.input": [str(text)], "data.blank_line_documents": True}
    with pytest.raises(ConfigError, match=r"did you mean text\?"):
        data(tmp_path / "run", **cut, **{"composition.weights": {"texts": 2.0}})
    data(tmp_path / "run", **cut, **{"composition.weights": {"text": 2.0}})
