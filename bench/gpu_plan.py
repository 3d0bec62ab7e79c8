"""The plan of `bench/gpu.sh`: its stages, in the order of their worth, and the seconds that each may take.

`FIRST` is for the first ten minutes on a new GPU, `SECOND` for the next five. In a command, `$SECONDS_LEFT` stands for
the seconds that it may take, `$OUT` for the folder of results and `$LOGS` for that of logs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FIRST", "OPERATIONS", "SECOND", "STAGES", "Command", "Stage", "stages"]

ROOT = Path(__file__).resolve().parent.parent

OPERATIONS = (
    *("attention", "mlm_loss", "layer_norm", "gelu", "linear_gelu", "embedding", "masking", "optimizer"),
    "distill",
)
"""All operations with a bench, in the order of their worth."""

OURS = "torch;triton"
"""The backends that are timed; others and peers only where the plan or `VARIANTS` asks for them."""

_FORMS = "triton, drawn;triton, two kernels;flash"
"""Other forms of attention that are ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A program of a stage.

    Attributes:
        arguments: of the program, which is the first of them.
        environment: variables besides those of the script.
        tool: a program that must be installed; without it the command is left out, and the log says so.
        after_failure: whether it runs only if the command before it failed.
        output: file that gets its standard output, beside the log.
    """

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    tool: str = ""
    after_failure: bool = False
    output: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage.

    Attributes:
        name: as on the command line.
        seconds: its share of the budget.
        shows: what its results show, in a few words.
        commands: its programs, one after the other; each gets an equal part of what is left of the stage.
    """

    name: str
    seconds: int
    shows: str
    commands: list[Command]


def stages(*, dry: bool, variants: str, ptxas: str, workers: int, scratch: Path) -> dict[str, Stage]:
    """Return all stages by name.

    Args:
        dry: whether sizes are tiny, for a rehearsal on a CPU.
        variants: of the benches of operations, separated by ";", in place of those of the plan.
        ptxas: path of another assembler, with which a failed verification is repeated; "" for none.
        workers: processes of the whole suite of tests; 1 without pytest-xdist.
        scratch: folder for reports of tests.
    """
    python = sys.executable
    rounds = ["--rounds", "1"] if dry else []
    collect = ["--collect-only"] if dry else ["-v"]

    def bench(*operations: str, select: str = "", more: str) -> Command:
        files = [f"bench/kernels/bench_{operation}.py" for operation in operations]
        arguments = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, *rounds]
        return Command(
            arguments=[*arguments, *(["-k", select] if select else [])],
            environment={"VARIANTS": variants or f"{OURS};{more}"},
        )

    def test(*arguments: str, report: str) -> Command:
        return Command(
            arguments=[
                python,
                "-m",
                "pytest",
                "-q",
                "-m",
                "gpu",
                "--junitxml",
                str(scratch / report),
                *arguments,
                *collect,
            ]
        )

    def step(size: str, tokens: int, *more: str) -> Command:
        size, tokens, count = ("nano", 256, "1") if dry else (size, tokens, "10")
        options = ["--size", size, "--tokens", str(tokens), "--rounds", count, *more]
        backend = [] if dry else ["--backend", "triton"]
        return Command(arguments=[python, "bench/engine/bench_step.py", *options, *backend])

    # one call of each kernel of the training path, for tools that slow it down a hundred times
    once = [python, "bench/gpu_once.py", *(["--tiny"] if dry else [])]
    verify = [python, "-m", "unmask_kernels.verify", "--json", "--seconds", "$SECONDS_LEFT"]
    interpreted = {"TRITON_INTERPRET": "1"} if dry else {}
    if dry:
        verify += ["gelu", "--device", "cpu", "--tokens", "32", "--max-length", "16", "--intermediate-size", "64"]
    again = Command(
        arguments=verify,
        environment={"TRITON_PTXAS_PATH": ptxas, **interpreted},
        after_failure=True,
        output="$LOGS/verify-other-ptxas.json",
    )
    counters = "gpu__time_duration.sum,launch__registers_per_thread,sm__warps_active.avg.pct_of_peak_sustained_active,"
    counters += "sm__throughput.avg.pct_of_peak_sustained_elapsed,dram__throughput.avg.pct_of_peak_sustained_elapsed,"
    counters += "sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active,smsp__inst_executed.sum"
    counted = ["ncu", "--clock-control", "none", "--csv", "--profile-from-start", "off", "--metrics", counters]
    sanitizer = ["compute-sanitizer", "--error-exitcode", "1", "--tool"]
    lengths = "lognormal-512" if dry else "(lognormal-512 or all-512 or all-128)"
    attention = f"bench_attention and -12-0. and not both and {lengths}"
    settings = "--steps 20 --tokens 512 --layers 1 --hidden 64 --vocab 64 --dropout 0 --learning-rate 0.01"
    train = settings if dry else "--steps 300 --layers 4 --hidden 256 --backend triton"
    ablation = (
        "--size nano --rounds 1" if dry else "--size base --tokens 32768 --rounds 10 --dropout 0.1 --backend triton"
    )
    # in place: the machine has the repository, and nothing installed
    build = Command(
        arguments=[python, "setup.py", "-q", "build_ext", "--inplace"],
        environment={"UNMASK_BUILD_CUDA": "0" if dry else "1", "UNMASK_CUDA_ARCHS": "sm_80 sm_90a"},
        tool="nvcc",
    )
    every = [
        Stage(name="build", seconds=40, shows="the kernels in CUDA C++ compile here", commands=[build]),
        Stage(
            name="facts",
            seconds=10,
            shows="copy rate, rates of BERT's products",
            commands=[Command(arguments=[python, "bench/gpu_facts.py", *(["--tiny"] if dry else [])])],
        ),
        Stage(
            name="correctness",
            seconds=90,
            shows="the kernels of BERT-base's training path are right",
            commands=[
                Command(arguments=verify, environment=interpreted, output="$OUT/verify.json"),
                *([again] if ptxas else []),
            ],
        ),
        Stage(
            name="races",
            seconds=50,
            shows="fifty runs beside other work have equal bits",
            commands=[
                test("-p", "no:cacheprovider", "tests/kernels/test_races_gpu.py", "-k", "bfloat16", report="races.xml")
            ],
        ),
        Stage(
            name="attention",
            seconds=130,
            shows="attention beside varlen_attn and padded SDPA",
            commands=[bench("attention", select=attention, more=f"padded;varlen_attn;{_FORMS}")],
        ),
        Stage(
            name="counters",
            seconds=60,
            shows="registers, occupancy and throughput of each kernel",
            commands=[Command(arguments=[*counted, *once], tool="ncu", output="$LOGS/counters.csv")],
        ),
        Stage(
            name="sanitizer",
            seconds=30,
            shows="no race, no access out of bounds",
            commands=[
                Command(
                    arguments=[*sanitizer, tool, python, "bench/gpu_once.py", "--tiny"],
                    # each tensor in an allocation of its own, or memcheck sees only the ends of large blocks
                    environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                    tool="compute-sanitizer",
                )
                for tool in ("racecheck", "memcheck")
            ],
        ),
        Stage(
            name="step",
            seconds=80,
            shows="a training step of BERT-base, ours alone",
            commands=[step("base", 32_768, "--no-peer", "--dropout", "0.1", "0", *([] if dry else ["--profile"]))],
        ),
        Stage(
            name="operations",
            seconds=80,
            shows="mlm_loss, layer_norm, gelu, linear_gelu beside eager",
            commands=[
                bench("mlm_loss", more="masked"),
                bench("layer_norm", "gelu", "linear_gelu", more="eager"),
            ],
        ),
        Stage(
            name="tests",
            seconds=110,
            shows="the whole suite of the GPU, failures first",
            commands=[
                test(
                    *("--ff", "-n", str(workers), "--dist", "worksteal") if workers > 1 else ("--ff",),
                    *("tests/kernels", "tests/engine/test_gpu.py"),
                    report="tests.xml",
                )
            ],
        ),
        Stage(
            name="peer",
            seconds=80,
            shows="the same step beside transformers",
            commands=[step("base", 32_768, "--dropout", "0.1", *([] if dry else ["--dtype", "bfloat16"]))],
        ),
        Stage(
            name="peers",
            seconds=120,
            shows="attention and mlm_loss beside other libraries",
            commands=[
                bench("attention", select=attention, more="padded;varlen_attn;flex;flash-attn 2;flash-attn 3"),
                bench("mlm_loss", more="all-token;masked;compiled;liger;cce"),
            ],
        ),
        Stage(
            name="others",
            seconds=60,
            shows="embedding, masking, optimizer and distill",
            commands=[
                bench("embedding", "masking", more="eager;loader"),
                bench("optimizer", more="cuda;foreach;fused;apex"),
                bench("distill", more="materialised"),
            ],
        ),
        Stage(
            name="ablation",
            seconds=80,
            shows="what each fusion saves",
            commands=[Command(arguments=[python, "bench/engine/bench_ablation.py", *ablation.split()])],
        ),
        Stage(
            name="train",
            seconds=60,
            shows="the step learns",
            commands=[
                Command(
                    arguments=[
                        *(python, "bench/engine/bench_generated.py", *train.split()),
                        *("--out", "$OUT/run-generated.json"),
                    ]
                )
            ],
        ),
    ]
    return {stage.name: stage for stage in every}


FIRST = ("build", "facts", "correctness", "races", "attention", "counters", "sanitizer", "step", "operations")
SECOND = ("tests", "peer")
STAGES = (*FIRST, *SECOND, "peers", "others", "ablation", "train")
"""All names, those of the first call first."""
