"""`unmask plot`: which rows of the log it draws, and what it says where it cannot."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from unmask.cli import main
from unmask.cli.plot import draw
from unmask.errors import RunError, UnmaskError
from unmask.reporting.curves import Curve, read_curves


def write_log(folder: Path, rows: list[dict[str, object]], tail: str = "") -> None:
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


def test_a_run_that_does_not_exist_is_said_to(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="absent does not exist; give the directory of a run"):
        read_curves(tmp_path / "absent")
    with pytest.raises(RunError, match=r"has no log\.jsonl; give the directory of a run"):
        read_curves(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    write_log(run, [{"step": 10, "loss": 6.0}])
    assert read_curves(run)[0].steps == [10]


def test_training_and_held_out_rows_are_told_apart(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"step": 10, "loss": 6.0},
        {"step": 20, "loss": None},
        {"step": 30, "loss": 5.0, "tokens": 1},
        {"step": 30, "event": "save"},
    ]
    write_log(tmp_path, rows, tail='{"step": 40, "lo')
    (tmp_path / "evaluation.jsonl").write_text('{"step": 20, "event": "evaluate", "loss": 5.5}\n')
    training, held_out = read_curves(tmp_path)
    assert (training.steps, training.losses) == ([10, 30], [6.0, 5.0])
    assert (held_out.steps, held_out.losses) == ([20], [5.5])


def test_command_writes_an_image_and_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    write_log(tmp_path, [{"step": step, "loss": 10 / step} for step in range(1, 201)])
    assert main(["plot", str(tmp_path)]) == 0
    image = tmp_path / "loss.png"
    assert image.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{image}: training loss 0.050 at step 200\n"


def test_the_loss_of_token_frequencies_is_a_dashed_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip("matplotlib.axes")
    drawn: list[tuple[float, object]] = []
    original = axes.Axes.axhline

    def axhline(self: object, height: float, **options: object) -> object:
        drawn.append((height, options["linestyle"]))
        return original(self, height, **options)

    monkeypatch.setattr(axes.Axes, "axhline", axhline)
    write_log(tmp_path, [{"step": 10, "loss": 6.5}])
    assert main(["plot", str(tmp_path)]) == 0
    assert drawn == []
    (tmp_path / "evaluation.jsonl").write_text(
        '{"step": 0, "event": "evaluate", "loss": 8.1}\n'
        '{"step": 10, "event": "evaluate", "loss": 6.4, "unigram_loss": 6.021}\n'
    )
    capsys.readouterr()
    assert main(["plot", str(tmp_path)]) == 0
    assert drawn == [(6.021, "--")]
    assert "held-out 6.400 at step 10; token frequencies alone have 6.021" in capsys.readouterr().out


def test_the_losses_of_several_objectives_are_thin_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip("matplotlib.axes")
    drawn: dict[str, tuple[list[int], list[float], float]] = {}
    original = axes.Axes.plot

    def plot(self: object, *points: list[Any], **options: Any) -> object:
        drawn[options["label"]] = (list(points[0]), list(points[1]), options.get("linewidth", 1.5))
        return original(self, *points, **options)

    monkeypatch.setattr(axes.Axes, "plot", plot)
    write_log(
        tmp_path,
        [{"step": step, "loss": 5.0 - step, "mlm_loss": 4.0 - step, "sop_loss": 1.0} for step in (1, 2)]
        + [{"step": 3, "loss": 4.0, "mlm_loss": 3.0, "sop_loss": None}],
    )
    assert main(["plot", str(tmp_path)]) == 0
    assert drawn["mlm alone"] == ([1, 2, 3], [3.0, 2.0, 3.0], 0.8)
    assert drawn["sop alone"] == ([1, 2], [1.0, 1.0], 0.8)
    assert "training loss 4.000 (mlm 3.000, sop 1.000) at step 3" in capsys.readouterr().out
    drawn.clear()
    rows = [{"step": step, "loss": 5.0, "mlm_loss": float(step), "nsp_loss": 1.0} for step in range(1, 151)]
    write_log(tmp_path, list[dict[str, object]](rows))
    assert main(["plot", str(tmp_path)]) == 0
    assert drawn["mlm alone, mean of 3 rows"][0][:2] == [3, 4]
    assert drawn["mlm alone, mean of 3 rows"][1][:2] == [2.0, 3.0]


def test_running_mean_starts_where_its_window_is_full(tmp_path: Path) -> None:
    from unmask.cli.plot import _running_mean

    assert _running_mean([1.0, 2.0, 3.0, 4.0], 2) == [1.5, 2.5, 3.5]


def test_rows_are_drawn_in_the_order_of_their_steps_and_a_mean_where_its_window_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip("matplotlib.axes")
    drawn: list[tuple[list[int], list[float]]] = []
    original = axes.Axes.plot

    def plot(self: object, *points: list[Any], **options: object) -> object:
        drawn.append((list(points[0]), list(points[1])))
        return original(self, *points, **options)

    monkeypatch.setattr(axes.Axes, "plot", plot)
    write_log(tmp_path, [{"step": step, "loss": float(step)} for step in (*range(51, 151), *range(1, 51))])
    draw(*read_curves(tmp_path), title="a", out=tmp_path / "a.png")
    steps = list(range(1, 151))
    assert drawn == [(steps, [float(step) for step in steps]), (steps[2:], [float(step - 1) for step in steps[2:]])]


def test_without_matplotlib_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    curve = Curve(steps=[1], losses=[1.0])
    with pytest.raises(UnmaskError, match=r"pip install 'unmask\[plots\]'"):
        draw(curve, curve, title="a", out=tmp_path / "a.png")


def test_kind_of_image_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = Curve(steps=[1], losses=[1.0])
    with pytest.raises(UnmaskError, match=r"cannot write .*a\.xyz"):
        draw(curve, curve, title="a", out=tmp_path / "a.xyz")


def test_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no log\.jsonl"):
        read_curves(tmp_path)
    write_log(tmp_path, [])
    with pytest.raises(RunError, match="no logged step yet"):
        read_curves(tmp_path)


@pytest.mark.parametrize("name", ["a$x_{$b", "$", "_under", "a\nb", "caf\udce9", "100%{}"])
def test_any_name_of_a_run_is_a_title(name: str, tmp_path: Path) -> None:
    from unmask.paths import printable

    out = tmp_path / "loss.png"
    draw(Curve(steps=[1], losses=[2.0]), Curve(steps=[], losses=[]), title=f"{printable(name)}: loss", out=out)
    assert out.stat().st_size > 0


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    curve = Curve(steps=[1], losses=[2.0])
    with pytest.raises(UnmaskError, match=r"gone/x\.png cannot be written \(No such file or directory\); give --out"):
        draw(curve, curve, title="t", out=tmp_path / "gone" / "x.png")


def test_a_single_row_is_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = pytest.importorskip("matplotlib.axes")
    markers: list[object] = []
    original = axes.Axes.plot

    def plot(self: object, *values: object, **options: object) -> object:
        markers.append(options["marker"])
        return original(self, *values, **options)

    monkeypatch.setattr(axes.Axes, "plot", plot)
    draw(Curve(steps=[50], losses=[6.0]), Curve(steps=[], losses=[]), title="", out=tmp_path / "a.png")
    draw(Curve(steps=[1, 2], losses=[6.0, 5.0]), Curve(steps=[], losses=[]), title="", out=tmp_path / "b.png")
    assert markers == ["o", None]


def write_run(folder: Path, losses: list[float], *, tokens: int = 100, seconds: float = 0.5) -> Path:
    """A run with an evaluation at every tenth step."""
    folder.mkdir(parents=True)
    steps = range(10, 10 * len(losses) + 1, 10)
    write_log(
        folder, [{"step": step, "loss": 5.0, "tokens": step * tokens, "seconds_per_step": seconds} for step in steps]
    )
    rows = [{"step": step, "event": "evaluate", "loss": loss} for step, loss in zip(steps, losses, strict=True)]
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_several_runs_are_compared_over_steps_tokens_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip("matplotlib.axes")
    drawn: list[tuple[str, list[float]]] = []
    original = axes.Axes.plot

    def plot(self: object, *points: list[Any], **options: Any) -> object:
        drawn.append((options["label"], list(points[0])))
        return original(self, *points, **options)

    monkeypatch.setattr(axes.Axes, "plot", plot)
    monkeypatch.chdir(tmp_path)
    one = write_run(tmp_path / "a" / "one", [4.0, 3.0])
    other = write_run(tmp_path / "b" / "$other_<x>", [4.5, 2.5, 2.75], tokens=2_000_000, seconds=60.0)
    assert main(["plot", str(one), str(other)]) == 0
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert drawn == [
        ("one (3.000)", [10, 20]),
        ("one (3.000)", [0.001, 0.002]),
        ("one (3.000)", [5 / 60, 10 / 60]),
        ("$other_<x> (2.750)", [10, 20, 30]),
        ("$other_<x> (2.750)", [20.0, 40.0, 60.0]),
        ("$other_<x> (2.750)", [10.0, 20.0, 30.0]),
    ]
    assert capsys.readouterr().out.splitlines() == [
        "comparison.png: held-out losses",
        "  one         3.000 at step 20, 0.0 M tokens, 0.2 minutes; lowest 3.000",
        "  $other_<x>  2.750 at step 30, 60.0 M tokens, 30.0 minutes; lowest 2.500",
    ]


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    runs = [str(write_run(tmp_path / place / "run", [4.0, 3.0])) for place in ("a", "b")]
    assert main(["plot", *runs, "-o", str(tmp_path / "x.svg")]) == 0
    told = capsys.readouterr().out
    assert all(f"  {run}  3.000" in told for run in runs)


def test_a_run_without_an_evaluation_is_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    runs = [str(write_run(tmp_path / name, [4.0, 3.0])) for name in ("a", "b", "c")]
    (tmp_path / "b" / "evaluation.jsonl").unlink()
    assert main(["plot", *runs]) == 2
    told = capsys.readouterr().err
    assert "b has no evaluation to compare; wait for the first, after train.evaluate_every steps, or leave" in told
    assert main(["plot", runs[0], runs[2]]) == 0


def test_a_plot_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["plot"]) == 2
    told = capsys.readouterr().err
    assert "plot: needs the directory of a run, got none; write it as in `unmask plot runs/mine`" in told
    assert main(["plot", str(write_run(tmp_path / "mine", [4.0]))]) == 0
