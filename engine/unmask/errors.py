"""The exceptions for files, state and settings.

`ValueError` and `TypeError` mean what they mean everywhere in Python: an argument of a call is wrong. The classes here
are for what a user of the command line meets: files, stores, checkpoints, run directories and settings. For them
`unmask` prints the message and exits with status 2, without a traceback. A message names the thing, what was needed,
what came instead, and the way out.
"""

__all__ = [
    "CheckpointError",
    "ConfigError",
    "CorpusError",
    "HubError",
    "RankLost",
    "RunError",
    "SettingError",
    "SettingTypeError",
    "StoreError",
    "TokenizerError",
    "ToldByOther",
    "UnmaskError",
]


class UnmaskError(Exception):
    """A failure that the user can mend. The message is complete and is shown unchanged.

    Attributes:
        status: exit status of a command that ends with it.
    """

    status: int = 2


class ConfigError(UnmaskError, ValueError):
    """A setting is unknown, ill-typed, out of range, or contradicts another one."""


class SettingError(ConfigError):
    """A value of a configuration is out of its range, or contradicts another value of the same configuration.

    Attributes:
        setting: name of the setting in its group.
        problem: what is wrong with it: "must be at least 1, got 0".
    """

    def __init__(self, group: str, setting: str, problem: str) -> None:
        super().__init__(f"{group}: {setting} {problem}")
        self.setting = setting
        self.problem = problem


class SettingTypeError(SettingError, TypeError):
    """A value of a configuration has the wrong type."""


class CorpusError(UnmaskError):
    """Raw text is missing, unreadable, not UTF-8, binary, or too small for what was asked."""


class TokenizerError(UnmaskError):
    """A tokenizer cannot be trained or loaded, or does not belong to the model or store beside it."""


class StoreError(UnmaskError):
    """A token store is missing, incomplete, damaged, or of a format that this version does not read."""


class CheckpointError(UnmaskError):
    """A checkpoint is truncated, altered, of an unknown format, or does not fit the model it is loaded into."""


class HubError(UnmaskError):
    """The Hugging Face Hub does not give a model, or does not take one."""


class RunError(UnmaskError):
    """A run directory exists already, holds nothing to resume, or belongs to another run."""


class RankLost(RunError):
    """One of several processes that train together ended or hangs. The run goes on when it is started again.

    The status is that of sysexits.h for what may succeed later, so that a scheduler tells it from a mistake.
    """

    status = 75


class ToldByOther(UnmaskError):
    """The run ended on all of its processes, and another one tells why. A command ends with it without a word."""
