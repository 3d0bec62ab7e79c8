"""`unmask analyse` of a store takes the settings of a run; the advice in its errors works."""

import json
import random
import re
import shlex
from pathlib import Path

import pytest

from unmask import analyse
from unmask.cli import main
from unmask.data.store import Store
from unmask.errors import RunError

pytest.importorskip("matplotlib")

SMALL = ["--micro-batches", "2", "--stream.micro_batch_tokens", "2048"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chinese words between blanks."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(1)
    for number in range(40):
        lines = (f"{draw.choice(('猫咪', '小狗'))} 睡 在 {draw.choice(('磨坊', '谷仓'))} 旁边 。\n" for _ in range(20))
        (folder / f"{number:02}.txt").write_text("".join(lines), encoding="utf-8")
    made = folder / "the store"
    options = ["--segmenter", "spaces", "--vocab-size", "100", "--out", str(made)]
    assert main(["prepare", "--input", str(folder), *options]) == 0
    return made


@pytest.fixture(scope="module")
def table(store: Path) -> Path:
    path = store.parent / "similar.tsv"
    path.write_text(
        "猫咪\t小狗:0.9\n小狗\t猫咪:0.9\n磨坊\t谷仓:0.8\n谷仓\t磨坊:0.8\n旁边\t谷仓:0.5\n睡\t在:0.3\n在\t睡:0.3\n",
        "utf-8",
    )
    return path


def numbers(store: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(
        (store.with_name(f"{store.name}-analysis") / "analysis.json").read_text("utf-8")
    )
    return found


def test_a_recipe_and_a_table_describe_what_macbert_would_read(
    store: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["analyse", str(store), "--recipe", "macbert", "--masking.similar_words", str(table), *SMALL]
    assert main(command) == 0, capsys.readouterr().err
    assert "become a similar word" in capsys.readouterr().out
    masks = numbers(store)["masks"]
    assert masks["mask_tokens"] == 0
    assert masks["similar"] > 0.5
    assert 0.3 < numbers(store)["packing"]["second_label"] < 0.7


def test_the_held_out_documents_and_their_tokens_are_those_of_the_store(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Store.open(store)
    held_out = opened.held_out_mask(0.2)
    counts = f"| {held_out.sum()} | {opened.lengths[held_out].sum():,} |"
    command = ["analyse", str(store), "--stream.held_out_fraction", "0.2", "-o", str(tmp_path), *SMALL]
    assert main(command) == 0, capsys.readouterr().err
    told = re.sub(" +", " ", capsys.readouterr().out)
    assert counts in told.partition("## Held-out text")[2]


@pytest.mark.parametrize("spelling", ["--data.similar-words", "--masking.similar-words"])
def test_a_table_alone_goes_with_its_strategy(
    store: Path, table: Path, spelling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # the path may stand behind the settings
    assert main(["analyse", "--masking.strategy", "mac", spelling, str(table), str(store), *SMALL]) == 0, (
        capsys.readouterr().err
    )
    assert numbers(store)["masks"]["similar"] > 0.5


def test_settings_are_laid_over_the_recipe(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", str(store), "--masking.rate", "0.4", "--stream.max_length=64", *SMALL]) == 0
    assert "[MASK]" in capsys.readouterr().out
    assert 0.35 < numbers(store)["masks"]["rate"] < 0.42
    assert numbers(store)["sequences"]["longest"] <= 64


def test_without_a_table_the_command_in_the_error_makes_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gensim")
    monkeypatch.chdir(tmp_path)
    command = ["analyse", str(store), "--recipe", "macbert", *SMALL]
    assert main(command) == 2
    advice = re.search(r"make a table with `unmask (.+)`, and add (.+)$", capsys.readouterr().err.strip())
    assert advice is not None
    assert main(shlex.split(advice[1])) == 0, capsys.readouterr().err
    assert main([*command, *shlex.split(advice[2])]) == 0, capsys.readouterr().err
    assert numbers(store)["masks"]["similar"] > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--masking.rat", "0.2"], "--masking.rat is not an option; did you mean --masking.rate"),
        (["--data.store", "other"], "is the store to analyse; leave --data.store out"),
        (["--micro-batches", "0"], "--micro-batches must be at least 1, got 0"),
        (["--recipe", "macbrt"], "no recipe or file is called 'macbrt'; did you mean macbert"),
    ],
)
def test_bad_options_are_refused(
    store: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyse", str(store), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_run_keeps_its_own_settings(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(RunError, match=r"has its own configuration; leave --masking\.rate out"):
        analyse(tmp_path, settings={"masking.rate": 0.3})
    with pytest.raises(RunError, match="has its own configuration; leave --recipe macbert out"):
        analyse(tmp_path, recipe="macbert")


def test_an_earlier_analysis_is_replaced_with_a_word_and_kept_in_another_folder(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "first"
    command = ["analyse", str(store), *SMALL, "-o"]
    assert main([*command, str(out)]) == 0
    assert "earlier" not in capsys.readouterr().err
    (out / "distraction.png").write_text("of a run")
    (out / "mine.txt").write_text("stays")
    assert main([*command, str(out)]) == 0
    assert f"the earlier analysis in {out} is replaced; --out FOLDER keeps it" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == [
        *("analysis.json", "burstiness.png", "lengths.png", "mine.txt", "ngrams.png", "tables.md")
    ]
    kept = (out / "analysis.json").read_bytes()
    assert main([*command, str(tmp_path / "second"), "--masking.rate", "0.3"]) == 0
    assert (out / "analysis.json").read_bytes() == kept
    assert main([*command, str(out / "mine.txt")]) == 2
    assert "mine.txt is a file, where a folder is to be; give another one with --out" in capsys.readouterr().err


def test_a_store_that_exists_is_described_in_one_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", str(store), *SMALL]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(store)) and "docum" in line]
    assert "40 documents" in line
    assert main(["prepare", "--input", str(store), "--out", str(store.with_name("again"))]) == 0
    assert "tokens per document:" in capsys.readouterr().out


def test_the_axis_of_lengths_has_plain_numbers(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    labels: list[str] = []
    original = Figure.savefig

    def savefig(figure: Figure, *arguments: object, **options: object) -> None:
        original(figure, *arguments, **options)  # type: ignore[arg-type]
        axes = figure.axes[0]
        if axes.get_xscale() == "log":
            labels.extend(label.get_text() for label in axes.get_xticklabels(which="both"))

    monkeypatch.setattr(Figure, "savefig", savefig)
    found = analyse(store, micro_batches=2, settings={"stream.micro_batch_tokens": 2048})
    found.write(store.parent / "plots")
    assert {"1", "10", "100"} <= set(labels)
    assert not any("$" in label for label in labels)
    assert found.sequences.edges[-1] == found.sequences.longest <= 128
    assert "runs of 1 word " in found.tables()
