"""`unmask profile [RECIPE|FILE.yaml] [--group.field value ...]`: the share of each operation in a training step."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unmask.cli._arguments import option, read
from unmask.cli._settings import own_and_settings, read_settings_of
from unmask.config.settings import Checked
from unmask.terminal import messages_through

if TYPE_CHECKING:
    from unmask.commands.profile import Profile
    from unmask.planning.operations import Operation

__all__ = ["Options", "profile_lines", "run"]

_OPERATIONS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Run a few training steps under PyTorch's profiler: a table of each operation's share, and a trace.

    It takes the settings of a run, as `unmask pretrain` does: --data.store store. The steps are those with which such a
    run begins, and nothing of them is kept. Perfetto (https://ui.perfetto.dev) opens the trace.
    """

    recipe: str | None = option(
        None, "Recipe or YAML file of the run. None: tiny.", positional=True, metavar="RECIPE|FILE.yaml"
    )
    steps: int = option(5, "Steps to record, after some that are not.", ge=1)
    trace: Path = option(Path("trace.json"), "File for the trace.", metavar="FILE")
    json: bool = option(False, "Print all numbers as JSON.")


def run(arguments: list[str]) -> None:
    """Print the tables."""
    own, settings = own_and_settings(arguments)
    given = read_settings_of("profile", "", settings)
    # a word behind the value of a setting
    own += [] if given.source is None else [given.source]
    options = read(Options, prog="unmask profile", arguments=own)
    from unmask.commands.profile import profile

    with messages_through(lambda message: None if options.json else print(message)):
        found = profile(options.recipe, given.changes, steps=options.steps, trace=options.trace)
    if options.json:
        print(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    for line in profile_lines(found):
        print(line)


def profile_lines(found: "Profile") -> Iterator[str]:
    """Yield the lines of a profile for people."""
    yield ""
    yield f"{found.device}, activations in {found.dtype}, {found.tokens:,.0f} tokens a step"
    yield f"a step takes {1000 * found.seconds:,.1f} ms, under the profiler {1000 * found.profiled:,.1f} ms"
    yield ""
    yield from _table("family", found.families, show_family=False)
    yield ""
    yield from _table("operation", found.operations[:_OPERATIONS], show_family=True)
    yield ""
    yield f"{found.trace}: {found.steps} steps, for https://ui.perfetto.dev"


def _table(title: str, rows: "Sequence[Operation]", *, show_family: bool) -> Iterator[str]:
    width = max(len(title), *(len(row.name) for row in rows))
    yield f"{title:{width}}   share   own time   calls{'   family' if show_family else ''}"
    for row in rows:
        family = f"   {row.family}" if show_family else ""
        yield f"{row.name:{width}}  {row.share:6.1%}  {1000 * row.seconds:6.1f} ms  {row.calls:6,.0f}{family}"
