"""The words that a masked language model puts in the place of a word: the K most probable tokens at its [MASK].

    masked      [CLS] the film was [MASK] . [SEP]                                    as in the paper
    paraphrase  [CLS] the film was [MASK] . [SEP] the film was great . [SEP]         as in the authors' code

The second form shows the word to the model, so its candidates are nearer in meaning, and the word itself is among them
more often. A candidate is a whole word with a letter: a token that continues a word is none, and K such tokens are
taken. Every word of every text is a document of its own, and documents are packed without padding.

Cost: a forward pass of min(N, context) tokens for each of the N words of a text, twice that for `paraphrase`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from unmask.batch import pack
from unmask.data.tokenizer import Tokenizer
from unmask.errors import UnmaskError
from unmask.model import PretrainingModel
from unmask.tasks.augmentation.words import TextWords, has_letter, in_case_of

__all__ = ["MaskedModel"]

_TOKENS = 4096


class _Masked(NamedTuple):
    """A text with one word masked.

    Attributes:
        text, word: numbers of the text and of the word in it.
        ids, segments: what the model reads.
        place: of [MASK] in it.
    """

    text: int
    word: int
    ids: list[int]
    segments: list[int]
    place: int


class MaskedModel:
    """A masked language model that proposes words.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        count: K, candidates of a word.
        form: what the model sees, `masked` or `paraphrase`.
        context: tokens of a text that it sees, around the word.
    Raises:
        UnmaskError: the model reads fewer tokens than the form needs.
    """

    def __init__(self, model: PretrainingModel, tokenizer: Tokenizer, *, count: int, form: str, context: int) -> None:
        needed = 2 * context + 3 if form == "paraphrase" else context + 2
        if needed > model.config.max_positions:
            raise UnmaskError(
                f"augment: the form {form!r} with --context {context} makes sequences of {needed} tokens, and the "
                f"model reads {model.config.max_positions}; lower --context"
            )
        self._model, self.tokenizer, self._form, self._context = model, tokenizer, form, context
        ordinary = tokenizer.ordinary_ids
        words = ordinary[tokenizer.word_starts(ordinary)]
        words = words[[has_letter(tokenizer.token(index)) for index in words.tolist()]]
        self._words = torch.from_numpy(words)
        self._count = min(count, len(words))

    @torch.inference_mode()
    def candidates(self, texts: Sequence[TextWords]) -> list[list[list[str]]]:
        """Return the candidates for each word of each text, sorted by their ids; none for a word of several tokens."""
        found: list[list[list[str]]] = [[[] for _ in one.words] for one in texts]
        device = self._model.mlm.bias.device
        words = self._words.to(device)
        for some in _batches(self._masked(texts)):
            first = np.cumsum([0, *(len(one.ids) for one in some[:-1])])
            rows = torch.from_numpy(first + [one.place for one in some])
            batch = pack([one.ids for one in some], [one.segments for one in some], keys=range(len(some))).to(device)
            logits = self._model.mlm_logits(self._model(batch, rows=rows.to(device))).float()[:, words]
            if not logits.isfinite().all():
                raise UnmaskError(
                    "augment: the model gives scores that are not finite, so its weights are damaged or its training "
                    "diverged; take another checkpoint"
                )
            # in the order of ids, so that scores that are equal but for rounding give the same list everywhere
            best = words[logits.topk(self._count).indices].sort(-1).values
            for one, ids in zip(some, best.tolist(), strict=True):
                found[one.text][one.word] = self._spelled(texts[one.text], one.word, ids)
        return found

    def hash(self) -> str:
        """Return a SHA-256 of the weights and the tokenizer."""
        digest = hashlib.sha256(self.tokenizer.hash.encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _spelled(self, text: TextWords, word: int, ids: Sequence[int]) -> list[str]:
        spelled = [self.tokenizer.token(index) for index in ids]
        if not self.tokenizer.lowercase:
            return spelled
        return [in_case_of(text.spelled(text.words[word]), one) for one in spelled]

    def _masked(self, texts: Sequence[TextWords]) -> Iterator[_Masked]:
        """Yield a document for each word of one token."""
        cls, sep, mask = self.tokenizer.cls_id, self.tokenizer.sep_id, self.tokenizer.mask_id
        for number, text in enumerate(texts):
            for index, word in enumerate(text.words):
                if word.token is None:
                    continue
                start = max(0, min(word.token - self._context // 2, len(text.ids) - self._context))
                seen = text.ids[start : start + self._context]
                place = word.token - start
                ids = [cls, *seen[:place], mask, *seen[place + 1 :], sep]
                segments = [0] * len(ids)
                if self._form == "paraphrase":
                    ids += [*seen, sep]
                    segments += [1] * (len(seen) + 1)
                yield _Masked(number, index, ids, segments, place + 1)


def _batches(masked: Iterator[_Masked]) -> Iterator[list[_Masked]]:
    """Yield documents in lists of about as many tokens."""
    some: list[_Masked] = []
    tokens = 0
    for one in masked:
        if some and tokens + len(one.ids) > _TOKENS:
            yield some
            some, tokens = [], 0
        some.append(one)
        tokens += len(one.ids)
    if some:
        yield some
