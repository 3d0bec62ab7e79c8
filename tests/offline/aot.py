"""Compile Triton kernels ahead of time, for a GPU that this machine lacks, and read the compiled code.

`launches` records the launches of a public function, so their configurations stand in one place. `build` compiles a
recorded launch for sm_80 or sm_90, exactly as on such a GPU, and reads registers, stack, spills, shared memory and
instruction counts. With these a test can demand, for example, that nothing spills and that tensor cores are used.

    PYTHONPATH=tests python -m offline.aot layer_norm                          all of the table of a documentation page
    PYTHONPATH=tests python -m offline.aot attention "k64-p10 sm_90" --loops   the innermost loops of these cases

Where the oldest supported Triton is installed beside the newest (`offline.oldest`), a number that differs between them
is printed twice, "126 / 128"; `--alone` leaves the oldest out.
"""

from __future__ import annotations

import collections
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from offline import oldest
from offline import sass as read_sass
from offline.cases import CASES, FORMS
from offline.in_flight import touched_in_flight
from offline.recorder import Launch, launches
from unmask_kernels import FAMILIES
from unmask_kernels.testing.inputs import Inputs
from unmask_kernels.verify.subjects import SUBJECTS

__all__ = ["ARCHITECTURES", "Built", "beside", "build", "compile_launch", "loops", "table"]

ARCHITECTURES = (80, 90)


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A kernel compiled for one architecture.

    Attributes:
        name: the name of the kernel's function.
        architecture: compute capability, such as 90.
        registers: registers of a thread.
        stack_bytes: local memory of a thread.
        spills: instructions that touch local memory (LDL, STL); 0 means that all values stay in registers.
        shared_bytes: shared memory of a program.
        instructions: counts of instructions by opcode, without modifiers: "LDG", "HMMA", "HGMMA", ...
        wide_accesses: loads and stores of global memory with 16 bytes a thread.
        loops: counts of instructions by opcode, of each innermost loop.
        touched: what touches registers of a wgmma in flight, see `in_flight`; empty in sound code.
        unfenced: how many waits for a copy have a wgmma behind them and no fence in between; 0 in sound code.
    """

    name: str
    architecture: int
    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    instructions: collections.Counter[str]
    wide_accesses: int
    loops: tuple[collections.Counter[str], ...]
    touched: tuple[str, ...]
    unfenced: int

    @property
    def tensor_core_instructions(self) -> int:
        """The number of HMMA (up to sm_89) and HGMMA (sm_90)."""
        return self.instructions["HMMA"] + self.instructions["HGMMA"]


def compile_launch(launch: Launch, architecture: int) -> Any:
    """Compile a recorded launch; of the result, `asm` has "ttgir", "ptx" and "cubin", `metadata` the shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from unmask_kernels._triton.fences import compiler_of

    names = launch.kernel.arg_names
    source = ASTSource(
        fn=launch.kernel,
        signature={name: launch.signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in launch.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in launch.aligned},
    )
    return compiler_of(launch.kernel)(source, target=GPUTarget("cuda", architecture, 32), options=launch.options)


def build(launch: Launch, architecture: int) -> Built:
    """Compile a recorded launch for compute capability `architecture`, such as 80 or 90, and read its SASS.

    Raises:
        RuntimeError: the output of cuobjdump or nvdisasm cannot be parsed.
    """
    binary = compile_launch(launch, architecture)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(binary.asm["cubin"])
        resources = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        sass = _tool("nvdisasm", "-c", str(cubin))
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", resources)}
    opcodes = read_sass.opcodes(sass)
    instructions = _counted(opcodes)
    if not usage or not instructions:
        raise RuntimeError(f"aot: cannot parse the output of cuobjdump and nvdisasm for {launch.name}:\n{resources}")
    return Built(
        name=launch.name,
        architecture=architecture,
        registers=usage["REG"],
        stack_bytes=usage["STACK"] + usage["LOCAL"],
        spills=instructions["LDL"] + instructions["STL"],
        shared_bytes=int(binary.metadata.shared),
        instructions=instructions,
        wide_accesses=sum(opcode.startswith(("LDG", "STG")) and ".128" in opcode for opcode in opcodes),
        loops=tuple(_counted(loop) for loop in read_sass.inner_loops(sass)),
        touched=tuple(touched_in_flight(sass)),
        unfenced=unfenced_waits(binary.asm["ptx"]),
    )


def unfenced_waits(ptx: str) -> int:
    """Return how many waits for a copy into shared memory have a wgmma behind them and no fence in between."""
    count, waited = 0, False
    for kind in re.findall(r"cp\.async\.wait|fence\.proxy\.async|wgmma\.mma_async", ptx):
        count += waited and kind.startswith("wgmma")
        waited = kind.startswith("cp")
    return count


def _counted(opcodes: Sequence[str]) -> collections.Counter[str]:
    return collections.Counter(opcode.split(".")[0] for opcode in opcodes)


def table(family: str, only: str = "") -> Iterator[str]:
    """Yield the lines of a Markdown table: a line for each kernel of each case, dtype and architecture.

    Args:
        family: such as "attention".
        only: what a line's case, dtype and architecture have to contain, such as "k64-p10 bfloat16 sm_90".
    """
    yield "| kernel | case | dtype | arch | warps | registers | spills | shared | 16-byte | instructions | HMMA |"
    yield "|---" * 4 + "|---:" * 7 + "|"
    for name, launch, architecture in _wanted(family, only, (torch.bfloat16, torch.float32)):
        built = build(launch, architecture)
        cells = [
            *name,
            launch.options["num_warps"],
            built.registers,
            built.spills,
            built.shared_bytes,
            built.wide_accesses,
            built.instructions.total(),
            built.tensor_core_instructions,
        ]
        yield f"| {' | '.join(str(cell) for cell in cells)} |"


def loops(family: str, only: str = "") -> Iterator[str]:
    """Yield the lines of a Markdown table: the innermost loops in bf16, of cases as `table` selects them.

    A line counts the instructions that a warp executes in one round of the loop, and how many of them access shared
    memory. For a kernel with ROWS and COLUMNS it also gives both for an element of the tile: an instruction of a warp
    serves 32 elements.
    """
    yield "| kernel | case | dtype | arch | warps | tile | instructions | shared memory | an element | shared memory |"
    yield "|---" * 4 + "|---:" * 6 + "|"
    for name, launch, architecture in _wanted(family, only, (torch.bfloat16,)):
        tile = _tile(launch.constants)
        elements = math.prod(tile) / (32 * launch.options["num_warps"]) if len(tile) == 2 else None
        for loop in build(launch, architecture).loops:
            counts = (loop.total(), loop["STS"] + loop["LDS"])
            cells = [
                *name,
                launch.options["num_warps"],
                " x ".join(map(str, tile)),
                *counts,
                *("" if elements is None else f"{count / elements:.1f}" for count in counts),
            ]
            yield f"| {' | '.join(str(cell) for cell in cells)} |"


def beside(older: Sequence[str], newer: Sequence[str]) -> Iterator[str]:
    """Yield one table from the tables of two releases: "126 / 128" where they differ, and one value where they agree.

    Raises:
        ValueError: the tables are of other kernels, or a kernel has another number of loops.
    """
    for old, new in zip(older, newer, strict=True):
        pairs = [*zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (old, new)), strict=True)]
        if any(left != right for left, right in pairs[:4]):
            raise ValueError(f"aot: these lines are of two kernels:\n{old}\n{new}")
        yield old if old == new else f"| {' | '.join(a if a == b else f'{a} / {b}' for a, b in pairs)} |"


def _wanted(
    family: str, only: str, dtypes: Sequence[torch.dtype]
) -> Iterator[tuple[tuple[str, str, str, str], Launch, int]]:
    """Yield (kernel, case, dtype and architecture as they are printed; launch; architecture)."""
    function = partial(SUBJECTS[family].function, backend="triton")
    words = only.split()
    for case in CASES[family]:
        for dtype in dtypes:
            for form, architecture, launch in _of_every_form(family, function, case.make(dtype)):
                kernel = launch.name.strip("_").removesuffix("_kernel")
                name = (kernel, f"{case}{form}", str(dtype).removeprefix("torch."), f"sm_{architecture}")
                if all(any(word in part for part in name) for word in words):
                    yield name, launch, architecture


def _tile(constants: dict[str, Any]) -> list[int]:
    """Rows and columns of the tile of a launch, as far as the kernel has them."""
    record = constants.get("TILE")
    known = constants if record is None else {name.upper(): value for name, value in record._asdict().items()}
    return [known[name] for name in ("ROWS", "COLUMNS") if name in known]


def _of_every_form(family: str, function: Callable[..., Any], inputs: Inputs) -> Iterator[tuple[str, int, Launch]]:
    """Yield (form, architecture, launch); a launch that several forms have comes with the first of them only."""
    known: list[tuple[int, Launch]] = []
    for form, block in FORMS[family].items():
        with block():
            recorded = {each: launches(function, inputs, each) for each in ARCHITECTURES}
        # an architecture may launch a kernel once more than another
        names = dict.fromkeys(launch.name for each in recorded.values() for launch in each)
        pairs = [(at, launch) for name in names for at in recorded for launch in recorded[at] if launch.name == name]
        for architecture, launch in pairs:
            if (architecture, launch) not in known:
                known.append((architecture, launch))
                yield form, architecture, launch


def _tool(name: str, *arguments: str) -> str:
    command = [str(_tools_folder() / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@lru_cache
def _tools_folder() -> Path:
    """Return the folder in the package triton that holds cuobjdump and nvdisasm."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _main(arguments: Sequence[str]) -> int:
    import triton

    known = [family for family in CASES if "triton" in FAMILIES[family].backends]
    flags = [argument for argument in arguments if argument.startswith("--")]
    family, only = ([argument for argument in arguments if argument not in flags] + ["", ""])[:2]
    if family not in known or not {*flags} <= {"--loops", "--alone"}:
        usage = f"usage: PYTHONPATH=tests python -m offline.aot {{{','.join(known)}}} [WORDS] [--loops] [--alone]"
        print(usage, file=sys.stderr)
        return 2
    lines = loops(family, only) if "--loops" in flags else table(family, only)
    what = "instructions of a round of each innermost loop" if "--loops" in flags else "registers of a thread"
    if "--alone" in flags or not oldest.INSTALLED or triton.__version__ == oldest.RELEASE:
        print(f"Triton {triton.__version__}; {what}.\n")
    else:
        print(f"Triton {oldest.RELEASE} / {triton.__version__}; {what}.\n")
        done = oldest.run_with_oldest(["-m", "offline.aot", *arguments, "--alone"], seconds=36_000.0)
        if done.returncode != 0:
            raise RuntimeError(f"aot: Triton {oldest.RELEASE} failed:\n{done.stdout}{done.stderr}")
        # behind the line that names the release and the empty line
        lines = beside(done.stdout.splitlines()[2:], [*lines])
    for line in lines:
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
