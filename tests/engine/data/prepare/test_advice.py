"""What `prepare` advises: each is followed here, and then the store is made."""

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unmask.data.prepare import Progress, prepare
from unmask.data.store import Store
from unmask.errors import UnmaskError

TEXT = "the mill turns by the river and the river runs past the mill"
OPTIONS: dict[str, Any] = {"vocab_size": 80, "workers": 1}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(UnmaskError) as told:
        prepare(*arguments, **(OPTIONS | options))
    return str(told.value)


def store(*arguments: Any, **options: Any) -> Store:
    return prepare(*arguments, **{name: value for name, value in (OPTIONS | options).items() if value is not None})


@pytest.mark.parametrize(
    ("options", "advice", "changes"),
    [
        ({"delimiter": ";"}, "but no input is one; leave it out", {"delimiter": None}),
        ({"segmenter": "jeiba"}, "choose ", {"segmenter": "spaces"}),
        ({"encoding": "utf8x"}, "give ", {"encoding": "utf-8"}),
    ],
)
def test_an_option_that_is_mended_as_the_error_says_makes_a_store(
    options: dict[str, Any], advice: str, changes: dict[str, Any], text: Path, tmp_path: Path
) -> None:
    assert advice in refusal([text], tmp_path / "store", **options)
    assert store([text], tmp_path / "store", **(options | changes)).num_documents == 1


def test_stores_of_different_words_are_prepared_again(text: Path, tmp_path: Path) -> None:
    first = store([text], tmp_path / "first")
    tokenizer = first.folder / "tokenizer"
    store([text], tmp_path / "words", vocab_size=None, tokenizer=tokenizer, segmenter="spaces")
    both = [tmp_path / "first", tmp_path / "words"]
    told = refusal(both, tmp_path / "both", vocab_size=None)
    assert told.endswith("; prepare the text of one of them again")
    store([text], tmp_path / "again", vocab_size=None, tokenizer=tokenizer)
    both[1] = tmp_path / "again"
    assert store(both, tmp_path / "both", vocab_size=None).num_documents == 2


def test_a_store_takes_no_normalisation_and_its_text_does(text: Path, tmp_path: Path) -> None:
    store([text], tmp_path / "first")
    told = refusal([tmp_path / "first"], tmp_path / "second", vocab_size=None, normalisation="NFKC")
    assert told.endswith("leave it out")
    store([tmp_path / "first"], tmp_path / "second", vocab_size=None)
    store([text], tmp_path / "third", normalisation="NFKC")


def test_a_text_that_changed_after_an_interruption_is_begun_afresh(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "encode" and progress.documents >= 20:
            raise KeyboardInterrupt

    path = tmp_path / "lines.jsonl"
    path.write_text("".join(f'{{"text": "{TEXT} {number}"}}\n' for number in range(40)))
    with pytest.raises(KeyboardInterrupt):
        store([path], tmp_path / "store", shard_tokens=50, progress=stop)
    path.write_text(path.read_text().replace("mill", "wall"))
    told = refusal([path], tmp_path / "store", shard_tokens=50)
    assert told.endswith("remove it to start afresh")
    shutil.rmtree(tmp_path / "store.partial")
    assert store([path], tmp_path / "store", shard_tokens=50).num_documents == 40


def test_text_in_another_encoding_than_said_is_read_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("müde mühle am fluss " * 9, "utf-8")
    store([tmp_path / "a.txt"], tmp_path / "wrong", encoding="latin-1")
    assert "leave the encoding out if they are" in caplog.text
    caplog.clear()
    store([tmp_path / "a.txt"], tmp_path / "right")
    assert "encoding" not in caplog.text


def test_lines_that_are_all_headings_become_documents_by_the_command(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if shutil.which("jq") is None:
        pytest.skip("needs jq")
    (tmp_path / "a b.txt").write_text("CCO mill\n" * 20)
    store([tmp_path / "a b.txt"], tmp_path / "one", split_at="^")
    command = caplog.text.partition("make JSON lines of it: ")[2].strip()
    subprocess.run(["sh", "-c", command], check=True, cwd=tmp_path)
    assert store([tmp_path / "lines.jsonl"], tmp_path / "all").num_documents == 20


def test_copies_are_dropped_by_the_option_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from unmask.cli import main

    (tmp_path / "a.jsonl").write_text(f'{{"text": "{TEXT}"}}\n' * 9 + '{"text": "the river runs"}\n')
    words = ["prepare", "--input", str(tmp_path / "a.jsonl"), "--vocab-size", "80", "--out"]
    assert main([*words, str(tmp_path / "all")]) == 0
    option = re.search(r"(--[a-z-]+) keeps one of each", capsys.readouterr().out)
    assert option is not None
    assert main([*words, str(tmp_path / "some"), option[1]]) == 0
    assert Store.open(tmp_path / "some").num_documents == 2


def test_text_in_another_language_than_the_tokenizer_s_is_not_encoded(text: Path, tmp_path: Path) -> None:
    tokenizer = store([text], tmp_path / "first").folder / "tokenizer"
    (tmp_path / "b.txt").write_text("\u200b\u200b\u2060 \u200b")
    told = refusal([tmp_path / "b.txt"], tmp_path / "second", vocab_size=None, tokenizer=tokenizer, allow_unknown=True)
    ways = r"document gives a token; is the text in the tokenizer's language\?$|every document is empty; give text$"
    assert re.search(ways, told), told
    store([text], tmp_path / "second", vocab_size=None, tokenizer=tokenizer)


@pytest.mark.parametrize("allowed", [True, False])
def test_unknown_words_are_taken_or_a_tokenizer_is_trained(
    allowed: bool, text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "unmask")
    tokenizer = store([text], tmp_path / "first").folder / "tokenizer"
    other = tmp_path / "b.txt"
    other.write_text("жук и рыба " * 9, "utf-8")
    told = refusal([other], tmp_path / "second", vocab_size=None, tokenizer=tokenizer)
    assert "or leave --tokenizer out to train one" in told
    assert "or set allow_unknown" in told
    options = {"vocab_size": None, "tokenizer": tokenizer, "allow_unknown": True} if allowed else {}
    assert store([other], tmp_path / "second", **options).num_documents == 1


def test_a_pipeline_that_did_not_run_is_run(tmp_path: Path) -> None:
    pytest.importorskip("datatrove")
    from datatrove.data import Document

    from unmask.data.prepare.datatrove import TokenStoreWriter, finish_store
    from unmask.data.tokenizer import Tokenizer

    Tokenizer.train([TEXT], 80).save(tmp_path / "tokenizer")
    with pytest.raises(UnmaskError, match="run the pipeline with TokenStoreWriter first"):
        finish_store(tmp_path / "store")
    step = TokenStoreWriter(
        tmp_path / "store", tokenizer=tmp_path / "tokenizer", sources=["web", "pep"], source_key="from"
    )

    def run(rank: int, **metadata: str) -> None:
        list(step.run([Document(text=TEXT, id=str(rank), metadata=metadata)], rank=rank, world_size=2))

    with pytest.raises(UnmaskError, match="sources are web, pep"):
        run(0, **{"from": "wed"})
    run(0, **{"from": "web"})
    with pytest.raises(UnmaskError, match="lacks the parts of tasks 1 of 2; run the pipeline again"):
        finish_store(tmp_path / "store")
    run(1, **{"from": "web"})
    # a run of more tasks left a part
    parts = tmp_path / "store.parts"
    shutil.copytree(next(parts.glob("part-00001")), parts / "part-00002")
    left = parts / "part-00002" / "part.json"
    left.write_text(left.read_text().replace('"tasks": 2', '"tasks": 3'))
    with pytest.raises(UnmaskError) as told:
        finish_store(tmp_path / "store")
    assert "was made by another tokenizer, segmenter, list of sources or number of tasks than " in str(told.value)
    assert str(told.value).endswith(f"; remove {parts} and run the pipeline again")
    shutil.rmtree(parts)
    run(0, **{"from": "web"})
    run(1, **{"from": "web"})
    assert finish_store(tmp_path / "store").num_documents == 2
    with pytest.raises(UnmaskError, match="exists already; choose another folder or remove it first"):
        run(0, **{"from": "web"})


def test_words_are_added_to_a_tokenizer_that_is_given(text: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="add_words needs a tokenizer to add them to, but one is trained on the text; give tokenizer"
    ):
        store([text], tmp_path / "store", add_words=["barn"])
    tokenizer = store([text], tmp_path / "first").folder / "tokenizer"
    added = store([text], tmp_path / "store", vocab_size=None, tokenizer=tokenizer, add_words=["barn"])
    assert "barn" in added.load_tokenizer().vocabulary


def test_a_pipeline_needs_datatrove(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datatrove")
    import importlib

    name = "unmask.data.prepare.datatrove"
    monkeypatch.delitem(sys.modules, name, raising=False)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "datatrove.pipeline.base", None)
        with pytest.raises(
            UnmaskError, match=r"writing from a pipeline needs datatrove; pip install 'unmask\[datatrove\]' brings it"
        ):
            importlib.import_module(name)
    assert importlib.import_module(name).TokenStoreWriter
