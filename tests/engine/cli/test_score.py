"""`unmask score`: what it prints, and as JSON."""

import json
from pathlib import Path

import pytest

from unmask.cli import main

GOLD = "label\ngood\nbad\ngood\nbad\n"


def test_scores_are_printed_with_intervals_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gold.tsv").write_text(GOLD)
    (tmp_path / "p.txt").write_text("good\nbad\ngood\ngood\n")
    words = ["score", "classification", str(tmp_path / "gold.tsv"), str(tmp_path / "p.txt")]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["accuracy", "75.00"] and lines[0].endswith("]")
    assert lines[-1] == "4 examples; in brackets: 95 % of the resamples"
    assert main([*words, "--json", "--resamples", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scores"]["accuracy"] == 75.0 and found["intervals"] == {} and found["examples"] == 4


def test_columns_are_named_and_an_error_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gold.csv").write_text("review;stars\na;4\nb;2\n")
    (tmp_path / "p.jsonl").write_text('{"id": "b", "value": 2}\n{"id": "a", "value": 4}\n')
    words = ["score", "regression", str(tmp_path / "gold.csv"), str(tmp_path / "p.jsonl"), "--json"]
    named = [*words, "--data.label", "stars", "--separator", ";", "--resamples", "0"]
    assert main([*named, "--data.id", "review"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["pearson"] == pytest.approx(100)
    assert main(named) == 2
    assert "the first is '0'; give predictions for the whole gold file, or name its column of ids with --data.id" in (
        capsys.readouterr().err
    )
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"unmask: data: {tmp_path / 'gold.csv'}, line 2 has no column 'label'")
