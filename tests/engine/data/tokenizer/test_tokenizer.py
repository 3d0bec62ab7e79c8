"""WordPiece: BERT's rules exactly, the same vocabulary for the same text, folders that transformers reads."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmask.data.text.sentences import sentence_starts
from unmask.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from unmask.data.tokenizer.vocabulary import sample_by_hash
from unmask.errors import TokenizerError

TEXTS = [
    "The encoder reads a tensor of shape (batch, length) and returns hidden states.",
    "Élan vital, naïve café! The tensors' encoders re-encode encoded encodings.",
    "深度学习模型 reads 中文文本。",
    "Returns the shape of the tensor; raises ValueError when the shape is wrong.",
] * 3

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[unused0]",
    "un",
    "##want",
    "##ed",
    "runn",
    "##ing",
]
VOCABULARY += [",", "want", "e", "##la", "中", "文", "[", "]", "mask"]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train(TEXTS, 180)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return tmp_path


def _tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token(index) for index in tokenizer.encode_batch([text])[0]]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("UNwantéd,running", ["un", "##want", "##ed", ",", "runn", "##ing"]),
        ("unwantedX", ["[UNK]"]),
        ("中文want", ["中", "文", "want"]),
        ("want\u0000ed \ufffd\u200ewant\t\nwant", ["want", "##ed", "want", "want"]),
        ("want" + "ed" * 60, ["[UNK]"]),
        ("", []),
    ],
)
def test_follows_the_rules_of_bert(folder: Path, text: str, tokens: list[str]) -> None:
    assert _tokens(Tokenizer.load(folder), text) == tokens


def test_a_cased_folder_keeps_case_and_accents(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert _tokens(Tokenizer.load(folder), "Want é want") == ["[UNK]", "[UNK]", "want"]


def test_accents_and_chinese_characters_are_treated_as_a_folder_says(folder: Path) -> None:
    assert _tokens(Tokenizer.load(folder), "Élaed 中文") == ["e", "##la", "##ed", "中", "文"]
    settings = {"strip_accents": False, "tokenize_chinese_chars": False}
    for name, tokens in (
        ("strip_accents", ["[UNK]", "中", "文"]),
        ("tokenize_chinese_chars", ["e", "##la", "##ed", "[UNK]"]),
    ):
        (folder / "tokenizer_config.json").write_text(json.dumps({name: settings[name]}))
        assert _tokens(Tokenizer.load(folder), "Élaed 中文") == tokens


def test_special_tokens_in_a_corpus_are_text_unless_asked_for(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    assert _tokens(tokenizer, "want [MASK]") == ["want", "[", "mask", "]"]
    assert tokenizer.encode_batch(["want [MASK]"], special_tokens=True) == [[12, tokenizer.mask_id]]


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_special_tokens_are_those_that_a_folder_names(folder: Path, file: str) -> None:
    words = [{"[MASK]": "<mask>", "[CLS]": "<s>"}.get(token, token) for token in VOCABULARY]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    (folder / file).write_text(json.dumps({"mask_token": {"content": "<mask>", "lstrip": True}, "cls_token": "<s>"}))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert tokenizer.encode_batch(["want <mask>"], special_tokens=True)[0][-1] == 4
    assert not {2, 4} & set(tokenizer.ordinary_ids.tolist())
    again = folder / "again"
    tokenizer.save(again)
    assert Tokenizer.load(again).special_tokens == tokenizer.special_tokens


def test_word_starts_and_ordinary_ids(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode_batch(["unwanted running, want"])[0]
    assert tokenizer.word_starts(np.array(ids)).tolist() == [True, False, False, True, False, True, True]
    assert tokenizer.ordinary_ids.tolist() == list(range(6, len(VOCABULARY)))
    assert tokenizer.vocab_size == len(VOCABULARY)
    assert tokenizer.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


def test_training_depends_on_the_set_of_texts_alone(trained: Tokenizer) -> None:
    assert Tokenizer.train(TEXTS[::-1], 180).hash == trained.hash
    path = [entry for entry in sys.path if entry]
    code = f"import sys; sys.path[:0] = {path!r}; from unmask.data.tokenizer.tokenizer import Tokenizer;"
    code += f"print(Tokenizer.train({TEXTS!r}, 180).hash)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == trained.hash


def test_training_covers_its_text_and_keeps_whole_frequent_words(trained: Tokenizer) -> None:
    ids = trained.encode_batch(TEXTS)
    assert not any(trained.unk_id in row for row in ids)
    assert "the" in _tokens(trained, "the")
    assert trained.vocab_size <= 180
    assert trained.pad_id == 0


def test_characters_that_only_begin_words_get_no_piece_that_continues_one() -> None:
    vocabulary = Tokenizer.train(["ab 深度 ab c"] * 20, 60)._backend.get_vocab()
    assert {"a", "c", "深", "度", "##b"} < vocabulary.keys()
    assert not {"##a", "##c", "##深", "##度"} & vocabulary.keys()


def test_the_training_sample_is_bounded_and_independent_of_order() -> None:
    texts = [f"document number {n} " * (n % 7 + 1) for n in range(500)] + [""]
    sample = sample_by_hash(texts, 2000)
    assert 1500 < sum(map(len, sample)) <= 2000
    assert sample == sample_by_hash(texts[::-1], 2000)
    assert sample_by_hash(["a" * 50], 10) == ["a" * 50]


def test_saved_folder_loads_here_with_the_same_hash_from_either_file(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    assert Tokenizer.load(tmp_path).hash == trained.hash
    (tmp_path / "tokenizer.json").unlink()
    again = Tokenizer.load(tmp_path)
    assert again.hash == trained.hash
    assert again.encode_batch(TEXTS) == trained.encode_batch(TEXTS)


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("name", ["AutoTokenizer", "BertTokenizerFast"])
def test_saved_folder_loads_in_transformers_with_equal_ids(tmp_path: Path, name: str, lowercase: bool) -> None:
    transformers = pytest.importorskip("transformers")
    ours = Tokenizer.train(TEXTS, 200, lowercase, max_length=128)
    ours.save(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    for text in [*TEXTS, "Unseen Wörds, 漢字 and ##odd tokens"]:
        plain = ours.encode_batch([text])[0]
        assert theirs(text, add_special_tokens=False)["input_ids"] == plain
        assert theirs(text)["input_ids"] == [ours.cls_id, *plain, ours.sep_id]
        pair = ours._backend.encode(text, text)
        assert pair.ids == [ours.cls_id, *plain, ours.sep_id, *plain, ours.sep_id]
        assert pair.type_ids == [0] * (len(plain) + 2) + [1] * (len(plain) + 1)
    assert theirs.mask_token_id == ours.mask_id
    assert theirs.model_max_length == ours.max_length == 128
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for limit in (int(1e30), 0, "none"):
        # transformers writes the first where there is no limit
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": limit}))
        assert Tokenizer.load(tmp_path).max_length == 512
    theirs.save_pretrained(tmp_path / "theirs")
    assert Tokenizer.load(tmp_path / "theirs").hash == ours.hash


def test_truncation_and_padding_of_a_folder_are_switched_off(trained: Tokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path)
    description = json.loads((tmp_path / "tokenizer.json").read_text())
    description["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    description["padding"] = {
        "strategy": {"Fixed": 99},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(description))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode_batch(TEXTS) == trained.encode_batch(TEXTS)
    assert loaded.hash == trained.hash


def test_hash_tells_case_and_vocabulary_apart(folder: Path, tmp_path: Path) -> None:
    hashes = {Tokenizer.load(folder).hash}
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    hashes.add(Tokenizer.load(folder).hash)
    (folder / "vocab.txt").write_text("\n".join([*VOCABULARY, "more"]), encoding="utf-8")
    hashes.add(Tokenizer.load(folder).hash)
    assert len(hashes) == 3


def test_hash_is_of_everything_that_decides_which_ids_a_text_gets(trained: Tokenizer) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import normalizers, pre_tokenizers

    def changed(change: Callable[[Any], object], **special: str) -> str:
        backend = Backend.from_str(trained._backend.to_str())
        change(backend)
        return Tokenizer(backend, special_tokens=SPECIAL_TOKENS | special).hash

    assert changed(lambda backend: backend.enable_padding(length=9)) == trained.hash
    hashes = [
        trained.hash,
        changed(lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.WhitespaceSplit())),
        changed(lambda backend: setattr(backend, "normalizer", normalizers.BertNormalizer(lowercase=False))),
        changed(lambda backend: setattr(backend.model, "max_input_chars_per_word", 5)),
        changed(lambda backend: backend.add_tokens(["a new one"])),
        changed(lambda backend: None, cls="[SEP]", sep="[CLS]"),
    ]
    assert len(set(hashes)) == len(hashes)


@given(st.text(alphabet=st.sampled_from("The tensor. é\u0301\n!?。！”中[MASK]\u200b"), max_size=40))
def test_encoding_sentence_by_sentence_equals_encoding_the_text(trained: Tokenizer, text: str) -> None:
    starts = sentence_starts(text)
    sentences = [text[a:b] for a, b in pairwise([*starts, len(text)])]
    assert list(chain.from_iterable(trained.encode_batch(sentences))) == trained.encode_batch([text])[0]


def test_refuses_what_it_cannot_load(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    with pytest.raises(TokenizerError, match=r"is no folder with tokenizer\.json or vocab.txt"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match=r"has neither tokenizer\.json nor vocab.txt"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(TokenizerError, match=r"has no pad token '\[PAD\]' among its 2 tokens"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)
    Backend(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="WordPiece or WordLevel is needed, got BPE"):
        Tokenizer.load(tmp_path)


def test_training_refuses_empty_text_and_a_vocabulary_smaller_than_the_alphabet() -> None:
    with pytest.raises(TokenizerError, match="no text to train on"):
        Tokenizer.train(["", " \n"], 100)
    with pytest.raises(TokenizerError, match=r"vocab_size must be at least 8 .* got 6"):
        Tokenizer.train(["aaa"], 6)


def test_an_id_outside_the_vocabulary_is_refused(trained: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"id must be in \[0, \d+\)"):
        trained.token(100_000)
