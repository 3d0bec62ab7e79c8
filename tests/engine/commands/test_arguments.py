"""An argument that is out of its range has one sentence, in Python and on the command line."""

from __future__ import annotations

from typing import Any

import pytest

import unmask
from unmask.cli import main

WRONG: list[tuple[str, str, Any]] = [
    ("evaluate", "tokens", -1),
    ("evaluate", "split", "test"),
    ("fill-mask", "top", 0),
    ("analyse", "micro_batches", 0),
    *(("similar-words", name, 0) for name in ("words", "neighbours", "min_count", "tokens", "epochs")),
]


@pytest.mark.parametrize(("command", "name", "value"), WRONG)
def test_a_value_out_of_range_has_one_sentence(
    command: str, name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "evaluate": ["MODEL"],
        "fill-mask": ["MODEL", "a [MASK]"],
        "analyse": ["STORE"],
        "similar-words": ["STORE", "TABLE"],
    }[command]
    with pytest.raises(ValueError, match="must be") as caught:
        getattr(unmask, command.replace("-", "_"))(*words, **{name: value})
    if command == "similar-words":
        words = ["--store", "STORE", "--out", "TABLE"]
    option = f"--{name.replace('_', '-')}"
    assert main([command, *words, option, str(value)]) == 2
    assert capsys.readouterr().err == f"unmask: {str(caught.value).replace(f': {name} ', f': {option} ')}\n"


@pytest.mark.parametrize(("command", "name", "value"), [("fill_mask", "top", 2.5), ("evaluate", "tokens", "many")])
def test_a_value_of_another_type_is_a_type_error(command: str, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got {value!r}"):
        getattr(unmask, command)("MODEL", "a [MASK]", **{name: value})


def test_vectors_and_their_training_are_refused_together(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="--seed is of the training, and --vectors reads vectors; leave one") as caught:
        unmask.similar_words("STORE", "TABLE", vectors="FILE", seed=3)
    assert main(["similar-words", "--store", "S", "--out", "T", "--vectors", "FILE", "--seed", "3"]) == 2
    assert capsys.readouterr().err == f"unmask: {caught.value}\n"
