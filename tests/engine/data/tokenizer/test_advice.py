"""What the errors about a tokenizer folder advise: each is followed here, and then the folder is read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unmask.data.tokenizer import Tokenizer
from unmask.errors import TokenizerError

ROLES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*ROLES, "the", "mill", "e", "##s", "[unused0]"]
NEXT = len(WORDS)
CONFIG, MAP, WHOLE, ADDED = "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json", "added_tokens.json"
FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}

Files = dict[str, Any]


def vocabulary(*words: str) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()


def put(folder: Path, files: Files) -> None:
    """Write each file, remove one that is None, and change a tokenizer.json by a function."""
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.unlink(missing_ok=True)
        elif callable(content):
            description = json.loads(path.read_text("utf-8"))
            content(description)
            path.write_text(json.dumps(description), "utf-8")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(json.dumps(content), "utf-8")


def entry(token: str, index: int, **flags: bool) -> Callable[[dict[str, Any]], None]:
    return lambda description: description["added_tokens"].append({"content": token, "id": index, **FLAGS, **flags})


def same_id(description: dict[str, Any]) -> None:
    description["model"]["vocab"]["mill"] = 5


def own_ids(description: dict[str, Any]) -> None:
    description["model"]["vocab"]["mill"] = 6


def unknown(token: str) -> Callable[[dict[str, Any]], None]:
    def change(description: dict[str, Any]) -> None:
        description["model"]["unk_token"] = token

    return change


# whether a tokenizer.json lies beside the vocabulary; the mistake; the advice in its error; the files that follow it
BARE: list[tuple[Files, str, Files]] = [
    ({CONFIG: {"tokenizer_class": "MyTokenizer"}}, "or set it to 'BertTokenizer'", {CONFIG: {}}),
    ({CONFIG: {"tokenizer_class": "My"}}, "if BERT's rules are meant", {CONFIG: {"tokenizer_class": "BertTokenizer"}}),
    ({CONFIG: {"auto_map": {"AutoTokenizer": ["a.B", None]}}}, "and remove auto_map", {CONFIG: {}}),
    (
        {CONFIG: {"do_basic_tokenize": False}},
        "text would be cut at white space alone; remove the setting, or give a tokenizer.json whose pre_tokenizer is "
        "WhitespaceSplit",
        {CONFIG: {}},
    ),
    ({CONFIG: {"clean_text": False}}, "characters are always removed here; remove the setting", {CONFIG: {}}),
    (
        {CONFIG: {"split_special_tokens": True, "additional_special_tokens": ["[USER]"]}},
        "such as '[USER]' are kept whole here; remove the setting, or",
        {CONFIG: {"additional_special_tokens": ["[USER]"]}},
    ),
    (
        {CONFIG: {"split_special_tokens": True, "additional_special_tokens": ["[USER]"]}},
        "or the tokens from additional_special_tokens",
        {CONFIG: {"split_special_tokens": True}},
    ),
    (
        {CONFIG: {"never_split": ["[USER]"]}},
        "says never_split [USER], which is not followed here; name these tokens as additional_special_tokens",
        {CONFIG: {"never_split": ["[USER]"], "additional_special_tokens": ["[USER]"]}},
    ),
    ({CONFIG: {"never_split": ["[USER]"]}}, "or in added_tokens.json", {ADDED: {"[USER]": NEXT}}),
    (
        {CONFIG: {"mask_token": "[MASK]"}, MAP: {"mask_token": "[unused0]"}},
        "in tokenizer_config.json and '[unused0]' in special_tokens_map.json; make them agree",
        {MAP: {"mask_token": "[MASK]"}},
    ),
    ({CONFIG: {"mask_token": "<mask>"}}, "add it, or name", {"vocab.txt": vocabulary(*WORDS, "<mask>")}),
    ({CONFIG: {"mask_token": "<mask>"}}, "or name the one that it has", {CONFIG: {"mask_token": "[MASK]"}}),
    ({ADDED: {"mill": NEXT}}, "make them agree", {ADDED: {"mill": 6}}),
    ({ADDED: {"new": 5}}, f"which is that of 'the'; number added tokens on from {NEXT}", {ADDED: {"new": NEXT}}),
    (
        {ADDED: {"new": NEXT + 1}},
        f"the next free id is {NEXT}; number added tokens on without a gap",
        {ADDED: {"new": NEXT}},
    ),
    (
        {ADDED: {"new": NEXT + 1}},
        "or is a line of the vocabulary missing?",
        {"vocab.txt": vocabulary(*WORDS, "more")},
    ),
    (
        {ADDED: {"new": NEXT}, CONFIG: {"added_tokens_decoder": {str(NEXT + 1): {"content": "new", **FLAGS}}}},
        "make them agree",
        {CONFIG: {"added_tokens_decoder": {str(NEXT): {"content": "new", **FLAGS}}}},
    ),
    (
        {"vocab.txt": vocabulary(*WORDS, "", "last"), ADDED: {"new": NEXT + 2}},
        "give each id a token of its own, such as [unused7]",
        {"vocab.txt": vocabulary(*WORDS, "[unused7]", "last")},
    ),
    (
        {"vocab.txt": vocabulary(*WORDS, "a\rb")},
        "for some programs and not for others, so ids would differ; end every line the same way",
        {"vocab.txt": vocabulary(*WORDS, "b")},
    ),
    ({MAP: []}, f"{MAP} must hold a JSON object", {MAP: {}}),
    (
        {CONFIG: {"max_input_chars_per_word": 0}},
        "must be a number of at least 1, got 0",
        {CONFIG: {"max_input_chars_per_word": 1}},
    ),
    (
        {CONFIG: {"wordpieces_prefix": ""}},
        "must be a string such as '##', got ''",
        {CONFIG: {"wordpieces_prefix": "##"}},
    ),
    (
        {CONFIG: {"mask_token": 7}},
        "must be a token or an object with its content, got 7",
        {CONFIG: {"mask_token": {"content": "[MASK]"}}},
    ),
    ({CONFIG: {"mask_token": {}}}, "with its content, got {}", {CONFIG: {"mask_token": "[MASK]"}}),
    (
        {"vocab.txt": "\n".join([*WORDS, "café"]).encode("latin-1")},
        "save it as UTF-8",
        {"vocab.txt": vocabulary(*WORDS, "café")},
    ),
    ({"vocab.txt": "\n".join(WORDS).encode("utf-16")}, "save it as UTF-8", {"vocab.txt": vocabulary(*WORDS)}),
    ({"vocab.txt": None, WHOLE: b"{"}, "copy or download it again", {WHOLE: None, "vocab.txt": vocabulary(*WORDS)}),
    ({"vocab.txt": None}, "give a folder that has one of them", {"vocab.txt": vocabulary(*WORDS)}),
    ({"tokenizer_config.json": {"do_lower_case": "no"}}, "must be true or false", {CONFIG: {"do_lower_case": True}}),
]
BESIDE: list[tuple[Files, str, Files]] = [
    (
        {CONFIG: {"tokenizer_class": "MyTokenizer"}},
        "names tokenizer_class 'MyTokenizer', which is not followed here; if its tokenizer.json alone is to decide, "
        "set tokenizer_class to 'PreTrainedTokenizerFast'",
        {CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"}},
    ),
    (
        {CONFIG: {"auto_map": {"AutoTokenizer": ["a.B", None]}}},
        "names auto_map, code of its own, which is not followed here; if its tokenizer.json alone is to decide, set",
        {CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"}},
    ),
    ({CONFIG: {"do_lower_case": False}}, "remove the setting if tokenizer.json is right", {CONFIG: {}}),
    ({CONFIG: {"do_lower_case": False}}, "else remove tokenizer.json, so that vocab.txt", {WHOLE: None}),
    ({WHOLE: same_id, "vocab.txt": None}, "give each an id of its own", {WHOLE: own_ids}),
    (
        {WHOLE: entry("[USER]", 20)},
        "number added tokens on from the last id of the vocabulary",
        {WHOLE: lambda description: description["added_tokens"][-1].update(id=NEXT)},
    ),
    (
        {"vocab.txt": vocabulary(*WORDS[:5], "mill", "the", *WORDS[7:])},
        "the id 5, but tokenizer.json beside it 6; remove the one that is wrong",
        {WHOLE: None},
    ),
    ({"vocab.txt": vocabulary(*WORDS[:5], "mill", "the", *WORDS[7:])}, "remove the one", {"vocab.txt": None}),
    ({CONFIG: {"unk_token": "the"}, MAP: None}, "name that one as unk_token", {CONFIG: {"unk_token": "[UNK]"}}),
    (
        {
            CONFIG: {"added_tokens_decoder": {str(NEXT): {"content": "[L]", **FLAGS}}},
            WHOLE: entry("[L]", NEXT, lstrip=True),
        },
        "make them agree",
        {CONFIG: {"added_tokens_decoder": {str(NEXT): {"content": "[L]", **FLAGS, "lstrip": True}}}},
    ),
]


@pytest.mark.parametrize(
    ("beside", "mistake", "advice", "mended"),
    [*((False, *row) for row in BARE), *((True, *row) for row in BESIDE)],
)
def test_a_folder_that_is_mended_as_the_error_says_is_read(
    beside: bool, mistake: Files, advice: str, mended: Files, tmp_path: Path
) -> None:
    (tmp_path / "vocab.txt").write_bytes(vocabulary(*WORDS))
    if beside:
        Tokenizer.load(tmp_path).save(tmp_path)
    put(tmp_path, mistake)
    with pytest.raises(TokenizerError) as told:
        Tokenizer.load(tmp_path)
    assert advice in str(told.value)
    put(tmp_path, mended)
    assert Tokenizer.load(tmp_path).token(6) in ("mill", "the")


def test_another_model_leaves_training_as_the_way_out(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    from unmask.data.prepare import prepare

    (tmp_path / "merges.txt").write_text("a b\n")
    (tmp_path / "text.txt").write_text("the mill turns and the river runs")
    with pytest.raises(
        TokenizerError,
        match=r"has neither tokenizer\.json nor vocab\.txt, but merges\.txt, of a tokenizer other than WordPiece; "
        "leave the tokenizer out to train one",
    ):
        prepare([tmp_path / "text.txt"], tmp_path / "store", tokenizer=tmp_path, workers=1)
    with pytest.raises(
        TokenizerError, match="WordPiece or WordLevel is needed, got BPE; leave the tokenizer out to train"
    ):
        Tokenizer(Backend(models.BPE()))
    prepare([tmp_path / "text.txt"], tmp_path / "store", vocab_size=60, workers=1)


def test_the_folder_that_the_error_names_holds_the_tokenizer(tmp_path: Path) -> None:
    inside = tmp_path / "sentences" / "0_Transformer"
    inside.mkdir(parents=True)
    (inside / "vocab.txt").write_bytes(vocabulary(*WORDS))
    with pytest.raises(TokenizerError) as told:
        Tokenizer.load(inside.parent)
    assert "has neither tokenizer.json nor vocab.txt; give a folder that has one of them (" in str(told.value)
    named = str(told.value).partition("has one of them (")[2].partition(")")[0]
    assert Tokenizer.load(named).vocab_size == NEXT
    assert Tokenizer.load(inside).vocab_size == NEXT
    with pytest.raises(
        TokenizerError, match=r"no folder with tokenizer\.json or vocab\.txt; give a folder that has one of "
    ):
        Tokenizer.load(tmp_path / "absent")


def test_the_advice_of_training_is_followed(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TokenizerError, match="every document is empty; give text"):
        Tokenizer.train([" "], 100)
    with pytest.raises(TokenizerError, match="separate its words by spaces, or give a tokenizer"):
        Tokenizer.train(["acgt" * 40], 100)
    Tokenizer.train([" ".join(["acgt"] * 40)], 100)
    with pytest.raises(TokenizerError, match=r"vocab_size must be at least \d+") as told:
        Tokenizer.train(["abc def"], 6)
    Tokenizer.train(["abc def"], int(str(told.value).partition("at least ")[2].split()[0]))
    caplog.clear()
    Tokenizer.train(["한국어 문장입니다 그리고"], 100)
    assert "keep them with strip_accents False (--no-strip-accents)" in caplog.text
    caplog.clear()
    Tokenizer.train(["한국어 문장입니다 그리고"], 100, strip_accents=False)
    assert "accents" not in caplog.text


def test_an_unknown_token_outside_the_model_is_put_into_it(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(vocabulary(*WORDS))
    Tokenizer.load(tmp_path).save(tmp_path)
    (tmp_path / "vocab.txt").unlink()

    def moved(description: dict[str, Any]) -> None:
        words = [word for word in WORDS if word != "[UNK]"]
        description["model"]["vocab"] = {word: index for index, word in enumerate(words)}
        for token in description["added_tokens"]:
            token["id"] = description["model"]["vocab"].get(token["content"], len(words))

    put(tmp_path, {WHOLE: moved})
    with pytest.raises(TokenizerError, match="put it into the vocabulary of the model, with the id that it has"):
        Tokenizer.load(tmp_path)
    put(tmp_path, {WHOLE: lambda description: description["model"]["vocab"].update({"[UNK]": NEXT - 1})})
    assert Tokenizer.load(tmp_path).unk_id == NEXT - 1


def test_the_option_of_case_is_left_out_or_the_tokenizer_is_another(tmp_path: Path) -> None:
    from unmask.data.prepare import prepare

    (tmp_path / "text.txt").write_text("the mill turns and the river runs")
    for name, lowercase, other in (("small", True, "keeps"), ("whole", False, "drops")):
        prepare([tmp_path / "text.txt"], tmp_path / name, vocab_size=60, lowercase=lowercase, workers=1)
        given: dict[str, Any] = {"tokenizer": tmp_path / name / "tokenizer", "workers": 1}
        with pytest.raises(
            TokenizerError,
            match=f"tokenizer: lowercase is {not lowercase}, but .*; leave lowercase out, or give a tokenizer that "
            f"{other} case",
        ):
            prepare([tmp_path / "text.txt"], tmp_path / f"{name}-store", lowercase=not lowercase, **given)
        assert prepare([tmp_path / "text.txt"], tmp_path / f"{name}-store", **given).num_documents == 1
    given = {"tokenizer": tmp_path / "whole" / "tokenizer", "workers": 1}
    assert prepare([tmp_path / "text.txt"], tmp_path / "kept", lowercase=False, **given).num_documents == 1


def test_a_list_of_words_that_is_none_is_mended_or_left_out(tmp_path: Path) -> None:
    from unmask.data.tokenizer.further_words import read_words

    words = tmp_path / "words.txt"
    for content, says in (
        (None, r"cannot be read \(.*\); give a text file with one word on each line"),
        (b"\n \n", "holds no word; write one word on each line, or leave the file out"),
        ("caf\u00e9\n".encode("latin-1"), "is not UTF-8 at byte 3; save it as UTF-8 text"),
    ):
        if content is not None:
            words.write_bytes(content)
        with pytest.raises(TokenizerError, match=says):
            read_words(words)
        words.write_text("caf\u00e9\nbarn\n", "utf-8")
        assert list(read_words(words)) == ["caf\u00e9", "barn"]
        words.unlink()


def test_a_role_without_an_entry_gets_one_or_another_name(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    def make(words: list[str], **roles: str) -> Tokenizer:
        backend = Backend(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
        named = dict(zip(("pad", "unk", "cls", "sep", "mask"), ROLES, strict=True))
        return Tokenizer(backend, special_tokens=named | roles)

    with pytest.raises(
        TokenizerError,
        match=r"the mask token '\[MASK\]' is not in the vocabulary of 5 tokens; add it, or name it in tokenizer_config",
    ):
        make([*ROLES[:4], "mill"])
    assert make([*ROLES, "mill"]).special_ids["mask"] == 4
    assert make([*ROLES[:4], "mill"], mask="mill").special_ids["mask"] == 4
