"""Run each operation of the training path a single time, forward and backward, for ncu and compute-sanitizer.

    ncu --profile-from-start off ... python bench/gpu_once.py            BERT-base's shapes at 16,384 tokens
    compute-sanitizer --tool racecheck ... python bench/gpu_once.py --tiny

Every operation runs once before, so that compiling and allocating are over; the profiler's window holds one run. On a
machine without a GPU the chosen backends run, which checks this script and nothing else.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path += [path for path in (str(ROOT), str(ROOT / "engine"), str(ROOT / "kernels")) if path not in sys.path]

from bench.lengths import DISTRIBUTIONS  # noqa: E402

import unmask_kernels  # noqa: E402
from unmask_kernels.extension import installed  # noqa: E402
from unmask_kernels.testing.attention import attention_case  # noqa: E402
from unmask_kernels.testing.embedding import embedding_case  # noqa: E402
from unmask_kernels.testing.gelu import gelu_case  # noqa: E402
from unmask_kernels.testing.inputs import Case  # noqa: E402
from unmask_kernels.testing.layer_norm import layer_norm_case  # noqa: E402
from unmask_kernels.testing.mlm_loss import mlm_loss_case  # noqa: E402
from unmask_kernels.testing.optimizer import optimizer_case, run_updates  # noqa: E402


def cases(tokens: int) -> dict[str, Case]:
    """Return a call of each operation, by name; attention without and with dropout."""
    lengths = DISTRIBUTIONS["lognormal-512"].fill(tokens)
    masked = round(0.15 * tokens)
    return {
        "attention": attention_case("plain", lengths, heads=12),
        "attention, dropout": attention_case("dropout", lengths, heads=12, p=0.1),
        "layer_norm": layer_norm_case(tokens, 768, p=0.1, x_bias=True),
        "gelu": gelu_case(tokens, 3072),
        "embedding": embedding_case(lengths, 768, vocabulary=30_522, positions=512, p=0.1),
        "mlm_loss": mlm_loss_case("loss", tokens=tokens, width=768, vocabulary=30_522, masked=masked),
    }


def updates(*, tiny: bool) -> dict[str, Case]:
    """Return an update of all parameters by each rule, at the sizes of BERT-base."""
    width = 64 if tiny else 768
    layer = (3 * width * width, 3 * width, width * width, width, 8 * width * width, 4 * width, width, width, width)
    sizes = (width * (256 if tiny else 30_522), 512 * width, *layer * (2 if tiny else 12))
    make = partial(optimizer_case, sizes=sizes, updates=1, max_norm=1.0, copies=True)
    return {
        "optimizer, adamw": make("adamw"),
        "optimizer, stable": make("stable", clip_update=True),
        "optimizer, lamb": make("lamb", algorithm="lamb"),
    }


def main() -> None:
    """Run each operation twice: the second time with the profiler on."""
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    tokens = (1024 if on_gpu else 64) if "--tiny" in sys.argv else 16_384
    for name, case in cases(tokens).items():
        inputs = case.make(torch.bfloat16 if on_gpu else torch.float32, device)
        leaves = [inputs.arguments[each].detach().requires_grad_() for each in inputs.differentiable]
        given = dict(inputs.arguments) | dict(zip(inputs.differentiable, leaves, strict=True))
        for again in (False, True):
            if again and on_gpu:
                torch.cuda.cudart().cudaProfilerStart()
            made = getattr(unmask_kernels, name.split(",")[0])(**given, backend="triton" if on_gpu else None)
            made = getattr(made, "loss_sum", made)
            torch.autograd.grad(made, leaves, torch.ones_like(made))
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.cudart().cudaProfilerStop()
        print(f"{name}: {tokens} tokens, ran", flush=True)
    for name, case in updates(tiny=tokens <= 1024).items():
        inputs = case.make(torch.float32, device)
        for again in (False, True):
            if again and on_gpu:
                torch.cuda.cudart().cudaProfilerStart()
            run_updates(**inputs.arguments, backend="cuda" if on_gpu and installed() else None)
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.cudart().cudaProfilerStop()
        print(f"{name}: {len(inputs.arguments['sizes'])} parameters, ran", flush=True)


if __name__ == "__main__":
    main()
