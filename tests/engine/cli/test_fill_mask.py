"""`unmask fill-mask`: probabilities of the model, a head line that says what it is, and refusals."""

import json
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.cli.fill_mask import predict


def test_predictions_are_those_of_the_logits_at_the_mask(model_folder: Path) -> None:
    import torch

    from unmask import PretrainingModel, pack
    from unmask.data.tokenizer import Tokenizer

    model, tokenizer = PretrainingModel.from_pretrained(model_folder), Tokenizer.load(model_folder)
    (predictions,) = predict(model, tokenizer, "the old [MASK] turns", top=tokenizer.vocab_size + 1)
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


def test_every_mask_gets_its_own_predictions(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill-mask", str(model_folder), "[MASK] cat [MASK]", "the [MASK]", "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("%" in line for line in lines) == 9
    assert [line for line in lines if line.startswith("  [MASK]")] == ["  [MASK] 1", "  [MASK] 2"]
    assert main(["fill-mask", str(model_folder), "the [MASK]", "--top", "0"]) == 2
    assert "--top must be at least 1, got 0" in capsys.readouterr().err


def test_head_line_says_what_the_model_is(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill-mask", str(run_folder), "a [MASK]"]) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert "step-000020" in head
    assert "1 layers, 16 wide" in head
    assert head.endswith("trained for 20 steps")


def test_damaged_checkpoint_is_passed_over_and_named(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run_folder / "checkpoints" / "step-000020" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["fill-mask", str(run_folder), "a [MASK]"]) == 0
    told = capsys.readouterr()
    assert "model.safetensors" in told.err
    assert "; using step-000010 instead" in told.err and "copy it" not in told.err
    assert "trained for 10 steps" in told.out
    # looking at a run changes nothing in it
    assert weights.is_file()
    assert main(["fill-mask", str(weights.parent), "a [MASK]"]) == 2
    assert "; copy it again, or take another checkpoint of the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["no gap here"], "'no gap here' has no [MASK]"),
        (["a <mask>"], "'a <mask>' has no [MASK]; write it so, in capitals"),
        (["a [mask]"], "'a [mask]' has no [MASK]; write it so, in capitals"),
        ([], "fill-mask: needs a text"),
        (["the " * 40 + "[MASK]"], "the text has 43 tokens, the model reads 24; shorten it"),
    ],
)
def test_text_that_cannot_be_filled_is_refused(
    texts: list[str], message: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fill-mask", str(model_folder), *texts]) == 2
    assert message in capsys.readouterr().err


def test_folder_without_a_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill-mask", str(tmp_path / "absent"), "a [MASK]"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["fill-mask", str(tmp_path), "a [MASK]"]) == 2
    assert "holds neither a run (config.yaml) nor a model (config.json)" in capsys.readouterr().err


def test_run_without_a_checkpoint_is_refused(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in ("step-000010", "step-000020"):
        (run_folder / "checkpoints" / step).rename(run_folder / step)
    assert main(["fill-mask", str(run_folder), "a [MASK]"]) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


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
    (best,) = predict(PretrainingModel(config, seed=3), tokenizer, "[USER] the [MASK] cat", top=tokenizer.vocab_size)
    assert "[USER]" in [prediction.token for prediction in best]


def test_scores_that_are_no_numbers_are_not_shown(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from unmask import PretrainingModel

    model = PretrainingModel.from_pretrained(model_folder)
    torch.nn.init.constant_(model.encoder.embeddings.norm.bias, 3e38)
    model.save_pretrained(model_folder)
    assert main(["fill-mask", str(model_folder), "a [MASK]"]) == 2
    assert "the model gives scores that are not finite" in capsys.readouterr().err
