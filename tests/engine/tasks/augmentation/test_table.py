"""What is written is what the settings of the training file read."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmask.tasks.augmentation.table import table_lines
from unmask.tasks.benchmarks import BENCHMARKS
from unmask.tasks.data.layouts import TextLayout, layout_of_columns
from unmask.tasks.data.texts import read_records

LAYOUTS = [one.texts for one in BENCHMARKS.values() if one.texts is not None]


def read_back(path: Path, layout: TextLayout, rows: list[tuple[str, str | None, str | None]]) -> None:
    path.write_text("".join(table_lines(path, layout, rows)), encoding="utf-8")
    labelled = rows[0][2] is not None
    assert [one[1:4] for one in read_records(path, layout, labelled=labelled)] == rows


@pytest.mark.parametrize("suffix", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_files_of_a_benchmark(layout: TextLayout, suffix: str, tmp_path: Path) -> None:
    label = "3.5" if layout.kind == "number" else "1" if layout.labels is None else layout.labels.names[0]
    pair = 'a "second", text' if layout.pairs else None
    if all(columns.numbered for columns in layout.columns) and suffix == "jsonl":
        pytest.skip("its columns have no names")
    read_back(tmp_path / f"out.{suffix}", layout, [("first, text", pair, label), ("猫 'q' \" ", pair, label)])


@pytest.mark.parametrize("names", [("sentence", None, "label"), ("1", None, "3"), ("2", "4", "1"), ("a", "b", "c")])
@pytest.mark.parametrize("suffix", ["tsv", "csv"])
def test_columns_of_ones_own(names: tuple[str, str | None, str], suffix: str, tmp_path: Path) -> None:
    text, pair, label = names
    layout = layout_of_columns(text, pair=pair, label=label)
    rows = [("one, two", None if pair is None else "three", "x"), ('four "five"', None if pair is None else "", "y")]
    read_back(tmp_path / f"out.{suffix}", layout, rows)


def test_a_file_without_labels_stays_one(tmp_path: Path) -> None:
    read_back(
        tmp_path / "out.tsv", layout_of_columns("text", label="label"), [("one", None, None), ("two", None, None)]
    )


def test_breaks_become_spaces_between_tabs_and_stay_elsewhere(tmp_path: Path) -> None:
    layout, rows = layout_of_columns("text", label="label"), [("one\ttwo\nthree", None, "x")]
    assert list(table_lines(Path("out.tsv"), layout, rows))[1] == "one two three\tx\n"
    read_back(tmp_path / "out.csv", layout, rows)
    read_back(tmp_path / "out.jsonl", layout, rows)
