"""What the machine is: versions, tools, copy rate, and the rates of BERT-base's five products.

python bench/gpu_facts.py --write FILE    writes what needs no measurement; exit code 3 without a GPU
python bench/gpu_facts.py [--tiny]        measures, in ten seconds; each rate is printed and kept by `record.flush`
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import machine, record  # noqa: E402
from bench.clock import DeviceClock  # noqa: E402
from bench.roofline import copy_bandwidth  # noqa: E402

TOOLS = ("nvcc", "ptxas", "ncu", "compute-sanitizer", "cuobjdump", "nvdisasm")


WITHOUT_GPU = 3
"""The exit code of `--write` on a machine without a GPU."""


def main(arguments: Sequence[str]) -> int:
    """Write the facts or measure the rates, and return the exit code."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments[:1] == ["--write"]:
        facts = machine.facts() | {f"tool.{tool}": shutil.which(tool) or "" for tool in TOOLS} | {"ptxas": ptxas()}
        content = {"datetime": record.now(), "machine_info": facts, "commit_info": machine.commit()}
        Path(arguments[1]).write_text(json.dumps(content, indent=1))
        return 0 if device == "cuda" else WITHOUT_GPU
    tiny = arguments == ["--tiny"]
    rate = copy_bandwidth(device, 1 << 20 if tiny else None)
    print(f"copy: {rate / 1e9:,.0f} GB/s", flush=True)
    products(device, tokens=64 if tiny else 16_384, dtype=machine.fast_dtype())
    return 0


def products(device: str, *, tokens: int, dtype: torch.dtype) -> None:
    """Time the products of a layer of BERT-base and of its head, on random data."""
    hidden, wide, vocabulary = 768, 3072, 30_522
    masked = max(1, round(0.15 * tokens))
    shapes = {
        "queries, keys, values": (tokens, hidden, 3 * hidden),
        "output of attention": (tokens, hidden, hidden),
        "feed-forward, up": (tokens, hidden, wide),
        "feed-forward, down": (tokens, wide, hidden),
        "head": (masked, hidden, vocabulary),
    }
    clock = DeviceClock(device)
    for name, (rows, depth, columns) in shapes.items():
        a, b = (
            torch.randn(rows, depth, device=device, dtype=dtype),
            torch.randn(columns, depth, device=device, dtype=dtype),
        )
        call = lambda a=a, b=b: torch.mm(a, b.t())  # noqa: E731
        for _ in range(3):
            call()
        seconds = [clock.seconds(call) for _ in range(20 if device == "cuda" else 3)]
        flops = 2 * rows * depth * columns
        case = f"{name}: {rows} x {depth} -> {columns} {machine.SHORT[dtype]}"
        row = record.benchmark_entry("matrix products of BERT-base", "torch", seconds, case=case, flops=flops)
        record.flush([row])
        print(f"{case}: {flops / row['stats']['median'] / 1e12:,.2f} TFLOP/s", flush=True)


def ptxas() -> str:
    """Return the version of the assembler that Triton uses, or ""."""
    try:
        from triton import knobs

        path = knobs.nvidia.ptxas.path
        printed = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    except (ImportError, AttributeError, OSError, RuntimeError, subprocess.TimeoutExpired):
        return ""
    return next((line.strip() for line in printed.splitlines() if "release" in line), "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
