"""Each benchmark from its official files to its scores: trained for a step, predicted in both forms, and scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import unmask
from unmask.tasks.benchmarks import BENCHMARKS

FILES = Path(__file__).parent / "files"
TRAINED_ON = {
    "cola": ("cola/train.tsv", "cola/test.tsv"),
    "stsb": ("stsb/dev.tsv", "stsb/test.tsv"),
    "qqp": ("qqp/train.tsv", "qqp/test.tsv"),
    "mnli": ("mnli/train.tsv", "mnli/test_matched.tsv"),
    "qnli": ("qnli/dev.tsv", "qnli/test.tsv"),
    "rte": ("rte/train.tsv", "ax/diagnostic.tsv"),
    "wnli": ("wnli/dev.tsv", "wnli/test.tsv"),
    "tnews": ("tnews/train.json", "tnews/test.json"),
    "chnsenticorp": ("chnsenticorp/dev.tsv", None),
    "lcqmc": ("lcqmc/dev_bare.tsv", None),
    "bq": ("bq/dev.json", None),
    "ocnli": ("ocnli/train.json", "ocnli/test.json"),
    "xnli": ("xnli/multinli.train.zh.tsv", None),
    "thucnews": ("thucnews/cnews.train.txt", None),
    "conll2003": ("words/bio.txt", None),
    "squad": ("xquad/xquad.en.json", None),
    "squad2": ("squad2/dev-v2.0.json", None),
    "cmrc2018": ("cmrc2018/first_form.json", None),
    "drcd": ("drcd/DRCD_dev.json", None),
    "cjrc": ("cjrc/dev.json", None),
}
"""Files by the names of benchmarks: with labels, and without any."""


@pytest.mark.parametrize("name", TRAINED_ON)
def test_a_benchmark_is_trained_predicted_and_scored(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    benchmark, (file, blind) = BENCHMARKS[name], TRAINED_ON[name]
    given = {key: value for key, value in settings.items() if key not in ("data.dev", "data.text", "train.log_every")}
    given |= {"data.train": str(FILES / file), "data.dev": str(FILES / file), "train.epochs": 1, "train.batch_size": 64}
    if benchmark.task == "qa":
        given |= {"input.max_length": 24, "input.max_question": 8, "input.stride": 8}
    run = unmask.finetune(unmask.load_finetune_config(name, given))
    lines, submission = tmp_path / "predictions.jsonl", tmp_path / benchmark.submission
    found = unmask.predict(run, FILES / file, lines)
    unmask.predict(run, FILES / file, submission, submission=True)
    assert found.scores is not None
    for path in (lines, submission):
        scored = unmask.score(name, FILES / file, path, resamples=5).values
        # a submission of GLUE has three decimals
        tolerance = 0.5 if benchmark.task == "regression" else 1e-9
        assert {key: scored[key] for key in found.scores if key != "loss"} == pytest.approx(
            {key: value for key, value in found.scores.items() if key != "loss"}, abs=tolerance
        )
        assert benchmark.metric in scored
    if blind is not None:
        assert unmask.predict(run, FILES / blind).scores is None
