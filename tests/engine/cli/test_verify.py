"""`unmask verify`: the table, the record, and one sentence for what cannot be verified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import unmask
from stand_in_kernel import put_in, spoil
from unmask.cli import main
from unmask.errors import ConfigError, UnmaskError
from unmask_kernels import capability

SMALL = """
model: {num_layers: 1, hidden_size: 16, num_heads: 2, intermediate_size: 32, vocab_size: 61, max_positions: 32}
stream: {max_length: 30}
train: {dtype: float32}
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CPU on which gelu has a backend that nobody has verified; the settings of a run."""
    monkeypatch.setenv("COLUMNS", "200")
    put_in(monkeypatch, tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def test_the_table_is_printed_and_what_passes_is_recorded(
    stand_in: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--config", str(stand_in)]) == 0
    shown = capsys.readouterr()
    head, row, recorded = shown.out.splitlines()
    assert head.split("   ")[0] == "family"
    assert row.split()[:3] == ["gelu", "young", "8"]
    assert row.endswith("passed")
    assert recorded.startswith(f"recorded in {tmp_path}/cache/verified/")
    assert "verify: call 1 of 2, gelu young (float32, gelu, width 32), 120 s left\n" in shown.err
    # doctor says so at BERT-base size only for calls like these
    assert main(["doctor", "--why", "gelu"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"record {recorded.removeprefix('recorded in ')}: in use" in told


def test_json_holds_every_outcome(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(stand_in), "--json", "--operations", "gelu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {outcome["verdict"] for outcome in found["outcomes"]} == {"passed"}
    assert found["machine"]["torch"] == torch.__version__
    assert Path(found["record"]).exists()


def test_a_failure_is_the_exit_status(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch)
    assert main(["verify", str(stand_in)]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "please open an issue with this file" in out


def test_the_function_takes_a_run_a_file_a_recipe_and_a_configuration(stand_in: Path, tmp_path: Path) -> None:
    config = unmask.load_config(str(stand_in))
    assert [each.verdict for each in unmask.verify(config).outcomes] == ["passed", "passed"]
    assert [each.verdict for each in unmask.verify(stand_in, operations=["gelu"]).outcomes] == ["passed", "passed"]
    with pytest.raises(TypeError, match=r"verify: config must be a run, .*; pass 'bert-base'"):
        unmask.verify(3)  # type: ignore[arg-type]
    # its sizes take this CPU too long to run
    advised = unmask.verify("bert-base", seconds=0)
    assert {each.call["width"] for each in advised.outcomes} == {768, 3072}
    with pytest.raises(ConfigError, match="no recipe or file is called 'nothing'"):
        unmask.verify("nothing")
    with pytest.raises(ValueError, match="verify: 'gelo' is not an operation; choose from attention, "):
        unmask.verify(stand_in, operations=["gelo"])


def test_the_vocabulary_of_a_run_is_that_of_its_store(stand_in: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the old mill turns\n" * 20)
    store = unmask.prepare([tmp_path / "text.txt"], tmp_path / "store", vocab_size=60, workers=1)
    sizes = {"data.store": str(tmp_path / "store"), "model.vocab_size": None}
    from unmask.commands.verify import _settings_of

    assert _settings_of(unmask.load_config(str(stand_in), sizes)).model.vocab_size == store.vocab_size


def test_two_shapes_are_refused_and_one_works(stand_in: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(stand_in), "--config", "tiny"]) == 2
    assert "verify: " in (told := capsys.readouterr().err)
    assert "are given together, but each names shapes; leave one of them out" in told
    assert main(["verify", str(stand_in)]) == 0


def test_without_a_gpu_one_sentence_says_why(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capability, "INTERPRETING", False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert main(["verify", str(stand_in)]) == 2
    assert capsys.readouterr().err == (
        "unmask: verify: this PyTorch is built without CUDA: PyTorch's own operations run, and there is nothing to "
        "verify; on a machine with a GPU, install a PyTorch that is built for CUDA\n"
    )
    with pytest.raises(UnmaskError):
        unmask.verify(stand_in)
