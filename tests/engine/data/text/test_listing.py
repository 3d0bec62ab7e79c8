"""Which files an input is: one list, made before anything is written, and all that is left out is named."""

import hashlib
import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from unmask.config import load_config
from unmask.data.prepare import prepare
from unmask.data.prepare.inputs import Corpus
from unmask.data.store import Store
from unmask.data.text.listing import list_files, real_path
from unmask.data.text.options import ReadOptions
from unmask.data.tokenizer import Tokenizer
from unmask.errors import ConfigError, CorpusError

SENTENCE = "The mill by river {} turns slowly. Nobody repairs the lantern."
TRAINED: dict[str, Any] = {"vocab_size": 120, "workers": 1}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with three texts; the folder around it is the current one."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "corpus"
    _texts(folder, 3)
    return folder


def _texts(folder: Path, count: int, prefix: str = "d") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{prefix}{number}.txt").write_text(SENTENCE.format(f"{prefix}{number}"))


def _names(folder: Path) -> list[str]:
    return [file.path.relative_to(folder).as_posix() for file in list_files(folder).files]


def _bytes(store: Store) -> dict[str, str]:
    files = sorted(path for path in store.folder.rglob("*") if path.is_file())
    return {str(path.relative_to(store.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("way", ["plain", "relative", "dots", "through a link"])
def test_a_store_inside_its_input_is_the_store_outside(corpus: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = _bytes(prepare([corpus], "outside", **TRAINED))
    out = corpus / "store"
    if way == "through a link":
        (corpus.parent / "other").symlink_to(corpus)
        out = corpus.parent / "other" / "store"
    elif way != "plain":
        monkeypatch.chdir(corpus)
        out = Path("store") if way == "relative" else Path("../corpus/./store")
    # what was killed before the first shard
    shutil.copytree(corpus.parent / "outside" / "tokenizer", corpus / "store.partial" / "tokenizer")
    given = "." if way in ("relative", "dots") else corpus
    assert _bytes(prepare([f"corpus={given}"], out, **TRAINED)) == outside
    # it is there now, a store as any other, and no text
    assert _bytes(prepare([corpus], corpus / "again", **TRAINED)) == outside


def test_a_folder_of_source_code_says_how_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\n")
    with pytest.raises(
        CorpusError, match=r"\(\.py 1\); \.py files: if it is plain text, .*: cp FILE\.py FILE\.py\.txt"
    ):
        list_files(tmp_path)


def test_nothing_in_the_folder_that_grows_is_read_whatever_it_looks_like(corpus: Path) -> None:
    _texts(corpus / "store.partial" / "deep", 2)
    (corpus / "link").symlink_to("store.partial/deep")
    assert len(list_files(corpus).files) == 5
    assert len(list_files(corpus, [real_path(corpus / "store.partial")]).files) == 3


def test_a_killed_run_goes_on_inside_its_input(corpus: Path) -> None:
    def killed(progress: object) -> None:
        if (corpus / "store.partial" / "unfinished.json").exists():
            raise KeyboardInterrupt

    whole = prepare([corpus], "outside", shard_tokens=5, **TRAINED)
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], corpus / "store", shard_tokens=5, progress=killed, **TRAINED)
    assert (corpus / "store.partial" / "unfinished.json").exists()
    assert _bytes(prepare([corpus], corpus / "store", shard_tokens=5, **TRAINED)) == _bytes(whole)


def test_what_is_no_text_of_the_users_is_left_out_and_named(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = prepare([corpus], "store", **TRAINED)
    shutil.copytree(store.folder, corpus / "a-store")
    shutil.copytree(store.folder / "tokenizer", corpus / "b-tokenizer")
    (corpus / "c-part.partial").mkdir()
    shutil.copy(store.folder / "shard-00000.arrow", corpus / "c-part.partial")
    for name, file, content in (
        ("d-run", "config.yaml", "run: null\ndata:\n  x: 1\nmodel:\nobjective:\ntrain:\nkernels:\n"),
        ("e-model", "config.json", '{"model_type": "bert"}'),
        ("f-checkpoint", "config.json", '{"model_type": "unmask"}'),
        ("g-saved", "state.json", '{"_data_files": []}'),
        ("h-saved", "dataset_dict.json", '{"splits": ["train"]}'),
        ("i-saved", "state.json", '{"_data_'),
    ):
        _texts(corpus / name, 1)
        (corpus / name / file).write_text(content)
    (corpus / "i-saved" / "data-00000-of-00001.arrow").touch()
    (corpus / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n")
    (corpus / "picture.png").touch()
    os.mkfifo(corpus / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("corpus/socket.jsonl")
    assert _names(corpus) == ["d0.txt", "d1.txt", "d2.txt"]
    again = prepare([corpus], "again", **TRAINED)
    assert again.fingerprint == store.fingerprint
    [told] = caplog.messages
    for part in (
        "a-store (a token store)",
        "c-part.partial (an unfinished store)",
        "e-model (a model)",
        "7 more like these",
        "files with other suffixes (.png 1)",
    ):
        assert part in told


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "dataset_dict.json", "config.yaml", "config.json"])
@pytest.mark.parametrize(
    "content", ['{"files": 3, "version": "2", "step": 1}', "[]", "", '{"cut', "data: 1\n", "[" * 9999]
)
def test_a_foreign_file_of_a_known_name_makes_no_folder_special(corpus: Path, name: str, content: str) -> None:
    (corpus / name).write_text(content)
    assert prepare([corpus], "store", **TRAINED).num_documents == 3
    assert _names(corpus.parent / "corpus") == ["d0.txt", "d1.txt", "d2.txt"]


def test_a_linked_folder_is_read_once_and_cycles_end(corpus: Path) -> None:
    _texts(corpus.parent / "elsewhere" / "deep", 2, "there")
    (corpus.parent / "elsewhere" / "back").symlink_to(corpus)
    (corpus / "a-link").symlink_to("../elsewhere")
    (corpus / "b-link").symlink_to("../elsewhere/deep")
    (corpus / "c-self").symlink_to(".")
    (corpus / "d-up").symlink_to("..")
    (corpus / "real").mkdir()
    (corpus / "real" / "r.txt").write_text("real")
    # before the folder itself in the alphabet, and still the folder's own name is the one
    (corpus / "a-real").symlink_to("real")
    (corpus / "loop").symlink_to("loop")
    listing = list_files(corpus)
    found = [file.path.relative_to(corpus).as_posix() for file in listing.files]
    assert found == ["a-link/deep/there0.txt", "a-link/deep/there1.txt", "d0.txt", "d1.txt", "d2.txt", "real/r.txt"]
    for part in (
        "a-real (a link to a folder that is read)",
        "c-self (a link to a folder around it)",
        "more like these",
    ):
        assert part in listing.left_out


def test_a_link_to_a_folder_around_others_reads_each_once(corpus: Path) -> None:
    _texts(corpus.parent / "wide" / "part", 1, "p")
    (corpus / "one").symlink_to("../wide/part")
    (corpus / "two").symlink_to("../wide")
    listing = list_files(corpus)
    assert [file.path.name for file in listing.files] == ["d0.txt", "d1.txt", "d2.txt", "p0.txt"]
    assert "two/part (a folder that is read by another name)" in listing.left_out


def test_a_linked_file_is_read_once_and_a_lost_one_is_refused(corpus: Path) -> None:
    (corpus / "a.txt").symlink_to("d0.txt")
    _texts(corpus.parent / "elsewhere", 1, "x")
    for name in ("b.txt", "c.txt"):
        (corpus / name).symlink_to("../elsewhere/x0.txt")
    (corpus / "gone").symlink_to("nowhere")
    listing = list_files(corpus)
    assert [file.path.name for file in listing.files] == ["b.txt", "d0.txt", "d1.txt", "d2.txt"]
    assert "a.txt (a link to a file that is read)" in listing.left_out
    assert "gone (a link to nothing)" in listing.left_out
    (corpus / "lost.txt").symlink_to("/nowhere/lost.txt")
    with pytest.raises(CorpusError, match=r"lost\.txt is a link to /nowhere/lost\.txt, which does not exist; restore"):
        list_files(corpus)
    with pytest.raises(CorpusError, match=r"lost\.txt is a link to /nowhere/lost\.txt, which does not exist"):
        Corpus([corpus / "lost.txt"], ReadOptions())


def test_a_file_that_comes_more_than_once_is_said(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    os.link(corpus / "d0.txt", corpus / "hard.txt")
    texts = [document.text for document in Corpus([corpus, "corpus/d1.txt"], ReadOptions()).documents()]
    assert len(texts) == 5
    [told] = caplog.messages
    assert "more than once is also read more than once" in told
    for name in ("d0.txt", "hard.txt", "d1.txt"):
        assert name in told
    prepare([corpus / "d0.txt"], "store", **TRAINED)
    assert prepare(["store", "again=./store"], "twice", workers=1).num_documents == 2
    assert caplog.messages[1:] == [
        "corpus: what the inputs name more than once is also read more than once: ./store, store"
    ]


def test_a_text_that_changes_while_it_is_read_is_refused(corpus: Path) -> None:
    read = Corpus([corpus], ReadOptions()).documents()
    assert next(read).text == SENTENCE.format("d0")
    with (corpus / "d0.txt").open("a") as stream:
        stream.write("more")
    with pytest.raises(CorpusError, match=r"d0\.txt has changed since it was listed \(.* bytes then, .* now\)"):
        next(read)


def test_a_text_that_changes_between_two_passes_is_refused(corpus: Path) -> None:
    def rewrite(progress: Any) -> None:
        if progress.stage == "train tokenizer":
            # of the same size
            (corpus / "d1.txt").write_text(SENTENCE.format("xx"))
            os.utime(corpus / "d1.txt", (1, 1))

    with pytest.raises(CorpusError, match=r"d1\.txt has changed since it was listed"):
        prepare([corpus], "store", progress=rewrite, **TRAINED)
    assert not list(corpus.parent.glob("store*"))


def test_a_text_that_appears_between_two_passes_is_not_read(corpus: Path) -> None:
    def add(progress: Any) -> None:
        (corpus / "late.txt").write_text("late")

    assert prepare([corpus], "store", progress=add, **TRAINED).num_documents == 3


def test_an_unreadable_file_is_named_before_anything_is_read(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("d1.txt"))
    with pytest.raises(CorpusError, match=r"d1\.txt cannot be read \(Permission denied\)"):
        Corpus([corpus], ReadOptions())


def test_a_text_tokenizer_beside_the_text_is_no_text(corpus: Path) -> None:
    tokenizer = Tokenizer.train([SENTENCE], 60)
    tokenizer.save(corpus / "tok")
    assert prepare([corpus], "store", tokenizer=corpus / "tok", allow_unknown=True, workers=1).num_documents == 3


def test_a_folder_of_hidden_files_says_so(tmp_path: Path) -> None:
    (tmp_path / ".a.txt").write_text("hidden")
    with pytest.raises(CorpusError, match="1 with names that begin with a dot are passed over, rename those that are"):
        list_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("a.xlsx", r"pandas\.read_excel\('\S+a\.xlsx'\)\.to_csv\('\S+a\.csv'"),
        ("a.jsonl.BZ2", r"bunzip2 -k \S+\.BZ2"),
        ("a.jsonl.xz", "unxz -k "),
        ("a.pdf", r"pdftotext \S+a\.pdf \S+a\.txt"),
        ("a.docx", r"pandoc -t plain -o \S+a\.txt \S+a\.docx"),
        ("corpus.gz", r"both suffixes, .* mv \S+corpus\.gz \S+corpus\.txt\.gz"),
        ("a.txt~", r"if it is plain text, give its name the suffix \.txt: cp '\S+a\.txt~' '\S+a\.txt~\.txt'"),
        ("README", r"suffix \.txt: cp \S+README \S+README\.txt"),
    ],
)
def test_a_suffix_that_is_not_read_is_refused_with_what_to_do(tmp_path: Path, name: str, way: str) -> None:
    (tmp_path / name).write_text("text")
    with pytest.raises(CorpusError, match=rf"has the suffix .*; files read are \.txt, .*{way}"):
        Corpus([tmp_path / name], ReadOptions())


def test_a_folder_of_nothing_but_such_files_says_what_to_do(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.PDF", "c.png"):
        (tmp_path / name).touch()
    with pytest.raises(CorpusError, match=r"suffixes \(\.pdf 2, \.png 1\); \.pdf files: pdftotext FILE\.pdf FILE\.txt"):
        Corpus([tmp_path], ReadOptions())


def test_a_pipe_given_by_name_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.txt")
    for given, what in ((tmp_path / "p.txt", "a pipe"), (Path("/dev/null"), "a device")):
        with pytest.raises(CorpusError, match=f"{given} is {what}, and text is read more than once"):
            Corpus([given], ReadOptions())


def test_names_that_mislead(corpus: Path) -> None:
    """A folder called like a file, one inside a store, a hidden one given by name, and `=` in a path."""
    _texts(corpus / "folder.jsonl", 1, "in")
    (corpus / "kept.txt~").write_text("backup")
    assert [str(file.path.relative_to(corpus)) for file in list_files(corpus).files][3:] == ["folder.jsonl/in0.txt"]
    store = prepare([corpus], "store", **TRAINED)
    _texts(store.folder / "texts", 2)
    assert len(list_files(store.folder / "texts").files) == 2
    _texts(corpus.parent / ".hidden", 1)
    assert len(list_files(corpus.parent / ".hidden").files) == 1
    _texts(corpus.parent / "a=b", 1)
    for given, source in (("a=b", "a=b"), ("n=a=b", "n"), (".hidden/d0.txt", "d0")):
        assert [document.source for document in Corpus([given], ReadOptions()).documents()] == [source]
    (corpus / ".txt").write_text("no stem")
    assert [document.source for document in Corpus([corpus / ".txt"], ReadOptions()).documents()] == [".txt"]
    with pytest.raises(CorpusError, match="my corpus=a=b does not exist; name a source with letters"):
        Corpus(["my corpus=a=b"], ReadOptions())
    with pytest.raises(CorpusError, match="'' does not exist"):
        Corpus(["name="], ReadOptions())


def test_the_folder_in_which_the_store_grows_is_no_input(corpus: Path) -> None:
    _texts(corpus.parent / "x.partial", 2)
    with pytest.raises(CorpusError, match=r"x\.partial is where the store is made; give the text as input"):
        prepare([corpus.parent / "x.partial"], "x", **TRAINED)
    assert len(list((corpus.parent / "x.partial").glob("*.txt"))) == 2


def test_the_configuration_asks_the_same_question(corpus: Path) -> None:
    (corpus / "manifest.json").write_text(json.dumps({"files": 3}))
    changes = {"data": {"input": [str(corpus)], "vocab_size": 100}}
    assert load_config(None, changes).data.vocab_size == 100
    prepare([corpus], "store", **TRAINED)
    for given in ("store", "s=store"):
        with pytest.raises(ConfigError, match="where a store keeps its own vocabulary"):
            load_config(None, {"data": {"input": [given], "vocab_size": 100}})


@pytest.mark.parametrize(
    ("file", "content", "kind"),
    [
        ("config.yaml", "data:\nmodel:\nobjective:\ntrain:\nkernels:\n", "a run"),
        ("config.json", '{"architectures": ["BertModel"]}', "a model"),
        ("tokenizer_config.json", '{"do_lower_case": true}', "a tokenizer"),
        ("unfinished.json", '{"settings": {}, "shards": []}', "an unfinished store"),
    ],
)
def test_such_a_folder_given_as_text_is_refused_by_its_kind(corpus: Path, file: str, content: str, kind: str) -> None:
    (corpus / file).write_text(content)
    with pytest.raises(CorpusError, match=f"corpus is {kind}, which is not read as text; "):
        prepare([corpus], "store", **TRAINED)
    # the way out
    assert prepare(sorted(corpus.glob("*.txt")), "store", **TRAINED).num_documents == 3
