"""Values that the configuration checks and that data and objectives rely on. Plain values, no imports."""

__all__ = ["INCOMPATIBLE_OBJECTIVES", "JOINING", "SHORTEST", "SHORTEST_PAIR"]

SHORTEST = 3
"""Tokens of the shortest piece: [CLS], one token of text, [SEP]."""

SHORTEST_PAIR = 5
"""Tokens of the shortest pair: [CLS] and two segments of one token, each with its [SEP]."""

JOINING = ("full_sentences", "mix", "uni", "bm25", "best_fit")
"""Strategies of composition whose sequences hold several documents."""

INCOMPATIBLE_OBJECTIVES = (
    ("nsp", "sop", "a pair has one label"),
    ("clm", "mlm", "a token has one label, itself or the next one"),
    ("clm", "nsp", "[CLS], which predicts the pair's label, sees nothing of the pair in a causal model"),
    ("clm", "sop", "[CLS], which predicts the pair's label, sees nothing of the pair in a causal model"),
)
"""Pairs of objectives that cannot be summed, each with the reason."""
