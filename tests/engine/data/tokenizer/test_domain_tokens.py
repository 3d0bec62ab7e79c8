"""Molecules, proteins and code: a token for each part, and the ids that `transformers` gives for the saved folder."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from unmask.data.prepare.encoding import TextEncoder
from unmask.data.tokenizer import Tokenizer
from unmask.errors import TokenizerError

ROLES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Schwaller et al. 2019, arXiv:1811.02633
SMILES = r"\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|/|:|~|@|\?|>|\*|\$|%[0-9]{2}|[0-9]"
MOLECULES = ["CC(=O)Oc1ccccc1C(=O)O", "C[C@@H](N)C(=O)O", "BrCCCl", "c1cc[nH]c1.O=C=O"]
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
CODE = "def f(a):\n    if a:\n        return  b\n\n\tx = 1   \n        y\n"


def word_level(folder: Path, pattern: str, texts: list[str], unknown: str = "[UNK]") -> Path:
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend

    folder.mkdir()
    backend = Backend(models.WordLevel(unk_token=unknown))
    rules = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(pattern), behavior="isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(rules)
    backend.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=ROLES, show_progress=False))
    backend.save(str(folder / "tokenizer.json"))
    return folder


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token(index) for index in tokenizer.encode_batch([text])[0]]


def require_parity(tokenizer: Tokenizer, folder: Path, texts: list[str]) -> None:
    """The saved folder gives the same ids in `transformers`, with [CLS] and [SEP] around them, and loads here again."""
    from transformers import AutoTokenizer

    tokenizer.save(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    framed = [[tokenizer.cls_id, *ids, tokenizer.sep_id] for ids in tokenizer.encode_batch(texts)]
    assert theirs(texts)["input_ids"] == framed
    assert theirs.mask_token_id == tokenizer.mask_id
    for text in texts:
        masked = text.replace("C", "[MASK]", 1)
        before, _, after = masked.partition("[MASK]")
        ours = tokenizer.encode_batch([before, after])
        expected = ours[0] + ([tokenizer.mask_id] if "[MASK]" in masked else []) + ours[1]
        assert theirs(masked, add_special_tokens=False)["input_ids"] == expected
    again = Tokenizer.load(folder)
    assert again.hash == tokenizer.hash
    assert again.encode_batch(texts) == tokenizer.encode_batch(texts)


def test_molecules_are_cut_into_atoms_and_bonds(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(word_level(tmp_path / "smiles", SMILES, MOLECULES))
    assert pieces(tokenizer, "C[C@@H](Br)Cl") == ["C", "[C@@H]", "(", "Br", ")", "Cl"]
    assert pieces(tokenizer, "C%12!") == ["C", "[UNK]", "[UNK]"]
    require_parity(tokenizer, tmp_path / "saved", [*MOLECULES, "C%12!", " CC\n", "[Fe]"])
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")
    ]


def test_a_protein_has_a_token_for_each_letter(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(word_level(tmp_path / "proteins", ".", [AMINO_ACIDS]))
    assert pieces(tokenizer, "MKTAYI") == list("MKTAYI")
    assert not tokenizer.lowercase
    require_parity(tokenizer, tmp_path / "saved", ["MKTAYIAKQR", "mX", AMINO_ACIDS * 10])


def test_each_token_of_a_word_level_model_is_a_word_that_may_be_drawn(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(word_level(tmp_path / "smiles", SMILES, MOLECULES))
    encoded = TextEncoder(tokenizer=tokenizer)(["C[C@@H](N)O", "c1cc[nH]c1.O=C=O"])
    assert encoded.word_starts.all()
    assert encoded.lengths.tolist() == [6, 13]
    # a full stop without white space after it ends no sentence
    assert np.flatnonzero(encoded.sentence_starts).tolist() == [0, 6]
    assert tokenizer.ordinary_ids.tolist() == list(range(5, tokenizer.vocab_size))


def test_a_word_level_model_has_another_hash_than_word_pieces_with_its_words(tmp_path: Path) -> None:
    folder = word_level(tmp_path / "smiles", SMILES, MOLECULES)
    first = Tokenizer.load(folder)
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    description["model"] |= {"type": "WordPiece", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    assert Tokenizer.load(folder).hash != first.hash


def test_the_unknown_token_that_the_library_takes_by_itself_is_refused_with_a_way_out(tmp_path: Path) -> None:
    folder = word_level(tmp_path / "smiles", SMILES, MOLECULES, unknown="<unk>")
    with pytest.raises(TokenizerError, match=r"makes unknown words '<unk>'; name that one as unk_token"):
        Tokenizer.load(folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"[UNK]"', '"<unk>"'), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"unk_token": "<unk>"}')
    assert Tokenizer.load(folder).special_tokens["unk"] == "<unk>"


def test_another_model_is_refused_and_training_is_the_way_out(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    Backend(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="WordPiece or WordLevel is needed, got BPE; leave the tokenizer out"):
        Tokenizer.load(tmp_path)


def test_indentation_and_line_breaks_are_words_of_code(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train([CODE] * 3, 120, lowercase=False, keep_indentation=True)
    assert pieces(tokenizer, "if a:\n    return b\n\n\tx = 1  \n") == [
        *("if", "a", ":", "\n    ", "return", "b", "\n", "\n\t", "x", "=", "1", "\n")
    ]
    # an indentation that was never seen is made of pieces, which continue the word
    ids = tokenizer.encode_batch(["a\n      b"])[0]
    assert tokenizer.word_starts(ids).tolist() == [True, True, *[False] * (len(ids) - 3), True]
    assert tokenizer.unk_id not in ids
    require_parity(tokenizer, tmp_path / "saved", [CODE, "a\r\n  b", "\n\n", "Class C:\n\tpass"])


def test_without_the_option_code_is_cut_as_bert_cuts_it(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train([CODE] * 3, 120, lowercase=False)
    assert pieces(tokenizer, "if a:\n    return b") == ["if", "a", ":", "return", "b"]


def test_an_indentation_beyond_a_hundred_characters_is_no_unknown_word() -> None:
    tokenizer = Tokenizer.train([CODE] * 3, 120, keep_indentation=True)
    assert tokenizer.unk_id not in tokenizer.encode_batch(["x\n" + " " * 300 + "y"])[0]


def test_control_characters_leave_no_entry_in_a_vocabulary_of_code() -> None:
    plain = Tokenizer.train([CODE] * 3, 120, keep_indentation=True)
    dirty = Tokenizer.train([CODE.replace("a", "\x01a\u200b").replace("\n", "\r\n")] * 3, 120, keep_indentation=True)
    assert dirty.hash == plain.hash
    assert plain.seen_characters == ""


def test_words_between_white_space_are_those_of_bert() -> None:
    text = "naïve_Name2: «x» ¿qué? 深度a 3.5e-4 #!/bin/sh «» ٪ ‿ 中。文 $^`|~+<=>"
    code = Tokenizer.train([text], 200, keep_indentation=True)
    prose = Tokenizer.train([text], 200)
    assert pieces(code, text) == pieces(prose, text)


def test_the_sentence_and_word_starts_of_code_lie_at_its_words() -> None:
    tokenizer = Tokenizer.train([CODE] * 3, 120, lowercase=False, keep_indentation=True)
    encoded = TextEncoder(tokenizer=tokenizer)([CODE])
    assert encoded.ids.tolist() == tokenizer.encode_batch([CODE])[0]
    starts = [tokenizer.token(int(index)) for index in encoded.ids[np.flatnonzero(encoded.sentence_starts)]]
    # a blank line ends a sentence, as in prose
    assert starts[0] == "def"
    assert len(starts) == 2
    assert encoded.word_starts.tolist() == tokenizer.word_starts(encoded.ids).tolist()


def test_a_smaller_vocabulary_than_asked_for_is_told_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unmask")
    size = Tokenizer.train(["the mill turns"], 600).vocab_size
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith(
        f"the vocabulary of this text has {size} entries instead of 600: each word of it is an entry"
    )
    assert told.endswith("more text gives more entries")
    caplog.clear()
    words = [a + b + c + d for a in "thm" for b in "eiu" for c in "lrs" for d in "nts"]
    more = Tokenizer.train(["the mill turns", " ".join(words)], 600)
    assert size < more.vocab_size


def test_a_vocabulary_without_room_for_all_characters_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unmask")
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    size = Tokenizer.train([text], 120).vocab_size
    [told] = [record.getMessage() for record in caplog.records]
    assert f"has {size} entries instead of 120: each word of its 60 most frequent characters is an entry" in told
    found = re.search(r"240 rarer ones have no room, .*; vocab_size (\d+) takes all of them$", told)
    assert found is not None, told
    assert Tokenizer.train([text], 240).vocab_size > size
    caplog.clear()
    Tokenizer.train([text], int(found[1]))
    assert "have no room" not in caplog.text


def test_a_large_vocabulary_of_a_small_text_names_the_size_for_a_small_model(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "unmask")
    letters = "bdfgklmnprstvz"
    text = " ".join(a + b + c + d for a in letters for b in letters for c in letters for d in "aeiou")
    size = Tokenizer.train([text], 30_522).vocab_size
    assert size > 8192
    assert caplog.messages[0].endswith("; a small model needs fewer, give --vocab-size 8192")
    caplog.clear()
    assert Tokenizer.train([text], 8192).vocab_size == 8192
    assert not caplog.messages
