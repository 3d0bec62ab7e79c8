"""`unmask doctor [OPERATION ...] [--why] [--json]`: the backend of each operation here, and what else can run.

For each kind of device, it asks for the choice for one call of each operation, at BERT-base size and in the dtype of
training. `--why` gives the reasons, `--json` everything as JSON:

    versions     package: version, or null if it is not installed
    processor    name, threads, instructions for matrices
    gpu          why there is none, or null
    extension    the kernels in CUDA C++: whether this installation has them ("built") and the command that builds them;
                 if it has, what they are compiled for, the version of their CUDA runtime, the oldest driver for it, the
                 CUDA that the driver here knows, null without a driver, and what is wrong with them, or null ("fault")
    cpu_extension    the kernels for CPUs in C++: why they cannot be used, or null ("fault"), and the command that
                 builds them
    devices      one for each device: name, dtype of activations and its reason, free and total bytes of a GPU, and
                 for each operation the backend that is chosen, or null, and of every backend the reasons why it
                 cannot run, whether it may be chosen without being named ("verified"), and whether that is so
                 because it has passed `unmask verify` on this machine ("passed"); "failed" if it has failed there; and
                 `tuned`, what `unmask tune` found to be faster there than the default
    records      the files of `unmask verify` and `unmask tune` in the cache: kind ("verified", "tuned"), path, why it
                 is ignored, or null, and whether something of it is used
"""

import difflib
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked

if TYPE_CHECKING:
    import torch

__all__ = ["Options", "facts", "reasons", "run", "table"]

# instruction sets that decide how fast matrices are multiplied
_INSTRUCTIONS = ("amx", "avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "sve", "i8mm", "bf16")
# a package and what needs it; an empty use means every command
_PACKAGES = {
    "torch": "",
    "numpy": "",
    "tokenizers": "",
    "pyarrow": "",
    "triton": "the triton backends",
    "transformers": "comparisons in tests and benches",
    "datasets": "input from hf:// and saved data sets",
    "rjieba": "--segmenter chinese",
    "gensim": "unmask similar-words",
    "matplotlib": "unmask plot",
    "tensorboard": "train.tensorboard",
}


_YOUNG = "its tests have not passed on this kind of device yet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Say which backend runs each operation on this machine, and which others can."""

    operations: list[str] = option(
        list, "Operations to show, such as attention. None: all.", positional=True, metavar="[OPERATION ...]"
    )
    why: bool = option(False, "Give the reasons why a backend cannot run.")
    json: bool = option(False, "Print all that is known as JSON.")


def run(arguments: list[str]) -> None:
    """Print the table, the reasons or the JSON."""
    # operations come first, so that none is taken for the value of `--why`
    behind = [word.startswith("-") or word in ("true", "false") for word in arguments]
    ordered = [word for _, word in sorted(zip(behind, arguments, strict=True), key=lambda pair: pair[0])]
    options = read(Options, prog="unmask doctor", arguments=ordered)
    found = facts(options.operations)
    if options.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for line in reasons(found) if options.why else table(found):
        print(line)


def facts(operations: Sequence[str] = ()) -> dict[str, Any]:
    """Return what is known of this machine, as the head of this file describes it.

    Args:
        operations: those to describe. Default: all.
    Raises:
        ValueError: there is no such operation.
    """
    import torch

    import unmask_kernels
    from unmask.train.logging.provenance import processor

    known = unmask_kernels.FAMILIES
    for name in operations:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}"
            raise ValueError(f"doctor: {name!r} is not an operation; {hint}")
    capable = [name for name, here in torch.cpu.get_capabilities().items() if here is True]
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    return {
        "versions": _versions(),
        "processor": {
            "name": processor(),
            "threads": torch.get_num_threads(),
            "instructions": sorted(name for name in capable if name.startswith(_INSTRUCTIONS)),
        },
        "gpu": None if len(devices) > 1 else _why_no_gpu(torch),
        "extension": _extension(),
        "cpu_extension": _cpu_extension(),
        "devices": [_device(device, [known[name] for name in operations or known]) for device in devices],
        "records": _records(devices),
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table, an operation a line, after a few lines about the machine."""
    here = {name: version for name, version in found["versions"].items() if version is not None}
    yield from _folded(", ".join(f"{name} {version}" for name, version in here.items()))
    absent = [f"{name} ({_PACKAGES[name]})" for name, version in found["versions"].items() if version is None]
    if absent:
        yield from _folded(f"not installed: {', '.join(absent)}")
    processor = found["processor"]
    threads = f"{processor['threads']} thread{'s' if processor['threads'] > 1 else ''}"
    instructions = ", ".join(processor["instructions"]) or "no instructions for matrices"
    yield from _folded(f"processor: {processor['name']}, {threads}, {instructions}")
    if found["gpu"] is not None:
        yield from _folded(f"GPU: none ({found['gpu']})")
    yield from _folded(f"CUDA C++: {_told_extension(found['extension'])}")
    yield from _folded(f"C++ for CPUs: {_told_cpu_extension(found['cpu_extension'])}")
    for devices in _alike(found["devices"]):
        yield ""
        for device in devices:
            name = device["device"]
            if "free_bytes" in device:
                free, total = (device[key] / 2**30 for key in ("free_bytes", "total_bytes"))
                name += f" ({device['name']}, {free:.1f} of {total:.1f} GiB free)"
            yield from _folded(f"{name}: activations in {device['dtype']}, {device['dtype_reason']}")
        yield from _rows(devices[0])
        for one in devices[0].get("tuned", []):
            yield from _folded(_tuned(one))
    for record in found["records"]:
        yield from _folded(f"record {record['path']}: {_told(record)}")
    yield ""
    yield from _folded("unmask doctor --why OPERATION gives the reasons")


def reasons(found: dict[str, Any]) -> Iterator[str]:
    """Yield, for each operation on each kind of device, every backend with the reasons why it cannot run."""
    for devices in _alike(found["devices"]):
        device = devices[0]
        for name, operation in device["operations"].items():
            yield f"{name} on {device['device']} in {device['dtype']}, at BERT-base size"
            width = max(map(len, operation["backends"]))
            for backend, state in operation["backends"].items():
                what = "; ".join(state["reasons"]) or _standing(backend, operation, device["device"])
                yield from _folded(f"  {backend:{width}}  {what}", indent=" " * (width + 4))
            yield ""
    for record in found["records"]:
        yield from _folded(f"record {record['path']}: {_told(record)}")


def _standing(backend: str, operation: dict[str, Any], device: str) -> str:
    state = operation["backends"][backend]
    passed = "; it has passed `unmask verify` on this machine" if state["passed"] else ""
    if backend == operation["chosen"]:
        return f"chosen{passed}"
    if state["verified"]:
        return f"can run{passed}"
    if passed:
        return f"can run if you name it{passed}, but is not known to be faster; `unmask tune` measures it"
    if state["failed"]:
        return "can run if you name it; it has failed `unmask verify` on this machine"
    return f"can run if you name it; {_YOUNG}{_way(device)}"


def _way(device: str) -> str:
    return "; `unmask verify` runs them here" if device.startswith("cuda") else ""


def _tuned(one: dict[str, Any]) -> str:
    """Return what `unmask tune` found, in a line."""
    what = f"--{one['choice']} {one['best']} would be" if one["advice"] else f"{one['choice']} {one['best']} is used,"
    return (
        f"tuned: {what} {one['ratio']:.2f} times as fast as {one['default']} for {one['shape']} "
        f"(unmask tune, {one['date']})"
    )


def _told(record: dict[str, Any]) -> str:
    if record["ignored"] is not None:
        return f"ignored, {record['ignored']}"
    if record["used"]:
        return "in use"
    nothing = "nothing has passed" if record["kind"] == "verified" else "no choice was faster than its default"
    return f"read, but {nothing}"


def _rows(device: dict[str, Any]) -> Iterator[str]:
    operations = device["operations"]
    rows = [("operation", "chosen", "can run too", "cannot run")]
    for name, operation in operations.items():
        backends = operation["backends"]
        able = [each for each, state in backends.items() if not state["reasons"] and each != operation["chosen"]]
        marked = [f"{each}{_mark(backends[each])}" for each in able]
        unable = [each for each, state in backends.items() if state["reasons"]]
        rows.append((name, operation["chosen"] or "none", ", ".join(marked) or "-", ", ".join(unable) or "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "   ".join(map(str.ljust, row, widths)).rstrip()
    if any("*" in row[2] for row in rows):
        yield from _folded(f"* runs only if you name it: {_YOUNG}{_way(device['device'])}")
    if any("+" in row[2] for row in rows):
        yield from _folded("+ runs if `unmask tune` finds it faster, or if you name it: it has passed `unmask verify`")


def _mark(state: dict[str, Any]) -> str:
    """Return what stands behind the name of a backend that can run and may not be chosen by itself."""
    if state["verified"]:
        return ""
    return "+" if state["passed"] else "*"


def _alike(devices: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group the devices for which every choice is the same."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for device in devices:
        same = json.dumps([device["name"], device["dtype"], device["operations"]])
        groups.setdefault(same, []).append(device)
    return list(groups.values())


def _folded(text: str, indent: str = "  ") -> list[str]:
    width = min(shutil.get_terminal_size().columns, 120)
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _versions() -> dict[str, str | None]:
    from unmask import __version__

    versions: dict[str, str | None] = {"unmask": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = importlib.util.find_spec(package) is not None
            versions[package] = "of an unknown version" if found else None
    return versions


def _device(device: "torch.device", families: Sequence[Any]) -> dict[str, Any]:
    import torch

    from unmask.train.precision import choose_precision
    from unmask.train.threads import have_a_core_each
    from unmask_kernels.capability import architecture
    from unmask_kernels.tune.record import read_tuning

    precision = choose_precision("auto", device)
    found: dict[str, Any] = {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": str(precision.dtype).removeprefix("torch."),
        "dtype_reason": precision.reason,
    }
    if device.type == "cuda":
        found["free_bytes"], found["total_bytes"] = torch.cuda.mem_get_info(device)
    tuning = read_tuning(device)
    found["tuned"] = [
        asdict(one) | {"date": tuning.dates[key]}
        for key, one in tuning.findings.items()
        if one.taken and (not one.advice or have_a_core_each(one.best))
    ]
    here = architecture(torch.empty(0, device=device))
    found["operations"] = {}
    for family in families:
        call = family.example(device.type, here, precision.dtype)
        refusals = family.reasons(call)
        found["operations"][family.name] = {
            "chosen": family.chosen(call),
            "backends": {
                name: {
                    "reasons": why,
                    "verified": family.is_verified(name, call),
                    "passed": family.has_passed(name, call),
                    "failed": family.has_failed(name, call),
                }
                for name, why in refusals.items()
            },
        }
    return found


def _records(devices: "Sequence[torch.device]") -> list[dict[str, Any]]:
    from unmask_kernels import passes
    from unmask_kernels.machine_record import Record, this_machine
    from unmask_kernels.tune import record as tuning

    here = {this_machine(device).device for device in devices}

    def told(record: Record, kind: str, holds: object) -> dict[str, Any]:
        foreign = record.machine is not None and record.machine.device not in here
        made_for = f"made for {record.machine.device}" if foreign and record.machine is not None else None
        ignored = record.ignored or made_for
        return {"kind": kind, "path": str(record.path), "ignored": ignored, "used": bool(holds) and ignored is None}

    return [
        *(told(one, passes.KIND, one.contents.get("passed")) for one in passes.read_verified()),
        *(told(one, tuning.KIND, tuning.values_in(one)) for one in tuning.read_tuned()),
    ]


def _extension() -> dict[str, Any]:
    from unmask_kernels.extension import build_command, installed, written

    found = installed()
    facts: dict[str, Any] = {"built": found is not None, "command": build_command()}
    if found is not None:
        facts |= {
            "architectures": found.architectures.split(),
            "runtime": written(found.runtime),
            "oldest_driver": found.oldest_driver,
            "driver": written(found.driver) if found.driver else None,
            "fault": found.fault or None,
        }
    return facts


def _cpu_extension() -> dict[str, Any]:
    from unmask_kernels.extension import build_command
    from unmask_kernels.philox_cpp import fault

    return {"fault": fault() or None, "command": build_command("UNMASK_BUILD_CPU")}


def _told_cpu_extension(extension: dict[str, Any]) -> str:
    if extension["fault"] is None:
        return "built; it draws the masks of dropout"
    slower = "so NumPy draws the masks of dropout, which takes several times as long"
    return f"{extension['fault']}, {slower}: {extension['command']}"


def _told_extension(extension: dict[str, Any]) -> str:
    if not extension["built"]:
        return f"not built; {extension['command']}"
    if extension["fault"] is not None:
        return f"{extension['fault']}: {extension['command']}"
    architectures = ", ".join(extension["architectures"])
    needed = f"needs driver {extension['oldest_driver']} or newer"
    driver = "there is none here" if extension["driver"] is None else f"the one here knows CUDA {extension['driver']}"
    return f"built for {architectures} with CUDA {extension['runtime']}, which {needed}; {driver}"


def _why_no_gpu(torch: Any) -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    return f"PyTorch is built for CUDA {torch.version.cuda}, but finds no device or driver"
