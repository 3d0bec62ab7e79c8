"""Case: what a folder says counts; a bare vocabulary shows it, or the option says it; a contradiction is refused."""

import json
import re
from pathlib import Path

import pytest

from unmask.data.tokenizer import Tokenizer
from unmask.data.tokenizer.case import case_of_vocabulary
from unmask.errors import TokenizerError

ROLES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CASED = [*ROLES, "The", "mill", "Paris", "the", "##s", "[unused7]"]
UNCASED = [*ROLES, "the", "mill", "paris", "##s", "[unused7]", "<S>"]


def bare(folder: Path, tokens: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return folder / "vocab.txt"


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token(index) for index in tokenizer.encode_batch([text])[0]]


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_bare_vocabulary_with_capitals_keeps_case(tmp_path: Path, whole_folder: bool) -> None:
    given = bare(tmp_path, CASED)
    tokenizer = Tokenizer.load(tmp_path if whole_folder else given)
    assert not tokenizer.lowercase
    assert pieces(tokenizer, "The mills the Paris") == ["The", "mill", "##s", "the", "Paris"]


def test_a_bare_vocabulary_without_capitals_drops_case(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bare(tmp_path, UNCASED))
    assert tokenizer.lowercase
    assert pieces(tokenizer, "The Mills") == ["the", "mill", "##s"]


def test_letters_without_case_say_nothing(tmp_path: Path) -> None:
    assert case_of_vocabulary(["中", "##文", "می", "12", "##!"], tmp_path / "vocab.txt")
    assert case_of_vocabulary([], tmp_path / "vocab.txt")


def test_a_few_capitals_are_an_error_whose_ways_out_all_work(tmp_path: Path) -> None:
    words = [f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(97)]
    given = bare(tmp_path, [*ROLES, *words, "the", "Paris", "Rome"])
    with pytest.raises(TokenizerError, match=r"capitals in 2 of its 100 entries with letters, such as 'Paris'") as told:
        Tokenizer.load(given)
    assert "--lowercase or --no-lowercase (data.lowercase in a run, lowercase in Python)" in str(told.value)
    assert pieces(Tokenizer.load(given, lowercase=False), "The Paris") == ["[UNK]", "Paris"]
    assert pieces(Tokenizer.load(given, lowercase=True), "The Paris") == ["the", "[UNK]"]
    written = re.search(r"write (\{.*?\})", str(told.value))
    assert written is not None
    (tmp_path / "tokenizer_config.json").write_text(written[1])
    assert Tokenizer.load(given).lowercase
    (tmp_path / "tokenizer_config.json").write_text(written[1].replace("true", "false"))
    assert not Tokenizer.load(given).lowercase


@pytest.mark.parametrize("tokens", [CASED, UNCASED])
@pytest.mark.parametrize("lowercase", [False, True])
def test_the_option_decides_for_a_bare_vocabulary(tmp_path: Path, tokens: list[str], lowercase: bool) -> None:
    assert Tokenizer.load(bare(tmp_path, tokens), lowercase=lowercase).lowercase is lowercase


@pytest.mark.parametrize("file", ["tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("says", [False, True])
def test_an_option_that_contradicts_a_file_is_refused_with_both_facts(tmp_path: Path, file: str, says: bool) -> None:
    bare(tmp_path, CASED)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": says}))
    if file == "tokenizer.json":
        Tokenizer.load(tmp_path).save(tmp_path)
        (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer.load(tmp_path, lowercase=says).lowercase is says
    fact = {
        "tokenizer_config.json": f"says do_lower_case {json.dumps(says)}",
        "tokenizer.json": "drops case" if says else "keeps case",
    }[file]
    with pytest.raises(
        TokenizerError, match=rf"lowercase is {not says}, but \S+{file} {fact}; leave lowercase out, or"
    ):
        Tokenizer.load(tmp_path, lowercase=not says)
    # the ways out
    assert Tokenizer.load(tmp_path).lowercase is says
    other = bare(tmp_path / "other", CASED)
    assert Tokenizer.load(other, lowercase=not says).lowercase is not says


def test_a_folder_written_here_says_its_case(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bare(tmp_path, CASED))
    tokenizer.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["do_lower_case"] is False
    assert Tokenizer.load(tmp_path / "saved").hash == tokenizer.hash


def test_transformers_gives_the_same_ids_for_the_folder_of_a_cased_vocabulary(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.load(bare(tmp_path, CASED))
    tokenizer.save(tmp_path / "saved")
    text = "The mills of Paris, THE mill"
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")(text, add_special_tokens=False)["input_ids"]
    assert theirs == tokenizer.encode_batch([text])[0]


def test_capitals_that_lower_cased_text_cannot_hold_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = bare(tmp_path, CASED)
    Tokenizer.load(given, lowercase=True)
    assert "has capitals in 2 of its 5 entries with letters, such as 'The', which cannot occur" in caplog.text
    caplog.clear()
    # the way out, and a vocabulary without capitals
    Tokenizer.load(given, lowercase=False)
    Tokenizer.load(bare(tmp_path / "uncased", UNCASED), lowercase=True)
    assert not caplog.records
