"""Plans beside steps that ran: what `unmask plan` says of memory and time, and what it measures with `--measure`.

    python bench/engine/bench_plan.py      about three minutes on two cores; writes the result file and the pages

Each case is a process of its own, since the peak memory of a process counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench import record, report  # noqa: E402

CASES = {
    "mini, 8,192 tokens at once": ["bert-mini", "--train.tokens_per_step", "8192"],
    "mini, 4 x 2,048 tokens, dropout 0.1": [
        *("bert-mini", "--train.tokens_per_step", "8192", "--stream.micro_batch_tokens", "2048"),
        *("--model.hidden_dropout", "0.1", "--model.attention_dropout", "0.1"),
    ],
    "base, 6 layers, 2,048 tokens at once": [
        *("bert-base", "--model.num_layers", "6", "--train.tokens_per_step", "2048"),
        *("--stream.micro_batch_tokens", "2048"),
    ],
    "base, 6 layers, 4,096 tokens, activation checkpointing": [
        *("bert-base", "--model.num_layers", "6", "--train.tokens_per_step", "4096"),
        *("--stream.micro_batch_tokens", "4096", "--train.activation_checkpointing"),
    ],
}


def planned(arguments: list[str]) -> dict[str, Any]:
    """Return the plan of a process of its own, with what it measured."""
    command = [sys.executable, "-m", "unmask", "plan", *arguments, "--measure", "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Plan and measure each case, and write the pages."""
    entries = []
    for case, arguments in CASES.items():
        found = planned(arguments)
        tokens, measured = found["tokens_per_step"], found["measured"]
        both = (
            ("measured", measured["seconds"], measured["memory"]),
            ("planned", found["step"]["seconds"], found["needed"]),
        )
        for variant, seconds, peak in both:
            entries.append(
                record.benchmark_entry(
                    *("unmask plan", variant, [seconds]),
                    case=case,
                    baseline="measured",
                    tokens=tokens,
                    dtype=found["dtype"],
                    peak_bytes=peak,
                )
            )
        print(
            f"{case}: memory {found['needed'] / measured['memory']:.2f}, time "
            f"{found['step']['seconds'] / measured['seconds']:.2f} of what was measured",
            flush=True,
        )
    record.save(record.result_path("plan"), record.benchmark_file(entries))
    report.main([])


if __name__ == "__main__":
    main()
