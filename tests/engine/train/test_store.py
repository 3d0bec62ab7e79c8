import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from unmask.config import DataConfig, RunConfig, load_config
from unmask.data.text.corpus import Document
from unmask.data.tokenizer import Tokenizer
from unmask.errors import StoreError, TokenizerError
from unmask.train.pretrain import pretrain
from unmask.train.store import open_store

TEXTS = [
    f"the {a} {b} sat on a {c} mat" for a in ("red", "old", "sad") for b in ("cat", "dog", "owl") for c in "xyzuvw"
]


@pytest.fixture
def docstrings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Document]:
    """A small corpus in the place of the embedded one, and a cache of its own."""
    documents = [Document(text=text, source="python", origin=str(n)) for n, text in enumerate(TEXTS)]
    for module in ("unmask.train.store", "unmask.data.prepare.inputs"):
        monkeypatch.setattr(f"{module}.docstring_corpus", lambda **_: documents)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return documents


def config(**data: object) -> RunConfig:
    return RunConfig(data=DataConfig(vocab_size=120, **data))  # type: ignore[arg-type]


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "unmask").glob("store-*"))


def test_given_text_is_prepared_once_inside_the_run_directory(tmp_path: Path) -> None:
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    store, tokenizer = open_store(config(input=[str(source)]), tmp_path)
    assert store.folder == tmp_path / "store"
    assert store.num_documents == len(TEXTS)
    assert tokenizer.hash == store.tokenizer_hash
    source.unlink()
    again, _ = open_store(config(input=[str(source)]), tmp_path)
    assert again.fingerprint == store.fingerprint


def test_a_store_of_other_words_is_refused_where_a_segmenter_is_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name, segmenter in (("none", None), ("words", "spaces")):
        open_store(config(input=[str(source)], segmenter=segmenter), tmp_path / name)
    with pytest.raises(StoreError, match=r"made without a segmenter.* again with --segmenter spaces"):
        open_store(config(store=str(tmp_path / "none" / "store"), segmenter="spaces"), tmp_path)
    words = str(tmp_path / "words" / "store")
    for taken in ("spaces", "chinese", None):
        assert open_store(config(store=words, segmenter=taken), tmp_path)[0].segmenter == "spaces"
    with pytest.raises(StoreError, match=r"words by spaces, but data\.segmenter is 'jieba'.* --data\.segmenter spaces"):
        open_store(config(store=words, segmenter="jieba"), tmp_path)


def test_given_text_is_read_as_the_configuration_says(tmp_path: Path) -> None:
    rows, blocks = tmp_path / "text.jsonl", tmp_path / "text.txt"
    rows.write_text("".join(json.dumps({"body": text.title()}) + "\n" for text in TEXTS))
    # words enough for two sizes of vocabulary
    many = " ".join(a + b for a in "bcdfghjklmnp" for b in ("amper", "ellow", "inkle", "oster", "undle"))
    blocks.write_text("\n\n".join([*TEXTS, many][1:]))
    asked = {"text_field": "body", "blank_line_documents": True, "lowercase": False}
    store, tokenizer = open_store(config(input=[str(rows), str(blocks)], **asked), tmp_path)
    assert store.num_documents == 2 * len(TEXTS)
    fewer = replace(config(input=[str(rows), str(blocks)], **asked).data, vocab_size=100)
    assert open_store(RunConfig(data=fewer), tmp_path / "fewer")[0].vocab_size <= 100 < store.vocab_size
    blocks.write_text("# One\nthe cat sat on a red mat\n# Two\nthe dog sat on an old mat\n")
    data = DataConfig(input=[str(blocks)], split_at="^#", tokenizer=str(store.folder / "tokenizer"))
    assert open_store(RunConfig(data=data), tmp_path / "cut")[0].num_documents == 2
    assert tokenizer.decode(tokenizer.encode_batch(["The Cat"])[0]) == "The Cat"


def test_the_docstrings_are_prepared_once_a_machine(
    tmp_path: Path, docstrings: list[Document], caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = open_store(config(), tmp_path / "a")
    caplog.clear()
    again, _ = open_store(config(), tmp_path / "b")
    assert again.folder == first.folder
    assert "preparing" not in caplog.text
    assert cached(tmp_path) == [first.folder]


def test_other_docstrings_or_another_vocabulary_are_another_store(tmp_path: Path, docstrings: list[Document]) -> None:
    open_store(config(), tmp_path)
    open_store(replace(config(), data=DataConfig(vocab_size=110)), tmp_path)
    open_store(config(lowercase=False), tmp_path)
    open_store(config(strip_accents=False), tmp_path)
    open_store(config(segmenter="spaces"), tmp_path)
    docstrings[0] = replace(docstrings[0], source="torch")
    open_store(config(), tmp_path)
    docstrings[0] = replace(docstrings[0], text="another")
    open_store(config(), tmp_path)
    docstrings.pop()
    open_store(config(), tmp_path)
    assert len(cached(tmp_path)) == 8


def test_a_damaged_cache_is_made_again(
    tmp_path: Path, docstrings: list[Document], caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = open_store(config(), tmp_path)
    (first.folder / "manifest.json").write_text("{")
    again, _ = open_store(config(), tmp_path)
    assert again.fingerprint == first.fingerprint
    assert "preparing the cached text again" in caplog.text


def test_without_a_cache_the_store_lies_in_the_run_directory(
    tmp_path: Path, docstrings: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    store, _ = open_store(config(), tmp_path)
    assert store.folder == tmp_path / "store"


def test_a_store_made_by_another_tokenizer_is_refused(tmp_path: Path, docstrings: list[Document]) -> None:
    store, _ = open_store(config(), tmp_path)
    Tokenizer.train([*TEXTS, "quite other words"], 130).save(tmp_path / "other")
    with pytest.raises(StoreError, match="was made by tokenizer"):
        open_store(config(store=str(store.folder), tokenizer=str(tmp_path / "other")), tmp_path)


def test_from_text_to_a_checkpoint_that_transformers_loads(
    tiny: ModuleType, tmp_path: Path, docstrings: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr("unmask.train.pretrain.open_store", open_store)
    run = tmp_path / "run"
    base = tiny.config(run, steps=6, phases=[])
    pretrain(replace(base, data=replace(base.data, vocab_size=120)))
    folder = run / "checkpoints" / "step-000006"
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS[0], return_tensors="pt")
    from unmask.batch import pack
    from unmask.model import PretrainingModel

    ours = PretrainingModel.from_pretrained(folder)
    batch = pack([encoded["input_ids"][0].tolist()])
    with torch.no_grad():
        expected = theirs(**encoded).logits[0]
        got = ours.mlm_logits(ours(batch))
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-5


def test_the_settings_of_reading_reach_the_preparation(tmp_path: Path) -> None:
    rows = ["title;text", *(f"café {number % 2};{text}" for number, text in enumerate(TEXTS)), f"café 0;{TEXTS[0]}"]
    (tmp_path / "news.csv").write_bytes("\n".join(rows).encode("latin-1"))
    asked = {"encoding": "latin-1", "delimiter": ";", "text_field": "title,text", "drop_duplicates": True}
    store, tokenizer = open_store(config(input=[str(tmp_path / "*.csv")], **asked), tmp_path)
    assert store.num_documents == len(TEXTS)
    assert store.sources == ["news"]
    ids, _ = store.gather(store.source_of[:1] * 0, store.source_of[:1] * 0, store.lengths[:1])
    assert tokenizer.decode(ids.tolist()).startswith("cafe 0 ")


def test_the_docstrings_by_name_are_the_docstrings_without_input(tmp_path: Path, docstrings: list[Document]) -> None:
    first, _ = open_store(config(), tmp_path / "a")
    again, _ = open_store(config(input=["docstrings:"]), tmp_path / "b")
    assert again.folder == first.folder


CASED = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "The", "Mill", "turns", "the", "mill", "Paris"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """A vocabulary with capitals, alone in its folder, and a text of its words, text.txt."""
    (tmp_path / "text.txt").write_text("The Mill turns Paris The Paris Mill")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "vocab.txt").write_text("".join(f"{token}\n" for token in CASED))
    return tmp_path / "there" / "vocab.txt"


def test_the_case_of_a_bare_vocabulary_is_that_of_the_setting_or_of_its_entries(
    vocabulary: Path, tmp_path: Path
) -> None:
    data = DataConfig(input=[str(tmp_path / "text.txt")], tokenizer=str(vocabulary))
    assert not open_store(RunConfig(data=data), tmp_path / "shown")[1].lowercase
    dropped = RunConfig(data=replace(data, lowercase=True))
    with pytest.raises(TokenizerError, match=r"give --no-lowercase \(data\.lowercase in a run\); or set allow_unknown"):
        open_store(dropped, tmp_path / "dropped")
    assert not open_store(RunConfig(data=replace(data, lowercase=False)), tmp_path / "dropped")[1].lowercase
    taken = RunConfig(data=replace(data, lowercase=True, allow_unknown=True))
    store, tokenizer = open_store(taken, tmp_path / "taken")
    assert tokenizer.lowercase
    # the case that a store was made with is no matter for the vocabulary that is compared with its own
    made = DataConfig(store=str(store.folder), tokenizer=str(vocabulary))
    assert open_store(RunConfig(data=made), tmp_path)[0].fingerprint == store.fingerprint


def test_a_run_keeps_the_indentation_of_code_on_request(tmp_path: Path, docstrings: list[Document]) -> None:
    (tmp_path / "code.txt").write_text("if a:\n    b = a\n" * 9)
    asked = config(input=[str(tmp_path / "code.txt")], keep_indentation=True)
    tokenizer = open_store(asked, tmp_path)[1]
    assert "\n    " in tokenizer.tokens
    # also of the embedded corpus, which has a store of its own then
    plain, _ = open_store(config(), tmp_path / "plain")
    kept, tokenizer = open_store(config(keep_indentation=True), tmp_path / "kept")
    assert kept.folder != plain.folder
    assert tokenizer.hash != plain.tokenizer_hash


def test_prepared_text_that_a_run_refuses_at_the_end_is_kept_and_the_setting_goes_on_with_it(
    vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("unmask.data.prepare.preparation._SAMPLE_CHARACTERS", 0)
    rows = [json.dumps({"text": f"The Mill {'turns ' * n}Paris"}) for n in range(9)]
    (tmp_path / "text.jsonl").write_text("\n".join(rows))
    run = tmp_path / "run"
    asked = {
        "data": {"input": [str(tmp_path / "text.jsonl")], "tokenizer": str(vocabulary), "lowercase": True},
        "model": {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32},
        "train": {"steps": 1, "tokens_per_step": 64, "save_every": 1},
        "optimizer": {"warmup_steps": 0},
        "stream": {"max_length": 16, "micro_batch_tokens": 64, "held_out_fraction": 0, "workers": 0},
        "run": str(run),
    }
    with pytest.raises(TokenizerError, match="set allow_unknown"):
        pretrain(load_config("tiny", asked))
    assert [path.name for path in run.iterdir()] == ["store.partial"]
    assert f"the same settings of data with --run {run} go on with it" in caplog.text
    caplog.clear()
    caplog.set_level("INFO", "unmask")
    pretrain(load_config("tiny", asked | {"data.allow_unknown": True}))
    assert f"preparing {run / 'store'}: continue" in caplog.messages
    assert f"preparing {run / 'store'}: encode" not in caplog.messages
    assert list((run / "checkpoints").glob("step-*"))
