"""What a tokenizer folder says is followed, or refused by its name with a way out that works."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.data.tokenizer import Tokenizer
from unmask.errors import TokenizerError

ROLES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*ROLES, "the", "mill", "e", "##s", "@@s", "[unused0]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return tmp_path


def say(folder: Path, file: str = "tokenizer_config.json", /, **values: Any) -> Path:
    (folder / file).write_text(json.dumps(values), encoding="utf-8")
    return folder


def pieces(given: Path, text: str) -> list[str]:
    tokenizer = Tokenizer.load(given)
    return [tokenizer.token(index) for index in tokenizer.encode_batch([text])[0]]


def add_whole(folder: Path, change: Callable[[dict[str, Any]], object] = lambda description: None) -> None:
    """A tokenizer.json beside the vocabulary, after a change of what it says."""
    Tokenizer.load(folder).save(folder)
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    change(description)
    path.write_text(json.dumps(description), encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "DPRReaderTokenizer",
        "DPRQuestionEncoderTokenizerFast",
        "BertTokenizer",
        "BertTokenizerFast",
        "DistilBertTokenizer",
        "DistilBertTokenizerFast",
        "ElectraTokenizer",
    ],
)
def test_a_class_that_is_bert_s_under_another_name_is_followed(folder: Path, name: str) -> None:
    assert pieces(say(folder, tokenizer_class=name), "The mills") == ["the", "mill", "##s"]


def test_mpnet_calls_the_roles_by_other_names(folder: Path) -> None:
    names = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
    (folder / "vocab.txt").write_text("\n".join(names.get(word, word) for word in WORDS), encoding="utf-8")
    tokenizer = Tokenizer.load(say(folder, tokenizer_class="MPNetTokenizer"))
    assert tokenizer.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "RobertaTokenizer", "PhobertTokenizer", "MyTokenizer"])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_class_with_rules_of_its_own_is_refused(folder: Path, name: str, whole: bool, file: str) -> None:
    if whole:
        add_whole(folder)
        (folder / "tokenizer_config.json").unlink()
    say(folder, file, tokenizer_class=name)
    with pytest.raises(TokenizerError, match=f"names tokenizer_class '{name}', which is not followed here") as caught:
        Tokenizer.load(folder)
    way_out = "PreTrainedTokenizerFast" if whole else "BertTokenizer"
    assert f"'{way_out}'" in str(caught.value)
    say(folder, tokenizer_class=way_out)
    assert pieces(folder, "The mills") == ["the", "mill", "##s"]


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_class_that_means_tokenizer_json_needs_that_file(folder: Path, name: str) -> None:
    add_whole(folder)
    say(folder, tokenizer_class=name)
    assert pieces(folder, "The mills") == ["the", "mill", "##s"]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=f"names tokenizer_class '{name}'.* a vocab.txt does not say"):
        Tokenizer.load(folder)


def test_code_of_its_own_is_refused(folder: Path) -> None:
    say(folder, auto_map={"AutoTokenizer": ["tokenization_my.MyTokenizer", None]})
    with pytest.raises(TokenizerError, match="names auto_map, code of its own"):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"do_basic_tokenize": False}, "says do_basic_tokenize false, which is not followed"),
        ({"never_split": ["mill"]}, "says never_split mill, which is not followed"),
        ({"clean_text": False}, "says clean_text false"),
        (
            {"split_special_tokens": True, "bos_token": "the"},
            "says split_special_tokens, but .* such as 'the' are kept",
        ),
        ({"do_lower_case": "false"}, "do_lower_case of .* must be true or false, got 'false'"),
        ({"do_lower_case": None}, "do_lower_case of .* must be true or false, got null"),
        ({"tokenize_chinese_chars": 1}, "tokenize_chinese_chars of .* must be true or false, got 1"),
        ({"strip_accents": "no"}, "strip_accents of .* must be true or false"),
        ({"wordpieces_prefix": ""}, "wordpieces_prefix of .* must be a string such as '##', got ''"),
        ({"max_input_chars_per_word": 0}, "max_input_chars_per_word of .* at least 1, got 0"),
        (
            {"mask_token": ["[MASK]"]},
            r"mask_token of .* must be a token or an object with its content, got \['\[MASK\]'\]",
        ),
        ({"mask_token": "<mask>"}, "has no mask token '<mask>' among its 11 tokens; add it, or name the one"),
    ],
)
def test_a_setting_that_cannot_be_followed_is_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(say(folder, **values))


def test_settings_that_bert_has_anyway_are_no_matter(folder: Path) -> None:
    say(folder, do_basic_tokenize=True, never_split=["[UNK]", "[USER]"], additional_special_tokens=["[USER]"])
    assert pieces(folder, "the [USER]") == ["the", "[USER]"]


def test_prefix_and_longest_word_are_followed(folder: Path) -> None:
    assert pieces(say(folder, wordpieces_prefix="@@"), "mills") == ["mill", "@@s"]
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.word_starts(tokenizer.encode_batch(["mills"])[0]).tolist() == [True, False]
    assert tokenizer.decode(tokenizer.encode_batch(["mills"])[0]) == "mills"
    assert pieces(say(folder, max_input_chars_per_word=4), "mill mills") == ["mill", "[UNK]"]
    assert pieces(say(folder, max_input_chars_per_word=200), "mill" + "s" * 120) == ["mill", *["##s"] * 120]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"do_lower_case": False},
            "says do_lower_case false in tokenizer_config.json, but its tokenizer.json says true",
        ),
        ({"strip_accents": False}, "says strip_accents false .* says true; .* else remove tokenizer.json, so that"),
        ({"tokenize_chinese_chars": False}, "says tokenize_chinese_chars false"),
        ({"wordpieces_prefix": "@@"}, "says wordpieces_prefix '@@' .* says '##'"),
        ({"max_input_chars_per_word": 5}, "says max_input_chars_per_word 5 .* says 100"),
        ({"do_basic_tokenize": False}, "says do_basic_tokenize false"),
        ({"unk_token": "the"}, r"the unk token is 'the', but its tokenizer.json makes unknown words '\[UNK\]'"),
    ],
)
def test_settings_that_contradict_tokenizer_json_are_refused(
    folder: Path, values: dict[str, Any], message: str
) -> None:
    add_whole(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "special_tokens_map.json").unlink()
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(say(folder, **settings | values))


def test_a_cased_tokenizer_json_is_not_made_uncased_by_settings(folder: Path) -> None:
    def without_normalizer(description: dict[str, Any]) -> None:
        description["normalizer"] = None

    add_whole(folder, without_normalizer)
    (folder / "vocab.txt").unlink()
    say(folder, do_lower_case=True)
    with pytest.raises(TokenizerError, match=r"says do_lower_case true .* says false; .* right, else mend that file"):
        Tokenizer.load(folder)
    assert pieces(say(folder), "the The") == ["the", "[UNK]"]
    # or tokenizer.json is mended
    say(folder, do_lower_case=True)
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    rules = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
    path.write_text(json.dumps(description | {"normalizer": rules | {"lowercase": True}}), encoding="utf-8")
    assert pieces(folder, "the The") == ["the", "the"]


def test_two_files_that_name_two_tokens_for_a_role_are_refused(folder: Path) -> None:
    say(folder, mask_token="[MASK]")
    say(folder, "special_tokens_map.json", mask_token={"content": "[unused0]"})
    with pytest.raises(TokenizerError, match=r"names two tokens as mask_token, '\[MASK\]' .* and '\[unused0\]'"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n"])
def test_line_ends_byte_order_marks_and_blank_lines_at_the_end_change_no_id(
    folder: Path, end: str, mark: str, last: str
) -> None:
    expected = Tokenizer.load(folder).hash
    text = ("\n".join(WORDS) + last).replace("\n", end)
    (folder / "vocab.txt").write_bytes(text.encode(mark))
    assert Tokenizer.load(folder).hash == expected


def test_odd_lines_of_a_vocabulary(folder: Path) -> None:
    # the last of two equal lines counts; a space at the end is no part of a token, one inside is
    (folder / "vocab.txt").write_text("\n".join([*ROLES, "the", "mill ", "a b", "", "the", "e"]), encoding="utf-8")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode_batch(["the mill e"]) == [[9, 6, 10]]
    assert tokenizer.token(7) == "a b"
    assert 5 not in tokenizer.ordinary_ids
    assert 8 not in tokenizer.ordinary_ids
    again = folder / "again"
    tokenizer.save(again)
    assert Tokenizer.load(again).hash == tokenizer.hash


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("\n".join([*ROLES, "the\rmill", "e"]).encode(), "line 6, has a carriage return inside"),
        ("\n".join([*ROLES, "café"]).encode("latin-1"), r"line 6 is not UTF-8 \(byte 0xe9\); save it as UTF-8"),
        ("\n".join(WORDS).encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    ],
)
def test_a_vocabulary_that_programs_read_differently_is_refused(folder: Path, raw: bytes, message: str) -> None:
    (folder / "vocab.txt").write_bytes(raw)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(folder)


def test_tokens_stand_as_they_are_composed_in_the_file(folder: Path) -> None:
    say(folder, do_lower_case=False)
    (folder / "vocab.txt").write_text("\n".join([*ROLES, "caf\u00e9", "nai\u0308ve"]), encoding="utf-8")
    assert pieces(folder, "caf\u00e9 cafe\u0301 na\u00efve nai\u0308ve") == [
        "caf\u00e9",
        "[UNK]",
        "[UNK]",
        "nai\u0308ve",
    ]


def test_json_files_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    add_whole(folder)
    expected = Tokenizer.load(folder).hash
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_text((folder / name).read_text("utf-8"), encoding="utf-8-sig")
    assert Tokenizer.load(folder).hash == expected


def test_two_tokens_of_one_id_are_refused(folder: Path) -> None:
    add_whole(folder, lambda description: description["model"]["vocab"].update(mill=5))
    with pytest.raises(TokenizerError, match=r"gives the tokens '(the|mill)' and '(the|mill)' one id, 5"):
        Tokenizer.load(folder)


def test_an_id_that_the_library_would_change_is_refused(folder: Path) -> None:
    def gap(description: dict[str, Any]) -> None:
        description["added_tokens"].append(dict(description["added_tokens"][0], id=20, content="[USER]"))

    add_whole(folder, gap)
    with pytest.raises(TokenizerError, match=r"added token '\[USER\]' with the id 20, but its place .* is 11"):
        Tokenizer.load(folder)


@pytest.mark.parametrize("model", ["BPE", "Unigram"])
def test_other_models_are_refused_with_the_way_out(folder: Path, model: str) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    backend = Backend(getattr(models, model)())
    backend.add_special_tokens(ROLES)
    backend.save(str(folder / "tokenizer.json"))
    # no setting would make it fit, so none is complained of
    say(folder, tokenizer_class="RobertaTokenizer", mask_token="<mask>")
    with pytest.raises(
        TokenizerError, match=f"WordPiece or WordLevel is needed, got {model}; leave the tokenizer out to train one"
    ):
        Tokenizer.load(folder)


def test_a_folder_of_another_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(TokenizerError, match=r"nor vocab\.txt, but merges\.txt, of a tokenizer other than WordPiece"):
        Tokenizer.load(tmp_path)


def test_where_a_tokenizer_may_be_instead_is_said(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "sentences" / "0_Transformer"
    inside.mkdir(parents=True)
    (folder / "vocab.txt").rename(inside / "vocab.txt")
    with pytest.raises(TokenizerError, match=re.escape(f"give a folder that has one of them ({inside}), or leave")):
        Tokenizer.load(tmp_path / "sentences")
    # as the message says
    assert Tokenizer.load(inside).vocab_size == len(WORDS)


def test_pieces_without_a_prefix_start_words_where_the_text_does(folder: Path) -> None:
    from unmask.data.prepare.encoding import TextEncoder

    def bare(description: dict[str, Any]) -> None:
        description["model"]["continuing_subword_prefix"] = ""

    add_whole(folder, bare)
    say(folder)
    tokenizer = Tokenizer.load(folder)
    encoded = TextEncoder(tokenizer=tokenizer)(["mille the. mill", "", "ee"])
    assert [tokenizer.token(index) for index in encoded.ids] == ["mill", "e", "the", "[UNK]", "mill", "e", "e"]
    assert encoded.word_starts.tolist() == [True, False, True, True, True, True, False]
    assert encoded.lengths.tolist() == [5, 0, 2]


@pytest.mark.parametrize("template", ["none", "roberta", "one segment"])
def test_a_template_of_the_folder_gives_way_to_the_one_that_training_uses(
    folder: Path, tmp_path: Path, template: str
) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import processors

    special = [("[CLS]", 2), ("[SEP]", 3)]
    made = {
        "none": None,
        "roberta": processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
        "one segment": processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:0 [SEP]:0", special),
    }[template]

    def other(description: dict[str, Any]) -> None:
        description["post_processor"] = None if made is None else json.loads(made.__getstate__())
        description["pre_tokenizer"] = {"type": "WhitespaceSplit"}

    add_whole(folder, other)
    tokenizer = Tokenizer.load(folder)
    tokenizer.save(tmp_path / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    both = theirs("the", "mill")
    assert both["input_ids"] == [2, 5, 3, 6, 3]
    assert both["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_vocabulary_that_differs_from_tokenizer_json_is_refused(folder: Path) -> None:
    add_whole(folder)
    (folder / "vocab.txt").write_text("\n".join([*ROLES, "mill", "the", *WORDS[7:]]), encoding="utf-8")
    with pytest.raises(
        TokenizerError, match=r"vocab\.txt gives 'mill' the id 5, but tokenizer\.json beside it 6; remove"
    ):
        Tokenizer.load(folder)
    (folder / "tokenizer.json").unlink()
    assert Tokenizer.load(folder).encode_batch(["the mill"]) == [[6, 5]]


def test_a_folder_that_an_earlier_version_saved_is_read(folder: Path) -> None:
    def tutorial(description: dict[str, Any]) -> None:
        description["normalizer"] = {"type": "Lowercase"}

    add_whole(folder, tutorial)
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    old = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": None}
    old |= {"tokenize_chinese_chars": False, "model_max_length": 512}
    assert pieces(say(folder, **old, **names), "THE") == ["the"]
    with pytest.raises(TokenizerError, match=r"says do_lower_case false .* says true"):
        Tokenizer.load(say(folder, do_lower_case=False))


def test_an_unknown_token_that_the_model_lacks_is_refused(folder: Path) -> None:
    def moved(description: dict[str, Any]) -> None:
        vocabulary = description["model"]["vocab"]
        words = [word for word in sorted(vocabulary, key=vocabulary.__getitem__) if word != "[UNK]"]
        description["model"]["vocab"] = {word: index for index, word in enumerate(words)}
        for token in description["added_tokens"]:
            token["id"] = description["model"]["vocab"].get(token["content"], len(words))

    add_whole(folder, moved)
    (folder / "vocab.txt").unlink()
    with pytest.raises(TokenizerError, match=r"the unk token '\[UNK\]' is an added token alone"):
        Tokenizer.load(folder)


def test_a_vocabulary_with_gaps_is_saved_for_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (folder / "vocab.txt").write_text("\n".join([*ROLES, "the", "", "mill", "the", "", "##s"]), encoding="utf-8")
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.vocab_size == 11
    tokenizer.save(folder / "saved")
    theirs = transformers.AutoTokenizer.from_pretrained(folder / "saved")
    assert theirs("the mills", add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(["the mills"])[0]
    assert tokenizer.encode_batch(["the mills"])[0] == [8, 7, 10]


def test_a_full_disk_is_the_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library that owns the tokenizer has none of its own."""
    tokenizer = Tokenizer.train(["the river turns the mill"] * 3, 60)
    folder = tmp_path / "tokenizer"
    tokenizer.save(folder)
    before = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save(folder)
    (folder / "tokenizer.json").unlink()
    tokenizer.save(folder)
    assert (folder / "tokenizer.json").read_bytes() == before
