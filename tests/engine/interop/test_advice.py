"""Advice in the errors of model folders: whoever follows it gets the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import unmask
from unmask.errors import CheckpointError

Change = Callable[[Path], object]
Weights = dict[str, torch.Tensor]
TABLE = "bert.embeddings.word_embeddings.weight"
PROJECTION = "cls.predictions.decoder.weight"
CONFIG = unmask.EncoderConfig(
    vocab_size=40, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=12, max_positions=16
)


def set_config(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def set_weights(make: Callable[[Weights], Weights]) -> Change:
    def change(folder: Path) -> None:
        weights = make(load_file(folder / "model.safetensors"))
        save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")

    return change


def longer(name: str) -> Change:
    return set_weights(lambda weights: weights | {name: torch.cat([weights[name], weights[name][:3]])})


def renamed(old: str, new: str) -> Change:
    return set_weights(lambda weights: {name.replace(old, new, 1): value for name, value in weights.items()})


def without(begin: str) -> Change:
    return set_weights(lambda weights: {name: value for name, value in weights.items() if not name.startswith(begin)})


def all_of(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


# what is wrong with the folder, the end of the error, and what it advises
CASES: dict[str, tuple[Change, str, Change]] = {
    "more positions": (
        longer("bert.embeddings.position_embeddings.weight"),
        "set max_position_embeddings to 19",
        set_config(max_position_embeddings=19),
    ),
    "more segments": (
        longer("bert.embeddings.token_type_embeddings.weight"),
        "set type_vocab_size to 4",
        set_config(type_vocab_size=4),
    ),
    "a padded table": (
        all_of(longer(TABLE), set_weights(lambda w: w | {"cls.predictions.bias": torch.zeros(43)})),
        "set vocab_size to 43 if the table was padded",
        set_config(vocab_size=43),
    ),
    "not tied": (
        set_config(tie_word_embeddings=False),
        "set it to true if the token table is the projection, or read the encoder alone with "
        "unmask.Encoder.from_pretrained",
        set_config(tie_word_embeddings=True),
    ),
    "another prefix": (
        renamed("bert.", "mine."),
        "if they are BERT's, rename them so that they begin with 'bert.'",
        renamed("mine.", "bert."),
    ),
    "two encoders": (
        set_weights(lambda w: w | {f"other.{TABLE}": w[TABLE].clone()}),
        "save the one to be read alone",
        without("other."),
    ),
    "another class": (
        all_of(
            set_config(architectures=["MyEncoder"]),
            lambda folder: (folder / "config.json").write_text(
                json.dumps(
                    {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if k != "model_type"}
                )
            ),
        ),
        "set model_type to 'bert' if it is BERT under another name",
        set_config(model_type="bert"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_folder_changed_as_its_error_advises_is_read(case: str, tmp_path: Path) -> None:
    broken, advice, mended = CASES[case]
    unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(tmp_path)
    broken(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        unmask.PretrainingModel.from_pretrained(tmp_path)
    assert str(raised.value).endswith(f"; {advice}"), raised.value
    mended(tmp_path)
    assert unmask.PretrainingModel.from_pretrained(tmp_path).config.num_layers == 1


@pytest.mark.parametrize("other", [PROJECTION, "cls.predictions.decoder.bias"])
def test_the_encoder_of_a_folder_with_an_untied_projection_is_read(other: str, tmp_path: Path) -> None:
    unmask.PretrainingModel(CONFIG, seed=5).save_pretrained(tmp_path)
    original = TABLE if other == PROJECTION else "cls.predictions.bias"
    set_weights(lambda weights: weights | {other: weights[original] + 1})(tmp_path)
    with pytest.raises(CheckpointError, match=r"read the encoder alone with unmask\.Encoder\.from_pretrained$"):
        unmask.PretrainingModel.from_pretrained(tmp_path)
    assert unmask.Encoder.from_pretrained(tmp_path).config == CONFIG


def test_the_folder_inside_that_an_error_names_is_read(tmp_path: Path) -> None:
    unmask.PretrainingModel(CONFIG).save_pretrained(tmp_path / "trainer/checkpoint-10")
    with pytest.raises(CheckpointError) as raised:
        unmask.Encoder.from_pretrained(tmp_path / "trainer")
    advised = str(raised.value).rpartition("; ")[2].removesuffix(" has one")
    assert unmask.Encoder.from_pretrained(advised).config == CONFIG


def test_weights_under_another_name_are_read_when_renamed(tmp_path: Path) -> None:
    unmask.PretrainingModel(CONFIG).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match=r"; best\.safetensors is there, rename it if it holds the weights$"):
        unmask.Encoder.from_pretrained(tmp_path)
    (tmp_path / "best.safetensors").rename(tmp_path / "model.safetensors")
    assert unmask.Encoder.from_pretrained(tmp_path).config == CONFIG
