"""`unmask plan [RECIPE|FILE.yaml] [--group.field value ...]`: memory, time and disk of a run, before it starts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unmask.cli._arguments import option, read
from unmask.cli._settings import own_and_settings, read_settings_of
from unmask.config.settings import Checked

if TYPE_CHECKING:
    from unmask.commands.plan import Plan

__all__ = ["Options", "lines", "run"]

_RECIPE = "bert-base"
_WIDTH = 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Say what a run will need, before it starts: memory by part, hours, disk, and what to change if it does not fit.

    Memory is traced without running the model. Time comes from small steps that are timed here, or, for a GPU that is
    named with --device, from its data sheet. It takes the settings of a run, as `unmask pretrain` does:
    --model.num_layers 6.
    """

    recipe: str | None = option(
        None, f"Recipe or YAML file of the run. None: {_RECIPE}.", positional=True, metavar="RECIPE|FILE.yaml"
    )
    device: str | None = option(
        None, "GPU to plan for, by its name, such as H200 or 'A100 80GB'. None: the device that a run would take here."
    )
    processes: int = option(1, "Processes that share the micro-batches of a step.", ge=1)
    measure: bool = option(False, "Run a few whole steps here too, and show their time and memory.")
    json: bool = option(False, "Print the plan as JSON.")


def run(arguments: list[str]) -> None:
    """Print the plan."""
    own, settings = own_and_settings(arguments)
    given = read_settings_of("plan", "", settings)
    # a word behind the value of a setting
    own += [] if given.source is None else [given.source]
    options = read(Options, prog="unmask plan", arguments=own)
    from unmask.commands.plan import plan

    found = plan(
        options.recipe or _RECIPE,
        given.changes,
        device=options.device,
        processes=options.processes,
        measured=options.measure,
    )
    if options.json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    for line in lines(found):
        print(line)


def lines(found: "Plan") -> Iterator[str]:
    """Yield the lines of a plan for people."""
    from unmask.commands.plan import gibibytes

    yield _row("device", f"{found.device}{'' if found.here else ', not here'}; activations in {found.dtype}")
    parts = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in found.parameters.items() if name != "total")
    yield _row("parameters", f"{found.parameters['total']:,} ({parts})")
    passes = found.tokens_per_step // found.micro_batch_tokens // found.processes
    shared = f" on each of {found.processes} processes" if found.processes > 1 else ""
    yield _row(
        "step",
        f"{found.tokens_per_step:,} tokens, {passes} micro-batch{'' if passes == 1 else 'es'} of "
        f"{found.micro_batch_tokens:,}{shared}, sequences up to {found.max_length}",
    )
    yield ""
    free = "" if found.available is None else f" of {gibibytes(found.available)} that are free"
    yield _row("memory of a process", f"{gibibytes(found.needed)}{free}")
    for name, count in found.memory.items():
        yield f"  {name:{_WIDTH + 10}}{gibibytes(count):>12}"
    if found.measured is not None:
        yield _row("  measured", f"{gibibytes(found.measured.memory)} in steps that ran")
    yield ""
    yield _row("time of a step", f"{_duration(found.step.seconds)} ({found.step.source})")
    if found.measured is not None:
        yield _row("  measured", f"{_duration(found.measured.seconds)} (steps that ran)")
    if found.hours is None:
        yield _row("time of the run", "the clock or a text that is not prepared decides its steps")
    else:
        yield _row("time of the run", f"{_duration(3600 * found.hours)} for {found.steps:,} steps, without evaluations")
    yield ""
    disk = f"{found.checkpoints} checkpoints of {gibibytes(found.checkpoint)}, one of them being written"
    store = "the store is not prepared yet" if found.store is None else f"store {gibibytes(found.store)}"
    yield _row("disk", f"{disk}; {store}; {gibibytes(found.disk_free)} free")
    yield ""
    if found.fits:
        yield "it fits" if found.available is not None else "the system does not tell what memory is free"
    else:
        yield "it does not fit:"
    yield from (f"  {advice}" for advice in found.advice)


def _row(name: str, text: str) -> str:
    return f"{name:{_WIDTH}}{text}"


def _duration(seconds: float) -> str:
    """Return a duration in the unit that people would use: `38 ms`, `2.4 s`, `25 minutes`, `7.3 hours`, `12 days`."""
    for unit, size, least in (("days", 86400, 3 * 86400), ("hours", 3600, 5400), ("minutes", 60, 90)):
        if seconds >= least:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
