"""Candidates are the most probable whole words at [MASK], one word masked at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from advice import follow
from unmask.batch import pack
from unmask.data.tokenizer import Tokenizer
from unmask.model import PretrainingModel
from unmask.tasks.augmentation.masked_model import MaskedModel
from unmask.tasks.augmentation.words import words_of

TEXTS = ["The cat sat on the warm wall", "a river", "", "the mill turns and a river runs past the old mill and the cat"]


@pytest.fixture(scope="module")
def model(base: Path) -> PretrainingModel:
    return PretrainingModel.from_pretrained(base)


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Tokenizer:
    return Tokenizer.load(base)


def one_by_one(model: PretrainingModel, tokenizer: Tokenizer, text: str, word: int, form: str) -> set[str]:
    """What the definition says, a text alone, all logits."""
    (found,) = words_of([text], tokenizer)
    place = found.words[word].token
    assert place is not None
    masked = [*found.ids]
    masked[place] = tokenizer.mask_id
    first = [tokenizer.cls_id, *masked, tokenizer.sep_id]
    second = [*found.ids, tokenizer.sep_id] if form == "paraphrase" else []
    batch = pack([first + second], [[0] * len(first) + [1] * len(second)])
    with torch.no_grad():
        logits = model.mlm_logits(model(batch))[1 + place].tolist()
    order = sorted(range(len(tokenizer.tokens)), key=lambda token: -logits[token])
    whole = [
        t for t in map(tokenizer.token, order) if not t.startswith("##") and any(map(str.isalpha, t)) and t[0] != "["
    ]
    return set(whole[:4])


@pytest.mark.parametrize("form", ["masked", "paraphrase"])
def test_candidates_are_the_most_probable_words(model: PretrainingModel, tokenizer: Tokenizer, form: str) -> None:
    texts = TEXTS[:3] if form == "paraphrase" else TEXTS
    found = words_of(texts, tokenizer)
    proposing = MaskedModel(model, tokenizer, count=4, form=form, context=10 if form == "paraphrase" else 22)
    for text, candidates in zip(found, proposing.candidates(found), strict=True):
        assert len(candidates) == len(text.words)
        for word, those in enumerate(candidates):
            expected = one_by_one(model, tokenizer, text.text, word, form)
            assert {one.lower() for one in those} == expected
            assert len(those) == 4
    assert all(one[0].isupper() for one in proposing.candidates(found)[0][0]), "The text begins with a capital"


def test_texts_alone_have_the_candidates_that_they_have_together(model: PretrainingModel, tokenizer: Tokenizer) -> None:
    found = words_of(TEXTS, tokenizer)
    proposing = MaskedModel(model, tokenizer, count=4, form="masked", context=22)
    assert proposing.candidates(found) == [proposing.candidates([one])[0] for one in found]


def test_of_a_long_text_the_model_sees_what_is_around_the_word(model: PretrainingModel, tokenizer: Tokenizer) -> None:
    long = " ".join([TEXTS[0]] * 12)
    proposing = MaskedModel(model, tokenizer, count=4, form="masked", context=8)
    (candidates,) = proposing.candidates(words_of([long], tokenizer))
    # the same words stand around it four repetitions later
    assert candidates[21:28] == candidates[49:56]
    assert all(len(those) == 4 for those in candidates)


def test_a_context_that_the_model_does_not_read(model: PretrainingModel, tokenizer: Tokenizer) -> None:
    follow(
        lambda: MaskedModel(model, tokenizer, count=4, form="paraphrase", context=11),
        "augment: the form 'paraphrase' with --context 11 makes sequences of 25 tokens, and the model reads 24; lower "
        "--context",
        lambda: MaskedModel(model, tokenizer, count=4, form="paraphrase", context=10),
    )


def test_damaged_weights_are_refused(base: Path, tokenizer: Tokenizer) -> None:
    broken = PretrainingModel.from_pretrained(base)
    with torch.no_grad():
        broken.mlm.bias.fill_(float("nan"))
    found = words_of(TEXTS, tokenizer)
    follow(
        lambda: MaskedModel(broken, tokenizer, count=4, form="masked", context=22).candidates(found),
        "augment: the model gives scores that are not finite, ... take another checkpoint",
        lambda: MaskedModel(
            PretrainingModel.from_pretrained(base), tokenizer, count=4, form="masked", context=22
        ).candidates(found),
    )
