"""Suites of benchmarks: their files, their scores, and what a paper reports for them.

The papers score test sets of servers, with models of 110 million parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SUITES", "Suite", "SuiteTask"]


@dataclass(frozen=True, slots=True)
class SuiteTask:
    """A benchmark of a suite.

    Attributes:
        recipe: its settings.
        folder: name of its folder; capitals and hyphens do not count.
        train, dev: patterns of its files, the first one that a file has counts.
        score: which score the table shows, and that of the dev file that chooses the best checkpoint.
        reported: what the paper reports, in percent; None where it has no row.
        test: patterns of a second file with labels that is scored.
    """

    recipe: str
    folder: str
    train: tuple[str, ...]
    dev: tuple[str, ...]
    score: str
    reported: str | None
    test: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """Benchmarks, and the paper whose numbers stand beside."""

    paper: str
    tasks: tuple[SuiteTask, ...]


def _chinese(recipe: str, score: str, reported: str) -> SuiteTask:
    train = ("train.50k.json*", "train.*", "*_train*.json", "*_training.json")
    return SuiteTask(recipe, recipe, train, ("dev.*", "*_dev*.json"), score, reported)


_TSV = (("train.tsv",), ("dev.tsv",))
SUITES = {
    "glue": Suite(
        "BERT-base, GLUE test (Devlin et al. 2019, table 1)",
        (
            SuiteTask(
                "cola",
                "CoLA",
                ("train.tsv", "in_domain_train.tsv"),
                ("dev.tsv", "in_domain_dev.tsv"),
                "matthews",
                "52.1",
            ),
            SuiteTask("sst2", "SST-2", *_TSV, "accuracy", "93.5"),
            SuiteTask(
                "mrpc",
                "MRPC",
                ("train.tsv", "msr_paraphrase_train.txt"),
                ("dev.tsv", "msr_paraphrase_test.txt"),
                "f1",
                "88.9",
            ),
            SuiteTask("stsb", "STS-B", ("train.tsv", "train.csv"), ("dev.tsv", "dev.csv"), "spearman", "85.8"),
            SuiteTask("qqp", "QQP", *_TSV, "f1", "71.2"),
            SuiteTask(
                "mnli", "MNLI", ("train.tsv",), ("dev_matched.tsv",), "accuracy", "84.6/83.4", ("dev_mismatched.tsv",)
            ),
            SuiteTask("qnli", "QNLI", *_TSV, "accuracy", "90.5"),
            SuiteTask("rte", "RTE", *_TSV, "accuracy", "66.4"),
            SuiteTask("wnli", "WNLI", *_TSV, "accuracy", None),
        ),
    ),
    "chinese": Suite(
        "MacBERT-base, dev (Cui et al. 2021; THUCNews, XNLI, LCQMC, BQ and CJRC: test)",
        (
            _chinese("cmrc2018", "f1", "87.9"),
            _chinese("drcd", "f1", "94.3"),
            _chinese("cjrc", "f1", "79.8"),
            _chinese("chnsenticorp", "accuracy", "95.2"),
            _chinese("thucnews", "accuracy", "97.7"),
            _chinese("tnews", "accuracy", "57.4"),
            _chinese("xnli", "accuracy", "79.3"),
            _chinese("lcqmc", "accuracy", "87.0"),
            _chinese("bq", "accuracy", "85.2"),
            _chinese("ocnli", "accuracy", "77.0"),
        ),
    ),
}
"""The suites by their names."""
