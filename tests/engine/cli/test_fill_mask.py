"""`unmask fill-mask`: probabilities of the model, a head line that says what it is, and refusals."""

from pathlib import Path

import pytest

from unmask.cli import main


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


def test_scores_that_are_no_numbers_are_not_shown(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from unmask import PretrainingModel

    model = PretrainingModel.from_pretrained(model_folder)
    torch.nn.init.constant_(model.encoder.embeddings.norm.bias, 3e38)
    model.save_pretrained(model_folder)
    assert main(["fill-mask", str(model_folder), "a [MASK]"]) == 2
    assert "the model gives scores that are not finite" in capsys.readouterr().err
