"""`unmask doctor`: the backends that this machine can run, and the reasons why it cannot run the others.

For each device, it explains the choice for one call of each family, at BERT-base size and in the dtype of training.
"""

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Options", "report", "run"]

# instruction sets that decide how fast matrices are multiplied
_INSTRUCTIONS = ("amx", "avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "sve", "i8mm", "bf16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Say what this machine can run, and why not the rest."""


def run(arguments: list[str]) -> None:
    """Print the report."""
    from unmask.cli._arguments import read

    read(Options, prog="unmask doctor", arguments=arguments)
    for line in report():
        print(line)


def report() -> Iterator[str]:
    """Yield the lines of the report: versions, processor, GPUs, compiler, then each family on each device."""
    import torch

    from unmask.train.logging.provenance import processor
    from unmask.train.precision import choose_precision

    yield from _versions()
    yield ""
    yield f"processor: {processor()}, {torch.get_num_threads()} threads"
    found = [name for name, here in torch.cpu.get_capabilities().items() if here is True]
    features = sorted(name for name in found if name.startswith(_INSTRUCTIONS))
    yield f"  instructions for matrices: {', '.join(features) or 'only the common ones'}"
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    else:
        yield f"GPU: none ({_why_no_gpu(torch)})"
    for device in devices:
        precision = choose_precision("auto", device)
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            name = torch.cuda.get_device_name(device)
            yield f"GPU {device.index}: {name}, {free:,} of {total:,} bytes free"
        yield f"  activations on {device}: {_name(precision.dtype)}, because {precision.reason}"
    yield f"nvcc: {_nvcc()}"
    for device in devices:
        yield from _families(device, choose_precision("auto", device).dtype)


def _versions() -> Iterator[str]:
    yield f"python {platform.python_version()} on {platform.platform()}"
    for package, use in {
        "unmask": "",
        "torch": "",
        "numpy": "",
        "tokenizers": "",
        "pyarrow": "",
        "triton": "the triton backends",
        "transformers": "comparisons in tests and benches",
        "matplotlib": "unmask plot",
        "tensorboard": "train.tensorboard",
    }.items():
        try:
            yield f"  {package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            found = importlib.util.find_spec(package) is not None
            missing = "on the path, not installed" if found else "not installed"
            yield f"  {package}: {missing}" + (f"; needed for {use}" if use and not found else "")


def _families(device: "torch.device", dtype: "torch.dtype") -> Iterator[str]:
    import torch

    import unmask_kernels
    from unmask_kernels.capability import architecture

    here = architecture(torch.empty(0, device=device))
    yield ""
    yield f"operations on {device} in {_name(dtype)} at BERT-base size, the chosen backend first"
    for family in unmask_kernels.FAMILIES.values():
        example = family.example(device.type, here, dtype)
        yield from (f"  {line}" for line in family.explain(example).splitlines())


def _why_no_gpu(torch: Any) -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    return f"PyTorch is built for CUDA {torch.version.cuda}, but finds no device or driver"


def _nvcc() -> str:
    path = shutil.which("nvcc")
    if path is None:
        return "not found; the CUDA toolkit has it, and it is needed only to build the cuda backends"
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    release = [part.strip() for part in answer.stdout.split(",") if "release" in part]
    return f"{path}, {release[0] if release else 'version unknown'}"


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
