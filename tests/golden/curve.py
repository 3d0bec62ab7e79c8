"""The golden run: the losses of a small model on `harbour.txt`, step by step.

    python tests/golden/curve.py      records the losses again in curve.json, after a change that is meant to alter them

The run covers the whole way from text to loss: tokenizer training, store, order, masks, packing, model, gradients,
schedule and optimizer. It uses one thread and fp32, so another machine agrees within rounding.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
RECORD = HERE / "curve.json"

SETTINGS = {
    "seed": 7,
    "data": {
        "input": [str(HERE / "harbour.txt")],
        "blank_line_documents": True,
        "vocab_size": 320,
    },
    "stream": {"max_length": 64, "micro_batch_tokens": 512, "held_out_fraction": 0.05, "workers": 0},
    "model": {
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "max_positions": 64,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
    },
    "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5},
    "train": {
        "steps": 40,
        "tokens_per_step": 1024,
        "dtype": "float32",
        "threads": 1,
        "log_every": 1,
        "evaluate_every": 40,
        "save_every": 40,
    },
}


def losses(folder: Path) -> list[float]:
    """Train in `folder` and return the loss of every step."""
    from unmask.config import load_config
    from unmask.train.logging.log import read_log
    from unmask.train.pretrain import pretrain

    run = pretrain(load_config(None, {**SETTINGS, "run": str(folder / "run")}))
    return [row["loss"] for row in read_log(run) if "event" not in row]


if __name__ == "__main__":
    root = HERE.parents[1]
    sys.path[:0] = [str(root / "engine"), str(root / "kernels")]
    with tempfile.TemporaryDirectory() as folder:
        recorded = losses(Path(folder))
    RECORD.write_text(json.dumps([round(loss, 6) for loss in recorded], indent=1) + "\n", encoding="utf-8")
    print(f"{RECORD}: {len(recorded)} steps, loss {recorded[0]:.4f} to {recorded[-1]:.4f}")
