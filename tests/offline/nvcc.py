"""Compile the kernels of `csrc/` for a GPU that this machine lacks, and read the compiled code.

`build` compiles a .cu file for sm_80 or sm_90a, warnings are errors, and gives for each kernel its registers, stack,
spills, shared memory and the width of its accesses. nvcc has no disassembler beside it where it comes from PyPI;
cuobjdump and nvdisasm come with Triton.

    PYTHONPATH=tests python -m offline.nvcc            the table of a documentation page
    PYTHONPATH=tests python -m offline.nvcc --loops    the innermost loops that access memory
"""

from __future__ import annotations

import collections
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from offline import sass as read_sass

__all__ = [
    "ARCHITECTURES",
    "ROOT",
    "SOURCES",
    "Compiled",
    "build",
    "build_all",
    "listings",
    "ptx",
    "readable",
    "release",
    "setup_script",
    "why_not",
]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc"
ARCHITECTURES = ("sm_80", "sm_90a")

# what SASS calls an access to memory, and how many bytes it has for a thread
_ACCESS = re.compile(r"(LDG|STG|LD|ST|LDL|STL)\.E(?:\.(U8|S8|U16|S16|64|128))?\b")
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, None: 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """A kernel compiled for one architecture.

    Attributes:
        file: name of the .cu file.
        name: of the kernel, with the arguments of its template: "update_kernel<LAMB>".
        architecture: such as "sm_90a".
        registers: registers of a thread.
        stack_bytes: local memory of a thread.
        spills: instructions that touch local memory; 0 means that all values stay in registers.
        shared_bytes: static shared memory, which no kernel of ours has beyond the 1024 bytes of the system on sm_90.
        instructions: how many there are.
        opcodes: how many there are of each, with all modifiers and without any: "LDGSTS.E.BYPASS.128", "HMMA".
        loops: of each innermost loop that accesses global memory, how many instructions it has, and how many accesses
            of each width: ("LDG", 16) -> 8.
    """

    file: str
    name: str
    architecture: str
    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    instructions: int
    opcodes: collections.Counter[str]
    loops: tuple[tuple[int, collections.Counter[tuple[str, int]]], ...]

    @property
    def wide_accesses(self) -> collections.Counter[str]:
        """How many accesses of 16 bytes all loops have: "LDG" -> 8."""
        found: collections.Counter[str] = collections.Counter()
        for _, accesses in self.loops:
            for (kind, width), count in accesses.items():
                found[kind] += count if width == 16 else 0
        return found


@cache
def setup_script() -> ModuleType:
    """Return setup.py as a module: it knows where nvcc is."""
    specification = importlib.util.spec_from_file_location("unmask_setup", ROOT / "setup.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def why_not() -> str:
    """Return why nothing can be compiled and read here, or ""."""
    if setup_script().compiler() is None:
        return "nvcc is not installed (pip install 'unmask[cuda-build]' brings it)"
    if not (_tools() / "nvdisasm").is_file():
        return "nvdisasm is not installed; it comes with Triton"
    return ""


def build(file: Path, architecture: str) -> list[Compiled]:
    """Compile a .cu file, and return what its kernels became.

    Raises:
        RuntimeError: nvcc warns or fails, or the output of cuobjdump or nvdisasm cannot be parsed.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        _compile(file, architecture, "-cubin", "-o", str(cubin))
        usage = _run("cuobjdump", "--dump-resource-usage", str(cubin))
        listings = _listings(cubin)
    numbers = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if not numbers or {name for name, *_ in numbers} != listings.keys():
        raise RuntimeError(f"nvcc: cannot parse the output of cuobjdump and nvdisasm for {file.name}:\n{usage}")
    return sorted(
        (_compiled(file, architecture, name, listings[name], *map(int, rest)) for name, *rest in numbers),
        key=lambda kernel: kernel.name,
    )


@cache
def listings(file: Path, architecture: str) -> dict[str, str]:
    """Return what nvdisasm lists of each kernel of a .cu file, by its symbol.

    Raises:
        RuntimeError: nvcc warns or fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        _compile(file, architecture, "-cubin", "-o", str(cubin))
        return _listings(cubin)


@cache
def ptx(file: Path, architecture: str, sources: Path = SOURCES) -> str:
    """Return the PTX that nvcc makes of a .cu file, as it hands it to the assembler.

    Args:
        file: what to compile.
        architecture: such as "sm_90a".
        sources: the folder of the headers; in a changed copy of ours, warnings are no errors.
    Raises:
        RuntimeError: nvcc fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "kernels.ptx"
        _compile(file, architecture, "-ptx", "-o", str(to), sources=sources)
        return to.read_text("utf-8")


def release() -> str:
    """Return the release of nvcc, such as "13.0"."""
    told = subprocess.run([str(setup_script().compiler()), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"release (\S+),", told.stdout)
    return found[1] if found else ""


def build_all() -> list[Compiled]:
    """Compile every .cu file for every architecture, two at a time."""
    jobs = [(file, architecture) for file in sorted(SOURCES.rglob("*.cu")) for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        return [kernel for found in pool.map(lambda job: build(*job), jobs) for kernel in found]


def table(kernels: Sequence[Compiled]) -> Iterator[str]:
    """Yield the lines of a Markdown table: a line for each kernel and architecture."""
    names = ("registers", "shared memory", "stack", "spills", "16-byte loads", "16-byte stores", "instructions")
    yield f"| kernel | arch | {' | '.join(names)} |"
    yield "|---" * 2 + "|---:" * 7 + "|"
    for kernel in kernels:
        wide = kernel.wide_accesses
        memory = [kernel.shared_bytes, kernel.stack_bytes, kernel.spills]
        cells = [kernel.architecture, kernel.registers, *memory, wide["LDG"], wide["STG"], kernel.instructions]
        yield f"| `{kernel.name}` | {' | '.join(map(str, cells))} |"


def loops(kernels: Sequence[Compiled]) -> Iterator[str]:
    """Yield the lines of a Markdown table: the innermost loops that access global memory."""
    yield "| kernel | arch | instructions | accesses |"
    yield "|---" * 2 + "|---:|---|"
    for kernel in kernels:
        for count, accesses in kernel.loops:
            told = ", ".join(f"{times} {kind} of {width} B" for (kind, width), times in sorted(accesses.items()))
            yield f"| `{kernel.name}` | {kernel.architecture} | {count} | {told} |"


def _compile(file: Path, architecture: str, *options: str, sources: Path = SOURCES) -> None:
    strict = ["-Werror", "all-warnings"] if sources == SOURCES else ["-w"]
    fixed = ["-std=c++17", "-O3", *strict, f"-arch={architecture}", f"-I{sources}"]
    command = [str(setup_script().compiler()), *fixed, *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # the assembler waits after each wgmma where it cannot tell who uses its registers, and it only mentions that
    if done.returncode != 0 or (sources == SOURCES and "wgmma" in done.stderr + done.stdout):
        raise RuntimeError(f"nvcc: {file.name} for {architecture} failed:\n{done.stdout}{done.stderr}")


def _compiled(
    file: Path, architecture: str, symbol: str, listing: str, registers: int, stack: int, shared: int, local: int
) -> Compiled:
    opcodes = read_sass.opcodes(listing)
    found = [(len(loop), _accesses(loop)) for loop in read_sass.inner_loops(listing)]
    return Compiled(
        file=file.name,
        name=readable(symbol, file.with_name(f"{file.parent.name}.h")),
        architecture=architecture,
        registers=registers,
        stack_bytes=stack + local,
        spills=sum(opcode.startswith(("LDL", "STL")) for opcode in opcodes),
        shared_bytes=shared,
        instructions=len(opcodes),
        opcodes=collections.Counter(opcodes) | collections.Counter(opcode.split(".")[0] for opcode in opcodes),
        loops=tuple((count, accesses) for count, accesses in found if accesses),
    )


def _listings(cubin: Path) -> dict[str, str]:
    text = _run("nvdisasm", "-c", str(cubin))
    parts = re.split(r"^\s*\.section\s+\.text\.([^,\s]+),.*$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _accesses(opcodes: Sequence[str]) -> collections.Counter[tuple[str, int]]:
    matches = [_ACCESS.match(opcode) for opcode in opcodes]
    return collections.Counter((match[1], _BYTES[match[2]]) for match in matches if match)


# an argument of a template in a symbol: a value of an enum, a number, a class
_TEMPLATE_ARGUMENT = re.compile(r"LN\w*?\d([A-Z][a-z]+)E(\d+)E|L[a-z](\d+)E|N\w*?\d([A-Z][a-z]+\d*)E")


def readable(symbol: str, header: Path) -> str:
    """Return the name of a kernel as its source has it, with the names of an enum in place of its numbers."""
    end = symbol.find("_kernel") + len("_kernel")
    # a name comes behind its length
    lengths = (length for length in range(len("_kernel"), end) if symbol[: end - length].endswith(str(length)))
    length = next((each for each in lengths if symbol[end - each].isalpha()), None)
    if length is None:
        return symbol
    name, arguments, at = symbol[end - length : end], list[str](), end + 1
    while symbol[end : end + 1] == "I" and (argument := _TEMPLATE_ARGUMENT.match(symbol, at)):
        enum, value, number, kind = argument.groups()
        arguments.append(_named(enum, value, header) if enum else number or kind)
        at = argument.end()
    return f"{name}<{', '.join(arguments)}>" if arguments else name


def _named(enum: str, value: str, header: Path) -> str:
    found = re.search(rf"enum class {enum} : \w+ {{([^}}]*)}}", header.read_text("utf-8"))
    names = dict(re.findall(r"(\w+) = (\d+)", found[1])) if found else {}
    return next((key for key, number in names.items() if number == value), value)


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([str(_tools() / tool), *arguments], capture_output=True, text=True, check=True).stdout


@cache
def _tools() -> Path:
    """Return the folder in the package triton that holds cuobjdump and nvdisasm."""
    found = importlib.util.find_spec("triton")
    folder = Path(found.origin).parent if found and found.origin else Path()
    return folder / "backends" / "nvidia" / "bin"


def _main(arguments: Sequence[str]) -> int:
    if [*arguments] not in ([], ["--loops"]):
        print("usage: PYTHONPATH=tests python -m offline.nvcc [--loops]", file=sys.stderr)
        return 2
    if reason := why_not():
        print(f"nvcc: {reason}", file=sys.stderr)
        return 1
    kernels = build_all()
    for line in loops(kernels) if arguments else table(kernels):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
