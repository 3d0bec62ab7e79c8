"""The model card says what the files of a run say, and that the rest is not known."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import unmask
from unmask.commands.fill_mask import MaskFiller
from unmask.config import InitConfig, PhaseConfig, load_config, to_mapping, to_yaml
from unmask.config.load import changed_settings
from unmask.interop.find_model import ModelFolder, find_model
from unmask.train.trained_length import trained_length

SMALL = {
    "model.num_layers": 1,
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "model.intermediate_size": 32,
    "stream.workers": 0,
    "stream.max_length": 32,
    "stream.micro_batch_tokens": 256,
    "stream.held_out_fraction": 0.2,
    "train.tokens_per_step": 256,
    "train.steps": 4,
    "train.evaluate_every": 2,
    "train.save_every": 2,
    "train.threads": 1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps on a store with two sources."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("rivers", "cats|dogs"):
        lines = [json.dumps({"text": f"the {word} runs past the old mill and the {name} turn"}) for word in range(30)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), "utf-8")
    inputs = [f"rivers={folder}/rivers.jsonl", folder / "cats|dogs.jsonl"]
    unmask.prepare(inputs, folder / "store", vocab_size=120, workers=1)
    settings = SMALL | {"data.store": str(folder / "store"), "run": str(folder / "runs" / "mini"), "seed": 7}
    return unmask.pretrain(load_config("tiny", settings))


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the metadata and the text of a card."""
    _, head, text = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def rows_of(text: str, title: str) -> list[list[str]]:
    """Return the cells of the table below a title."""
    part = text.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_a_model_says_where_its_position_table_is_untrained(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unmask.export(trained, tmp_path / "out")
    said = card_of(tmp_path / "out")[1]
    assert "It was trained on sequences of at most 32 tokens. The positions from 32 on are untrained" in said
    filler = MaskFiller(trained)
    filler.fill(" ".join(["mill"] * 20 + ["[MASK]"]))
    assert not caplog.messages
    long = unmask.PretrainingModel.from_pretrained(trained).config.max_positions
    assert long > 50
    filler.fill(" ".join(["mill"] * 40 + ["[MASK]"]))
    (told,) = caplog.messages
    assert "tokens and" in told and "was trained on at most 32; the positions from 32 on are untrained" in told
    # as the card advises
    transformers = pytest.importorskip("transformers")
    advised = re.search(r"`tokenizer(\(.*\))`", said)
    assert advised is not None
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    ids = eval(f"tokenizer{advised[1]}", {"tokenizer": tokenizer, "text": "mill " * 40})["input_ids"]
    assert len(ids) == 32


def test_the_trained_length_is_that_of_the_phases_so_far_and_of_what_the_run_started_from(
    trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    found = find_model(run)
    config = load_config(run / "config.yaml", saved=True)
    two = (PhaseConfig(share=0.5, max_length=16), PhaseConfig(share=0.5, max_length=64))
    (run / "config.yaml").write_text(to_yaml(replace(config, train=replace(config.train, phases=two))))
    assert trained_length(found) == 16
    state = found.path / "training/state.json"
    facts = json.loads(state.read_text())
    for index, expected in ((0, 16), (1, 64)):
        state.write_text(json.dumps(facts | {"segment": 1, "index": index}))
        assert trained_length(found) == expected
    state.unlink()
    assert trained_length(found) == 64
    (run / "config.yaml").write_text(to_yaml(replace(config, init=InitConfig(from_="other"))))
    assert trained_length(found) is None
    for before, expected in ((128, 128), (16, 32), (None, None)):
        (run / "initial.json").write_text(json.dumps({"trained_length": before}))
        assert trained_length(found) == expected
    assert trained_length(ModelFolder(path=found.path)) is None


def test_the_card_of_a_run_says_what_its_files_say(trained: Path, tmp_path: Path) -> None:
    unmask.export(trained, tmp_path / "out", license="apache-2.0", languages=["en", "zh"])
    metadata, text = card_of(tmp_path / "out")
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["bert", "unmask"],
        "license": "apache-2.0",
        "language": ["en", "zh"],
    }
    facts = json.loads((trained / "checkpoints/step-000004/training/state.json").read_text())
    assert "# mini\n" in text
    assert f"Pre-trained with unmask {unmask.__version__}: 4 steps, {facts['tokens']:,} tokens." in text
    manifest = json.loads((trained.parents[1] / "store/manifest.json").read_text())
    expected = [[one["name"].replace("|", r"\|"), "30", f"{one['tokens']:,}"] for one in manifest["sources"]]
    assert rows_of(text, "Data") == expected
    assert "60 documents and" in text and "; 20% of the documents are held out" in text
    training = dict(rows_of(text, "Training"))
    assert training["seed"] == "7" and training["objectives"] == "mlm" and training["maximum length"] == "32 tokens"
    assert (
        training["versions"]
        == f"unmask {unmask.__version__}, torch {facts['machine']['torch']}, python " + (facts["machine"]["python"])
    )
    evaluations = [json.loads(line) for line in (trained / "evaluation.jsonl").read_text().splitlines()]
    losses = rows_of(text, "Held-out loss")
    assert [row[:2] for row in losses] == [[str(row["step"]), f"{row['loss']:.3f}"] for row in evaluations]
    assert f"has {evaluations[0]['unigram_loss']:.3f}." in text
    # neither is asked for any more
    assert "licence" not in text and "languages" not in text
    # no path of this machine
    assert str(trained.parents[1]) not in text


def test_the_settings_on_the_card_train_the_same(trained: Path, tmp_path: Path) -> None:
    unmask.export(trained, tmp_path / "out")
    _, text = card_of(tmp_path / "out")
    (tmp_path / "settings.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    again = load_config(tmp_path / "settings.yaml", {"data.store": str(trained.parents[1] / "store")})
    before, now = (to_mapping(config) for config in (load_config(trained / "config.yaml"), again))
    assert now | {"run": None} == before | {"run": None}
    assert changed_settings(now)["train"]["steps"] == 4


def test_the_card_of_an_older_checkpoint_ends_there(trained: Path, tmp_path: Path) -> None:
    unmask.export(trained / "checkpoints/step-000002", tmp_path / "out")
    _, text = card_of(tmp_path / "out")
    assert ": 2 steps," in text
    assert [row[0] for row in rows_of(text, "Held-out loss")] == ["0", "2"]


def test_a_long_table_of_losses_is_thinned_and_keeps_its_ends(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    row = json.loads((run / "evaluation.jsonl").read_text().splitlines()[0])
    (run / "checkpoints/step-000002").rename(tmp_path / "step-000002")
    lines = [json.dumps(row | {"step": step / 25}) for step in range(101)]
    (run / "evaluation.jsonl").write_text("\n".join(lines) + "\n")
    unmask.export(run, tmp_path / "out")
    steps = [row[0] for row in rows_of(card_of(tmp_path / "out")[1], "Held-out loss")]
    assert len(steps) == 10 and float(steps[0]) == 0 and float(steps[-1]) == 4


@pytest.mark.parametrize("gone", ["store", "evaluation.jsonl", "other store"])
def test_what_is_gone_is_left_out(gone: str, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    store = str(trained.parents[1] / "store")
    if gone == "evaluation.jsonl":
        (run / gone).unlink()
    elif gone == "store":
        (run / "config.yaml").write_text(text.replace(store, str(tmp_path / "nothing")))
    else:
        (tmp_path / "text.txt").write_text("another text with other words\n" * 20)
        unmask.prepare(tmp_path / "text.txt", tmp_path / "other", vocab_size=110, workers=1)
        (run / "config.yaml").write_text(text.replace(store, str(tmp_path / "other")))
    unmask.export(run, tmp_path / "out")
    metadata, text = card_of(tmp_path / "out")
    assert ("## Held-out loss" in text) == (gone != "evaluation.jsonl")
    assert ("The store of the text was not at hand" in text) == (gone != "evaluation.jsonl")
    assert "license" not in metadata and "language" not in metadata
    assert "- Under which licence the model may be used.\n- Which languages it knows.\n" in text


def test_a_run_that_started_from_another_model_says_which(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    initial = {"from": "org/name@v1", "hub": "org/name@v1", "step": None, "new_entries": 12}
    (run / "initial.json").write_text(json.dumps(initial))
    unmask.export(run, tmp_path / "out")
    metadata, text = card_of(tmp_path / "out")
    assert metadata["base_model"] == "org/name"
    assert dict(rows_of(text, "Training"))["started from"] == "org/name@v1, with 12 new entries in the vocabulary"


def test_the_card_of_a_folder_says_only_what_the_folder_knows(model_folder: Path, tmp_path: Path) -> None:
    unmask.export(model_folder, tmp_path / "plain")
    metadata, text = card_of(tmp_path / "plain")
    assert metadata == {"library_name": "transformers", "pipeline_tag": "fill-mask", "tags": ["bert", "unmask"]}
    assert re.findall("^## (.*)", text, re.MULTILINE) == ["How to load it", "What this card does not say"]
    assert "- How the model was trained, and on which text: the folder that it was read from does not say.\n" in text
    # the licence of a card that is there stays, unless another one is given
    (model_folder / "README.md").write_text("---\nlicense: mit\nlanguage: [de]\ndatasets: [x]\n---\n# mine\n")
    unmask.export(model_folder, tmp_path / "kept")
    assert {"license": "mit", "language": ["de"]}.items() <= card_of(tmp_path / "kept")[0].items()
    unmask.export(model_folder, tmp_path / "given", license="apache-2.0")
    assert card_of(tmp_path / "given")[0]["license"] == "apache-2.0"
    for odd in ("---\nlicense: [\n---\n", "no head", b"\xff\xfe", "---\n- a\n---\n"):
        (model_folder / "README.md").write_bytes(odd if isinstance(odd, bytes) else odd.encode())
        shutil.rmtree(tmp_path / "odd", ignore_errors=True)
        unmask.export(model_folder, tmp_path / "odd")
        assert "license" not in card_of(tmp_path / "odd")[0]


@pytest.mark.parametrize("heads", [("mlm",), ("mlm", "nsp")])
def test_the_code_on_the_card_loads_the_model(model_folder: Path, tmp_path: Path, heads: tuple[str, ...]) -> None:
    pytest.importorskip("transformers")
    config = unmask.Encoder.from_pretrained(model_folder).config
    unmask.PretrainingModel(config, heads=heads).save_pretrained(model_folder)
    exported = unmask.export(model_folder, tmp_path / "out")
    code = card_of(tmp_path / "out")[1].split("```python\n")[1].split("```")[0]
    assert f"{exported.loader}.from_pretrained(" in code
    found: dict[str, Any] = {}
    exec(code.replace("FOLDER", str(tmp_path / "out")), found)
    assert type(found["model"]).__name__ == ("BertForMaskedLM" if len(heads) == 1 else "BertForPreTraining")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"license": "Apache 2"}, "--license must be an identifier of the Hugging Face Hub, such as apache-2.0"),
        ({"languages": ["en", "English"]}, "--language must be codes of ISO 639, .* got 'English'"),
    ],
)
def test_what_the_hub_would_refuse_on_a_card_is_refused(
    given: dict[str, Any], message: str, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        unmask.export(model_folder, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
