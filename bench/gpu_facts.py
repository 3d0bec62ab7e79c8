"""What the machine is: versions, tools, copy rate, and the rates of BERT-base's five products; ten seconds.

Prints each fact as soon as it is known, writes OUT/facts.json before the first measurement, and gives the rates to
`record.flush`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import machine, record  # noqa: E402
from bench.clock import DeviceClock  # noqa: E402
from bench.roofline import copy_bandwidth  # noqa: E402

TOOLS = ("nvcc", "ptxas", "ncu", "compute-sanitizer", "cuobjdump", "nvdisasm")


def main() -> None:
    """Print the facts, and record the rates."""
    tiny = "--tiny" in sys.argv
    facts = machine.facts() | {f"tool.{tool}": shutil.which(tool) or "" for tool in TOOLS} | {"ptxas": ptxas()}
    content = {"datetime": record.now(), "machine_info": facts, "commit_info": machine.commit()}
    folder = Path(os.environ["RESULT_LINES"]).parent if "RESULT_LINES" in os.environ else Path.cwd()
    (folder / "facts.json").write_text(json.dumps(content, indent=1))
    for name, value in facts.items():
        print(f"{name}: {value}", flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = copy_bandwidth(device, 1 << 20 if tiny else None)
    print(f"copy: {rate / 1e9:,.0f} GB/s", flush=True)
    products(device, tokens=64 if tiny else 16_384, dtype=machine.fast_dtype())


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
    main()
