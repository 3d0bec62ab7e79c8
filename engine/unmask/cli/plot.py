"""`unmask plot RUN [-o out.png]`: training and held-out loss of a run, from its log.jsonl and evaluation.jsonl.

A logged row covers few tokens, so the training loss is also drawn as a running mean over a fiftieth of the rows. Where
a run has several objectives, the training loss is their weighted sum, and a thin line is the same mean of each of them.
A dashed line is the loss of a model that knows only token frequencies (`train.unigram`), if an evaluation has it.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from unmask.cli._arguments import option, read
from unmask.config import ObjectiveConfig
from unmask.config.settings import Checked
from unmask.errors import RunError, UnmaskError
from unmask.paths import printable
from unmask.train.logging.log import read_evaluations, read_log

__all__ = ["Curve", "draw", "read_curves", "read_objectives", "read_unigram", "run"]

_COLORS = ("#2e7d32", "#8e5ea2", "#b8860b", "#008080")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Checked):
    """Draw the training and held-out loss of a run, and the loss of each objective if there are several."""

    run: Path = option(MISSING, "Run directory.", positional=True, metavar="RUN")
    out: Path | None = option(
        None, "Image to write (.png, .svg, .pdf). None: loss.png in the run directory.", short="-o", metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Losses in nats at optimizer steps, one entry per logged row."""

    steps: list[int]
    losses: list[float]


def run(arguments: list[str]) -> None:
    """Draw the curve and print where it is."""
    options = read(Options, prog="unmask plot", arguments=arguments)
    training, held_out = read_curves(options.run)
    unigram = read_unigram(options.run)
    out = options.out or options.run / "loss.png"
    objectives = read_objectives(options.run)
    draw(
        training,
        held_out,
        title=f"{printable(options.run.absolute().name)}: loss",
        out=out,
        unigram=unigram,
        objectives=objectives,
    )
    parts = ", ".join(f"{name} {curve.losses[-1]:.3f}" for name, curve in objectives.items())
    last = f", held-out {held_out.losses[-1]:.3f} at step {held_out.steps[-1]}" if held_out.steps else ""
    frequencies = "" if unigram is None else f"; token frequencies alone have {unigram:.3f}"
    weighted = f" ({parts})" if parts else ""
    print(f"{out}: training loss {training.losses[-1]:.3f}{weighted} at step {training.steps[-1]}{last}{frequencies}")


def read_curves(folder: Path) -> tuple[Curve, Curve]:
    """Return training and held-out losses of the run in `folder`, without steps whose loss was not finite.

    Raises:
        RunError: there is no log, or nothing was logged yet.
    """
    if not (folder / "log.jsonl").is_file():
        lacks = "has no log.jsonl" if folder.exists() else "does not exist"
        raise RunError(f"{folder} {lacks}; give the directory of a run")
    training: dict[int, float] = {}
    held_out: dict[int, float] = {}
    for row in read_log(folder) + read_evaluations(folder):
        if row.get("loss") is not None:
            (held_out if row.get("event") == "evaluate" else training)[row["step"]] = row["loss"]
    if not training:
        raise RunError(f"{folder} has no logged step yet; wait for the first, after train.log_every steps")
    return _curve(training), _curve(held_out)


def read_unigram(folder: Path) -> float | None:
    """Return the loss of a model that knows only token frequencies; None if no evaluation was logged with it."""
    losses = [row["unigram_loss"] for row in read_evaluations(folder) if row.get("unigram_loss") is not None]
    return losses[-1] if losses else None


def read_objectives(folder: Path) -> dict[str, Curve]:
    """Return the training loss of each objective of the run in `folder`; nothing if it has one objective."""
    rows = read_log(folder)
    losses = {
        field.name: {row["step"]: row[key] for row in rows if row.get(key) is not None}
        for field in fields(ObjectiveConfig)
        for key in [f"{field.name}_loss"]
    }
    return {name: _curve(found) for name, found in losses.items() if found}


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
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UnmaskError("plot: needs matplotlib; pip install 'unmask[plots]'") from None
    # the name of a run may hold a $
    with rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(7, 4), layout="constrained")
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
        try:
            figure.savefig(out, dpi=120)
        except ValueError as error:
            raise UnmaskError(f"plot: cannot write {out} ({error}); give --out another suffix") from None
        except OSError as error:
            raise UnmaskError(
                f"plot: {out} cannot be written ({error.strerror or error}); give --out another place"
            ) from None


def _curve(losses: dict[int, float]) -> Curve:
    steps = sorted(losses)
    return Curve(steps=steps, losses=[losses[step] for step in steps])


def _running_mean(values: list[float], rows: int) -> list[float]:
    total = sum(values[:rows])
    means = [total / rows]
    for leaving, entering in zip(values, values[rows:], strict=False):
        total += entering - leaving
        means.append(total / rows)
    return means
