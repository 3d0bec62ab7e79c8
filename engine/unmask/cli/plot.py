"""`unmask plot RUN [RUN ...] [-o out.png]`: the losses of a run, or of several beside each other.

One run: a logged row covers few tokens, so the training loss is also drawn as a running mean over a fiftieth of the
rows. Where a run has several objectives, the training loss is their weighted sum, and a thin line is the same mean of
each of them. A dashed line is the loss of a model that knows only token frequencies (`train.unigram`), if an evaluation
has it.

Several runs: their held-out losses over steps, over tokens and over training time, with one legend.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.cli._arguments import option, read
from unmask.config.settings import Checked
from unmask.errors import RunError, UnmaskError
from unmask.paths import printable
from unmask.reporting.curves import (
    Curve,
    RunProgress,
    read_curves,
    read_objectives,
    read_progress,
    read_unigram,
)

__all__ = ["Compared", "compare", "draw", "run"]

_COLORS = ("#2e7d32", "#8e5ea2", "#b8860b", "#008080")
# colours that people with any colour vision tell apart (Okabe & Ito 2008), and styles for more runs than colours
_RUNS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_STYLES = ("-", "--", ":", "-.")
# part of the evaluations after which a curve fits in the picture; the first losses are far above the last ones
_BEGINNING = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Draw the training and held-out loss of a run, or compare the held-out losses of several."""

    runs: list[Path] = option(list, "Run directories; several are compared.", positional=True, metavar="RUN")
    out: Path | None = option(
        None,
        "Image to write (.png, .svg, .pdf). None: loss.png in the run directory, or comparison.png here.",
        short="-o",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A run in a comparison.

    Attributes:
        name: in the legend.
        held_out: losses of its evaluations, at least one.
        progress: tokens and training time at its steps.
    """

    name: str
    held_out: Curve
    progress: RunProgress


def run(arguments: list[str]) -> None:
    """Draw and print where the picture is, with the last losses."""
    options = read(Options, prog="unmask plot", arguments=arguments)
    if not options.runs:
        raise UnmaskError("plot: needs the directory of a run, got none; write it as in `unmask plot runs/mine`")
    if len(options.runs) > 1:
        _compare_runs(options.runs, options.out or Path("comparison.png"))
    else:
        _draw_run(options.runs[0], options.out)


def _draw_run(folder: Path, out: Path | None) -> None:
    training, held_out = read_curves(folder)
    unigram = read_unigram(folder)
    out = out or folder / "loss.png"
    objectives = read_objectives(folder)
    draw(
        training,
        held_out,
        title=f"{printable(folder.absolute().name)}: loss",
        out=out,
        unigram=unigram,
        objectives=objectives,
    )
    parts = ", ".join(f"{name} {curve.losses[-1]:.3f}" for name, curve in objectives.items())
    last = f", held-out {held_out.losses[-1]:.3f} at step {held_out.steps[-1]}" if held_out.steps else ""
    frequencies = "" if unigram is None else f"; token frequencies alone have {unigram:.3f}"
    weighted = f" ({parts})" if parts else ""
    print(f"{out}: training loss {training.losses[-1]:.3f}{weighted} at step {training.steps[-1]}{last}{frequencies}")


def _compare_runs(folders: Sequence[Path], out: Path) -> None:
    runs = []
    for folder, name in zip(folders, _names(folders), strict=True):
        _, held_out = read_curves(folder)
        if not held_out.steps:
            raise RunError(
                f"plot: {folder} has no evaluation to compare; wait for the first, after train.evaluate_every steps, "
                "or leave the run out"
            )
        runs.append(Compared(name=name, held_out=held_out, progress=read_progress(folder)))
    compare(runs, out=out)
    print(f"{out}: held-out losses")
    width = max(len(run.name) for run in runs)
    for one in runs:
        step = one.held_out.steps[-1]
        [tokens], [seconds] = one.progress.tokens_at([step]), one.progress.seconds_at([step])
        print(
            f"  {one.name:{width}}  {one.held_out.losses[-1]:.3f} at step {step:,}, {tokens / 1e6:,.1f} M tokens, "
            f"{seconds / 60:,.1f} minutes; lowest {min(one.held_out.losses):.3f}"
        )


def _names(folders: Sequence[Path]) -> list[str]:
    """Return the names of folders, and the whole path where two have one name."""
    names = Counter(folder.absolute().name for folder in folders)
    return [
        printable(folder.absolute().name if names[folder.absolute().name] == 1 else str(folder)) for folder in folders
    ]


def compare(runs: Sequence[Compared], *, out: Path) -> None:
    """Draw held-out losses over steps, tokens and training time.

    Args:
        runs: the runs, in the order of the legend.
        out: image to write.
    Raises:
        UnmaskError: matplotlib is not installed, or cannot write this kind of file.
    """
    most = max(run.progress.seconds_at(run.held_out.steps)[-1] for run in runs)
    unit, seconds = ("hours", 3600.0) if most > 2 * 3600 else ("minutes", 60.0)
    with _figure(out, size=(11, 4.2)) as figure:
        panels = figure.subplots(1, 3, sharey=True)
        for number, run in enumerate(runs):
            steps, losses = run.held_out.steps, run.held_out.losses
            times = [value / seconds for value in run.progress.seconds_at(steps)]
            tokens = [value / 1e6 for value in run.progress.tokens_at(steps)]
            for axes, places in zip(panels, (steps, tokens, times), strict=True):
                axes.plot(
                    places,
                    losses,
                    color=_RUNS[number % len(_RUNS)],
                    linestyle=_STYLES[number // len(_RUNS) % len(_STYLES)],
                    linewidth=1.4,
                    marker="o",
                    markersize=2.5,
                    label=f"{run.name} ({losses[-1]:.3f})",
                )
        for axes, label in zip(panels, ("optimizer step", "million tokens", f"{unit} of training"), strict=True):
            axes.set(xlabel=label)
            axes.grid(alpha=0.25)
        panels[0].set(ylabel="held-out loss (nats)", ylim=_limits(runs))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(runs)), frameon=False)


def _limits(runs: Sequence[Compared]) -> tuple[float, float]:
    """Return the lowest and the highest loss of the picture, which leaves out the beginning of each run."""
    later = []
    for run in runs:
        first = min(len(run.held_out.losses) - 1, max(1, round(_BEGINNING * len(run.held_out.losses))))
        later += run.held_out.losses[first:]
    low, high = min(later), max(later)
    room = 0.05 * max(high - low, 0.05)
    return low - room, high + room


def draw(
    training: Curve,
    held_out: Curve,
    *,
    title: str,
    out: Path,
    unigram: float | None = None,
    objectives: Mapping[str, Curve] | None = None,
) -> None:
    """Write the plot.

    Args:
        training: logged losses.
        held_out: losses of the evaluations.
        title: title of the plot.
        out: image to write.
        unigram: loss of a model that knows only token frequencies, for a dashed line.
        objectives: training loss of each of several objectives, for thin lines.
    Raises:
        UnmaskError: matplotlib is not installed, or cannot write this kind of file.
    """
    with _figure(out, size=(7, 4)) as figure:
        axes = figure.add_subplot()
        # a line needs two points
        marker = "o" if len(training.steps) == 1 else None
        axes.plot(
            training.steps, training.losses, color="#9db7d5", marker=marker, linewidth=0.8, label="training, as logged"
        )
        rows = len(training.steps) // 50
        if rows > 1:
            axes.plot(
                training.steps[rows - 1 :],
                _running_mean(training.losses, rows),
                color="#1f4e79",
                linewidth=1.4,
                label=f"training, mean of {rows} rows",
            )
        for (name, curve), color in zip((objectives or {}).items(), _COLORS, strict=False):
            over = max(1, len(curve.steps) // 50)
            axes.plot(
                curve.steps[over - 1 :],
                _running_mean(curve.losses, over),
                color=color,
                marker=marker,
                linewidth=0.8,
                label=f"{name} alone" + (f", mean of {over} rows" if over > 1 else ""),
            )
        if held_out.steps:
            axes.plot(held_out.steps, held_out.losses, color="#c0392b", marker="o", markersize=3, label="held-out")
            axes.annotate(
                f"{held_out.losses[-1]:.2f}",
                (held_out.steps[-1], held_out.losses[-1]),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                color="#c0392b",
            )
        if unigram is not None:
            axes.axhline(unigram, color="#555555", linestyle="--", linewidth=1, label="token frequencies alone")
        axes.set(title=title, xlabel="optimizer step", ylabel="loss (nats)")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)


@contextmanager
def _figure(out: Path, *, size: tuple[float, float]) -> Iterator[Any]:
    """Give a figure to draw in, and write it.

    Raises:
        UnmaskError: matplotlib is not installed, or cannot write this kind of file.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UnmaskError("plot: needs matplotlib; pip install 'unmask[plots]'") from None
    # the name of a run may hold a $
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        try:
            figure.savefig(out, dpi=120)
        except ValueError as error:
            raise UnmaskError(f"plot: cannot write {out} ({error}); give --out another suffix") from None
        except OSError as error:
            raise UnmaskError(
                f"plot: {out} cannot be written ({error.strerror or error}); give --out another place"
            ) from None


def _running_mean(values: list[float], rows: int) -> list[float]:
    total = sum(values[:rows])
    means = [total / rows]
    for leaving, entering in zip(values, values[rows:], strict=False):
        total += entering - leaving
        means.append(total / rows)
    return means
