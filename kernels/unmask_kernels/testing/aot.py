"""Compile Triton kernels for a GPU that is not here, and read what the compiler made of them.

The configurations are not written down twice: `launches` runs a public function on CPU tensors, forward and
backward, with every Triton launch recorded instead of started, and `build` compiles a recorded launch for
sm_80 or sm_90 exactly as it would be on such a GPU. From the SASS come registers, stack, spills, shared
memory and instruction counts, so that a test can ask for no spills and for tensor cores, and `python -m
unmask_kernels.testing.aot layer_norm` prints the table of the family's documentation page.

Not in a process with TRITON_INTERPRET=1: an interpreted kernel has no compiler.
"""

from __future__ import annotations

import collections
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask_kernels import FAMILIES, capability
from unmask_kernels.testing.compiled import CASES, FORMS
from unmask_kernels.testing.inputs import Inputs, run

__all__ = ["ARCHITECTURES", "CASES", "FORMS", "Built", "Launch", "build", "launches", "table"]

ARCHITECTURES = (80, 90)

_TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One recorded launch.

    Attributes:
        kernel: the `triton.JITFunction`.
        signature: argument name to Triton type, "constexpr" for a compile-time value.
        constants: the compile-time values by name.
        aligned: names of the arguments known to be divisible by 16.
        options: num_warps, num_stages and other compile options.
    """

    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the kernel's function."""
        return str(self.kernel.fn.__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A kernel compiled for one architecture.

    Attributes:
        registers: registers of a thread.
        stack_bytes: local memory of a thread.
        spills: instructions of the SASS that touch local memory (LDL, STL); 0 means that all values stay in
            registers.
        shared_bytes: shared memory of a program.
        instructions: SASS instructions by opcode, modifiers dropped: "LDG", "HMMA", "HGMMA", ...
        wide_accesses: global loads and stores of 16 bytes a thread.
    """

    name: str
    architecture: int
    registers: int
    stack_bytes: int
    spills: int
    shared_bytes: int
    instructions: collections.Counter[str]
    wide_accesses: int

    @property
    def tensor_core_instructions(self) -> int:
        """HMMA (up to sm_89) and HGMMA (sm_90)."""
        return self.instructions["HMMA"] + self.instructions["HGMMA"]


def launches(function: Callable[..., Any], inputs: Inputs, architecture: int = 90) -> list[Launch]:
    """Every Triton launch of `function` on CPU inputs, in order, as on `architecture`; nothing is computed."""
    if capability.INTERPRETING:
        raise RuntimeError("aot: kernels of a process with TRITON_INTERPRET=1 cannot be compiled; unset it")
    recorded: list[Launch] = []
    with _recording(recorded, architecture):
        run(function, inputs)
    return recorded


def build(launch: Launch, architecture: int) -> Built:
    """Compile a recorded launch for compute capability `architecture`, such as 80 or 90, and read its SASS."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as triton_compile

    names = launch.kernel.arg_names
    source = ASTSource(
        fn=launch.kernel,
        signature={name: launch.signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in launch.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in launch.aligned},
    )
    compiled = triton_compile(source, target=GPUTarget("cuda", architecture, 32), options=launch.options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        resources = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        sass = _tool("nvdisasm", "-c", str(cubin))
    usage = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", resources)}
    # A line is "/*0a40*/  @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;": an optional predicate, then opcode and
    # modifiers.
    opcodes = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", sass)
    instructions = collections.Counter(opcode.split(".")[0] for opcode in opcodes)
    if not usage or not instructions:
        raise RuntimeError(f"aot: cannot read what cuobjdump and nvdisasm say about {launch.name}:\n{resources}")
    return Built(
        name=launch.name,
        architecture=architecture,
        registers=usage["REG"],
        stack_bytes=usage["STACK"] + usage["LOCAL"],
        spills=instructions["LDL"] + instructions["STL"],
        shared_bytes=int(compiled.metadata.shared),
        instructions=instructions,
        wide_accesses=sum(opcode.startswith(("LDG", "STG")) and ".128" in opcode for opcode in opcodes),
    )


def table(family: str, dtypes: Sequence[torch.dtype] = (torch.bfloat16, torch.float32)) -> Iterator[str]:
    """The lines of a Markdown table: every case of `CASES[family]`, dtype and architecture, a kernel a line."""
    import triton

    import unmask_kernels

    function = partial(_differentiable, getattr(unmask_kernels, family), backend="triton")
    yield f"Triton {triton.__version__}; registers a thread; 16-byte accesses and instructions as in the SASS."
    yield ""
    yield "| kernel | case | dtype | arch | warps | registers | spills | shared | 16-byte | instructions | HMMA |"
    yield "|---" * 4 + "|---:" * 7 + "|"
    for case in CASES[family]:
        for dtype in dtypes:
            for form, architecture, launch in _of_every_form(family, function, case.make(dtype)):
                built = build(launch, architecture)
                cells = [
                    launch.name.strip("_").removesuffix("_kernel"),
                    f"{case}{form}",
                    str(dtype).removeprefix("torch."),
                    f"sm_{architecture}",
                    launch.options["num_warps"],
                    built.registers,
                    built.spills,
                    built.shared_bytes,
                    built.wide_accesses,
                    built.instructions.total(),
                    built.tensor_core_instructions,
                ]
                yield f"| {' | '.join(str(cell) for cell in cells)} |"


def _of_every_form(family: str, function: Callable[..., Any], inputs: Inputs) -> Iterator[tuple[str, int, Launch]]:
    """(form, architecture, launch), each launch of an architecture once: with the first form that has it."""
    known: list[tuple[int, Launch]] = []
    for form, block in FORMS[family].items():
        with block():
            recorded = zip(*(launches(function, inputs, each) for each in ARCHITECTURES), strict=True)
            pairs = [pair for each in recorded for pair in zip(ARCHITECTURES, each, strict=True)]
        for architecture, launch in pairs:
            if (architecture, launch) not in known:
                known.append((architecture, launch))
                yield form, architecture, launch


def _differentiable(function: Callable[..., Any], **arguments: Any) -> Any:
    """The part of a result that has a gradient: of a loss with its counts, the loss."""
    result = function(**arguments)
    return getattr(result, "loss_sum", result)


@contextmanager
def _recording(recorded: list[Launch], architecture: int) -> Iterator[None]:
    """Triton launches are recorded, and CPU tensors are accepted where a GPU's are needed."""
    from triton.runtime.jit import JITFunction

    def record(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        recorded.append(_describe(kernel, arguments, named))

    run_for_real, real = JITFunction.run, capability.architecture
    JITFunction.run = record
    capability.INTERPRETING = True
    capability.architecture = lambda x: f"sm_{architecture}"
    try:
        yield
    finally:
        JITFunction.run = run_for_real
        capability.INTERPRETING = False
        capability.architecture = real


def _describe(kernel: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Launch:
    """Types and specialisations as Triton derives them from the arguments of a launch."""
    values = dict(zip(kernel.arg_names, arguments, strict=False)) | named
    options = {name: values.pop(name) for name in tuple(values) if name not in kernel.arg_names}
    signature, constants, aligned = {}, {}, []
    for parameter in kernel.params:
        name, value = parameter.name, values[parameter.name]
        specialised = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialised and type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name] = _type(value)
        # A tensor of its own starts at a multiple of 16 bytes in PyTorch's allocators.
        if parameter.do_not_specialize_on_alignment:
            continue
        if specialised and (isinstance(value, Tensor) or (type(value) is int and value % 16 == 0)):
            aligned.append(name)
    return Launch(kernel=kernel, signature=signature, constants=constants, aligned=tuple(aligned), options=options)


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return _TYPES[value.dtype]
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"
    return "fp32"


def _tool(name: str, *arguments: str) -> str:
    command = [str(_tools_folder() / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@lru_cache
def _tools_folder() -> Path:
    """cuobjdump and nvdisasm come with Triton."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _main(arguments: Sequence[str]) -> int:
    known = [family for family in CASES if "triton" in FAMILIES[family].backends]
    if len(arguments) != 1 or arguments[0] not in known:
        print(f"usage: python -m unmask_kernels.testing.aot {{{','.join(known)}}}", file=sys.stderr)
        return 2
    for line in table(arguments[0]):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
