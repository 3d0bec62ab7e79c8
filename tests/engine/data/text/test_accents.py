"""Dropping accents: the scripts that lose letters are named, and lower case can be had without it."""

import json
import unicodedata
from pathlib import Path

import pytest

from unmask.cli import main
from unmask.data.store import Store
from unmask.data.text.accents import letters_lost
from unmask.data.tokenizer import Tokenizer

HINDI = "नदी के किनारे पुरानी चक्की है और बिल्ली दीवार पर बैठी है। "
JAPANESE = "ガラスの中で猫がじっとしている。かがみとがか。"
TAMIL = "ஆற்றின் அருகே பழைய ஆலை உள்ளது "
BENGALI = "নদীর ধারে পুরানো কল আছে "
THAI = "ที่โรงสีเก่าริมแม่น้ำมีแมว "
HEBREW = "בְּרֵאשִׁית בָּרָא אֱלֹהִים "
ARABIC = "أكل القط على أحد الجدران إلى آخره "
KOREAN = "고양이가 벽에 앉아 있다 "
RUSSIAN = "Йод и майский чай, той старой стройки "


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("DEVANAGARI", HINDI),
        ("KANA", JAPANESE),
        ("KANA", unicodedata.normalize("NFD", JAPANESE)),
        ("TAMIL", TAMIL),
        ("BENGALI", BENGALI),
        ("THAI", THAI),
        ("HEBREW", HEBREW),
        ("ARABIC", ARABIC),
        ("HANGUL", KOREAN),
        ("CYRILLIC", RUSSIAN),
    ],
)
def test_a_script_whose_letters_dropping_accents_changes_is_named(script: str, text: str) -> None:
    assert list(letters_lost([text * 3, "The old mill by the river."])) == [script]


@pytest.mark.parametrize(
    "text",
    [
        "The café, naïve Élan; Tiếng Việt có dấu.",
        "Ο γάτος κάθεται στον τοίχο.",
        "深度学习模型读中文文本。",
        "cafe\u0301",
        "1 2 3 …",
        "",
    ],
)
def test_accents_of_latin_and_greek_and_scripts_without_marks_are_no_matter(text: str) -> None:
    assert letters_lost([text]) == {}


def test_a_trace_of_a_script_is_no_matter() -> None:
    assert letters_lost(["The old mill by the river. " * 5000, HINDI]) == {}
    assert letters_lost(["The old mill by the river. " * 20, HINDI]) != {}


def test_case_can_be_dropped_without_accents(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    texts = [HINDI, JAPANESE, "Café CAFÉ cafe"] * 5
    kept = Tokenizer.train(texts, 150, strip_accents=False)
    assert kept.encode_batch(["CAFÉ"]) == kept.encode_batch(["café"]) != kept.encode_batch(["cafe"])
    assert kept.encode_batch(["が"]) != kept.encode_batch(["か"])
    assert Tokenizer.train(texts, 150).encode_batch(["が"]) == Tokenizer.train(texts, 150).encode_batch(["か"])
    kept.save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (settings["do_lower_case"], settings["strip_accents"]) == (True, False)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in texts:
        ids = kept.encode_batch([text])[0]
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert kept.unk_id not in ids


def test_prepare_says_what_dropping_accents_changes_unless_it_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hindi.txt").write_text(HINDI * 20, encoding="utf-8")
    base = ["prepare", "--input", str(tmp_path / "hindi.txt"), "--vocab-size", "80", "--workers", "1", "--out"]
    assert main([*base, str(tmp_path / "stripped")]) == 0
    told = capsys.readouterr()
    assert "changes letters of the text that the vocabulary is trained on: Devanagari 160" in told.out + told.err
    # the way out that it names
    assert "--no-strip-accents" in told.out + told.err
    assert main([*base, str(tmp_path / "kept"), "--no-strip-accents"]) == 0
    told = capsys.readouterr()
    assert "dropping accents" not in told.out + told.err
    tokenizer = Store.open(tmp_path / "kept").load_tokenizer()
    assert tokenizer.decode(tokenizer.encode_batch([HINDI])[0][:4]).split()[0] == HINDI.split()[0]


def test_a_vocabulary_of_an_earlier_version_is_trained_the_same() -> None:
    texts = ["the river runs past the café", "a cat sat on the warm wall"] * 4
    assert Tokenizer.train(texts, 90).hash == Tokenizer.train(texts, 90, strip_accents=None).hash
    assert Tokenizer.train(texts, 90).hash != Tokenizer.train(texts, 90, strip_accents=False).hash
