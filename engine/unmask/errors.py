"""What can go wrong with files, state and settings, as one small tree of exceptions.

`ValueError` and `TypeError` stay what they are everywhere in Python: an argument of a call was wrong. The
classes here name what a command line user meets (a file, a store, a checkpoint, a run directory, a setting),
so that `unmask` can print one sentence and end with status 2 instead of a traceback. A message names the
thing, what was needed, what came, and the way out.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorpusError",
    "RunError",
    "StoreError",
    "TokenizerError",
    "UnmaskError",
]


class UnmaskError(Exception):
    """Any failure that a user can mend; the message is one sentence to be shown as it stands."""


class ConfigError(UnmaskError, ValueError):
    """A setting is unknown, ill-typed, out of range, or contradicts another one."""


class CorpusError(UnmaskError):
    """Raw text is missing, unreadable, not UTF-8, binary, or too small for what was asked."""


class TokenizerError(UnmaskError):
    """A tokenizer cannot be trained or loaded, or does not belong to the model or store beside it."""


class StoreError(UnmaskError):
    """A token store is missing, incomplete, damaged, or of a format that this version does not read."""


class CheckpointError(UnmaskError):
    """A checkpoint is truncated, altered, of an unknown format, or does not fit the model it is loaded into."""


class RunError(UnmaskError):
    """A run directory exists already, holds nothing to resume, or belongs to another run."""
