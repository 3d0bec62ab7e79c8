"""`unmask prepare`: from files to a store that can be opened, and refusals that lose nothing."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from unmask.cli import main
from unmask.errors import StoreError

LINES = [
    "The river runs past the old mill and the mill turns.",
    "A cat sat on the warm wall and watched the river.",
    "The old cat turns and runs past the wall.",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    file = tmp_path / "docs.jsonl"
    file.write_text("".join(json.dumps({"body": line}) + "\n" for line in LINES * 3), "utf-8")
    return file


def test_the_usage_shows_the_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: unmask prepare --input [NAME=]PATH --out FOLDER [OPTIONS]\n")


def test_files_become_a_store_with_its_tokenizer(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.data.store import Store

    out = tmp_path / "store"
    arguments = ["--input", str(corpus), "--text-field", "body", "--vocab-size", "120", "--out", str(out)]
    assert main(["prepare", *arguments]) == 0
    store = Store.open(out)
    assert store.num_documents == 9
    told = capsys.readouterr()
    assert "9 documents" in told.out
    assert "encode: 9 documents" in told.err


def test_a_text_without_its_option_is_told_the_option(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(corpus), "--out", str(tmp_path / "store")]) == 2
    assert capsys.readouterr().err == (
        f"unmask: prepare: {str(corpus)!r} belongs to no option; give text as --input {corpus}, or run "
        "`unmask prepare --help` for the options\n"
    )
    assert not (tmp_path / "store").exists()


def test_a_second_text_field_is_told_the_comma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"body": "the mill turns", "title": "a mill"}\n')
    common = ["prepare", "--input", "a.jsonl", "--out", "store", "--vocab-size", "100"]
    for words in (["--text_field", "body", "title"], ["--text-field=body", "title"]):
        assert main([*common, *words]) == 2
        assert "; give several fields as --text-field body,title, or run " in capsys.readouterr().err
    assert main([*common, "--text-field", "body", "a.jsonl"]) == 2
    assert "give text as --input a.jsonl" in capsys.readouterr().err
    assert main([*common, "--text-field", "body,title"]) == 0


def test_the_progress_of_a_copied_store_counts_documents_only(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ["--input", str(corpus), "--text-field", "body", "--vocab-size", "120", "--out", str(tmp_path / "a")]
    assert main(["prepare", *first]) == 0
    assert main(["prepare", "--input", str(tmp_path / "a"), "--out", str(tmp_path / "b")]) == 0
    assert "encode: 9 documents so far" in capsys.readouterr().err


def test_files_of_different_kinds_are_joined_by_the_commands_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")
    commands = page.partition("**Files of different kinds.**")[2].partition("```\n")[2].partition("```")[0].splitlines()
    monkeypatch.chdir(tmp_path)
    Path("stories").mkdir()
    text = " ".join(LINES)
    Path("stories/a.txt").write_text(f"CHAPTER 1\n{text}\nCHAPTER 2\n{text}\n", "utf-8")
    Path("news.csv").write_text(f'id,body\n1,"{text}"\n', "utf-8")
    Path("notes.jsonl").write_text(json.dumps({"content": text}) + "\n", "utf-8")
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    from unmask.data.store import Store

    assert len(commands) == 4
    store = Store.open("store")
    assert (store.num_documents, store.sources) == (4, ["stories", "news", "notes"])


def test_every_option_reaches_the_preparation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def prepare(inputs: list[str], out: Path, **options: Any) -> None:
        asked.update({"inputs": inputs, "out": out, **options})
        raise StoreError("enough")

    monkeypatch.setattr("unmask.data.prepare.prepare", prepare)
    options: dict[str, Any] = {
        "tokenizer": None,
        "vocab_size": 300,
        "lowercase": False,
        "strip_accents": False,
        "keep_indentation": True,
        "allow_unknown": True,
        "text_field": "body",
        "blank_line_documents": True,
        "split_at": "^#",
        "encoding": "latin-1",
        "delimiter": ";",
        "drop_duplicates": True,
        "segmenter": "spaces",
        "normalisation": "NFKC",
        "workers": 3,
        "shard_tokens": 1000,
    }
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    words = ["--input", "a.txt", "--input", "b.txt", "--out", str(tmp_path / "store"), "--add-words", "words.txt"]
    for name, value in options.items():
        flag = f"{'' if value is not False else 'no-'}{name.replace('_', '-')}"
        words += [f"--{flag}", *([] if isinstance(value, bool) else [str(value)])]
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        Path(name).touch()
    assert main(["prepare", *words]) == 2
    assert callable(asked.pop("progress"))
    assert asked.pop("add_words") == ["one", "two"]
    assert asked == {"inputs": ["a.txt", "b.txt"], "out": tmp_path / "store", **options}


def test_given_tokenizer_is_used(corpus: Path, model_folder: Path, tmp_path: Path) -> None:
    from unmask.data.store import Store
    from unmask.data.tokenizer import Tokenizer

    out = tmp_path / "store"
    arguments = ["--input", str(corpus), "--text-field", "body", "--tokenizer", str(model_folder), "--out", str(out)]
    assert main(["prepare", *arguments]) == 0
    assert Store.open(out).tokenizer_hash == Tokenizer.load(model_folder).hash


@pytest.mark.parametrize(("word", "grows"), [("quixotic", True), ("the", False)])
def test_the_next_command_extends_a_vocabulary_that_grew_and_no_other(
    word: str, grows: bool, corpus: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text(word)
    arguments = ["--input", str(corpus), "--text-field", "body", "--tokenizer", str(model_folder)]
    arguments += ["--add-words", str(tmp_path / "words.txt"), "--out", str(tmp_path / "store"), "--workers", "1"]
    assert main(["prepare", *arguments]) == 0
    told = capsys.readouterr()
    [tried] = [line for line in told.out.splitlines() if line.startswith("try: ")]
    assert ("--init.vocabulary extend" in tried) == grows
    assert f"{int(grows)} of 1 words are new entries" in told.err + told.out


def test_existing_store_is_not_overwritten(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--input", str(corpus), "--text-field", "body", "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert corpus.is_file()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "absent.txt"),
        ("broken.txt", b"fine \xff", "broken.txt"),
        ("empty.txt", b"", "empty.txt holds no text"),
        ("table.csv", b"a,b", "table.csv"),
    ],
)
def test_input_that_cannot_be_read_is_named_and_leaves_nothing(
    name: str,
    content: bytes | None,
    message: str,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "store"
    arguments = ["--input", str(tmp_path / name), "--tokenizer", str(model_folder), "--out", str(out)]
    assert main(["prepare", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_what_a_failed_run_keeps_is_told_and_the_mended_text_goes_on(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask.data.store import Store

    monkeypatch.setattr("unmask.data.prepare.preparation._BATCH_CHARACTERS", 200)
    monkeypatch.setattr("unmask.data.prepare.preparation._SAMPLE_CHARACTERS", 100)
    # what is read at once is decoded at once
    monkeypatch.setattr("unmask.data.text.decoding._BLOCK_BYTES", 200)
    corpus = tmp_path / "docs.jsonl"
    good = "".join(json.dumps({"text": line}) + "\n" for line in LINES * 20).encode()
    corpus.write_bytes(good + b"\xff")
    out = tmp_path / "store"
    arguments = ["--input", f"tales={corpus}", "--tokenizer", str(model_folder), "--out", str(out)]
    arguments += ["--shard-tokens", "100", "--workers", "1"]
    assert main(["prepare", *arguments]) == 2
    told = capsys.readouterr().err
    assert f"unmask: {out}.partial is an unfinished store; run the same command on the same text to go on" in told
    assert "is not UTF-8" in told
    corpus.write_bytes(good + b" ")
    assert main(["prepare", *arguments]) == 0
    told = capsys.readouterr()
    assert "continue: " in told.err
    assert "tales: 60 documents" in told.out
    assert Store.open(out).sources == ["tales"]


@pytest.mark.parametrize("asked", [["--vocab-size", "1000"], ["--no-strip-accents"]])
def test_a_vocabulary_asked_for_beside_a_tokenizer_is_refused(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "--tokenizer", "there", "--out", str(tmp_path / "store"), *asked]) == 2
    assert "but a tokenizer is given, which keeps its own vocabulary; leave one of them out" in capsys.readouterr().err


@pytest.mark.parametrize("asked", [["--vocab-size", "1000"], ["--no-strip-accents"]])
def test_a_vocabulary_asked_for_beside_a_store_is_refused(
    store_folder: Path, corpus: Path, tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grown"
    arguments = ["prepare", "--input", str(corpus), f"old={store_folder}", "--text-field", "body", "--out", str(out)]
    assert main([*arguments, *asked]) == 2
    told = f"but the input {store_folder} is a store, which keeps its own vocabulary; leave one of them out"
    assert told in capsys.readouterr().err
    assert not out.exists()
    assert main(arguments) == 0


CASED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "The", "Mill", "turns", "the", "mill", "Paris"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A vocabulary with capitals, alone in its folder, and a text of its words, text.txt."""
    (tmp_path / "text.txt").write_text("The Mill turns Paris. The Paris Mill.\n".replace(".", ""), "utf-8")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "vocab.txt").write_text("".join(f"{token}\n" for token in CASED), "utf-8")
    return tmp_path / "there" / "vocab.txt"


def prepared(vocabulary: Path, out: str, *options: str) -> int:
    folder = vocabulary.parent.parent
    words = ["--input", str(folder / "text.txt"), "--tokenizer", str(vocabulary), "--out", str(folder / out)]
    return main(["prepare", *words, *options])


def test_a_vocabulary_with_capitals_keeps_case_and_says_so(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from unmask.data.store import Store

    assert prepared(vocabulary, "store") == 0
    told = capsys.readouterr()
    assert (
        "vocab.txt has capitals in 3 of its 6 entries with letters, so case is kept; if that is wrong, give --lowercase"
        in told.err
    )
    assert "7 tokens without [CLS] and [SEP]" in told.out
    assert "0.000% unknown" in told.out
    assert not Store.open(tmp_path / "store").load_tokenizer().lowercase


def test_the_wrong_case_is_refused_and_the_options_of_the_message_work(
    vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepared(vocabulary, "store", "--lowercase") == 2
    told = capsys.readouterr().err
    assert "28.6% of the tokens in a sample of the text are unknown (2 of 7)" in told
    assert "most frequent words: Paris (2); the vocabulary has most of them as the text spells them" in told
    assert "give --no-lowercase" in told
    assert not list(tmp_path.glob("store*"))
    assert prepared(vocabulary, "kept", "--no-lowercase") == 0
    assert "0.000% unknown" in capsys.readouterr().out
    assert "--allow-unknown" in told
    assert prepared(vocabulary, "dropped", "--lowercase", "--allow-unknown") == 0
    told_again = capsys.readouterr()
    assert "28.6% of the tokens are unknown" in told_again.err
    assert "28.571% unknown" in told_again.out


def test_a_case_that_a_file_decides_is_not_changed_by_the_option(
    vocabulary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (vocabulary.parent / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert prepared(vocabulary, "store", "--lowercase") == 2
    told = capsys.readouterr().err
    assert "lowercase is True, but " in told
    assert "tokenizer_config.json says do_lower_case false; leave lowercase out" in told
    assert prepared(vocabulary, "store") == 0


def test_a_vocabulary_that_is_smaller_than_asked_for_is_told(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--input", str(corpus), "--text-field", "body", "--vocab-size", "600"]
    assert main(["prepare", *arguments, "--out", str(tmp_path / "store")]) == 0
    told = capsys.readouterr()
    assert "entries instead of 600: each word of it is an entry already, and nothing is left to join" in told.err
