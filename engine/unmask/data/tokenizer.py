"""WordPiece as BERT has it: train one, load any Hugging Face folder, save what `transformers` loads.

Text is cleaned, CJK characters are set apart, case and accents are dropped (uncased), punctuation is split
off, and each word is cut greedily into the longest pieces of the vocabulary, `##` marking a continuation
(Devlin et al. 2019, arXiv:1810.04805). The work is done by the `tokenizers` library; this class adds what
pre-training needs: a deterministic vocabulary, a hash of the meaning, word starts, the ids that random
replacement may draw, and that the string "[MASK]" in a corpus is text, not a mask.

Cost: 2 to 3 MB of English a second and core.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmask.data.tokenizer_files import (
    SPECIAL_TOKENS,
    load_backend,
    load_vocabulary,
    read_json,
    special_tokens_of,
    write_json,
)
from unmask.data.wordpiece import bert_pipeline, train_vocabulary
from unmask.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers
    from numpy.typing import NDArray

__all__ = ["SPECIAL_TOKENS", "Tokenizer"]

_UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")


class Tokenizer:
    """A WordPiece tokenizer: text to ids and back.

    Args:
        backend: a `tokenizers.Tokenizer` whose model is WordPiece.
        special_tokens: the token of each of the roles pad, unk, cls, sep, mask.
        max_length: how many tokens a model takes, written to `tokenizer_config.json` for `transformers`.

    Raises:
        TokenizerError: the model is not WordPiece or a special token is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] = SPECIAL_TOKENS,
        max_length: int = 512,
    ) -> None:
        from tokenizers import Tokenizer as Backend
        from tokenizers import models

        if not isinstance(backend.model, models.WordPiece):
            kind = type(backend.model).__name__
            raise TokenizerError(f"tokenizer: WordPiece is needed, got {kind}; other models are not supported")
        for role, token in special_tokens.items():
            if backend.token_to_id(token) is None:
                raise TokenizerError(
                    f"tokenizer: the {role} token {token!r} is not in the vocabulary of "
                    f"{backend.get_vocab_size()} tokens; add it, or name it in tokenizer_config.json"
                )
        backend.no_truncation()
        backend.no_padding()
        self.special_tokens = dict(special_tokens)
        self.max_length = max_length
        self._backend = backend
        # the same tokenizer, blind to special tokens in the text
        self._plain = Backend.from_str(backend.to_str())
        self._plain.encode_special_tokens = True

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        lowercase: bool = True,
        *,
        sample_characters: int = 100_000_000,
        max_length: int = 512,
    ) -> Tokenizer:
        """Trains a WordPiece vocabulary; the same texts in any order give the same one.

        Args:
            texts: documents. More than `sample_characters` are sampled, by hash of their content.
            vocab_size: tokens wanted, special tokens and single characters included; small text may give fewer.
            lowercase: drop case and accents, BERT's "uncased".
            sample_characters: how many characters of text training may hold in memory.
            max_length: see `Tokenizer`.

        Raises:
            TokenizerError: no text, or `vocab_size` does not exceed what the alphabet alone takes.
        """
        vocabulary = train_vocabulary(
            texts,
            vocab_size,
            special_tokens=list(SPECIAL_TOKENS.values()),
            lowercase=lowercase,
            sample_characters=sample_characters,
        )
        backend = bert_pipeline(vocabulary, SPECIAL_TOKENS, lowercase=lowercase)
        return cls(backend, max_length=max_length)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Loads a Hugging Face folder with a `tokenizer.json` or a `vocab.txt` (BERT's rules then hold).

        Either file may also be named itself; the vocabulary then needs no certain name.

        Special tokens and case follow `tokenizer_config.json` and `special_tokens_map.json` where they exist.

        Raises:
            TokenizerError: nothing to load, a file is damaged, not WordPiece, or without a special token.
        """
        given = Path(folder)
        folder = given.parent if given.is_file() else given
        named_vocabulary = given.is_file() and given.suffix != ".json"
        whole = folder / "tokenizer.json" if given == folder else given
        vocabulary = given if named_vocabulary else folder / "vocab.txt"
        config = read_json(folder / "tokenizer_config.json")
        special_tokens = special_tokens_of(read_json(folder / "special_tokens_map.json") | config)
        if whole.is_file() and not named_vocabulary:
            backend = load_backend(whole)
        elif vocabulary.is_file():
            backend = load_vocabulary(vocabulary, special_tokens, config)
        else:
            state = "has neither" if folder.is_dir() else "is not a folder with"
            raise TokenizerError(
                f"tokenizer: {folder} {state} tokenizer.json {'nor' if folder.is_dir() else 'or'} vocab.txt"
            )
        max_length = config.get("model_max_length", 512)
        # transformers writes 1e30 where there is no limit
        bounded = isinstance(max_length, int) and 0 < max_length < 1 << 31
        try:
            return cls(backend, special_tokens=special_tokens, max_length=max_length if bounded else 512)
        except TokenizerError as error:
            raise TokenizerError(f"{error} ({folder})") from None

    def save(self, folder: str | Path, *, max_length: int | None = None) -> None:
        """Writes `tokenizer.json`, `vocab.txt`, `tokenizer_config.json`, `special_tokens_map.json` for `AutoTokenizer`.

        Args:
            folder: where to; made when it is not there.
            max_length: how many tokens the model beside it takes. Default: `max_length` of this tokenizer.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {f"{role}_token": token for role, token in self.special_tokens.items()}
        normalizer = self._description["normalizer"] or {}
        config = {
            "tokenizer_class": "BertTokenizer" if self.isolates_punctuation else "PreTrainedTokenizerFast",
            "do_lower_case": bool(normalizer.get("lowercase", False)),
            "strip_accents": normalizer.get("strip_accents"),
            "tokenize_chinese_chars": bool(normalizer.get("handle_chinese_chars", False)),
            "model_max_length": self.max_length if max_length is None else max_length,
            **names,
        }
        tokens = [self._backend.id_to_token(index) or f"[unused{index}]" for index in range(self.vocab_size)]
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "special_tokens_map.json", names)
        self._backend.save(str(folder / "tokenizer.json"))

    def encode_batch(self, texts: Sequence[str], *, special_tokens: bool = False) -> list[list[int]]:
        """Encodes texts in parallel, without adding [CLS] or [SEP].

        Args:
            texts: the texts.
            special_tokens: read "[MASK]" and the like in a text as the special token; by default they are text.
        """
        backend = self._backend if special_tokens else self._plain
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_offsets(self, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Encodes texts as `encode_batch` does, and says at which character of its text each token begins."""
        encoded = self._plain.encode_batch(list(texts), add_special_tokens=False)
        return [text.ids for text in encoded], [[start for start, _ in text.offsets] for text in encoded]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Joins tokens back into text, `##` pieces to the token before them."""
        return str(self._backend.decode([int(index) for index in ids], skip_special_tokens=skip_special_tokens))

    def token(self, index: int) -> str:
        """Returns the token with this id, as the vocabulary spells it."""
        token = self._backend.id_to_token(int(index))
        if token is None:
            raise ValueError(f"tokenizer: id must be in [0, {self.vocab_size}) and in use, got {index}")
        return str(token)

    def word_starts(self, ids: Sequence[int] | NDArray[Any]) -> NDArray[np.bool_]:
        """Returns for each id whether it starts a word, that is, whether its token has no `##`."""
        return self._starts_word[np.asarray(ids, dtype=np.int64)]

    @property
    def vocab_size(self) -> int:
        """The number of rows that an embedding table needs: the highest id and 1."""
        return len(self._starts_word)

    @property
    def isolates_punctuation(self) -> bool:
        """Whether every punctuation mark is a word of its own, so that text may be cut after one."""
        return (self._description["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"

    @property
    def pad_id(self) -> int:
        """Id of [PAD]."""
        return self._id("pad")

    @property
    def unk_id(self) -> int:
        """Id of [UNK]."""
        return self._id("unk")

    @property
    def cls_id(self) -> int:
        """Id of [CLS]."""
        return self._id("cls")

    @property
    def sep_id(self) -> int:
        """Id of [SEP]."""
        return self._id("sep")

    @property
    def mask_id(self) -> int:
        """Id of [MASK]."""
        return self._id("mask")

    @property
    def special_ids(self) -> dict[str, int]:
        """Ids of the five roles: pad, unk, cls, sep, mask."""
        return {role: self._id(role) for role in self.special_tokens}

    @cached_property
    def used_ids(self) -> NDArray[np.int64]:
        """The ids that are a token, ascending; there may be gaps between them."""
        return np.array(sorted(set(self._backend.get_vocab().values())), dtype=np.int64)

    @cached_property
    def ordinary_ids(self) -> NDArray[np.int64]:
        """The ids that random replacement may draw, ascending: no special token and no `[unused7]`."""
        special = {token["content"] for token in self._description["added_tokens"] if token["special"]}
        special.update(self.special_tokens.values())
        return np.array(
            sorted(
                index
                for token, index in self._backend.get_vocab().items()
                if token not in special and not _UNUSED.fullmatch(token)
            ),
            dtype=np.int64,
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides which ids a text gets; file format, padding and truncation do not."""
        model = self._description["model"]
        meaning = {
            "normalizer": self._description["normalizer"],
            "pre_tokenizer": self._description["pre_tokenizer"],
            "rules": [model[key] for key in ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word")],
            "vocabulary": sorted((index, token) for token, index in self._backend.get_vocab().items()),
            "added": [token for token in self._description["added_tokens"] if not token["special"]],
            "special": self.special_ids,
        }
        return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self._backend.to_str())
        return description

    @cached_property
    def _starts_word(self) -> NDArray[np.bool_]:
        vocabulary = self._backend.get_vocab()
        prefix = self._description["model"]["continuing_subword_prefix"]
        starts = np.ones(max(vocabulary.values()) + 1, dtype=np.bool_)
        starts[[index for token, index in vocabulary.items() if token.startswith(prefix) and token != prefix]] = False
        return starts

    def _id(self, role: str) -> int:
        index = self._backend.token_to_id(self.special_tokens[role])
        assert index is not None
        return int(index)
