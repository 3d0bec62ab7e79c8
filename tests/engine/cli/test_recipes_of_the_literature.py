"""MacBERT's recipe and a causal model across documents, from text to `unmask analyse`, at a size of seconds."""

import json
import random
import re
from pathlib import Path

import pytest

from unmask import analyse
from unmask.cli import main
from unmask.train.logging.log import read_evaluations, read_log

SMALL = [
    *("--model.num-layers", "2", "--model.hidden-size", "32", "--model.num-heads", "2"),
    *("--model.intermediate-size", "64", "--model.max-positions", "64", "--stream.max_length", "64"),
    *("--train.tokens-per-step", "512", "--stream.micro_batch_tokens", "512", "--optimizer.warmup_steps", "2"),
    *("--train.log-every", "3", "--train.evaluate-every", "6", "--train.evaluate-tokens", "1024"),
    *("--train.save-every", "6", "--stream.held_out_fraction", "0.1", "--train.steps", "6"),
]
PLACES = {"river": "valley", "cat": "garden", "miller": "mill", "boat": "harbour", "fox": "forest", "ship": "sea"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(1)
    with (folder / "docs.jsonl").open("w", encoding="utf-8") as out:
        for _ in range(300):
            subjects = draw.choices(sorted(PLACES), k=draw.randint(3, 8))
            text = " ".join(f"The {subject} is in the {PLACES[subject]}." for subject in subjects)
            out.write(json.dumps({"text": text}) + "\n")
    made = folder / "store"
    assert main(["prepare", "--input", str(folder / "docs.jsonl"), "--vocab-size", "200", "--out", str(made)]) == 0
    return made


@pytest.fixture(scope="module")
def table(store: Path) -> Path:
    """Neighbours of every word among all others, so that some have the same length."""
    words = ["the", "is", "in", *PLACES, *PLACES.values()]
    path = store.parent / "similar.tsv"
    lines = [f"{word}\t" + " ".join(f"{other}:0.5" for other in words if other != word) for word in words]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def pretrain(store: Path, run: Path, *more: str) -> int:
    return main(["pretrain", "--data.store", str(store), "--run", str(run), *SMALL, *more])


MACBERT = [
    *("--masking.strategy", "mac", "--composition.strategy", "pairs", "--objective.sop", "1.0"),
    *("--masking.split", "0.8", "0.1", "0.1"),
]


def test_a_macbert_run_trains_both_losses_and_is_analysed_and_exported(
    tmp_path: Path, store: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    run = tmp_path / "run"
    assert pretrain(store, run, *MACBERT, "--masking.similar_words", str(table)) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    covered = re.search(r"similar words: .*; they are (\d+)% of the words of the text", told)
    assert covered is not None, told
    assert int(covered[1]) > 50
    assert "are few; one" not in told
    assert f"try: unmask analyse {run}" in told
    row = read_log(run)[-1]
    assert {"mlm_loss", "sop_loss", "sop_accuracy", "masked_accuracy", "perplexity"} <= row.keys()
    assert {"sop_loss", "sop_accuracy", "sop_count", "perplexity"} <= read_evaluations(run)[-1].keys()

    assert main(["analyse", str(run), "--micro-batches", "8"]) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "words chosen as a whole" in printed
    numbers = json.loads((run / "analysis" / "analysis.json").read_text(encoding="utf-8"))
    assert numbers["masks"]["mask_tokens"] == 0
    assert numbers["masks"]["intact"] == 1.0
    assert numbers["masks"]["similar"] > 0.5
    assert numbers["sequences"]["longest"] <= 64
    assert 0.3 < numbers["packing"]["second_label"] < 0.7
    for name in ("lengths", "ngrams", "burstiness", "distraction"):
        assert (run / "analysis" / f"{name}.png").stat().st_size > 1000

    assert main(["fill-mask", str(run), "the [MASK]"]) == 0
    assert "never showed it [MASK]" in capsys.readouterr().err
    assert main(["export", str(run), str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["BertForPreTraining"]


def test_a_table_that_has_few_words_of_the_text_is_told(
    tmp_path: Path, store: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.tsv"
    few.write_text(table.read_text("utf-8").splitlines()[0] + "\n", "utf-8")
    assert pretrain(store, tmp_path / "run", *MACBERT, "--masking.similar_words", str(few), "--train.steps", "1") == 0
    assert "of the words of the text are few; one without a similar word is seldom" in capsys.readouterr().out


def test_a_causal_run_across_documents_is_analysed_and_its_export_refused_by_name(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    run = tmp_path / "run"
    causal = ["--objective.clm", "1.0", "--objective.mlm", "0.0", "--model.causal", "--composition.strategy", "mix"]
    assert pretrain(store, run, *causal, "--composition.scope", "sequence") == 0, capsys.readouterr().err
    assert {"loss", "perplexity", "clm_accuracy"} <= read_log(run)[-1].keys()
    assert main(["analyse", str(run), "--micro-batches", "8", "-o", str(tmp_path / "found")]) == 0
    numbers = json.loads((tmp_path / "found" / "analysis.json").read_text(encoding="utf-8"))
    assert numbers["masks"] is None
    assert not (tmp_path / "found" / "ngrams.png").exists()
    distraction = numbers["distraction"]
    assert distraction["reference"] > 0.1
    assert max(abs(layer - distraction["reference"]) for layer in distraction["layers"]) < 0.05
    capsys.readouterr()
    assert main(["export", str(run), str(tmp_path / "out")]) == 2
    refused = capsys.readouterr().err
    assert "transformers cannot compute this model, which has causal=True; read it with unmask." in refused
    from unmask.model import PretrainingModel

    advised = refused.partition("PretrainingModel.from_pretrained('")[2].partition("'")[0]
    assert PretrainingModel.from_pretrained(advised).config.causal
    assert main(["fill-mask", str(run), "the [MASK]"]) == 2
    assert "was trained without objective.mlm" in capsys.readouterr().err


def test_a_model_inside_documents_has_no_distraction_beside_a_reference(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    run = tmp_path / "run"
    assert pretrain(store, run, "--composition.strategy", "mix", "--masking.strategy", "span") == 0, (
        capsys.readouterr().err
    )
    checkpoint = run / "checkpoints" / "step-000006"
    assert main(["analyse", str(checkpoint), "--micro-batches", "4"]) == 0, capsys.readouterr().err
    numbers = json.loads((run / "analysis" / "analysis.json").read_text(encoding="utf-8"))
    assert numbers["distraction"]["layers"] == [0.0, 0.0]
    assert numbers["distraction"]["reference"] > 0.1


def test_a_store_is_analysed_as_a_recipe_reads_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["analyse", str(store), "--micro-batches", "2"]) == 0, capsys.readouterr().err
    numbers = json.loads((store.parent / "store-analysis" / "analysis.json").read_text(encoding="utf-8"))
    assert numbers["distraction"] is None
    assert numbers["packing"]["fill"] > 0.9
    (documents,) = numbers["documents"].values()
    assert documents["count"] == 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{missing}"], "absent does not exist; give a run, one of its checkpoints, or a store"),
        (["{empty}"], "must be a run directory (config.yaml), one of its checkpoints, or a store"),
        (["{store}", "--micro-batches", "0"], "--micro-batches must be at least 1, got 0"),
        (["{run}", "--recipe", "tiny"], "has its own configuration; leave --recipe tiny out"),
    ],
)
def test_analyse_refuses_what_it_cannot_read(
    tmp_path: Path, store: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"missing": tmp_path / "absent", "empty": empty, "store": store, "run": tmp_path}
    filled = [argument.format(**places) for argument in arguments]
    assert main(["analyse", *filled]) == 2
    assert message in capsys.readouterr().err


def test_a_run_in_phases_is_analysed_at_its_last_length(tmp_path: Path, store: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {phases: [{share: 0.9, max_length: 16}, {share: 0.1, max_length: 64}]}")
    assert analyse(store, recipe=str(recipe), micro_batches=2).sequences.longest > 16


def test_masks_made_on_the_device_are_analysed_as_those_of_the_host(tmp_path: Path, store: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    found = []
    for place in ("host", "device"):
        recipe.write_text(f"data: {{max_length: 64, masking: whole_word, mask_on: {place}}}")
        found.append(analyse(store, recipe=str(recipe), micro_batches=2).masks)
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[0].intact == 1
