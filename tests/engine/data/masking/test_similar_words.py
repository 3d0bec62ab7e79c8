"""The table of similar words: which neighbour is kept, and how words are found."""

import shutil
import subprocess
from typing import ClassVar

import numpy as np
import pytest

from unmask.data.masking.similar_words import SimilarWords, read_neighbours
from unmask.errors import CorpusError


class Letters:
    """A tokenizer with one id a letter, from 5 on; a capital letter is unknown."""

    special_ids: ClassVar = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    added_special_ids: ClassVar = []

    def encode_batch(self, texts, *, special_tokens=False):
        return [[1 if letter.isupper() else 5 + ord(letter) - ord("a") for letter in text] for text in texts]


def spell(*texts):
    return [[5 + ord(letter) - ord("a") for letter in text] for text in texts]


def write(folder, text):
    path = folder / "similar.tsv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_best_known_neighbour_of_equal_length_is_kept(tmp_path):
    path = write(
        tmp_path,
        "good\tgood:1.0 fine:0.9 well:0.8\n"
        "big\tlarge:0.9 giant:0.8 hug:0.5\n"
        "cat\tDog:0.9 cow:0.8\n"
        "Paris\tlyons:0.9\n"
        "odd\tstrange:0.9\n"
        "\n",
    )
    table = SimilarWords.load(path, Letters())
    pairs = {"good": "fine", "big": "hug", "cat": "cow"}
    assert dict(table.pairs()) == {
        tuple(word): tuple(other) for word, other in zip(spell(*pairs), spell(*pairs.values()), strict=True)
    }
    coverage = table.coverage
    assert (coverage.words, coverage.unknown, coverage.without, coverage.kept) == (5, 1, 1, 3)
    assert str(coverage).startswith("3 of 5 words have a similar one of equal length; 1 hold unknown tokens")


def test_words_are_found_by_their_tokens_and_no_others():
    rng = np.random.default_rng(0)
    words = sorted({tuple(rng.integers(5, 12, rng.integers(1, 6)).tolist()) for _ in range(2000)})
    known = words[::2]
    table = SimilarWords([(word, word[::-1]) for word in known])
    ids = np.array([token for word in words for token in word], dtype=np.uint16)
    sizes = np.array([len(word) for word in words])
    first = np.cumsum(sizes) - sizes
    entries = table.find(ids, first, sizes)
    assert (entries >= 0).tolist() == [number % 2 == 0 for number in range(len(words))]
    for word, entry in zip(words, entries.tolist(), strict=True):
        if entry >= 0:
            places = np.arange(len(word))
            assert table.token(np.full(len(word), entry), places).tolist() == list(word[::-1])


def test_equal_hashes_of_different_words_do_no_harm(monkeypatch):
    from unmask.data.masking import similar_words as module

    monkeypatch.setattr(module, "mix64", lambda values: np.zeros(np.shape(values), dtype=np.uint64))
    table = SimilarWords([((7, 8), (9, 10))])
    ids = np.array([7, 8, 8, 7, 7], dtype=np.uint16)
    assert table.find(ids, np.array([0, 2, 4]), np.array([2, 2, 1])).tolist() == [0, -1, -1]


def test_a_word_given_twice_keeps_its_first_similar_word():
    table = SimilarWords([((7,), (8,)), ((7,), (9,))])
    entry = table.find(np.array([7]), np.array([0]), np.array([1]))
    assert table.token(entry, np.array([0])).tolist() == [8]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "at least one pair of words, got none"),
        ([((5, 6), (7,))], "the same number of tokens, at least 1, got 2 and 1"),
        ([((), ())], "the same number of tokens, at least 1, got 0 and 0"),
    ],
)
def test_pairs_that_are_no_table_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        SimilarWords(pairs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no tab here\n", r"line 1: must be 'word<TAB>neighbour:similarity ...', got 'no tab here'"),
        ("word\t\n", "line 1: must be 'word<TAB>"),
        ("good\tfine:0.9\nbad\tworse\n", "line 2: must be 'word<TAB>"),
        ("Paris\tLyons:0.9\n", "no word can be used with this tokenizer"),
        ("", "no word can be used with this tokenizer"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path, text, message):
    with pytest.raises(CorpusError, match=message):
        SimilarWords.load(write(tmp_path, text), Letters())


def test_a_missing_or_binary_table_is_refused_by_name(tmp_path):
    with pytest.raises(CorpusError, match=r"there is no table .*absent\.tsv"):
        SimilarWords.load(tmp_path / "absent.tsv", Letters())
    (tmp_path / "vectors.bin").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CorpusError, match=r"is not UTF-8 \(invalid start byte\)"):
        SimilarWords.load(tmp_path / "vectors.bin", Letters())
    (tmp_path / "vectors.bin").write_bytes(b"\x00\xff\x81")
    with pytest.raises(CorpusError, match=r"is not UTF-8 .*; give a table that `unmask similar-words` made$"):
        SimilarWords.load(tmp_path / "vectors.bin", Letters())


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(CorpusError, match="is a folder; give the table, a file that `unmask similar-words` made"):
        SimilarWords.load(tmp_path, Letters())


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "utf-16"])
def test_a_table_in_another_encoding_is_read_after_the_command_in_the_error(tmp_path, encoding):
    if shutil.which("iconv") is None:
        pytest.skip("no iconv")
    text = "".join(f"{one}\t{two}:0.9\n" for one, two in (("高興", "快樂"), ("天氣", "氣候")))
    table = tmp_path / "a table.tsv"
    table.write_bytes(text.encode(encoding))
    with pytest.raises(CorpusError, match="is not UTF-8") as told:
        list(read_neighbours(table))
    command = str(told.value).partition("convert it: ")[2]
    assert command.startswith("iconv -f ")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    found = dict(read_neighbours(table))
    # the bytes do not tell Chinese encodings apart, so the message shows what they would read
    assert encoding == "big5" or found == {"高興": ["快樂"], "天氣": ["氣候"]}
    assert len(found) == 2
