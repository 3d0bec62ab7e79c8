"""`unmask augment`: a file with variants, the same by any number of workers, and after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest

import unmask
from advice import follow, refusal
from unmask.cli import main
from unmask.cli.augment import Options
from unmask.commands import augment as module
from unmask.data.tokenizer import Tokenizer
from unmask.model import EncoderConfig, PretrainingModel
from unmask.tasks.augmentation.config import AugmentationConfig
from unmask.tasks.augmentation.parts import Parts

TEXTS = ["the cat sat on the warm wall", "a river runs past the old mill", "the mill turns and the cat watched"]
SHORT = AugmentationConfig(copies=4, candidates=5, context=16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(TEXTS * 3, 120)
    tokenizer.save(folder)
    sizes = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_layers=1,
        num_heads=1,
        intermediate_size=16,
        max_positions=24,
    )
    PretrainingModel(sizes, seed=3).save_pretrained(folder)
    return folder


@pytest.fixture
def train(tmp_path: Path) -> Path:
    file = tmp_path / "train.tsv"
    rows = [f"{number} {TEXTS[number % 3]}\t{TEXTS[(number + 1) % 3]}\t{number % 2}" for number in range(150)]
    file.write_text("\n".join(["first\tsecond\tlabel", *rows]) + "\n")
    return file


def rows_of(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_each_example_is_followed_by_its_variants(model: Path, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tsv"
    found = unmask.augment(model, train, out, SHORT, text="first", label="label", workers=1)
    header, *rows = rows_of(out)
    assert header == ["first", "label"]
    given = [[row[0], row[2]] for row in rows_of(train)[1:]]
    assert [row for row in rows if row in given] == given
    place = -1
    for text, label in rows:
        if place + 1 < len(given) and [text, label] == given[place + 1]:
            place += 1
        # a variant has the words and the label of its text
        assert label == given[place][1]
        assert len(text.split()) == len(given[place][0].split())
        assert text.split()[0] == given[place][0].split()[0], "a number is no word"
    assert (found.examples, found.rows, found.texts) == (150, len(rows), 150)
    assert found.variants + found.examples == found.rows
    assert found.by_model == found.words == 150 * 7
    assert found.variants + found.dropped == 4 * 150


def test_a_pair_varies_in_one_text_at_a_time(model: Path, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tsv"
    found = unmask.augment(model, train, out, SHORT, text="first", pair="second", label="label", workers=1)
    _, *given = rows_of(train)
    _, *rows = rows_of(out)
    place = -1
    changed = [0, 0]
    for row in rows:
        if place + 1 < len(given) and row == given[place + 1]:
            place += 1
            continue
        same = [row[column] == given[place][column] for column in (0, 1)]
        assert sorted(same) == [False, True]
        changed[same.index(False)] += 1
    assert min(changed) > 100
    assert found.texts == 300


def test_any_number_of_workers_and_a_kill_give_the_same_file(
    model: Path, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def run(name: str, workers: int = 1, config: AugmentationConfig = SHORT) -> str:
        unmask.augment(model, train, tmp_path / name, config, text="first", label="label", workers=workers)
        return (tmp_path / name).read_text()

    whole = run("whole.tsv")
    assert run("two.tsv", workers=2) == whole

    class Killed(Exception):
        pass

    write, kept = module.Parts.write, []

    def killed(self: module.Parts, number: int, content: object) -> None:
        if kept:
            raise Killed
        kept.append(number)
        write(self, number, content)

    with monkeypatch.context() as patched:
        patched.setattr(module.Parts, "write", killed)
        with pytest.raises(Killed):
            run("killed.tsv")
    assert not (tmp_path / "killed.tsv").exists()
    follow(
        lambda: run("killed.tsv", config=AugmentationConfig(copies=5, candidates=5, context=16)),
        "augment: ... killed.tsv.partial was begun with other values of copies; give the same ones to go on, or remove "
        "it to start afresh: rm -r ",
    )
    made: list[int] = []
    monkeypatch.setattr(
        module.Parts, "write", lambda self, number, content: (made.append(number), write(self, number, content))
    )
    assert run("killed.tsv") == whole
    assert made == [64, 128], "the first part is not made again"
    assert not (tmp_path / "killed.tsv.partial").exists()


def test_two_commands_do_not_write_one_file(model: Path, train: Path, tmp_path: Path) -> None:
    def run(name: str) -> Callable[[], object]:
        return lambda: unmask.augment(model, train, tmp_path / name, SHORT, text="first", workers=1)

    with Parts(tmp_path / "out.tsv", {}):
        follow(
            run("out.tsv"),
            "augment: another process works in ... out.tsv.partial; wait for it, or give another --out",
            run("other.tsv"),
        )
    run("out.tsv")()


def test_words_to_keep_and_vectors(model: Path, train: Path, tmp_path: Path) -> None:
    pytest.importorskip("gensim")
    words = ["catwall", "millriver", "wallcat"]
    (tmp_path / "long.tsv").write_text("text\n" + "\n".join(words) + "\n")
    (tmp_path / "vectors.txt").write_text("".join(f"{word} {place} 1\n" for place, word in enumerate([*words, "a"])))
    (tmp_path / "keep.txt").write_text("Catwall\n")
    config = AugmentationConfig(
        copies=4, context=16, probability=1.0, vectors=str(tmp_path / "vectors.txt"), keep=str(tmp_path / "keep.txt")
    )
    found = unmask.augment(model, tmp_path / "long.tsv", tmp_path / "out.tsv", config, workers=1)
    assert (found.words, found.by_model, found.by_vectors, found.unchanged) == (2, 0, 2, 1)
    rows = [row[0] for row in rows_of(tmp_path / "out.tsv")[1:]]
    assert set(words) <= set(rows) <= {*words, "a"}
    assert rows[0] == "catwall"


def test_the_command_says_how_much_changed(
    model: Path, train: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    options = ["--data.text", "first", "--data.label", "label", "--context", "16", "--copies", "2", "--workers", "1"]
    assert main(["augment", str(model), str(train), "--out", str(out), *options]) == 0
    told = capsys.readouterr().out
    assert "150 examples became " in told
    assert "1,050 words: 1,050 have candidates from the model, 0 from vectors, 0 stay as they are" in told
    assert out.read_text().startswith('{"first": "0 the cat sat on the warm wall", "label": "0"}\n')


def test_the_options_have_the_defaults_of_the_settings() -> None:
    options = {field.name: field.default for field in fields(Options)}
    for field in fields(AugmentationConfig):
        assert options[field.name] == field.default


def test_refusals(model: Path, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tsv"

    def run(file: Path = train, config: AugmentationConfig = SHORT, **columns: str) -> Callable[[], object]:
        def action() -> None:
            out.unlink(missing_ok=True)
            unmask.augment(model, file, out, config, workers=1, **({"text": "first"} | columns))

        return action

    numbers = tmp_path / "numbers.tsv"
    numbers.write_text("first\n1 2 3\n4\n")
    follow(
        run(numbers),
        "augment: no text of ... numbers.tsv has a variant: 0 words with a letter, 0 with candidates; give a model "
        "whose tokenizer knows these words whole, --vectors, or a larger --probability",
    )
    assert not out.exists()
    assert not (tmp_path / "out.tsv.partial").exists()
    follow(run(text="firs"), "has no column 'firs', ... the nearest is 'first'; name the right one", run(text="first"))
    assert "has no column 'labels'" in refusal(run(label="labels"))
    assert "the model reads 24; lower --context" in refusal(run(config=AugmentationConfig()))
    unmask.Encoder(EncoderConfig(vocab_size=120, hidden_size=16, num_layers=1, num_heads=1)).save_pretrained(
        tmp_path / "bare"
    )
    Tokenizer.load(model).save(tmp_path / "bare")
    told = refusal(
        lambda: unmask.augment(tmp_path / "bare", train, tmp_path / "new.tsv", SHORT, text="first", workers=1)
    )
    assert "has no masked-LM head" in told
    (tmp_path / "kept.txt").write_text("cat\n")
    follow(
        run(config=replace(SHORT, keep=str(tmp_path / "kep.txt"))),
        "data: ... kep.txt does not exist, ... kept.txt does; give the path of a file",
        run(config=replace(SHORT, keep=str(tmp_path / "kept.txt"))),
    )
    for name in ("new.txt", "new", "new.tsv.gz", "new.parquet"):
        told = refusal(partial(unmask.augment, model, train, tmp_path / name, SHORT, text="first", workers=1))
        assert "--out must end in .tsv, .csv, .jsonl, .json, since the suffix decides the format, got " in told
        assert told.endswith(f"; give a name such as {tmp_path / 'augmented.tsv'}")
    assert not [*tmp_path.glob("new*")]
    unmask.augment(model, train, tmp_path / "augmented.tsv", SHORT, text="first", workers=1)
    follow(run(encoding="ebcdic"), "knows no encoding of text called 'ebcdic'; give ", run(encoding="utf-8"))
    run()()
    follow(
        lambda: unmask.augment(model, train, out, SHORT, text="first", workers=1),
        "augment: ... out.tsv exists already; choose another name with --out",
        lambda: unmask.augment(model, train, tmp_path / "other.tsv", SHORT, text="first", workers=1),
    )
