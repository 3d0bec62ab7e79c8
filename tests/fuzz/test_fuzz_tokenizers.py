"""Tokenizer folders with odd files: a tokenizer that gives the same ids after a round trip, or one sentence."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fuzz_mutations import byte_changes, change_bytes, change_tree, tree_changes
from fuzz_outcomes import Fault, result_or_sentence, try_cases
from hypothesis import strategies as st

from unmask.data.tokenizer import Tokenizer

JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TEXTS = ["the river", "", "The  RIVER, [MASK] runs\u0301\n\x85 漢字 \ufeff\0", "[CLS] x [SEP]", "a" * 300, "\u200d##"]
EXAMPLES: list[dict[str, Any]] = [
    {"form": "plain", "trees": {"tokenizer_config.json": [("replace", [0, 5], 19)]}, "bytes": {}, "without": set()},
    {
        "form": "plain",
        "trees": {},
        "bytes": {"tokenizer_config.json": [("insert", 0, b"[" * 100_000)]},
        "without": set(),
    },
    {"form": "added", "trees": {"added_tokens.json": [("rename", [0, 0], 19)]}, "bytes": {}, "without": set()},
    {"form": "plain", "trees": {"tokenizer_config.json": [("deepen", [0, 5], 0)]}, "bytes": {}, "without": set()},
    {
        "form": "added",
        "trees": {"tokenizer.json": [("replace", [0, 1], 0), ("remove", [0, 8, 4, 5], 0)]},
        "bytes": {},
        "without": set(),
    },
]

cases = st.fixed_dictionaries(
    {
        "form": st.sampled_from(("plain", "added", "level")),
        "trees": st.dictionaries(st.sampled_from(JSON_FILES), tree_changes, max_size=2),
        "bytes": st.dictionaries(st.sampled_from((*JSON_FILES, "vocab.txt")), byte_changes, max_size=1),
        "without": st.sets(st.sampled_from((*JSON_FILES, "vocab.txt")), max_size=3),
    }
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is written here, one that adds tokens in every way that there is, and a WordLevel model."""
    root = tmp_path_factory.mktemp("tokenizers")
    write_word_level(root / "level")
    tokenizer = Tokenizer.train(["the river runs past the mill, and the cat"] * 4, 100)
    tokenizer.save(root / "plain")
    (root / "plain" / "added_tokens.json").write_text(json.dumps({"[MASK]": tokenizer.mask_id}))
    folder = Path(shutil.copytree(root / "plain", root / "added"))
    size = tokenizer.vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"riverside": size, "[X]": size + 1}))
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["additional_special_tokens"] = ["[X]", {"content": "[Y]", "lstrip": True}]
    settings["added_tokens_decoder"] = {str(size): {"content": "riverside", "special": False}}
    settings["mask_token"] = {"content": "[MASK]", "lstrip": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Tokenizer.load(folder).added_special_ids == [size + 1, size + 2]
    return root


def write_word_level(folder: Path) -> None:
    from tokenizers import Regex, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"the rivabcdefgns"]
    backend = Backend(models.WordLevel({token: n for n, token in enumerate(dict.fromkeys(tokens))}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[A-Z]?."), behavior="isolated")
    Tokenizer(backend).save(folder)
    (folder / "added_tokens.json").write_text("{}")


def make(case: dict[str, Any], good: Path, folder: Path) -> None:
    shutil.copytree(good, folder)
    for name, changes in case["trees"].items():
        path = folder / name
        path.write_text(json.dumps(change_tree(json.loads(path.read_text(encoding="utf-8")), changes)))
    for name, changes in case["bytes"].items():
        if (folder / name).exists():
            (folder / name).write_bytes(change_bytes((folder / name).read_bytes(), changes))
    for name in case["without"]:
        (folder / name).unlink(missing_ok=True)


def test_tokenizer_folders(good: Path) -> None:
    def body(case: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            folder, saved = Path(scratch, "tokenizer"), Path(scratch, "saved")
            make(case, good / case["form"], folder)
            tokenizer = result_or_sentence(lambda: Tokenizer.load(folder), names=[str(folder)])
            if tokenizer is None:
                return
            ids = result_or_sentence(lambda: tokenizer.encode_batch(TEXTS))
            if ids is None or result_or_sentence(lambda: tokenizer.save(saved) or True) is None:
                return
            check(tokenizer, ids)
            again = Tokenizer.load(saved)
            if again.encode_batch(TEXTS) != ids or again.hash != tokenizer.hash:
                raise Fault("the saved tokenizer gives other ids", "round trip")

    try_cases(body, cases, few=60, examples=EXAMPLES)


def check(tokenizer: Tokenizer, ids: list[list[int]]) -> None:
    """What a store and a model rely on."""
    if any(not 0 <= one < tokenizer.vocab_size for text in ids for one in text):
        raise Fault(f"ids beyond the vocabulary of {tokenizer.vocab_size}: {ids}", "ids")
    for one in {one for text in ids for one in text}:
        tokenizer.token(one)
    if set(tokenizer.special_ids.values()) & set(tokenizer.ordinary_ids.tolist()):
        raise Fault("a special token may be drawn", "special")
    tokenizer.decode([one for text in ids for one in text])
    placed = tokenizer.encode_with_places(TEXTS)
    if [one.ids for one in placed] != ids or [len(one.places) for one in placed] != [len(text) for text in ids]:
        raise Fault("ids with places differ", "places")
