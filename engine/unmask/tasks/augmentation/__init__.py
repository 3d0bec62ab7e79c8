"""More training texts by replacing words, as in TinyBERT (Jiao et al. 2020, arXiv:1909.10351, algorithm 1)."""
