"""The files of GLUE (Wang et al. 2018, arXiv:1804.07461), and those from which GLUE took them.

    CoLA     train and dev: source, label, mark, sentence without a header; test: index, sentence
    SST-2    sentence, label; test: index, sentence
    MRPC     Quality, #1 ID, #2 ID, #1 String, #2 String, as Microsoft ships it too; test: index instead of Quality
    STS-B    ..., sentence1, sentence2, score; or sentence1, sentence2, score as CSV without a header
    QQP      id, qid1, qid2, question1, question2, is_duplicate, some rows broken; test: id, question1, question2
    MNLI     ..., sentence1, sentence2, ..., gold_label; "-" where the annotators did not agree
    QNLI     index, question, sentence, label
    RTE      index, sentence1, sentence2, label; or the XML of the PASCAL challenges (`rte_xml.py`)
    WNLI     index, sentence1, sentence2, label
    AX       index, sentence1, sentence2: GLUE's diagnostic pairs for a model of MNLI

`datasets` names the columns of GLUE as sentence, sentence1, sentence2, question1, premise, label and idx.
"""

from __future__ import annotations

from unmask.tasks.data.layouts import Columns, TextLayout
from unmask.tasks.examples import Labels

__all__ = ["GLUE"]

_TWO = Labels(("0", "1"))
_NLI = Labels(("entailment", "neutral", "contradiction"))
_ENTAILS = Labels(("entailment", "not_entailment"))
_SENTENCES = (
    Columns("sentence1", "sentence2", "label", "index"),
    Columns("sentence1", "sentence2", "label", "idx"),
)

GLUE = {
    layout.name: layout
    for layout in (
        TextLayout(
            name="cola",
            columns=(
                Columns("sentence", label="label", id="index"),
                Columns("sentence", label="label", id="idx"),
                Columns("4", label="2"),
            ),
            labels=_TWO,
            spellings={"unacceptable": "0", "acceptable": "1"},
        ),
        TextLayout(
            name="sst2",
            columns=(
                Columns("sentence", label="label", id="index"),
                Columns("sentence", label="label", id="idx"),
                Columns("1", label="2"),
            ),
            labels=_TWO,
            spellings={"negative": "0", "positive": "1"},
        ),
        TextLayout(
            name="mrpc",
            columns=(
                Columns("#1 String", "#2 String", "Quality", "index"),
                Columns("sentence1", "sentence2", "label", "idx"),
            ),
            labels=_TWO,
            spellings={"not_equivalent": "0", "equivalent": "1"},
        ),
        TextLayout(
            name="stsb",
            kind="number",
            columns=(
                Columns("sentence1", "sentence2", "score", "index"),
                Columns("sentence1", "sentence2", "label", "idx"),
                Columns("1", "2", "3"),
            ),
        ),
        TextLayout(
            name="qqp",
            columns=(
                Columns("question1", "question2", "is_duplicate", "id"),
                Columns("question1", "question2", "label", "idx"),
            ),
            labels=_TWO,
            spellings={"not_duplicate": "0", "duplicate": "1"},
            ragged=True,
        ),
        TextLayout(
            name="mnli",
            columns=(
                Columns("sentence1", "sentence2", "gold_label", "index"),
                Columns("premise", "hypothesis", "label", "idx"),
            ),
            labels=_NLI,
            unlabelled=frozenset({"-"}),
        ),
        TextLayout(name="ax", columns=_SENTENCES, labels=_NLI),
        TextLayout(
            name="qnli",
            columns=(
                Columns("question", "sentence", "label", "index"),
                Columns("question", "sentence", "label", "idx"),
            ),
            labels=_ENTAILS,
        ),
        TextLayout(
            name="rte",
            columns=_SENTENCES,
            labels=_ENTAILS,
            spellings={
                **dict.fromkeys(("TRUE", "YES", "ENTAILMENT"), "entailment"),
                **dict.fromkeys(("FALSE", "NO", "UNKNOWN", "CONTRADICTION"), "not_entailment"),
            },
        ),
        TextLayout(
            name="wnli",
            columns=_SENTENCES,
            labels=_TWO,
            spellings={"not_entailment": "0", "entailment": "1"},
        ),
    )
}
"""The layouts by the names of the tasks."""
