"""The tokenizer of a model folder: its hash is a field of config.json.

With another vocabulary of the same size a model loads and predicts nonsense, so comparing sizes is not enough.
"""

import json
from pathlib import Path

from unmask.data.tokenizer import Tokenizer
from unmask.errors import CheckpointError, TokenizerError
from unmask.interop.model_folder import CONFIG, describe_value, read_object

__all__ = ["bind", "require_bound"]

FIELD = "tokenizer_hash"


def bind(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the hash of `tokenizer` into the config.json of `folder`."""
    path = folder / CONFIG
    settings = read_object(path)
    path.write_text(json.dumps(settings | {FIELD: tokenizer.hash}, indent=2) + "\n", encoding="utf-8")


def require_bound(folder: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Check that the model in `folder`, with `vocab_size` embeddings, was trained with `tokenizer`.

    The table may have more rows than the tokenizer has tokens, because trainers pad it to a multiple of 8 or 64 for
    speed. For a folder without a hash, only the sizes are checked.

    Raises:
        TokenizerError: a token has no row, or the hash differs.
        CheckpointError: the field in config.json is not a hash.
    """
    remedy = "put the tokenizer that the model was trained with into the folder"
    if tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {vocab_size:,} rows; {remedy}"
        )
    recorded = read_object(folder / CONFIG).get(FIELD)
    if recorded is None:
        return
    if not isinstance(recorded, str):
        raise CheckpointError(
            f"{folder / CONFIG}: {FIELD} must be the hash of a tokenizer, is {describe_value(recorded)}; take the line "
            "out if the tokenizer beside it is the model's"
        )
    if recorded == tokenizer.hash:
        return
    if recorded == tokenizer.hash_without_added_special:
        names = ", ".join(map(tokenizer.token, tokenizer.added_special_ids[:3]))
        raise TokenizerError(
            f"{folder}: the model was trained when special tokens such as {names} in a text were cut into pieces, and "
            f"they are kept whole now; to use it all the same, copy its {CONFIG}, weights and tokenizer to another "
            f"folder and take the line {FIELD} out of {CONFIG} there"
        )
    raise TokenizerError(
        f"{folder}: the model was trained with tokenizer {recorded[:12]}, this one is {tokenizer.hash[:12]} and "
        f"gives other ids; {remedy}"
    )
