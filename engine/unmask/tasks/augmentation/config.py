"""What decides the variants of a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unmask.config.settings import Checked, setting

__all__ = ["AugmentationConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationConfig(Checked):
    """What decides the variants of a text. The defaults are those of TinyBERT's paper."""

    copies: int = setting(20, "N_a, variants that are drawn of each text; fewer are written where draws repeat.", ge=1)
    probability: float = setting(0.4, "p_t, the probability of a word to be replaced.", gt=0, le=1)
    candidates: int = setting(15, "K, candidates of a word.", ge=1)
    form: Literal["masked", "paraphrase"] = setting(
        "masked",
        "What the model sees. masked: the text with [MASK] for the word, as in the paper. paraphrase: the text itself "
        "behind it, as in the authors' code.",
    )
    context: int = setting(128, "Tokens of a text that the model sees, around the word.", ge=8)
    vectors: str | None = setting(
        None, "Word vectors for the words of several tokens, in word2vec's or GloVe's format. None: these words stay."
    )
    most_vectors: int = setting(100_000, "Vectors that are read, the first of the file.", ge=2)
    keep: str | None = setting(None, "File with words that are never replaced, one a line. None: there are none.")
    seed: int = setting(1, "Seed of the draws.", ge=0)
