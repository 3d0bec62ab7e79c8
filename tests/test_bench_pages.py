"""The pages that are generated from result files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bench import pairs, record, reliability_page, report, runs_page

from unmask.config import RunConfig


def _result(when: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    shared = {"case": "small", "baseline": "theirs", "tokens": 1000, "ceiling": "a ceiling"}
    rows = [
        record.benchmark_entry("step", "ours", ours, floor_seconds=0.05, **shared),
        record.benchmark_entry("step", "theirs", theirs, **shared),
    ]
    return {**record.benchmark_file(rows), "datetime": when}


def test_the_page_shows_the_newest_ratio_of_each_group(tmp_path: Path) -> None:
    record.save(tmp_path / "box" / "old.json", _result("2025-01-01T00:00:00", [9.0], [9.0]))
    record.save(tmp_path / "box" / "new.json", _result("2025-02-01T00:00:00", [0.1, 0.1, 0.4], [0.4, 0.4, 0.5]))
    page = report.render(tmp_path)
    assert "## box" in page and "### step" in page and "2025-02-01" in page and "2025-01-01" not in page
    assert "| small | ours | 100 ms | 150 ms | 3 | 10,000 tokens/s | 4.00 | 50 % |" in page
    assert "| small | theirs | 400 ms | 50 ms | 3 | 2,500 tokens/s | 1.00 |" in page


def test_the_page_keeps_a_case_that_newer_files_do_not_hold(tmp_path: Path) -> None:
    other = _result("2025-01-01T00:00:00", [9.0], [9.0])
    for benchmark in other["benchmarks"]:
        benchmark["extra_info"]["case"] = "large"
    record.save(tmp_path / "box" / "old.json", other)
    record.save(tmp_path / "box" / "new.json", _result("2025-02-01T00:00:00", [0.1], [0.4]))
    page = report.render(tmp_path)
    assert page.count("### step") == 1
    assert (
        page.index("2025-01-01")
        < page.index("| large | ours")
        < page.index("2025-02-01")
        < page.index("| small | ours")
    )
    assert "| large | ours | 9 s |" in page
    assert "| small | ours | 100 ms |" in page


def test_the_table_of_reliability_has_the_newest_measurement_of_each_number_and_names_the_others(
    tmp_path: Path,
) -> None:
    for when, found in (
        ("2025-01-01T00:00:00", {"R8": "9 of 9", "R9": "12 ms"}),
        ("2025-02-01T00:00:00", {"R8": "5 of 5"}),
    ):
        rows = {number: {"measured": text, "command": "bench.py --kills 5"} for number, text in found.items()}
        content = {**record.stamp(), "datetime": when, "reliability": rows}
        record.save(tmp_path / "box" / f"{when[:10]}.json", content)
    page = report.render(tmp_path)
    assert "## box" in page
    lines = [line for line in page.splitlines() if line.startswith("| R")]
    assert len(lines) > 10
    (altered,) = [line for line in lines if line.startswith("| R8 |")]
    assert altered.endswith("| 5 of 5 | `bench.py --kills 5` |")
    assert any(line.startswith("| R9 |") and "| 12 ms |" in line for line in lines)
    assert any(line.startswith("| R17 |") and "| not measured |" in line for line in lines)
    # measured under the numbers alone, on no other machine
    assert set(found) < set(reliability_page.REQUIREMENTS)


def test_tasks_of_both_sides_have_a_section_with_the_median_ratio_and_their_losses(
    tmp_path: Path,
) -> None:
    pair = pairs.Pair(task="fine-tuning", order="random order")
    for stock, ours in ((2.0, 1.0), (3.0, 1.0), (10.0, 2.0)):
        pair.add(pairs.Seconds(stock, stock), pairs.Seconds(ours, ours / 2), count=40, our_count=20)
    assert str(pair) == "1.50 times the examples/s of transformers, random order (3 rounds)"
    found = {"transformers": [0.5, 0.7], "unmask": [0.6, 0.6]}
    rows = [
        *pair.rows("a model, a file", pairs.command("/a/bench_it.py", ["/b/model", "--rounds", "3", "--out", "auto"])),
        *pairs.losses("dropout", found, "a model, a file", "bench_drop.py"),
    ]
    record.save(tmp_path / "box" / "pairs.json", record.benchmark_file(rows))
    page = report.render(tmp_path)
    heading, task = page.index("## Beside transformers and sentence-transformers"), page.index("| fine-tuning |")
    assert heading < task
    # 40 examples take the stock side 3 s, and ours 2 s for as many, in the median
    assert "| fine-tuning | random order | 13.33 examples/s | 20 examples/s | 1.50 (1.00 to 2.50) |" in page
    assert "- **fine-tuning**: a model, a file; 3 rounds. By the clock: 3.00. `bench_it.py model --rounds 3`" in page
    assert "| dropout | random order | 0.6000 ± 0.1414 | 0.6000 ± 0.0000 | 2 seeds, 0.0 standard errors apart |" in page
    # these rows have no section of their own
    assert "### beside" not in page and "[beside" not in page


def test_the_section_of_both_sides_is_there_before_anything_is_measured(tmp_path: Path) -> None:
    page = report.render(tmp_path)
    assert "## Beside transformers and sentence-transformers" in page and "Nothing of it has been measured yet." in page


def test_a_training_run_becomes_a_curve_without_folders(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        f"train: {{steps: 2}}\ndata: {{store: {tmp_path}/books, input: ['a={tmp_path}/a', 'hf://{tmp_path}/b:train']}}\n"
    )
    rows = [
        {"step": 1, "loss": 6.0, "tokens_per_second": 100.0},
        {"step": 2, "loss": 5.0, "tokens_per_second": 300.0},
    ]
    (run / "evaluation.jsonl").write_text('{"event": "evaluate", "step": 2, "loss": 5.5, "perplexity": 244.7}\n')
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record.save(tmp_path / "results" / "box" / "run-mini.json", record.run_file(run, "mini"))
    page = runs_page.render(tmp_path / "results", tmp_path / "figures")
    assert "Last logged step 2: training loss 5, median 200 real tokens/s." in page
    assert "| 2 | 5.5 | 244.7 |" in page
    assert str(tmp_path) not in page and "`data.store: books`, `data.input: ['a=a', 'b:train']`" in page
    assert (tmp_path / "figures" / "box-run-mini.png").stat().st_size > 1000


def test_the_summary_spans_all_cases_of_what_is_ours(tmp_path: Path) -> None:
    rows = [
        record.benchmark_entry("step", variant, [seconds], case=case, baseline="theirs", floor_seconds=0.1)
        for case, variant, seconds in (
            ("small", "unmask", 0.5),
            ("small", "theirs", 1.0),
            ("large", "unmask", 0.2),
            ("large", "theirs", 1.0),
        )
    ]
    record.save(
        tmp_path / "box" / "all.json",
        record.benchmark_file([*rows, record.benchmark_entry("alone", "it", [1.0], case="c")]),
    )
    record.save(tmp_path / "other" / "all.json", record.benchmark_file(rows))
    page = report.render(tmp_path)
    assert "| [step](#step) | unmask | theirs | 2 | 2.00 to 5.00 | 20% to 50% |" in page
    assert "Also: [alone](#alone)." in page
    # the second heading of that name has another anchor
    assert "| [step](#step-1) | unmask | theirs | 2 |" in page


def _step(case: str, seconds: tuple[float, float, float], **known: object) -> list[dict[str, Any]]:
    names = ("unmask", "transformers", "transformers, grouped by length")
    peaks = (100, 400, 400)
    return [
        record.benchmark_entry(
            "training step, mini",
            variant,
            [taken],
            case=case,
            baseline="transformers",
            tokens=10,
            peak_bytes=peak,
            **{"dtype": "fp32", "trials": {"transformers bf16 sdpa": "90 times"}} | known,
        )
        for variant, taken, peak in zip(names, seconds, peaks, strict=True)
    ]


def _on(features: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    content = record.benchmark_file(rows)
    found = {
        "cpu": "Box",
        "threads": 2,
        "cores": 2,
        "cpu_features": features,
        "cpu_capability": features.split()[0],
        "gpu": None,
    }
    return {**content, "machine_info": {**content["machine_info"], **found}}


def test_readme_has_the_steps_between_its_marks_and_keeps_the_rest(tmp_path: Path) -> None:
    rows = [*_step("even", (0.5, 1.0, 0.8)), *_step("short", (0.2, 1.0, 0.3))]
    record.save(tmp_path / "box" / "all.json", _on("AVX2", rows))
    readme = "above\n<!-- from bench/report.py -->\nold\n<!-- until here -->\nbelow\n"
    written = report.in_readme(readme, tmp_path)
    assert written.startswith("above\n") and written.endswith("below\n") and "old" not in written
    short = "| Box, 2 of 2 cores: fp32, AVX2 | mini | short | 50 | 5.0 | 1.50 |  | 0.25 |"
    even = "| Box, 2 of 2 cores: fp32, AVX2 | mini | even | 20 | 2.0 | 1.60 |  | 0.25 |"
    assert written.index(short) < written.index(even)
    assert written.count("| Box") == 2
    assert report.in_readme(written, tmp_path) == written


def test_readme_leaves_out_a_step_whose_file_does_not_tell_which_settings_were_tried(tmp_path: Path) -> None:
    record.save(tmp_path / "box" / "old.json", _on("AVX512", _step("even", (0.5, 1.0, 0.8), trials=None)))
    readme = "<!-- from bench/report.py --><!-- until here -->"
    assert "No step has been measured yet." in report.in_readme(readme, tmp_path)


def test_readme_names_both_dtypes_where_they_differ(tmp_path: Path) -> None:
    ours, theirs, grouped = _step("even", (0.5, 1.0, 0.8))
    ours["extra_info"]["dtype"] = "bf16"
    record.save(tmp_path / "box" / "all.json", _on("AVX512 AVX512_BF16", [ours, theirs, grouped]))
    written = report.in_readme("<!-- from bench/report.py --><!-- until here -->", tmp_path)
    assert "| Box, 2 of 2 cores: bf16 (transformers fp32), AVX512 AVX512_BF16 | mini |" in written


def test_results_of_processors_with_other_instructions_do_not_replace_each_other(tmp_path: Path) -> None:
    old = {**_on("AVX512", _step("even", (0.5, 1.0, 0.8), dtype="bf16")), "datetime": "2025-01-01T00:00:00"}
    record.save(tmp_path / "box" / "old.json", old)
    record.save(tmp_path / "box" / "new.json", _on("AVX2", _step("even", (5.0, 9.0, 8.0))))
    page = report.render(tmp_path)
    assert "| even | unmask bf16 | 500 ms |" in page and "Box, AVX512, 2 of" in page
    assert "| even | unmask fp32 | 5 s |" in page and "Box, AVX2, 2 of" in page


def test_settings_of_a_run_are_those_that_differ_from_the_defaults(tmp_path: Path) -> None:
    settings = {"seed": 7, "train": {"steps": RunConfig().train.steps, "warmup_steps": 3}, "data": {"gone": 1}}
    run = {**record.benchmark_file([]), "run": "r", "settings": settings, "curve": [], "evaluations": []}
    record.save(tmp_path / "box" / "run-r.json", run)
    page = runs_page.render(tmp_path, tmp_path / "figures", draw=False)
    assert "Settings other than the defaults: `seed: 7`, `optimizer.warmup_steps: 3`, `data.gone: 1`." in page


def test_a_run_from_a_checkpoint_stands_beside_the_same_run_with_new_weights(tmp_path: Path) -> None:
    shared = {"data": {"store": "s"}, "train": {"minutes": 10}, "model": {"num_layers": 6}}
    for name, loss, changes in (
        ("continued", 5.0, {"init": {"from": "model"}, "model": {"num_layers": 6, "vocab_size": 90}}),
        ("scratch", 7.0, {}),
        ("another", 6.0, {"seed": 2}),
    ):
        evaluations = [{"event": "evaluate", "step": 3, "loss": loss}]
        run = {"run": name, "settings": {**shared, **changes}, "curve": [], "evaluations": evaluations}
        record.save(tmp_path / "box" / f"run-{name}.json", {**record.benchmark_file([]), **run})
    page = runs_page.render(tmp_path, tmp_path / "figures")
    assert page.count("The same run with new weights, ") == 1
    assert (
        "At its end, after 3 steps, the held-out loss is 5. The same run with new weights, scratch, has 7 after 3 steps"
        in page
    )


def test_learning_beside_transformers_has_a_plot_and_the_time_at_which_ours_reaches_the_loss_of_the_other_side(
    tmp_path: Path,
) -> None:
    def curve(*losses: float) -> list[dict[str, float]]:
        points = zip((10.0, 20.0, 30.0), losses, strict=True)
        return [
            {"minutes": minutes, "step": round(minutes), "tokens": 1000, "loss": loss, "masked_accuracy": 0.25}
            for minutes, loss in points
        ]

    rounds = [
        {"transformers": curve(7.0, 6.5, 6.0), "unmask": curve(6.5, 5.5, 5.0)},
        {"transformers": curve(7.0, 6.5, 6.0), "unmask": curve(7.0, 6.9, 6.8), "unmask, 15 minutes": curve(7, 7, 6.9)},
    ]
    known = {"learning": "books", "minutes": 30.0, "setting": "4 layers", "command": "bench_learning.py books"}
    record.save(tmp_path / "results" / "box" / "learning-books.json", record.stamp() | known | {"rounds": rounds})
    page = runs_page.render(tmp_path / "results", tmp_path / "figures")
    assert "### learning beside transformers, books" in page
    assert "loss of 6.000 after 30 minutes. unmask is there after 15, 2.00 times as soon, and ends with 5.000." in page
    assert "unmask does not get there: it ends with 6.800. A run of its own, unmask, 15 minutes, ends with 6.9" in page
    assert "| 1 | 10 | unmask | 10 | 1,000 | 6.500 | 0.250 |" in page and page.count("| 2 | ") == 6
    assert "Both sides: 4 layers. `bench_learning.py books`" in page
    assert (tmp_path / "figures" / "box-learning-books.png").stat().st_size > 1000


def test_the_committed_pages_are_what_the_results_say() -> None:
    assert report.PAGE.read_text() == report.render()
    figures = report.RUNS_PAGE.parent / "figures"
    assert report.RUNS_PAGE.read_text() == runs_page.render(record.RESULTS, figures, draw=False)
    drawn = re.findall(r"\]\((figures/.+?)\)", report.RUNS_PAGE.read_text())
    assert report.README.read_text() == report.in_readme(report.README.read_text())
    assert drawn and all((report.RUNS_PAGE.parent / figure).exists() for figure in drawn)
