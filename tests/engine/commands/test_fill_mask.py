"""`unmask.fill_mask`: tokens with their probabilities, from a folder or from a model that is read once."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

import unmask
from unmask.cli import main
from unmask.commands.fill_mask import MaskFiller, fill_text
from unmask.errors import UnmaskError


def test_predictions_are_those_of_the_logits_at_the_mask(model_folder: Path) -> None:
    import torch

    from unmask import PretrainingModel, pack
    from unmask.data.tokenizer import Tokenizer

    model, tokenizer = PretrainingModel.from_pretrained(model_folder), Tokenizer.load(model_folder)
    (predictions,) = fill_text(model, tokenizer, "the old [MASK] turns", top=tokenizer.vocab_size + 1)
    inside = tokenizer.encode_batch(["the old", "turns"])
    ids = [tokenizer.cls_id, *inside[0], tokenizer.mask_id, *inside[1], tokenizer.sep_id]
    with torch.no_grad():
        hidden = model(pack([ids]))
        truth = model.mlm_logits(hidden)[1 + len(inside[0])].softmax(-1)
    assert len(predictions) == tokenizer.vocab_size
    assert sum(prediction.probability for prediction in predictions) == pytest.approx(1, abs=1e-5)
    best = int(truth.argmax())
    assert predictions[0].token == tokenizer.token(best)
    assert predictions[0].probability == pytest.approx(float(truth[best]), rel=1e-5)


def test_an_added_special_token_in_a_text_is_whole(model_folder: Path) -> None:
    from unmask.data.tokenizer import Tokenizer
    from unmask.model import EncoderConfig, PretrainingModel

    path = model_folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"additional_special_tokens": ["[USER]"]}))
    tokenizer = Tokenizer.load(model_folder)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        max_positions=6,
    )
    # [CLS] [USER] the [MASK] cat [SEP] fill the six positions
    (best,) = fill_text(PretrainingModel(config, seed=3), tokenizer, "[USER] the [MASK] cat", top=tokenizer.vocab_size)
    assert "[USER]" in [prediction.token for prediction in best]


def test_the_function_gives_what_the_command_prints(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "the [MASK] sat on a [MASK]"
    found = unmask.fill_mask(str(run_folder), text, top=3)
    assert [len(predictions) for predictions in found] == [3, 3]
    assert all(0 < one.probability < 1 for predictions in found for one in predictions)
    assert main(["fill-mask", str(run_folder), text, "--top", "3"]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if "%" in line]
    assert printed == [f"  {one.probability:6.1%}  {one.token}" for predictions in found for one in predictions]


def test_a_model_that_is_read_once_fills_any_number_of_texts(run_folder: Path) -> None:
    filler = MaskFiller(run_folder)
    assert filler.folder == run_folder / "checkpoints" / "step-000020" and filler.step == 20
    (run_folder / "checkpoints").rename(run_folder / "elsewhere")
    assert filler.fill("the [MASK]") == filler.fill("the [MASK]")
    assert len(filler.fill("a [MASK] on [MASK]", top=2)[1]) == 2


def test_a_model_that_never_saw_a_mask_is_named_in_a_warning_or_refused(
    run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run_folder / "config.yaml").write_text("masking: {strategy: mac, similar_words: table.tsv}\n")
    with caplog.at_level(logging.WARNING, "unmask"):
        assert len(unmask.fill_mask(run_folder, "the [MASK]")[0]) == 5
    assert "(masking.strategy 'mac') never showed it [MASK]" in caplog.text
    (run_folder / "config.yaml").write_text("objective: {mlm: 0, clm: 1}\nmodel: {causal: true}\n")
    with pytest.raises(UnmaskError, match=r"trained without objective\.mlm .*; take a run with it$"):
        unmask.fill_mask(run_folder, "the [MASK]")


@pytest.mark.parametrize("text", ["no gap here", "a <mask>", "the " * 40 + "[MASK]"])
def test_a_text_that_cannot_be_filled_has_the_sentence_of_the_command(
    text: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnmaskError) as caught:
        unmask.fill_mask(model_folder, text)
    assert main(["fill-mask", str(model_folder), text]) == 2
    assert capsys.readouterr().err == f"unmask: {caught.value}\n"
