"""`unmask similar-words`: from a store to a table that a MacBERT run uses; each error's way out works."""

import random
import resource
import shlex
from pathlib import Path

import pytest

from unmask.cli import main

pytest.importorskip("gensim")

SMALL = [
    *("--model.num-layers", "1", "--model.hidden-size", "16", "--model.num-heads", "2"),
    *("--model.intermediate-size", "32", "--model.max-positions", "64", "--stream.max_length", "64"),
    *("--train.tokens-per-step", "256", "--stream.micro_batch_tokens", "256", "--optimizer.warmup_steps", "0"),
    *("--train.evaluate-tokens", "256", "--train.steps", "1", "--stream.workers", "0"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chinese words between blanks."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(1)
    animals, places = ("猫咪", "小狗", "狐狸"), ("磨坊", "谷仓", "湖边")
    for number in range(30):
        lines = (f"那只 {draw.choice(animals)} 睡 在 {draw.choice(places)} 旁边 。\n" for _ in range(9))
        (folder / f"{number:02}.txt").write_text("".join(lines), encoding="utf-8")
    made = folder / "store"
    options = ["--segmenter", "spaces", "--vocab-size", "60", "--out", str(made)]
    assert main(["prepare", "--input", str(folder), *options]) == 0
    return made


def test_the_command_that_it_prints_trains_with_the_table(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["similar-words", "--store", str(store), "--out", "my table.tsv"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "11 words of at least 5 occurrences, 100.0% of the text" in told
    assert "trained on 2,970 tokens, so neighbours are rough; prepare more text, or read vectors" in told
    # the full stop is no neighbour of a word
    assert "my table.tsv: 10 of 10 words have a similar one of equal length" in told
    [advice] = [line for line in told.splitlines() if line.startswith("try: ")]
    program, *arguments = shlex.split(advice.removeprefix("try: "))
    assert program == "unmask"
    assert main([*arguments, *SMALL, "--run", "run"]) == 0, capsys.readouterr().err
    assert "similar words: 10 of 10 words" in capsys.readouterr().out


def test_a_table_that_exists_is_kept_and_its_removal_is_the_way_out(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.tsv"
    table.write_text("mine")
    command = ["similar-words", "--store", str(store), "--out", str(table), "--epochs", "1"]
    assert main(command) == 2
    assert f"{table} exists; give another name, or remove it: rm {table}" in capsys.readouterr().err
    assert table.read_text() == "mine"
    table.unlink()
    assert main(command) == 0


def test_a_folder_is_no_table_and_a_file_in_a_new_folder_is(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["similar-words", "--store", str(store), "--epochs", "1", "--out"]
    assert main([*command, str(tmp_path)]) == 2
    assert f"is a folder; give the name of a file, {tmp_path}/similar.tsv\n" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "new" / "similar.tsv")]) == 0
    assert main([*command, str(tmp_path / "similar.tsv")]) == 0


def test_a_full_disk_leaves_no_half_table(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["similar-words", "--store", str(store), "--epochs", "1", "--out", str(tmp_path / "similar.tsv")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        assert main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large; raise the limit for the size of a file, ulimit -f" in capsys.readouterr().err
    assert not (tmp_path / "similar.tsv").exists()
    assert main(command) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--words", "0"], "similar-words: --words must be at least 1, got 0"),
        (["--min-count", "-2"], "similar-words: --min-count must be at least 1, got -2"),
        (["--vectors", "v", "--seed", "3"], "--seed is of the training, and --vectors reads vectors; leave one out"),
        (["--vectors", "v", "--epochs", "3"], "--epochs is of the training, and --vectors reads vectors"),
        (["--vectors", "absent"], "word vectors: there is no file absent; give the file of the vectors"),
    ],
)
def test_options_that_contradict_are_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["similar-words", "--store", str(store), "--out", str(tmp_path / "table.tsv"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "table.tsv").exists()


def test_a_table_that_is_missing_is_made_by_the_command_in_the_error(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.data.masking.similar_words import SimilarWords
    from unmask.data.store import Store
    from unmask.errors import CorpusError

    tokenizer = Store.open(store).load_tokenizer()
    table = tmp_path / "a table.tsv"
    with pytest.raises(
        CorpusError, match=r"there is no table .*; make one with unmask similar-words --store STORE"
    ) as no:
        SimilarWords.load(table, tokenizer)
    program, *arguments = shlex.split(str(no.value).partition("make one with ")[2])
    assert program == "unmask"
    assert main([str(store) if word == "STORE" else word for word in arguments]) == 0
    assert SimilarWords.load(table, tokenizer).coverage.kept == 10
