"""The tokenizer: WordPiece as BERT has it, trained on text or loaded from a Hugging Face folder; or a WordLevel model.

Text is cleaned, CJK characters become words, case and accents are dropped (uncased), punctuation is split off, and each
word is cut greedily into the longest pieces of the vocabulary; `##` marks a piece that continues a word (Devlin et al.
2019, arXiv:1810.04805). The library `tokenizers` does this. The class adds what pre-training needs: a vocabulary that
repeats, a hash of all that decides ids, word starts, and the ids that random replacement may draw. The string "[MASK]"
in a corpus is text and no mask. Tokens that a folder adds, special or not, are kept whole in a text.

A WordLevel model makes each word of its own rule a token: the atoms and bonds of a molecule, the letters of a protein.
It comes from a `tokenizer.json`, and every token of it starts a word.

Cost: 2 to 3 MB of English a second and core.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unmask.data.text.accents import letters_lost, warning_of
from unmask.data.text.cleaning import clean
from unmask.data.tokenizer.bert import SPECIAL_TOKENS, bert_pipeline, drops_case, frame_as_bert, require_tokenizer_model
from unmask.data.tokenizer.folder import read_folder, write_folder
from unmask.data.tokenizer.further_words import with_words
from unmask.data.tokenizer.seen_text import may_be_cut, seen_characters
from unmask.data.tokenizer.vocabulary import sample_by_hash, train_vocabulary
from unmask.errors import TokenizerError

if TYPE_CHECKING:
    import tokenizers

__all__ = ["SPECIAL_TOKENS", "UNUSED", "Tokenizer"]

_log = logging.getLogger(__name__)

UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")
"""Entries that a vocabulary keeps free, such as `[unused7]`."""


class Placed(NamedTuple):
    """The T tokens of a text.

    Attributes:
        ids: token ids, T of them.
        places: first character of each token and the one after its last, (T, 2) int64.
        words: number of the word that a token belongs to, (T,) int64; -1 for none.
    """

    ids: list[int]
    places: NDArray[np.int64]
    words: NDArray[np.int64]


class Tokenizer:
    """A WordPiece or WordLevel tokenizer: text to ids and back.

    Args:
        backend: a `tokenizers.Tokenizer` with a WordPiece or a WordLevel model.
        special_tokens: the token of each of the roles pad, unk, cls, sep, mask.
        max_length: maximum length of a sequence of its model, written to `tokenizer_config.json` for `transformers`.

    Attributes:
        special_ids: ids of the five roles: pad, unk, cls, sep, mask; also as `pad_id`, `unk_id` and so on.

    Raises:
        TokenizerError: the model is another one, or a special token is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] = SPECIAL_TOKENS,
        max_length: int = 512,
    ) -> None:
        from tokenizers import Tokenizer as Backend

        require_tokenizer_model(backend)
        self.special_ids: dict[str, int] = {}
        for role, token in special_tokens.items():
            index = backend.token_to_id(token)
            if index is None:
                raise TokenizerError(
                    f"tokenizer: the {role} token {token!r} is not in the vocabulary of "
                    f"{backend.get_vocab_size()} tokens; add it, or name it in tokenizer_config.json"
                )
            self.special_ids[role] = index
        if backend.model.unk_token != special_tokens["unk"]:
            raise TokenizerError(
                f"tokenizer: the unk token is {special_tokens['unk']!r}, but its tokenizer.json makes unknown words "
                f"{backend.model.unk_token!r}; name that one as unk_token in tokenizer_config.json"
            )
        if backend.model.token_to_id(special_tokens["unk"]) is None:
            raise TokenizerError(
                f"tokenizer: the unk token {special_tokens['unk']!r} is an added token alone, so unknown words have no "
                "id; put it into the vocabulary of the model, with the id that it has"
            )
        backend.no_truncation()
        backend.no_padding()
        # the template of the folder does not count: training puts [CLS] and [SEP] around every text
        frame_as_bert(backend, special_tokens)
        self.special_tokens = dict(special_tokens)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(
            self.special_ids.__getitem__, SPECIAL_TOKENS
        )
        self.max_length = max_length
        self._backend = backend
        self._description: dict[str, Any] = json.loads(backend.to_str())
        # the same tokenizer, but "[MASK]" and the other roles are text; added tokens are still tokens
        roles = self.special_tokens.values()
        added = [token | {"special": token["content"] in roles} for token in self._description["added_tokens"]]
        self._plain = Backend.from_str(json.dumps(self._description | {"added_tokens": added}))
        self._plain.encode_special_tokens = True

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(Tokenizer, special_tokens=self.special_tokens, max_length=self.max_length)
        return make, (self._backend,)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        lowercase: bool = True,
        *,
        strip_accents: bool | None = None,
        keep_indentation: bool = False,
        sample_characters: int = 100_000_000,
        max_length: int = 512,
        long_words: Callable[[int], None] | None = None,
    ) -> Tokenizer:
        """Train a WordPiece vocabulary; the same texts give the same one in any order.

        Warns of scripts that lose letters because accents are dropped (`text/accents.py`).

        Args:
            texts: documents. If they have more than `sample_characters`, a sample is taken by hash of the content.
            vocab_size: number of tokens, with special tokens and single characters; small text may give fewer.
            lowercase: whether to drop case and accents, as BERT's "uncased".
            strip_accents: whether to drop accents. Default: as `lowercase`.
            keep_indentation: whether a line break with the indentation after it is a word (`indentation.py`).
            sample_characters: most characters of text to train on and to hold in memory.
            max_length: see `Tokenizer`.
            long_words: called with the number of words that were left out for their length (`train_vocabulary`).

        Raises:
            TokenizerError: there is no text, or `vocab_size` has no room beside the single characters.
        """
        if keep_indentation:
            # BERT's normalizer, which removes control characters otherwise, would remove line breaks with them
            texts = (clean(text).text for text in texts)
        sample = sample_by_hash(texts, sample_characters)
        strips = lowercase if strip_accents is None else strip_accents
        if strips and (lost := letters_lost(sample)):
            _log.warning(warning_of(lost))
        vocabulary = train_vocabulary(
            sample,
            vocab_size,
            special_tokens=list(SPECIAL_TOKENS.values()),
            lowercase=lowercase,
            strip_accents=strip_accents,
            keep_indentation=keep_indentation,
            long_words=long_words,
        )
        backend = bert_pipeline(
            vocabulary,
            SPECIAL_TOKENS,
            lowercase=lowercase,
            strip_accents=strip_accents,
            keep_indentation=keep_indentation,
        )
        return cls(backend, max_length=max_length)

    @classmethod
    def load(cls, folder: str | Path, *, lowercase: bool | None = None) -> Tokenizer:
        """Load a Hugging Face folder with a `tokenizer.json` or a `vocab.txt`, to which BERT's rules apply.

        `folder` may also name one of these files; a vocabulary may then have any name. Special tokens, added tokens and
        case follow `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` if they exist.

        Args:
            folder: the folder or file; or a store, or a run, of whose newest whole checkpoint it is.
            lowercase: whether to drop case, for a vocabulary beside which no file decides about it. Default: what its
                entries show (`case.py`).

        Raises:
            TokenizerError: there is nothing to load; a file is damaged; its model is neither WordPiece nor WordLevel; a
                special token is missing; a setting is not supported here; or `lowercase` contradicts the files.
            RunError, CheckpointError: the run has no checkpoint, or none that is whole.
        """
        found = read_folder(Path(folder), lowercase)
        try:
            return cls(found.backend, special_tokens=found.special_tokens, max_length=found.max_length)
        except TokenizerError as error:
            raise TokenizerError(f"{error} ({found.path})") from None

    def save(self, folder: str | Path, *, max_length: int | None = None) -> None:
        """Write the files of a folder that `AutoTokenizer` loads (see `write_folder`).

        Args:
            folder: the folder; it is made if it does not exist.
            max_length: maximum length of a sequence of the model beside it. Default: that of this tokenizer.
        """
        length = self.max_length if max_length is None else max_length
        write_folder(Path(folder), self._backend, self.special_tokens, max_length=length)

    def keeping_case(self) -> Tokenizer:
        """Return the tokenizer that keeps case and is otherwise this one; this one if it has no rule of BERT's."""
        from tokenizers import Tokenizer as Backend

        normalizer = self._description["normalizer"] or {}
        if normalizer.get("type") != "BertNormalizer":
            return self
        changed = self._description | {"normalizer": normalizer | {"lowercase": False}}
        backend = Backend.from_str(json.dumps(changed))
        return Tokenizer(backend, special_tokens=self.special_tokens, max_length=self.max_length)

    def with_words(self, words: Iterable[str]) -> Tokenizer:
        """Return the tokenizer with these words as further entries of its vocabulary, after all others.

        Raises:
            TokenizerError: a word is cut before the vocabulary is asked, so no entry can hold it.
        """
        backend = with_words(self._backend, self._description, words)
        return Tokenizer(backend, special_tokens=self.special_tokens, max_length=self.max_length)

    def normalized(self, text: str) -> str:
        """Return a text as the vocabulary is asked for it: in lower case, for example."""
        normalizer = self._backend.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def encode_batch(self, texts: Sequence[str], *, special_tokens: bool = False) -> list[list[int]]:
        """Encode texts in parallel, without adding [CLS] or [SEP], and return the token ids of each.

        With `special_tokens`, "[MASK]" and the other roles in a text are the special tokens; else they are text.
        """
        backend = self._backend if special_tokens else self._plain
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_places(self, texts: Sequence[str]) -> list[Placed]:
        """Encode texts as `encode_batch` does, with the place of each token in its text."""
        encoded = self._plain.encode_batch(list(texts), add_special_tokens=False)
        return [
            Placed(
                ids=text.ids,
                places=np.array(text.offsets, np.int64).reshape(-1, 2),
                words=np.array([-1 if word is None else word for word in text.word_ids], np.int64),
            )
            for text in encoded
        ]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Join tokens into text; a piece with `##` continues the token before it."""
        return str(self._backend.decode([int(index) for index in ids], skip_special_tokens=skip_special_tokens))

    def token(self, index: int) -> str:
        """Return the token with this id, as the vocabulary spells it."""
        # the library normalises the spelling of an added token
        token = self._added_names.get(int(index)) or self._backend.id_to_token(int(index))
        if token is None:
            raise ValueError(f"tokenizer: id must be in [0, {self.vocab_size}) and in use, got {index}")
        return str(token)

    def word_starts(self, ids: Sequence[int] | NDArray[Any]) -> NDArray[np.bool_]:
        """Return a bool for each id: True if its token starts a word, that is, has no `##` or is an added token."""
        return self._starts_word[np.asarray(ids, dtype=np.int64)]

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding table needs: the highest id plus 1."""
        return len(self._starts_word)

    @property
    def tokens(self) -> list[str]:
        """The tokens of the vocabulary, by id."""
        vocabulary = self._backend.get_vocab()
        return sorted(vocabulary, key=vocabulary.__getitem__)

    @property
    def vocabulary(self) -> dict[str, int]:
        """The id of each token."""
        return dict(self._backend.get_vocab())

    @property
    def rules(self) -> dict[str, Any]:
        """The rules by which text is cut, without the vocabulary: equal ones cut text at the same places."""
        model = self._description["model"]
        kept = [
            model[key] for key in ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word") if key in model
        ]
        if model["type"] != "WordPiece":
            kept.append(model["type"])
        named = {name: self._description[name] for name in ("normalizer", "pre_tokenizer")}
        return {**named, "rules": kept}

    @property
    def kind(self) -> str:
        """The name of its model: WordPiece or WordLevel."""
        return str(self._description["model"]["type"])

    @property
    def lowercase(self) -> bool:
        """Whether case is dropped."""
        return drops_case(self._backend)

    @property
    def spells_words(self) -> bool:
        """Whether the spelling of a token shows if it starts a word; False if pieces have no prefix such as `##`."""
        return self.kind == "WordLevel" or bool(self.prefix)

    @property
    def isolates_punctuation(self) -> bool:
        """Whether every punctuation mark is a word of its own; text may then be cut after one."""
        return (self._description["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"

    @cached_property
    def may_be_cut(self) -> bool:
        """Whether the tokens of a text are those of its sentences; False if a rule or a token may reach across."""
        return may_be_cut(self._backend, self._description, self.special_tokens.values())

    @cached_property
    def seen_characters(self) -> str:
        """The control and format characters that this tokenizer reads; cleaning keeps them."""
        return seen_characters(self._backend, self._description, self.special_tokens.values())

    @cached_property
    def used_ids(self) -> NDArray[np.int64]:
        """The ids that have a token, ascending; there may be gaps between them."""
        return np.array(sorted(set(self._backend.get_vocab().values())), dtype=np.int64)

    @cached_property
    def added_special_ids(self) -> list[int]:
        """Ids of special tokens other than the five roles, ascending."""
        return [token["id"] for token in self._added if token["special"]]

    @cached_property
    def ordinary_ids(self) -> NDArray[np.int64]:
        """The ids that random replacement may draw, ascending: all but special tokens and `[unused7]`."""
        unused = [index for token, index in self._backend.get_vocab().items() if UNUSED.fullmatch(token)]
        return np.setdiff1d(self.used_ids, [*self.special_ids.values(), *self.added_special_ids, *unused])

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all that decides which ids a text gets; file format, padding and truncation do not."""
        # a tokenizer without added special tokens keeps the hash of versions that cut these into pieces
        added = {"added_special": [token for token in self._added if token["special"]]}
        return self._hash_with(added if self.added_special_ids else {})

    @cached_property
    def hash_without_added_special(self) -> str:
        """The `hash` of versions that cut added special tokens into pieces."""
        return self._hash_with({})

    def _hash_with(self, more: Mapping[str, object]) -> str:
        meaning: dict[str, object] = {
            **self.rules,
            "vocabulary": sorted((index, token) for token, index in self._backend.get_vocab().items()),
            "added": [token for token in self._description["added_tokens"] if not token["special"]],
            "special": self.special_ids,
        }
        return hashlib.sha256(json.dumps({**meaning, **more}, sort_keys=True).encode()).hexdigest()

    @property
    def _added(self) -> list[dict[str, Any]]:
        """The added tokens other than the five roles, by id."""
        roles = set(self.special_tokens.values())
        added = [token for token in self._description["added_tokens"] if token["content"] not in roles]
        return sorted(added, key=lambda token: int(token["id"]))

    @cached_property
    def _added_names(self) -> dict[int, str]:
        return {token["id"]: token["content"] for token in self._added}

    @cached_property
    def _starts_word(self) -> NDArray[np.bool_]:
        vocabulary = self._backend.get_vocab()
        starts = np.ones(max(vocabulary.values()) + 1, dtype=np.bool_)
        if prefix := self.prefix:
            words = self._description["model"]["vocab"]
            starts[[index for token, index in words.items() if token.startswith(prefix) and token != prefix]] = False
        return starts

    @property
    def prefix(self) -> str:
        """What a piece begins with that continues a word; empty for a WordLevel model, which has no pieces."""
        return str(self._description["model"].get("continuing_subword_prefix", ""))
