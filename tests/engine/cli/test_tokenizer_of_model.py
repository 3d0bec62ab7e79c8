"""A model and a tokenizer that do not belong together are refused by everything that loads both."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.commands.fill_mask import fill_text
from unmask.data.tokenizer import Tokenizer


def change_vocabulary(folder: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Rewrite the vocabulary of the tokenizer in `folder`."""
    tokens = change((folder / "vocab.txt").read_text().splitlines())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    Tokenizer.load(folder).save(folder)


CHANGES = {
    "smaller": (lambda tokens: tokens[:-1], "gives other ids"),
    "larger": (lambda tokens: [*tokens, "##zzz"], "tokens, the model"),
    "permuted": (lambda tokens: [*tokens[:-2], tokens[-1], tokens[-2]], "gives other ids"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_another_vocabulary_is_refused(
    kind: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "exported"
    assert main(["export", str(model_folder), str(exported)]) == 0
    change, reason = CHANGES[kind]
    change_vocabulary(exported, change)
    for command in (["fill-mask", str(exported), "a [MASK]"], ["export", str(exported), str(tmp_path / "again")]):
        capsys.readouterr()
        assert main(command) == 2
        told = capsys.readouterr().err
        assert reason in told
        assert "put the tokenizer that the model was trained with into the folder" in told
    assert not (tmp_path / "again").exists()


def test_a_folder_that_records_no_tokenizer_passes_by_its_size(model_folder: Path) -> None:
    assert "tokenizer_hash" not in (model_folder / "config.json").read_text()
    assert main(["fill-mask", str(model_folder), "a [MASK]"]) == 0


def test_a_model_of_before_special_tokens_were_whole_says_how_to_use_it(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    (model_folder / "tokenizer.json").unlink()
    token = (model_folder / "vocab.txt").read_text().splitlines()[-1]
    path.write_text(json.dumps(settings | {"additional_special_tokens": [token]}))
    tokenizer = Tokenizer.load(model_folder)
    config = json.loads((model_folder / "config.json").read_text())
    recorded = config | {"tokenizer_hash": tokenizer.hash_without_added_special}
    (model_folder / "config.json").write_text(json.dumps(recorded))
    assert main(["fill-mask", str(model_folder), "a [MASK]"]) == 2
    told = capsys.readouterr().err
    assert f"special tokens such as {token} in a text were cut into pieces" in told
    assert "take the line tokenizer_hash out of config.json there" in told
    # as the message says
    copied = Path(shutil.copytree(model_folder, tmp_path / "copied"))
    (copied / "config.json").write_text(json.dumps(config))
    assert main(["fill-mask", str(copied), "a [MASK]"]) == 0
    assert main(["export", str(copied), str(tmp_path / "exported")]) == 0


def pad_table(folder: Path, unit: int) -> int:
    """Give the model in `folder` as many rows more as trainers do, ones that win every prediction; returns the rows."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = rows = -(-(config["vocab_size"] + 1) // unit) * unit
    table, bias = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
    more = rows - len(weights[table])
    weights[table] = torch.cat([weights[table], torch.zeros(more, weights[table].shape[1])])
    weights[bias] = torch.cat([weights[bias], torch.full((more,), 1e4)])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return int(rows)


@pytest.mark.parametrize("unit", [8, 64])
def test_rows_that_pad_the_table_are_kept_and_never_predicted(
    unit: int, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    from unmask import PretrainingModel

    tokenizer = Tokenizer.load(model_folder)
    text = "the old [MASK] turns"
    expected = fill_text(PretrainingModel.from_pretrained(model_folder), tokenizer, text, top=500)
    rows = pad_table(model_folder, unit)
    padded = PretrainingModel.from_pretrained(model_folder)
    found = fill_text(padded, tokenizer, text, top=500)
    assert [[p.token for p in one] for one in found] == [[p.token for p in one] for one in expected]
    assert [p.probability for p in found[0]] == pytest.approx([p.probability for p in expected[0]], rel=1e-6)
    exported = tmp_path / "exported"
    assert main(["export", str(model_folder), str(exported)]) == 0
    assert json.loads((exported / "config.json").read_text())["vocab_size"] == rows
    before, after = (load_file(folder / "model.safetensors") for folder in (model_folder, exported))
    assert all((before[name] == after[name]).all() for name in before)
    capsys.readouterr()
    assert main(["fill-mask", str(exported), text]) == 0
    assert f"{tokenizer.vocab_size:,} tokens" in capsys.readouterr().out


def test_ids_that_no_token_has_are_never_predicted(model_folder: Path) -> None:
    """The last token but one leaves, so that its id is a gap in the vocabulary."""
    from unmask import PretrainingModel

    content = json.loads((model_folder / "tokenizer.json").read_text())
    gone = sorted(content["model"]["vocab"].items(), key=lambda entry: entry[1])[-2][0]
    del content["model"]["vocab"][gone]
    (model_folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.load(model_folder)
    (predictions,) = fill_text(PretrainingModel.from_pretrained(model_folder), tokenizer, "the [MASK]", top=500)
    assert len(predictions) == tokenizer.vocab_size - 1
    assert gone not in [prediction.token for prediction in predictions]
    assert sum(prediction.probability for prediction in predictions) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("recorded", [7, ["a"], True, {}])
def test_a_hash_that_is_no_text_is_named(
    recorded: object, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps(config | {"tokenizer_hash": recorded}))
    assert main(["fill-mask", str(model_folder), "a [MASK]"]) == 2
    assert "config.json: tokenizer_hash must be the hash of a tokenizer, is" in capsys.readouterr().err
