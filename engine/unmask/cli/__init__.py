"""The command `unmask`: its subcommands, and the message and exit status for an error.

Each subcommand is a module with `run(arguments)`. Only the one asked for is imported, so `unmask --help` answers at
once. Exit status: 0 success, 1 an unexpected failure, 2 a failure that the user can mend, 130 an interruption,
128 + n the end by signal n.
"""

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from unmask.imports import import_path

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "prepare": "turn raw text into a tokenizer and a token store",
    "similar-words": "make the table of similar words for MacBERT's masking",
    "pretrain": "pre-train an encoder; without arguments, the embedded demonstration",
    "fill-mask": "show what a model predicts for [MASK]",
    "export": "write a model as a folder that transformers loads",
    "plot": "draw the loss curve of a run",
    "analyse": "describe a corpus as composed and masked, and where attention goes",
    "doctor": "say what this machine can run, and why not the rest",
}

_TRACEBACK = "UNMASK_TRACEBACK"
_ROOM = "make room, or choose another place"
_ACCESS = "give yourself the right to it, or choose another place"
_WAYS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM), _ACCESS),
    errno.EROFS: "choose a place that can be written",
    errno.EFBIG: "raise the limit for the size of a file, ulimit -f",
    errno.EMFILE: "raise the limit for open files, ulimit -n",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit status."""
    # This comes before all other imports.
    sys.path[:] = import_path()
    import signal

    from unmask.cli._process import Stopped, prepared_process
    from unmask.terminal import install_messages

    try:
        with prepared_process(), install_messages():
            return _run(list(sys.argv[1:] if argv is None else argv))
    except Stopped as stopped:
        return _fail(f"stopped by {signal.Signals(stopped.number).name}", status=128 + stopped.number)
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    except Exception as error:
        message = _message(error)
        if message is None or _asked(_TRACEBACK):
            raise
        return _fail(message)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        from unmask import __version__

        print(f"unmask {__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"commands are {', '.join(COMMANDS)}"
        return _fail(f"{command!r} is not a command; {hint}")
    importlib.import_module(f"unmask.cli.{command.replace('-', '_')}").run(rest)
    return 0


def _message(error: Exception) -> str | None:
    """Return the message for an error that the user can mend; None for a mistake of ours."""
    from unmask.errors import UnmaskError

    if isinstance(error, UnmaskError | ValueError) or type(error).__name__ == "BackendUnavailable":
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("unmask"):
        package = error.name.split(".")[0]
        return f"package {package} is not installed; pip install {package}"
    if isinstance(error, ImportError) and error.name and not error.name.startswith("unmask"):
        package = error.name.split(".")[0]
        return f"package {package} cannot be loaded ({error}); install it again, or free memory if it lacks that"
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"{what}; {_WAYS[error.errno]}" if error.errno in _WAYS else what
    if isinstance(error, MemoryError):
        return "the memory, or what ulimit -v leaves of it, is used up; end other programs or raise the limit"
    return None


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def _fail(message: str, *, status: int = 2) -> int:
    from unmask.terminal import lasting

    print(f"unmask: {message}", file=lasting(sys.stderr))
    return status


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: unmask COMMAND [ARGUMENTS]",
            "",
            *lines,
            "",
            "unmask COMMAND --help lists the arguments of a command.",
            "unmask --version tells the version.",
            f"{_TRACEBACK}=1 shows the traceback of an error.",
            "UNMASK_DEBUG=1 checks what tensors hold on a GPU too, where each check waits.",
        ]
    )
