"""The files of Chinese benchmarks: CLUE (Xu et al. 2020, arXiv:2004.05986), XNLI, LCQMC, BQ, ChnSentiCorp, THUCNews.

    TNEWS          JSON lines: label, label_desc, sentence; or title and label_desc as TSV without a header
    ChnSentiCorp   label, text_a; or text and label without a header; test: qid, text_a
    LCQMC, BQ      text_a, text_b, label; or without a header; or JSON lines with sentence1, sentence2, label
    OCNLI          JSON lines: sentence1, sentence2, label; "-" where the annotators did not agree
    XNLI           premise, hypo, label for training; language, gold_label, ..., sentence1, sentence2 for dev and test,
                   of which the rows in Chinese are read
    THUCNews       label and text without a header; or label, text_a

A code of a class, such as 108, is read as its name, news_edu.
"""

from __future__ import annotations

from unmask.tasks.data.layouts import Columns, TextLayout
from unmask.tasks.examples import Labels

__all__ = ["CLUE", "TNEWS_CODES"]

TNEWS_CODES = {
    "100": "news_story",
    "101": "news_culture",
    "102": "news_entertainment",
    "103": "news_sports",
    "104": "news_finance",
    "106": "news_house",
    "107": "news_car",
    "108": "news_edu",
    "109": "news_tech",
    "110": "news_military",
    "112": "news_travel",
    "113": "news_world",
    "114": "news_stock",
    "115": "news_agriculture",
    "116": "news_game",
}
"""The names of the classes of TNEWS by their codes."""

_NLI = Labels(("entailment", "neutral", "contradiction"))
_SAME = Labels(("0", "1"))
_MATCHING = (
    Columns("sentence1", "sentence2", "label", "id"),
    Columns("text_a", "text_b", "label", "qid"),
    Columns("query", "title", "label", "id"),
    Columns("query1", "query2", "label", "id"),
    Columns("1", "2", "3"),
)

CLUE = {
    layout.name: layout
    for layout in (
        TextLayout(
            name="tnews",
            columns=(
                Columns("sentence", label="label", id="id"),
                Columns("text_a", label="label", id="qid"),
                Columns("1", label="2"),
            ),
            labels=Labels(tuple(TNEWS_CODES.values())),
            spellings=TNEWS_CODES,
        ),
        TextLayout(
            name="chnsenticorp",
            columns=(
                Columns("text_a", label="label", id="qid"),
                Columns("text", label="label", id="id"),
                Columns("review", label="label"),
                Columns("1", label="2"),
            ),
            labels=Labels(("negative", "positive")),
            spellings={"0": "negative", "1": "positive"},
        ),
        TextLayout(name="lcqmc", columns=_MATCHING, labels=_SAME),
        TextLayout(name="bq", columns=_MATCHING, labels=_SAME),
        TextLayout(
            name="ocnli",
            columns=(Columns("sentence1", "sentence2", "label", "id"), Columns("1", "2", "3")),
            labels=_NLI,
            unlabelled=frozenset({"-"}),
        ),
        TextLayout(
            name="xnli",
            columns=(
                Columns("sentence1", "sentence2", "gold_label", "pairID"),
                Columns("premise", "hypo", "label"),
                Columns("premise", "hypothesis", "label"),
                Columns("text_a", "text_b", "label"),
                Columns("1", "2", "3"),
            ),
            labels=_NLI,
            spellings={"contradictory": "contradiction"},
            unlabelled=frozenset({"-"}),
            only={"language": "zh"},
        ),
        TextLayout(
            name="thucnews",
            columns=(
                Columns("text_a", label="label", id="qid"),
                Columns("text", label="label", id="id"),
                Columns("sentence", label="label", id="id"),
                Columns("2", label="1"),
            ),
            labels=Labels(("体育", "娱乐", "家居", "房产", "教育", "时尚", "时政", "游戏", "科技", "财经")),
        ),
    )
}
"""The layouts by the names of the tasks."""
