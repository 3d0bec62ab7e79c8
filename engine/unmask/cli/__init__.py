"""The command `unmask`: its subcommands, and the message and exit status for an error.

Each subcommand is a module with `run(arguments)`. Only the one asked for is imported, so `unmask --help` answers at
once. Exit status: 0 success, 1 an unexpected failure, 2 a failure that the user can mend, 75 a run that is to go on
later, 130 an interruption, 128 + n the end by signal n.
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
    "analyse": "describe a corpus as a run reads it, and where attention goes",
    "pretrain": "pre-train an encoder; without arguments, a demonstration",
    "plan": "say what a run will need: memory, time, disk",
    "profile": "show where the time of a training step goes",
    "augment": "write a training file with variants of its texts",
    "finetune": "train an output layer and the encoder on a task",
    "distill": "teach a small model what a large one knows",
    "predict": "write what a fine-tuned model predicts",
    "config": "print the settings of a run as YAML",
    "plot": "draw the loss curves of a run, or compare runs",
    "report": "write one HTML page about a run",
    "evaluate": "score a model on held-out text",
    "score": "score predictions of a task against gold labels or answers",
    "fill-mask": "show what a model predicts for [MASK]",
    "export": "write a model as a folder that transformers loads",
    "verify": "run the kernels on this GPU, and record what is right",
    "tune": "measure what is fastest here, and use it from then on",
    "doctor": "say what this machine can run, and why not the rest",
    "completion": "print the completion of these commands for a shell",
}

_TRACEBACK = "UNMASK_TRACEBACK"
# what pip calls packages that others import under another name
_NAMES_FOR_PIP = {
    "attr": "attrs",
    "dateutil": "python-dateutil",
    "distutils": "setuptools",
    "google": "protobuf",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "ruamel": "ruamel.yaml",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
_ROOM = "make room, or choose another place"
_ACCESS = "give yourself the right to it, or choose another place"
# what the machine refuses, and the way out; any other OSError is a mistake of ours
_WAYS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM), _ACCESS),
    errno.EROFS: "choose a place that can be written",
    errno.EFBIG: "raise the limit for the size of a file, ulimit -f",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit for open files, ulimit -n",
    errno.ENOMEM: "end other programs, or raise the limit, ulimit -v",
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
        message, status = _message(error), getattr(error, "status", 2)
        if type(error).__name__ == "ToldByOther" and not _asked(_TRACEBACK):
            return int(status)
        if message is not None and not _asked(_TRACEBACK):
            return _fail(message, status=status)
        _show_traceback(error, ask=message is None)
        return 1 if message is None else int(status)


def _run(arguments: list[str]) -> int:
    words = ("help", "-h", "--help")
    if all(word in words for word in arguments):
        print(_usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        from unmask import __version__

        print(f"unmask {__version__}")
        return 0
    command, *rest = arguments
    if command in words:
        command, rest = rest[0], ["--help"]
    if command not in COMMANDS:
        return _fail(f"{command!r} is not a command; {_nearest_command(command)}")
    if not {"-h", "--help"} & set(rest):
        from unmask.launch import require_one_process

        require_one_process(command)
    try:
        importlib.import_module(f"unmask.cli.{command.replace('-', '_')}").run(rest)
    except SystemExit as done:
        # argparse ends the process after the help
        return int(done.code or 0)
    return 0


def _nearest_command(word: str) -> str:
    import difflib

    # people type what other programs call it
    other = {
        "train": "pretrain",
        "analyze": "analyse",
        "fill": "fill-mask",
        "settings": "config",
    }
    close = difflib.get_close_matches(word.lstrip("-"), ["help", *COMMANDS, *other], n=1)
    return f"did you mean {other.get(close[0], close[0])}?" if close else f"commands are {', '.join(COMMANDS)}"


def _message(error: Exception) -> str | None:
    """Return the message for an error that the user can mend; None for a mistake of ours."""
    from unmask.errors import UnmaskError

    if isinstance(error, UnmaskError) or type(error).__name__ == "BackendUnavailable":
        return str(error)
    if isinstance(error, ValueError | TypeError) and _raised_by_a_check(error):
        return str(error)
    if isinstance(error, ImportError) and error.name and not error.name.startswith("unmask"):
        return _import_message(error, error.name)
    if isinstance(error, OSError) and error.errno in _WAYS:
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}; {_WAYS[error.errno]}"
    if isinstance(error, MemoryError):
        return "the memory, or what ulimit -v leaves of it, is used up; end other programs or raise the limit"
    return None


def _import_message(error: ImportError, module: str) -> str:
    from importlib.util import find_spec

    package = module.partition(".")[0]
    if package in sys.stdlib_module_names:
        return f"this Python was built without its module {package}; use one that has it, such as those of python.org"
    name = _NAMES_FOR_PIP.get(package, package)
    if not isinstance(error, ModuleNotFoundError):
        return f"package {package} cannot be loaded ({error}); install it again, or free memory if it lacks that"
    if "." in module and find_spec(package) is not None:
        return f"package {package} has no module {module}; pip install --force-reinstall {name}"
    return f"package {package} is not installed; pip install {name}"


def _raised_by_a_check(error: Exception) -> bool:
    """Return whether a `raise` in our own code made the error. An error of NumPy or PyTorch comes from a call."""
    import dis

    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame
    ours = str(frame.f_globals.get("__name__", "")).partition(".")[0] in ("unmask", "unmask_kernels")
    return ours and frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _show_traceback(error: Exception, *, ask: bool) -> None:
    import traceback

    from unmask.terminal import lasting

    stream = lasting(sys.stderr)
    traceback.print_exception(error, file=stream)
    if ask:
        print(
            "unmask: this is a mistake of unmask, not of yours; please report it with the lines above and the command "
            "(CONTRIBUTING.md says where)",
            file=stream,
        )


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")


def _fail(message: str, *, status: int = 2) -> int:
    from unmask.terminal import lasting

    print(f"unmask{_rank()}: {message}", file=lasting(sys.stderr))
    return status


def _rank() -> str:
    """Return ", rank 3" in a process of several other than the first; else nothing."""
    from unmask.errors import UnmaskError
    from unmask.launch import place

    try:
        here = place()
    except UnmaskError:
        return ""
    return f", rank {here.rank}" if here is not None and here.rank else ""


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: unmask COMMAND [ARGUMENTS]",
            "",
            *lines,
            "",
            "unmask COMMAND --help    the arguments of a command",
            "unmask --version         the version",
            "",
            f"{_TRACEBACK}=1 shows the traceback of an error.",
            "UNMASK_DEBUG=1 checks what tensors hold on a GPU too, where each check waits.",
        ]
    )
