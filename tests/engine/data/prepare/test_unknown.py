"""Unknown tokens: many are told with their words, very many refused, with a cause and a way out that works."""

import json
import logging
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from unmask.data.prepare import prepare
from unmask.data.prepare.unknown import UnknownTokens
from unmask.data.store import Store
from unmask.data.text.cleaning import Cleaned
from unmask.data.tokenizer import Tokenizer
from unmask.data.tokenizer.further_words import read_words
from unmask.errors import StoreError, TokenizerError

ROLES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KNOWN = "the mill turns by the river"
CASED = [*ROLES, "The", "Mill", "Paris", "turns", "the", "mill"]


def bare(folder: Path, tokens: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return folder / "vocab.txt"


def rows(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train([KNOWN], 60)


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(TokenizerError, match="of which a model learns nothing") as told:
        prepare(*arguments, **options, workers=1)
    return str(told.value)


def test_up_to_one_percent_nothing_is_said(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = rows(tmp_path / "a.jsonl", [KNOWN] * 20 + ["жук"])
    prepare([text], tmp_path / "store", tokenizer=tokenizer, workers=1)
    assert not caplog.records


def test_above_one_percent_the_ten_most_frequent_unknown_words_are_told(
    tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = [f"{letter}у" for letter in "абвгджзиклм" for _ in range(2)] + ["жук"] * 5 + ["щ" * 40]
    text = rows(tmp_path / "a.jsonl", [KNOWN] * 100 + strange)
    with caplog.at_level(logging.WARNING, "unmask"):
        prepare([text], tmp_path / "store", tokenizer=tokenizer, workers=1)
    [told] = [record.getMessage() for record in caplog.records]
    assert "4.5% of the tokens are unknown (28 of 628)" in told
    named = told.partition("most frequent words: ")[2].partition(";")[0].split(", ")
    assert len(named) == 10
    assert named[0] == "жук (5)"
    assert set(named[1:]) < {f"{letter}у (2)" for letter in "абвгджзиклм"}


def test_above_ten_percent_a_sample_is_refused_before_anything_is_written(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.data.prepare.preparation._DocumentWriter", None)
    told = refusal([rows(tmp_path / "a.jsonl", ["жук и рыба"] * 9)], tmp_path / "store", tokenizer=tokenizer)
    assert "100.0% of the tokens in a sample of the text are unknown (27 of 27)" in told
    assert "жук (9), и (9), рыба (9)" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_the_sample_is_spread_over_the_files(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(80):
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(KNOWN if number < 60 else "жук и рыба", encoding="utf-8")
    assert "in a sample of the text" in refusal([tmp_path / "texts"], tmp_path / "store", tokenizer=tokenizer)


def test_what_is_refused_at_the_end_goes_on_with_the_flag_and_gives_the_same_store(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = rows(tmp_path / "a.jsonl", [KNOWN, *["жук и рыба"] * 9])
    whole = prepare([text], tmp_path / "whole", tokenizer=tokenizer, allow_unknown=True, workers=1)
    monkeypatch.setattr("unmask.data.prepare.preparation._SAMPLE_CHARACTERS", len(KNOWN))
    told = refusal([text], tmp_path / "store", tokenizer=tokenizer)
    assert "81.8% of the tokens are unknown" in told
    assert "set allow_unknown (--allow-unknown, data.allow_unknown in a run)" in told
    assert (tmp_path / "store.partial").is_dir()
    # the same call is refused again, and encodes nothing again
    monkeypatch.setattr("unmask.data.prepare.encoding.TextEncoder.__call__", None)
    assert refusal([text], tmp_path / "store", tokenizer=tokenizer) == told
    store = prepare([text], tmp_path / "store", tokenizer=tokenizer, allow_unknown=True, workers=1)
    assert store.manifest == whole.manifest
    assert not (tmp_path / "store.partial").exists()


def test_a_store_without_many_unknown_tokens_has_the_manifest_that_it_always_had(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store = prepare([rows(tmp_path / "a.jsonl", [KNOWN])], tmp_path / "store", tokenizer=tokenizer, workers=1)
    assert set(store.manifest["summary"]) == {
        *("empty_documents", "empty_sources", "unknown_tokens", "removed_characters", "lengths")
    }


@pytest.mark.parametrize(("lowercase", "way"), [(True, "--no-lowercase"), (False, "--lowercase")])
def test_the_wrong_case_is_named_with_the_option_that_mends_it(tmp_path: Path, lowercase: bool, way: str) -> None:
    tokens = CASED if lowercase else [*ROLES, "the", "mill", "turns", "paris"]
    given = bare(tmp_path / "there", tokens)
    text = rows(tmp_path / "a.jsonl", ["Paris The Mill turns Paris"])
    told = refusal([text], tmp_path / "store", tokenizer=given, lowercase=lowercase)
    assert "case is dropped" in told if lowercase else "case is kept" in told
    assert f"give {way} (data.lowercase in a run)" in told
    store = prepare([text], tmp_path / "store", tokenizer=given, lowercase=not lowercase, workers=1)
    assert store.manifest["summary"]["unknown_tokens"] == {"a": 0}


def test_the_wrong_case_of_a_folder_that_decides_is_mended_with_its_vocabulary_alone(tmp_path: Path) -> None:
    given = bare(tmp_path / "there", CASED)
    (given.parent / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    text = rows(tmp_path / "a.jsonl", ["Paris The Mill turns Paris"])
    told = refusal([text], tmp_path / "store", tokenizer=given.parent)
    assert "copy its vocab.txt to a folder of its own and give that with --no-lowercase" in told
    alone = bare(tmp_path / "alone", CASED)
    store = prepare([text], tmp_path / "store", tokenizer=alone, lowercase=False, workers=1)
    assert store.manifest["summary"]["unknown_tokens"] == {"a": 0}


def test_the_wrong_script_is_named_and_training_mends_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = rows(tmp_path / "a.jsonl", ["жук и рыба"] * 9)
    told = refusal([text], tmp_path / "store", tokenizer=tokenizer)
    assert "the vocabulary has next to no Cyrillic letters" in told
    assert "leave --tokenizer out to train one" in told
    assert prepare([text], tmp_path / "store", vocab_size=60, workers=1).manifest["summary"]["unknown_tokens"] == {
        "a": 0
    }


def test_ideographs_are_called_cjk(tokenizer: Tokenizer, tmp_path: Path) -> None:
    told = refusal([rows(tmp_path / "a.jsonl", ["深度学习，模型"] * 9)], tmp_path / "store", tokenizer=tokenizer)
    assert "the vocabulary has next to no CJK letters; give a tokenizer for this script" in told


def test_the_wrong_vocabulary_is_named(tmp_path: Path) -> None:
    text = rows(tmp_path / "a.jsonl", ["a quick fox jumps over"])
    told = refusal([text], tmp_path / "store", tokenizer=bare(tmp_path / "there", [*ROLES, "the", "mill", "turns"]))
    assert "the vocabulary was made for other text; give a tokenizer made for such text, or leave" in told


@pytest.mark.parametrize("share", [1.0, 0.2])
def test_full_width_characters_are_named_with_the_option_that_mends_them(
    tokenizer: Tokenizer, tmp_path: Path, share: float
) -> None:
    wide = KNOWN.translate({ord(letter): ord(letter) + 0xFEE0 for letter in "abcdefghijklmnopqrstuvwxyz"})
    strange = round(wide.count(" ") / share) - wide.count(" ")
    text = rows(tmp_path / "a.jsonl", [wide, *["жук"] * strange])
    told = refusal([text], tmp_path / "store", tokenizer=tokenizer)
    assert "prepare the text with --normalisation NFKC, which writes full-width characters" in told
    store = prepare([text], tmp_path / "store", tokenizer=tokenizer, normalisation="NFKC", allow_unknown=True)
    assert store.manifest["summary"]["unknown_tokens"] == {"a": strange}
    assert "NFKC" not in refusal([rows(text, ["жук"])], tmp_path / "other", tokenizer=tokenizer)


def test_nfkc_is_advised_only_if_fewer_tokens_are_unknown_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The vocabulary has ，and ？ but neither , nor ? as NFKC writes them; it has a and no full-width ａ."""
    chinese = [*ROLES, "他", "来", "了", "，", "？", "a"]
    given = bare(tmp_path / "there", chinese)
    text = rows(tmp_path / "a.jsonl", ["他来了，他来了？" * 8 + "ａ"] * 20)
    for number in range(2):
        caplog.clear()
        store = prepare(text, tmp_path / f"store-{number}", tokenizer=given, workers=1)
        [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        unknown = store.manifest["summary"]["unknown_tokens"]["a"]
        normalised = tmp_path / f"normalised-{number}"
        found = prepare(text, normalised, tokenizer=given, normalisation="NFKC", allow_unknown=True, workers=1)
        after = found.manifest["summary"]["unknown_tokens"]["a"]
        assert ("NFKC" in told) == (after < unknown) == (number == 1)
        given = bare(tmp_path / "there", [*chinese, ",", "?"])
    assert "in a sample, the unknown tokens become 0.0% instead of 1.5%" in told


def test_a_few_unknown_words_become_entries_as_the_message_says(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = bare(tmp_path / "there", [*ROLES, *"天地玄黄宇宙洪荒"])
    text = rows(tmp_path / "a.jsonl", ["天地玄黄宇宙洪荒" * 5 + "龘“"] * 20)
    prepare(text, tmp_path / "store", tokenizer=given, workers=1)
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "write them to a file, one on each line, and give it as --add-words" in told
    named = told.partition("most frequent words: ")[2].partition(";")[0].split(", ")
    (tmp_path / "words.txt").write_text("".join(f"{one.split(' (')[0].strip(chr(34))}\n" for one in named), "utf-8")
    words = read_words(tmp_path / "words.txt")
    store = prepare(text, tmp_path / "more", tokenizer=given, add_words=words, workers=1)
    assert store.manifest["summary"]["unknown_tokens"] == {"a": 0}


def test_words_that_are_too_long_are_named_and_spaces_mend_them(tokenizer: Tokenizer, tmp_path: Path) -> None:
    told = refusal([rows(tmp_path / "a.jsonl", ["acgt" * 50] * 5)], tmp_path / "store", tokenizer=tokenizer)
    assert f"{'acgt' * 6}... (5)" in told
    assert "longer than 100 characters, which no vocabulary holds; put spaces between the words" in told
    spaced = rows(tmp_path / "a.jsonl", ["the mill " * 50] * 5)
    prepare([spaced], tmp_path / "store", tokenizer=tokenizer, workers=1)


def test_a_trained_vocabulary_without_room_names_its_size(tmp_path: Path) -> None:
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    text = rows(tmp_path / "a.jsonl", [rare])
    told = refusal([text], tmp_path / "store", vocab_size=120)
    assert "the vocabulary of 65 entries has no room for these characters; give a larger --vocab-size" in told
    (tmp_path / "larger").mkdir()
    store = prepare([text], tmp_path / "larger" / "store", vocab_size=1000, workers=1)
    assert store.manifest["summary"]["unknown_tokens"] == {"a": 0}


@pytest.mark.parametrize(
    ("line", "form", "lowercase"),
    [
        ("The cat ｎｕｍｂｅｒ 1 sat, and the ﬁsh ran away ＡＢＣ.", "NFKC", True),
        (unicodedata.normalize("NFD", "Der Bär läuft über die Brücke."), "NFC", False),
        ("他来了，真的？是！好：对；", "NFKC", True),
    ],
)
def test_a_vocabulary_is_trained_on_the_normalised_text_that_is_encoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str, form: Any, lowercase: bool
) -> None:
    text = rows(tmp_path / "a.jsonl", [line] * 30)
    store = prepare(text, tmp_path / "store", vocab_size=300, lowercase=lowercase, normalisation=form, workers=1)
    assert store.manifest["summary"]["unknown_tokens"] == {"a": 0}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    ready = rows(tmp_path / "a.jsonl", [unicodedata.normalize(form, line)] * 30)
    plain = prepare(ready, tmp_path / "plain", vocab_size=300, lowercase=lowercase, workers=1)
    assert (store.tokenizer_hash, store.num_tokens) == (plain.tokenizer_hash, plain.num_tokens)


def test_what_was_begun_with_a_vocabulary_of_other_text_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = rows(tmp_path / "a.jsonl", ["ａｂｃ ｄｅｆ"] * 30)
    with monkeypatch.context() as old:
        # as it was trained once: on the text as it is
        old.setattr("unmask.data.prepare.preparation.clean", lambda text, form: Cleaned(text, (0, 0, 0)))
        assert "unknown" in refusal(text, tmp_path / "store", vocab_size=100, normalisation="NFKC")
    journal = tmp_path / "store.partial" / "unfinished.json"
    begun = json.loads(journal.read_text(encoding="utf-8"))
    del begun["settings"]["tokenizer"]["normalised"]
    journal.write_text(json.dumps(begun), encoding="utf-8")
    with pytest.raises(StoreError, match=r"begun with another tokenizer; .* or remove it to start afresh"):
        prepare(text, tmp_path / "store", vocab_size=100, normalisation="NFKC", workers=1)
    shutil.rmtree(tmp_path / "store.partial")
    prepare(text, tmp_path / "store", vocab_size=100, normalisation="NFKC", workers=1)


def test_the_way_out_beside_a_store_is_to_leave_it_out(tokenizer: Tokenizer, tmp_path: Path) -> None:
    old = prepare([rows(tmp_path / "a.jsonl", [KNOWN])], tmp_path / "old", tokenizer=tokenizer, workers=1)
    text = rows(tmp_path / "b.jsonl", ["жук и рыба"] * 9)
    told = refusal([old.folder, text], tmp_path / "grown")
    assert "leave the store out of the inputs to train a tokenizer" in told
    assert prepare([text], tmp_path / "grown", vocab_size=60, workers=1).sources == ["b"]


def test_unknown_tokens_of_a_stored_document_were_judged_before(tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = rows(tmp_path / "a.jsonl", ["жук и рыба"] * 9)
    old = prepare([text], tmp_path / "old", tokenizer=tokenizer, allow_unknown=True, workers=1)
    more = rows(tmp_path / "b.jsonl", [KNOWN])
    assert prepare([old.folder, more], tmp_path / "grown", workers=1).num_documents == 10


def test_whole_words_of_the_text_are_counted_under_every_way_of_encoding(tmp_path: Path) -> None:
    """Sentence by sentence, with a segmenter, and whole because an added token may hold the end of a sentence."""
    given = bare(tmp_path / "there", [*ROLES, "the", "mill", "。", ".", "中", "文"]).parent
    text = rows(tmp_path / "a.jsonl", ["The Zürich mill. the x-ray 中文龘。 Zürich"])
    added = {"St. Xavier": 11}
    for number, (segmenter, tokens) in enumerate([(None, {}), ("spaces", {}), (None, added)]):
        (given / "added_tokens.json").write_text(json.dumps(tokens))
        told = refusal([text], tmp_path / f"store-{number}", tokenizer=given, segmenter=segmenter)
        assert 'most frequent words: Zürich (2), x (1), "-" (1), ray (1), 龘 (1);' in told


def test_rare_words_are_forgotten_and_the_counts_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.data.prepare.unknown._MOST_WORDS", 4)
    counts = UnknownTokens()
    for number in range(20):
        counts.note(10, {"often": 2, f"rare{number}": 1})
    assert (counts.tokens, counts.unknown) == (200, 60)
    assert counts.words.most_common(1) == [("often", 40)]
    assert len(counts.words) <= 4
    merged = UnknownTokens.merged([counts.state(), counts.state(), {}])
    assert (merged.tokens, merged.unknown, merged.words["often"]) == (400, 120, 80)


def test_finish_store_refuses_too_and_keeps_the_parts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    pytest.importorskip("datatrove")
    from datatrove.data import Document

    from unmask.data.prepare.datatrove import TokenStoreWriter, finish_store

    tokenizer.save(tmp_path / "tokenizer")
    where = tmp_path / "tokenizer"
    step = TokenStoreWriter(tmp_path / "store", tokenizer=where, lowercase=False, sources=["web"])
    with pytest.raises(TokenizerError, match=r"lowercase is False, but .* drops case"):
        list(step.run([]))
    step = TokenStoreWriter(tmp_path / "store", tokenizer=where, sources=["web"])
    list(step.run([Document(text="жук и рыба", id=str(number)) for number in range(9)]))
    with pytest.raises(TokenizerError, match=r"100\.0% of the tokens are unknown .* set allow_unknown"):
        finish_store(tmp_path / "store")
    assert finish_store(tmp_path / "store", allow_unknown=True).num_documents == 9
    assert Store.open(tmp_path / "store").sources == ["web"]
