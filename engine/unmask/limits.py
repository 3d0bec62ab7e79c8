"""What the configuration checks and data and objectives rely on, so that it stands once; plain values, no imports."""

__all__ = ["INCOMPATIBLE_OBJECTIVES", "JOINING", "SHORTEST", "SHORTEST_PAIR"]

SHORTEST = 3
"""Tokens of the shortest piece: [CLS], one of content, [SEP]."""

SHORTEST_PAIR = 5
"""Tokens of the shortest pair: [CLS] and two segments of one token, each with its [SEP]."""

JOINING = ("full_sentences", "mix", "uni", "bm25", "best_fit")
"""Ways to compose whose sequences hold several documents."""

INCOMPATIBLE_OBJECTIVES = (
    ("nsp", "sop", "a pair has one label"),
    ("clm", "mlm", "a token has one label, itself or the next one"),
    ("clm", "nsp", "[CLS], which tells the pair, sees nothing of it in a causal model"),
    ("clm", "sop", "[CLS], which tells the pair, sees nothing of it in a causal model"),
)
"""Objectives that cannot be summed, two and the reason a row."""
