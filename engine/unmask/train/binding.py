"""Which tokenizer a model folder was trained with: its hash as one more field of config.json.

Two vocabularies of one size give a model that loads and predicts nonsense, so the number of rows alone cannot tell.
"""

import json
from pathlib import Path

from unmask.data.tokenizer import Tokenizer
from unmask.errors import TokenizerError

__all__ = ["bind", "require_bound"]

FIELD = "tokenizer_hash"


def bind(folder: Path, tokenizer: Tokenizer) -> None:
    """Record in the config.json of `folder` that its model reads the ids of `tokenizer`."""
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {FIELD: tokenizer.hash}, indent=2) + "\n", encoding="utf-8")


def require_bound(folder: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Check that the model in `folder`, with `vocab_size` embeddings, was trained with `tokenizer`.

    Raises:
        TokenizerError: the sizes differ, or the hash on record does; a folder without one passes by its size.
    """
    remedy = "put the tokenizer that the model was trained with into the folder"
    if tokenizer.vocab_size != vocab_size:
        raise TokenizerError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {vocab_size:,} rows; {remedy}"
        )
    recorded = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(FIELD, tokenizer.hash)
    if recorded != tokenizer.hash:
        raise TokenizerError(
            f"{folder}: the model was trained with tokenizer {recorded[:12]}, this one is {tokenizer.hash[:12]} and "
            f"gives other ids; {remedy}"
        )
