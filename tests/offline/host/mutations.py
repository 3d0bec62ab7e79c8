"""Change kernels in one place, and see whether checks on the host machine notice it.

Each barrier, wait and fence is removed. What orders memory is weakened: an acquire or a release becomes a relaxed
access, a fence of the device one of the block. Each comparison takes in one value more or less, each condition and each
check of alignment becomes true, each bound of `min` is dropped, and an index is multiplied in 32 bits. Pieces of a row
stay where a swizzle moves them, one place is taken where several are in turn, and a wait leaves one group more in
flight. A change that no check notices shows that a check is missing, or that the line is not needed.

Every changed kernel runs in a process of its own, which ends if it hangs.
"""

from __future__ import annotations

import os
import re
import resource
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutation", "Outcome", "find", "try_mutation"]

_WAITS = (
    "__syncthreads", "__syncwarp", "__threadfence", "block_wait", "copy_wait", "copy_commit", "mbarrier_init",
    "mbarrier_wait", "mbarrier_arrive", "block_barrier", "grid_barrier", "add_acquire_release",
    "wgmma_fence", "wgmma_commit", "wgmma_wait", "proxy_fence",
)  # fmt: skip
_STATEMENT = re.compile(rf"(?:\w+::)*\b(?:{'|'.join(_WAITS)})(?:_\w+)?(?:<[\w ?:]+>)?\([^;]*\);")
_WAITING_LOOP = re.compile(r"\bwhile \([^;]*\) (?:\w+::)*pause\(\);")
_WEAKER = (
    ("load_acquire", "load_relaxed"),
    ("add_acquire_release", "add_acquire"),
    ("add_acquire_release", "add_release"),
    ("__threadfence()", "__threadfence_block()"),
)
_COMPARISON = re.compile(r" (<=|>=|<|>) ")
_NEIGHBOUR = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_CONDITION = re.compile(r"\b(?:if|while) \(")
_CHOICE = re.compile(r"(?<== )([^=;?]+?) \? ")
_ALIGNED = re.compile(r"\bis_aligned<[^>]*>\([^()]*\)")
_WIDENED = re.compile(r"static_cast<long long>\(([^()]*)\) \* ")
_MINIMUM = re.compile(r"\b(?:std::)?min\(")
_SWIZZLE = re.compile(r"(?<=[(\[])(\w+) \^ \(")
_IN_FLIGHT = re.compile(r"_wait<(?:\w+ \? )?(\d)")
_DOUBLE_BUFFER = re.compile(r"\[[^\[\]]* % [23]\]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutation:
    """One change of a file.

    Attributes:
        path: of the file, below the folder of sources.
        line: its number, from 1.
        what: such as "removed" or "weakened".
        before: the line as it is.
        after: the line as it becomes.
    """

    path: str
    line: int
    what: str
    before: str
    after: str

    @property
    def name(self) -> str:
        """Where and what, in a line."""
        return f"{self.path}:{self.line}: {self.what}: {self.after.strip()}"

    def apply(self, folder: Path) -> None:
        """Change the file in a copy of the sources."""
        path = folder / self.path
        lines = path.read_text("utf-8").splitlines()
        if lines[self.line - 1] != self.before:
            raise ValueError(f"mutations: line {self.line} of {self.path} is another one now")
        lines[self.line - 1] = self.after
        path.write_text("\n".join(lines) + "\n", "utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a mutation.

    Attributes:
        mutation: the change.
        caught_by: which check noticed it, and by what; None if none did.
        seconds: that it took.
    """

    mutation: Mutation
    caught_by: str | None
    seconds: float


def find(folder: Path, paths: Iterable[str]) -> list[Mutation]:
    """Return every mutation of these files of kernels, in order."""
    found: list[Mutation] = []
    for path in paths:
        for number, line in enumerate((folder / path).read_text("utf-8").splitlines(), 1):
            code = line.split("//")[0].rstrip()
            known = {code}
            for what, after in _changed(code):
                if after not in known:
                    known.add(after)
                    found.append(Mutation(path=path, line=number, what=what, before=line, after=after))
    return found


def _changed(code: str) -> Iterator[tuple[str, str]]:
    if code.lstrip().startswith(("#", "static_assert", "template", "extern")) or re.search(
        r"\bif constexpr\b|^constexpr", code
    ):
        return
    for pattern in (_STATEMENT, _WAITING_LOOP):
        for match in pattern.finditer(code):
            # not the right side of an assignment
            if re.search(r"(?:^|[;{)]|else)\s*$", code[: match.start()]):
                yield "removed", code[: match.start()] + ";" + code[match.end() :]
    for strong, weak in _WEAKER:
        for match in re.finditer(rf"(?<!\w){re.escape(strong)}", code):
            if not re.search(rf"\b(unsigned|void) {re.escape(strong)}", code):
                yield "weakened", code[: match.start()] + weak + code[match.end() :]
    for match in _COMPARISON.finditer(code):
        yield "one more or less", code[: match.start(1)] + _NEIGHBOUR[match[1]] + code[match.end(1) :]
    for match in _CONDITION.finditer(code):
        if match[0].startswith("if"):
            end = _closing(code, match.end() - 1)
            if end is not None:
                yield "without the condition", f"{code[: match.end()]}({code[match.end() : end]}) || true{code[end:]}"
    for match in _CHOICE.finditer(code):
        if _COMPARISON.search(match[1]):
            yield "without the condition", f"{code[: match.start()]}(({match[1]}) || true) ? {code[match.end() :]}"
    for match in _ALIGNED.finditer(code):
        yield "without the check of alignment", code[: match.start()] + "true" + code[match.end() :]
    for match in _WIDENED.finditer(code):
        yield "an index of 32 bits", code[: match.start()] + f"{match[1]} * " + code[match.end() :]
    for match in _SWIZZLE.finditer(code):
        end = _closing(code, match.end() - 1)
        if end is not None:
            yield "without the swizzle", code[: match.start()] + match[1] + code[end + 1 :]
    for match in _IN_FLIGHT.finditer(code):
        yield "one group more in flight", f"{code[: match.start(1)]}{int(match[1]) + 1}{code[match.end(1) :]}"
    for match in _DOUBLE_BUFFER.finditer(code):
        yield "one place in the place of two", code[: match.start()] + "[0]" + code[match.end() :]
    for match in _MINIMUM.finditer(code):
        end = _closing(code, match.end() - 1)
        if end is not None:
            for part in _parts(code[match.end() : end]):
                yield "without a bound", code[: match.start()] + f"({part})" + code[end + 1 :]


def _closing(code: str, opening: int) -> int | None:
    """Return where the bracket is closed that opens there; None if it is on another line."""
    depth = 0
    for place in range(opening, len(code)):
        depth += {"(": 1, ")": -1}.get(code[place], 0)
        if depth == 0:
            return place
    return None


def _parts(text: str) -> list[str]:
    """Split arguments at the commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def try_mutation(
    mutation: Mutation, folder: Path, check: Callable[[Path], str | None], *, seconds: int = 60
) -> Outcome:
    """Change a copy of the sources and check it in a process of its own.

    Args:
        mutation: the change.
        folder: the sources.
        check: compiles the sources in a folder and runs them; returns what it noticed, None for nothing.
        seconds: of CPU time; a check that takes more counts as noticed, as a hang.

    Raises:
        RuntimeError: the check raises an error, such as that of a compiler which refuses the change, or it never ends
            although it does not use the CPU.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="unmask-mutation-") as place:
        copy = Path(place) / folder.name
        shutil.copytree(folder, copy)
        mutation.apply(copy)
        caught = _in_a_process(lambda: check(copy), seconds)
    return Outcome(mutation=mutation, caught_by=caught, seconds=time.monotonic() - began)


def _used() -> int:
    """Seconds of CPU time that this process has used; a limit counts them too."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int(usage.ru_utime + usage.ru_stime) + 1


def _in_a_process(check: Callable[[], str | None], seconds: int) -> str | None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # the exit code of the child says nothing: its last words do
        try:
            os.close(reader)
            resource.setrlimit(resource.RLIMIT_CPU, (seconds + _used(), seconds + _used()))
            try:
                noticed = check()
                last = "unnoticed" if noticed is None else f"noticed{noticed}"
            except BaseException as error:
                last = f"broken {type(error).__name__}: {error}"
            os.write(writer, last[:4000].encode())
        finally:
            os._exit(0)
    os.close(writer)
    words = b""
    # other work on the machine may take most of the time
    deadline = time.monotonic() + 30.0 * seconds
    with os.fdopen(reader, "rb") as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(pipe.fileno(), 65536)
            words += part
            if not part:
                break
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise RuntimeError("mutations: the check does not end")
    status = os.waitpid(child, 0)[1]
    text = words.decode(errors="replace")
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return f"it takes more than {seconds} seconds of CPU time"
    if not text:
        return f"the process ends with signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "the process ends"
    if text.startswith("broken "):
        raise RuntimeError(f"mutations: the check fails itself: {text.removeprefix('broken ')}")
    return None if text == "unnoticed" else text.removeprefix("noticed")
