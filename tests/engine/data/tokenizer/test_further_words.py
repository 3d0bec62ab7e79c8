"""Further entries of a vocabulary, and from which old rows the rows of a new vocabulary start."""

from pathlib import Path

import pytest

from unmask.data.tokenizer import Tokenizer
from unmask.data.tokenizer.further_words import read_words
from unmask.data.tokenizer.transfer import extension_problem, transfer
from unmask.errors import TokenizerError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer(folder: Path, entries: list[str]) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *entries]) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return Tokenizer.load(folder)


@pytest.fixture
def old(tmp_path: Path) -> Tokenizer:
    return tokenizer(tmp_path / "old", ["[unused0]", "the", "cat", "##s", "##fish", "fish", "é"])


def test_words_are_entries_after_all_others(old: Tokenizer, tmp_path: Path) -> None:
    new = old.with_words(["Catfish", "the", "##fishs", "catfish"])
    assert new.vocab_size == old.vocab_size + 2
    assert new.encode_batch(["The CATFISH cats"]) == [
        [new.vocabulary[token] for token in ("the", "catfish", "cat", "##s")]
    ]
    assert {token: new.vocabulary[token] for token in old.vocabulary} == old.vocabulary
    new.save(tmp_path / "new")
    assert Tokenizer.load(tmp_path / "new").hash == new.hash
    assert extension_problem(old, new) is None


def test_a_word_that_is_cut_before_it_is_looked_up_is_refused(old: Tokenizer) -> None:
    with pytest.raises(
        TokenizerError,
        match=r"'cat-fish', 'cat fish' cannot be entries .* write their parts on lines of their own: '-'$",
    ):
        old.with_words(["catfish", "cat-fish", "cat fish"])
    assert old.with_words(["catfish", "-"]).vocab_size == old.vocab_size + 2
    with pytest.raises(TokenizerError, match="cannot be entries"):
        old.with_words(["a" * 101])


def test_words_of_chinese_are_refused_with_the_characters_that_are_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chinese = tokenizer(tmp_path / "chinese", ["孽", "海", "中"])
    with pytest.raises(TokenizerError, match=r"a word of each Chinese character.* lines of their own: '花'$"):
        chinese.with_words(["孽海花", "中"])
    with caplog.at_level("INFO", "unmask"):
        assert chinese.with_words(["花", "中", "花"]).vocab_size == chinese.vocab_size + 1
        assert caplog.messages == ["tokenizer: 1 of 2 words are new entries, 1 were entries already"]
    with pytest.raises(TokenizerError, match=r"'孽海' cannot .*; take them out of the list; their parts are entries"):
        chinese.with_words(["孽海", "花"])
    assert chinese.with_words(["花"]).vocab_size == chinese.vocab_size + 1


def test_a_list_without_a_new_word_is_told_with_the_way_out(old: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    assert old.with_words(["the", "Cat"]).hash == old.hash
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("tokenizer: 0 of 2 words are new entries, 2 were entries already; ")


def test_words_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\ufeffone\n\n two \r\n", encoding="utf-8")
    assert read_words(tmp_path / "words.txt") == ["one", "two"]
    (tmp_path / "empty.txt").write_text("\n")
    for name, message in (("empty.txt", "holds no word"), ("absent.txt", "cannot be read")):
        with pytest.raises(TokenizerError, match=message):
            read_words(tmp_path / name)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(TokenizerError, match="is not UTF-8"):
        read_words(tmp_path / "latin.txt")


def test_new_entries_come_from_the_pieces_that_they_are_cut_into(old: Tokenizer, tmp_path: Path) -> None:
    new = tokenizer(tmp_path / "new", ["cat", "catfish", "##fishs", "dog", "##dog", "the"])
    made = transfer(old, new)
    ids = old.vocabulary
    expected = {
        "[CLS]": ["[CLS]"],
        "cat": ["cat"],
        "the": ["the"],
        "catfish": ["cat", "##fish"],
        "##fishs": ["##fish", "##s"],
        "dog": [],
        "##dog": [],
    }
    for token, pieces in expected.items():
        assert made.sources[new.vocabulary[token]] == [ids[piece] for piece in pieces], token
    assert list(made.new) == ["catfish", "##fishs", "dog", "##dog"]
    assert made.lost == ["##s", "##fish", "fish", "é"]


def test_special_tokens_of_another_spelling_keep_their_rows(old: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "vocab.txt").write_text("<s>\n[UNK]\n<pad>\n</s>\n<mask>\ncat\n")
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": true, "cls_token": "<s>", "pad_token": "<pad>", '
        '"sep_token": "</s>", "mask_token": "<mask>"}'
    )
    new = Tokenizer.load(folder)
    made = transfer(old, new)
    assert [made.sources[new.vocabulary[token]] for token in ("<s>", "</s>", "<mask>")] == [[2], [3], [4]]
    assert list(made.new) == []


def test_a_free_entry_may_be_taken(old: Tokenizer, tmp_path: Path) -> None:
    new = tokenizer(tmp_path / "new", ["catfish", "the", "cat", "##s", "##fish", "fish", "é"])
    assert extension_problem(old, new) is None
    assert transfer(old, new).sources[5] == [old.vocabulary["cat"], old.vocabulary["##fish"]]


def test_what_is_no_extension_says_why(old: Tokenizer, tmp_path: Path) -> None:
    entries = ["[unused0]", "the", "cat", "##s", "##fish", "fish", "é"]
    fewer = tokenizer(tmp_path / "fewer", entries[:-1])
    moved = tokenizer(tmp_path / "moved", [*entries[:-2], "é", "fish"])
    assert "lacks 'é' of the checkpoint's 12 entries: its vocabulary shrank" in str(extension_problem(old, fewer))
    assert "gives 'fish', 'é' other ids" in str(extension_problem(old, moved))
    cased = old.keeping_case()
    assert "cuts text by other rules than the checkpoint's (normalizer)" in str(extension_problem(old, cased))
