"""Counts the modules of `unmask` that a training step and a text pass through.

    python tests/walks.py        prints the three walks, with the names of their modules

Three walks, each of the public commands in a process of its own:

Step. The modules of `unmask` whose functions run in `unmask pretrain tiny --data.store STORE`, from the command line to
the end of the first optimizer step; the loader's worker process counts too. Functions, methods, generators and nested
functions count. Code that runs because a module is imported does not count, and neither do class bodies.

Chain. The files of `unmask` on the stack, from `main` down, when the optimizer's step is called.

Text. The modules that hold a document, from its file to the batch that the model gets. The document has one phrase of
two words that no other has; its two tokens stand side by side. A function that is given the phrase as an argument or
that returns or yields it holds the document, and so does its caller. The phrase counts in a string, in bytes, as two
neighbours in a sequence or an array, and inside a tuple, list or dataclass. An array that cannot be written to is the
whole store, mapped into memory, and does not count. `self` is no argument: a method of the document's own form, such as
a batch that moves to a device, goes nowhere. A module holds the document until the function has returned (a generator:
until it has ended). Then the document has left the module. The rule: a module that the document has left never holds it
again. Two things are no return: calls one after the other by the same module, and a result that comes back to a caller
who has been waiting for it. The walk has three legs, and the rule holds in each:

    from the file to the store, where the text rests on the disk;
    from the store to the loader, which hands batches from a worker process to the training process;
    from the loader to the first call of a model or an objective.
"""

from __future__ import annotations

import dis
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "engine" / "unmask"

# ids that no count, length or seed of so small a run has
PHRASE, IDS = ("zyxmark", "qwvmark"), (2_337, 3_019)
# a few steps of one micro-batch
BRIEF = ["--train.steps", "4", "--optimizer.warmup_steps", "0"]
BRIEF += ["--train.tokens_per_step", "512", "--stream.micro_batch_tokens", "512"]

_FUNCTION = 0x1  # CO_OPTIMIZED: what a function's code has, and a module's and a class body's have not


class Package:
    """A package whose modules are counted.

    Args:
        folder: of the package.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = f"{folder}{os.sep}"

    def module(self, code: CodeType) -> str | None:
        """The module that a function's code is in, such as `train.step`; None for any other code."""
        if not code.co_flags & _FUNCTION or not code.co_filename.startswith(self._folder):
            return None
        name = code.co_filename.removeprefix(self._folder).removesuffix(".py").removesuffix(f"{os.sep}__init__")
        return name.replace(os.sep, ".")

    def imports(self, frame: FrameType | None) -> bool:
        """Whether a function runs because a module of the package is being imported."""
        while frame is not None:
            if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(self._folder):
                return True
            frame = frame.f_back
        return False

    def stack(self, frame: FrameType | None) -> list[str]:
        """The modules on the stack, from the outermost to `frame`, each once."""
        found: list[str] = []
        while frame is not None:
            name = self.module(frame.f_code)
            if name is not None:
                found.append(name)
            frame = frame.f_back
        return list(dict.fromkeys(reversed(found)))


class StepWalk:
    """Writes each module to a file when its first function runs, in this process and in those that it forks."""

    def __init__(self, package: Package, record: Path) -> None:
        self._package = package
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._seen: set[CodeType] = set()
        self._over = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if code.co_name == "step" and code.co_filename.endswith("optimizer/base.py") and not self._over:
            self._over = event == "return"
            self._write({"over": True} if self._over else {"chain": self._package.stack(frame)})
            if self._over:
                sys.setprofile(None)
        if event != "call" or code in self._seen:
            return
        name = self._package.module(code)
        if name is not None and not self._package.imports(frame):
            self._seen.add(code)
            self._write({"module": name})

    def _write(self, row: dict[str, Any]) -> None:
        os.write(self._record, (json.dumps(row) + "\n").encode())


class TextWalk:
    """Notes which modules hold the document, leg by leg, and to which it comes back."""

    def __init__(self, package: Package) -> None:
        self.legs: list[list[str]] = [[]]
        self.returns: list[str] = []
        self._package = package
        self._holding: dict[FrameType, str] = {}
        self._caller = ""
        self._clock = 0
        self._begun: dict[FrameType, int] = {}
        self._left: dict[str, int] = {}
        self._over = False

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        if self._over or event not in ("call", "return"):
            return
        code = frame.f_code
        name = self._package.module(code)
        if name is None:
            return
        self._clock += 1
        # a generator is called again each time that it goes on
        self._begun.setdefault(frame, self._clock)
        if self._given(frame, event, value):
            for holder in (frame.f_back, frame) if event == "call" else (frame, frame.f_back):
                self._visit(holder)
        if event == "return" and dis.opname[code.co_code[frame.f_lasti]] != "YIELD_VALUE":
            del self._begun[frame]
            if self._holding.pop(frame, None) and name not in self._holding.values():
                self._left[name] = self._clock

    def _given(self, frame: FrameType, event: str, value: Any) -> bool:
        if event == "return":
            return holds(value)
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        return any(holds(frame.f_locals.get(name)) for name in names if name not in ("self", "cls"))

    def _visit(self, frame: FrameType | None) -> None:
        name = None if frame is None else self._package.module(frame.f_code)
        if frame is None or name is None or frame in self._holding or self._over or self._of_the_document(frame, name):
            return
        if name.split(".")[0] in ("model", "objectives"):
            self._over = True
            sys.setprofile(None)
            return
        waited = self._begun.get(frame, 0) < self._left.get(name, 0)
        held = waited or name in self._holding.values()
        self._holding[frame] = name
        leg = self.legs[-1]
        if held:
            return
        caller = next((other for other in reversed(self._package.stack(frame)) if other != name), "")
        before, self._caller = self._caller, caller
        if leg and leg[-1] == name and caller == before:
            return
        if name in leg:
            self.returns.append(f"{name} ({frame.f_code.co_qualname}, called in {caller}), after {leg[-1]}")
        leg.append(name)
        if name.endswith("loader"):
            self.legs.append([])

    def _of_the_document(self, frame: FrameType | None, name: str) -> bool:
        """Whether a frame belongs to a method of an object that is the document."""
        while frame is not None and self._package.module(frame.f_code) == name:
            if frame.f_code.co_varnames[:1] == ("self",) and holds(frame.f_locals.get("self")):
                return True
            frame = frame.f_back
        return False


def holds(value: Any, depth: int = 3) -> bool:
    """Whether a value has the phrase: as text, or its two words or tokens side by side."""
    import numpy as np

    if isinstance(value, str):
        return " ".join(PHRASE) in value
    if isinstance(value, bytes | bytearray | memoryview):
        return " ".join(PHRASE).encode() in bytes(value)
    if type(value).__module__ == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu().numpy() if value.dtype.is_signed and not value.dtype.is_floating_point else None
    if isinstance(value, np.ndarray):
        if not value.flags.writeable:
            return False
        flat = value.reshape(-1) if np.issubdtype(value.dtype, np.integer) else value[:0].reshape(-1)
        return bool(((flat[:-1] == IDS[0]) & (flat[1:] == IDS[1])).any()) if len(flat) > 1 else False
    if depth == 0:
        return False
    if isinstance(value, list | tuple):
        plain = bool(value) and isinstance(value[0], str | int)
        return (plain and any(pair in (PHRASE, IDS) for pair in pairwise(value))) or any(
            holds(item, depth - 1) for item in value
        )
    if is_dataclass(value) and not isinstance(value, type):
        return any(holds(getattr(value, part.name, None), depth - 1) for part in fields(value))
    return False


def write_text(folder: Path) -> tuple[Path, Path]:
    """Write documents, one of them with the phrase, and a vocabulary in which it is two tokens; returns both paths."""
    common = re.findall(
        "[a-z]+", "the boat lies in a harbour and rain falls on its roof while gulls follow others home"
    )
    lines = []
    for number in range(120):
        words = [common[(number * 7 + place * 5 + place * place) % len(common)] for place in range(20)]
        if number == 60:
            words[4:4] = words[10:10] = words[16:16] = PHRASE
        lines.append(f"{' '.join(words[:12])}. {' '.join(words[12:])}.")
    text = folder / "boats.txt"
    text.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *sorted(set(common))]
    vocabulary += [f"unused{number}" for number in range(len(vocabulary), IDS[1] + 1)]
    for word, number in zip(PHRASE, IDS, strict=True):
        vocabulary[number] = word
    (folder / "vocabulary").mkdir()
    (folder / "vocabulary" / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return text, folder / "vocabulary"


def walk() -> dict[str, Any]:
    """Take the walks.

    Returns:
        modules: names of those that run to the end of the first optimizer step.
        chain: names of the modules on the stack when the optimizer's step is called.
        legs: of the text, the names of modules in the order in which they hold it, three lists.
        returns: a phrase for each return of the text.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, name], check=True, stdout=sys.stderr)
        text = json.loads((folder / "text.json").read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in (folder / "step.jsonl").read_text(encoding="utf-8").splitlines()]
    over = rows.index({"over": True})
    modules = sorted({row["module"] for row in rows[:over] if "module" in row})
    return {"modules": modules, "chain": next(row["chain"] for row in rows if "chain" in row), **text}


def _take_parts(folder: Path) -> None:
    """Take each part in a process that has imported nothing of `unmask` yet."""
    # what `unmask` imports: watched, these imports take many times as long
    import pyarrow
    import pydantic
    import rich.progress
    import tokenizers
    import torch

    assert all((pyarrow, pydantic, rich, tokenizers, torch))
    for part in ("text", "step"):
        process = multiprocessing.get_context("fork").Process(target=_take, args=(part, folder))
        process.start()
        process.join()
        if process.exitcode != 0:
            raise SystemExit(f"the walk of the {part} failed")


def _take(part: str, folder: Path) -> None:
    package = Package(PACKAGE)
    store = str(folder / "store")
    pretrain = ["pretrain", "tiny", "--data.store", store, "--run", str(folder / part), *BRIEF]
    if part == "step":
        _command(StepWalk(package, folder / "step.jsonl"), pretrain)
        return
    text, vocabulary = write_text(folder)
    # Without --allow-unknown a sample of the text is read once before, to see whether the vocabulary fits.
    prepare = [
        "prepare",
        "--input",
        str(text),
        "--blank-line-documents",
        "--tokenizer",
        str(vocabulary),
        "--allow-unknown",
    ]
    to_store, to_model = TextWalk(package), TextWalk(package)
    _command(to_store, [*prepare, "--out", store, "--workers", "1"])
    _command(to_model, [*pretrain, "--stream.workers", "0"])
    found = {"legs": to_store.legs + to_model.legs, "returns": to_store.returns + to_model.returns}
    (folder / "text.json").write_text(json.dumps(found), encoding="utf-8")


def _command(watch: Callable[[FrameType, str, Any], None], arguments: list[str]) -> None:
    """Run a command of `unmask` while `watch` sees every call and return, in threads too."""
    from unmask.cli import main

    # a worker sends its batches from a thread
    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        status = main(arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert status == 0, arguments


def report(found: dict[str, Any]) -> str:
    """What `walk` found, as text."""
    lines = [f"modules that run up to the end of the first optimizer step: {len(found['modules'])}"]
    lines += [f"    {name}" for name in found["modules"]]
    lines += [f"files from main to the optimizer's step: {len(found['chain'])}", f"    {' -> '.join(found['chain'])}"]
    for leg, names in zip(("file to store", "store to loader", "loader to model"), found["legs"], strict=True):
        lines += [f"modules that hold the document, {leg}: {len(set(names))}", f"    {' -> '.join(names)}"]
    lines += [f"returns to a module that the document had left: {len(found['returns'])}"]
    return "\n".join([*lines, *(f"    {what}" for what in found["returns"])])


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "engine"), str(ROOT / "kernels")]
    if len(sys.argv) == 1:
        print(report(walk()))
    else:
        _take_parts(Path(sys.argv[1]))
