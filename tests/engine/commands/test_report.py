"""`unmask report`: what the page has, that it is escaped, and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import advice
import unmask
from unmask.cli import main
from unmask.commands.report import _of_text
from unmask.errors import RunError
from unmask.tasks.config import FinetuneConfig
from unmask.tasks.load import finetune_yaml

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAME = "<script>alert(1)<"
TEXTS = ["the river runs past the old mill and the mill turns", "a cat sat on the warm wall & watched <b>it</b>"] * 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps, with a name that is markup."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "text.txt").write_text("\n\n".join(f"{text} {number}" for number, text in enumerate(TEXTS)))
    unmask.prepare([folder / "text.txt"], folder / "store", vocab_size=120, workers=1, blank_line_documents=True)
    settings: dict[str, Any] = {
        "run": str(folder / NAME),
        "data.store": str(folder / "store"),
        "stream.max_length": 24,
        "stream.micro_batch_tokens": 96,
        "stream.held_out_fraction": 0.3,
        "stream.workers": 0,
        "train.tokens_per_step": 96,
        "train.steps": 12,
        "train.log_every": 2,
        "train.evaluate_every": 4,
        "train.log_gradient_norms": True,
        "train.dtype": "float32",
        "train.threads": 1,
        "model.num_layers": 1,
        "model.hidden_size": 16,
        "model.intermediate_size": 32,
    }
    return unmask.pretrain(unmask.load_config("tiny", settings))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    file = unmask.report(run)
    assert file == run / "report.html"
    return file.read_text("utf-8")


def sections_of(page: str) -> dict[str, str]:
    """The text of each section, by its title."""
    found = re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL)
    return {title: html.unescape(re.sub(r"<[^>]*>", " ", text)) for title, text in found}


def test_the_page_has_every_section(page: str, run: Path) -> None:
    found = sections_of(page)
    assert list(found) == ["Curves", "Evaluation", "Data", "Masks", "Predictions", "Speed", "Settings", "Provenance"]
    assert all(
        name in found["Curves"] for name in ("Loss (nats)", "token frequencies alone", "layer 0", "Learning rate")
    )
    assert "40" in found["Data"] and str(run.parent / "store") in found["Data"]
    assert "become [MASK]" in found["Masks"]
    assert "step-000012 predicts for the masked tokens" in found["Predictions"]
    assert "packing efficiency" in found["Speed"] and "GiB" in found["Speed"]
    assert "stream.held_out_fraction" in found["Settings"] and "All " in found["Settings"]
    assert "float32" in found["Provenance"] and unmask.__version__ in found["Provenance"]
    assert page.count("<svg") == 6


def test_nothing_of_a_run_becomes_markup_and_nothing_is_loaded(page: str) -> None:
    assert "<script" not in page and html.escape(NAME) in page
    assert "<b>it</b>" not in page
    assert not re.search(r"\b(src|href)=|url\(|@import", page)
    assert "default-src 'none'" in page


def test_a_run_without_its_text_has_the_other_sections(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    text = (copy / "config.yaml").read_text("utf-8")
    (copy / "config.yaml").write_text(text.replace(str(run.parent / "store"), str(tmp_path / "gone")))
    found = sections_of(unmask.report(copy, out=tmp_path / "a.html").read_text("utf-8"))
    assert "The text of this run cannot be read now" in found["Data"]
    assert {"Curves", "Evaluation", "Speed", "Settings"} <= set(found) and "Predictions" not in found


def test_spikes_are_listed(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    row = {"event": "spike", "step": 9, "first_step": 7, "loss": 9.5, "limit": 3.25, "back_to": 6, "left_out": []}
    (copy / "spikes.jsonl").write_text(json.dumps(row) + "\n")
    found = sections_of(unmask.report(copy).read_text("utf-8"))
    assert re.findall(r"[\d.]+", found["Loss spikes"])[-5:] == ["7", "9", "9.5", "3.25", "6"]


def test_a_run_of_fine_tuning_has_its_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "tuned"
    run.mkdir()
    config = FinetuneConfig(model="bert", run=str(run))
    (run / "finetune.yaml").write_text(finetune_yaml(config))
    rows = [{"step": step, "loss": 1.0 / step, "seconds_per_step": 0.1, "tokens_per_second": 9.0} for step in (1, 2)]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "evaluation.jsonl").write_text(
        '{"event": "evaluate", "step": 2, "epoch": 1, "loss": 0.5, "accuracy": 81.5}\n'
    )
    (run / "scores.json").write_text('{"dev": {"accuracy": 81.5, "<i>": 1}}')
    assert main(["report", str(run), "-o", str(tmp_path / "tuned.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'tuned.html'}\n"
    page = (tmp_path / "tuned.html").read_text("utf-8")
    found = sections_of(page)
    assert "dev accuracy" in found["Evaluation"] and "81.5" in found["Evaluation"] and "<i>" not in page
    assert "classification" in found["Data"] and "bert" in found["Data"]


def test_training_accuracies_of_fine_tuning_are_in_percent_as_those_of_the_dev_file(tmp_path: Path) -> None:
    (tmp_path / "finetune.yaml").write_text(finetune_yaml(FinetuneConfig(model="bert", run=str(tmp_path))))
    rows = [{"step": step, "loss": 1.0, "data_wait": 0.0, "task_accuracy": 0.75 + 0.05 * step} for step in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "evaluation.jsonl").write_text('{"event": "evaluate", "step": 2, "loss": 0.5, "accuracy": 81.5}\n')
    page = unmask.report(tmp_path).read_text("utf-8")
    charts = dict(re.findall(r'<svg[^>]*aria-label="([^"]*)">(.*?)</svg>', page, re.DOTALL))
    ticks = [float(text) for text in re.findall(r">([\d.]+)</text>", charts["Accuracy"])]
    assert 80 in ticks and 85 in ticks and not any(2 < tick < 80 for tick in ticks) and 0 not in ticks
    assert ">-" not in charts["Share of the time waiting for data"]


def test_a_folder_without_a_run_is_refused_with_the_way_out(run: Path, tmp_path: Path) -> None:
    advice.follow(
        lambda: unmask.report(tmp_path / "gone"),
        "gone does not exist; give the directory of a run",
        lambda: unmask.report(run),
    )
    advice.follow(
        lambda: unmask.report(tmp_path),
        "has neither config.yaml nor finetune.yaml; give the directory of a run",
        lambda: unmask.report(run),
    )
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    advice.follow(
        lambda: unmask.report(tmp_path),
        "has no logged step yet; wait for the first, after train.log_every steps",
        lambda: unmask.report(run),
    )
    for name in ("config.yaml", "finetune.yaml"):
        emptied = tmp_path / name.partition(".")[0]
        emptied.mkdir()
        (emptied / name).touch()
        shutil.copy(run / "log.jsonl", emptied)
        saved = run / name if (run / name).exists() else tmp_path / "saved.yaml"
        (tmp_path / "saved.yaml").write_text(finetune_yaml(FinetuneConfig(model="bert", run=str(emptied))))
        advice.follow(
            lambda emptied=emptied: unmask.report(emptied),  # type: ignore[misc]
            f"run ... cannot be read: its {name} is empty; put the saved one back from a copy, or start a new run",
            lambda name=name, saved=saved, emptied=emptied: (  # type: ignore[misc]
                shutil.copy(saved, emptied / name),
                unmask.report(emptied),
            ),
        )
    advice.follow(
        lambda: unmask.report(run, out=tmp_path / "gone" / "a.html"),
        "gone/a.html cannot be written (No such file or directory); give --out another place",
        lambda: unmask.report(run, out=tmp_path / "a.html"),
    )
    with pytest.raises(RunError, match=r"the text of .* is not prepared; continue the run, which prepares it"):
        _of_text(tmp_path, unmask.load_config("tiny"))


MEASURE = """<script>
const boxes = [...document.querySelectorAll("h1, section, figure, svg, .card, .wide, .sample, dl")];
const out = {
  wide: document.documentElement.scrollWidth, room: document.documentElement.clientWidth,
  beyond: boxes.filter(box => box.getBoundingClientRect().right > innerWidth + 1).length,
  empty: boxes.filter(box => box.getBoundingClientRect().height < 8).length,
  charts: [...document.querySelectorAll("svg")].map(box => Math.round(box.getBoundingClientRect().width)),
  loaded: performance.getEntriesByType("resource").length,
  dark: getComputedStyle(document.body).backgroundColor,
};
parent.postMessage(JSON.stringify(out), "*");
</script>"""
# a window has a least width, a frame has none
FRAME = """<script>onmessage = told => document.documentElement.setAttribute("data-found", told.data)</script>
<iframe src="measured.html" style="border: 0; height: 3000px; width: WIDTHpx"></iframe>"""


def browse(file: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--no-first-run", f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += ["--enable-logging=stderr", *options, "--dump-dom", file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(("width", "scheme"), [(400, 0), (1200, 1)])
def test_a_browser_shows_it_without_errors_and_requests_at_both_widths(
    page: str, width: int, scheme: int, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.html"
    plain.write_text(page, "utf-8")
    options = (f"--window-size={width},2000", f"--blink-settings=preferredColorScheme={scheme}")
    shown = browse(plain, tmp_path / "profile", *options)
    assert "CONSOLE" not in shown.stderr
    assert shown.stdout.count("<svg") == 6
    # the same page with a script that measures it, which its own policy forbids
    measured = tmp_path / "measured.html"
    measured.write_text(re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", f"{MEASURE}</body>"), "utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)))
    shown = browse(frame, tmp_path / "profile", "--virtual-time-budget=4000", *options)
    found = json.loads(html.unescape(re.findall(r'data-found="(.*?)"', shown.stdout)[0]))
    assert [found[name] for name in ("wide", "beyond", "empty", "loaded")] == [found["room"], 0, 0, 0]
    assert min(found["charts"]) > (300 if width == 400 else 290)
    assert found["dark"] == ("rgb(20, 23, 29)" if scheme == 0 else "rgb(255, 255, 255)")
