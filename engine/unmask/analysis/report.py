"""An analysis as a whole: its numbers as JSON, its tables as Markdown, its plots as PNG files.

analysis.json     all numbers, by section
tables.md         the numbers as tables
lengths.png       lengths of documents and sequences
ngrams.png        runs of chosen words, if words are masked
burstiness.png    exponents of the sequences
distraction.png   attention on other documents by layer, beside the reference
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unmask.analysis.distraction import Distraction
from unmask.analysis.masks import MaskStatistics
from unmask.analysis.packing import Lengths, Packing
from unmask.errors import UnmaskError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Report"]

_BLUE, _RED = "#1f4e79", "#c0392b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The parts of an analysis; one that does not apply is None.

    Attributes:
        title: name of the corpus or run.
        documents: lengths of the documents of each source, by its name.
        sequences: lengths of the documents that attention sees.
        packing: how full micro-batches are.
        masks: statistics of masking.
        burstiness: exponent of each of the sequences, (Q,).
        distraction: of the model.
        unigram_loss: loss of a model that knows only token frequencies, in nats; None if there is no such number.
        held_out_documents: documents that are held out from training.
        held_out_tokens: their tokens; the unigram loss is measured on them if there are any.
    """

    title: str
    documents: dict[str, Lengths]
    sequences: Lengths
    packing: Packing
    masks: MaskStatistics | None
    burstiness: npt.NDArray[np.float64]
    distraction: Distraction | None
    unigram_loss: float | None = None
    held_out_documents: int = 0
    held_out_tokens: int = 0

    def numbers(self) -> dict[str, Any]:
        """Return all numbers as plain values, for JSON."""
        found = asdict(self)
        low, middle, high = np.quantile(self.burstiness, [0.25, 0.5, 0.75]).tolist()
        found["burstiness"] = {
            "sequences": self.burstiness.size,
            "mean": float(self.burstiness.mean()),
            "quartiles": [low, middle, high],
        }
        return found

    def tables(self) -> str:
        """Return all numbers as tables in Markdown."""
        lengths = [["of", "count", "mean", "shortest", "25 %", "50 %", "75 %", "longest"]]
        for name, one in (*self.documents.items(), ("sequences", self.sequences)):
            quartiles = [f"{quartile:,.0f}" for quartile in one.quartiles]
            lengths.append(
                [name, f"{one.count:,}", f"{one.mean:,.1f}", f"{one.shortest:,}", *quartiles, f"{one.longest:,}"]
            )
        packing = self.packing
        heads = ["micro-batches", "tokens", "fill", "document slots used", "mask slots used"]
        filled = [f"{packing.batches:,}", f"{packing.tokens:,}", _share(packing.fill), _share(packing.slots)]
        filled.append("-" if packing.masks is None else _share(packing.masks))
        if packing.second_label is not None:
            heads += ["pairs", "random or swapped"]
            filled += [f"{packing.pairs:,}", _share(packing.second_label)]
        parts = [f"# {self.title}", "## Lengths in tokens", _table(lengths), "## Packing", _table([heads, filled])]
        if self.masks is not None:
            parts += ["## Masking", _table(_mask_rows(self.masks))]
        if self.unigram_loss is not None:
            rows = [["a model that knows only", "loss"], ["the frequency of each token", f"{self.unigram_loss:.3f}"]]
            parts += ["## Unigram loss", _table(rows)]
        rows = [["held-out documents", "tokens"], [f"{self.held_out_documents:,}", f"{self.held_out_tokens:,}"]]
        parts += ["## Held-out text", _table(rows)]
        bursts = self.numbers()["burstiness"]
        low, middle, high = (f"{value:.2f}" for value in bursts["quartiles"])
        rows = [["sequences", "mean exponent", "25 %", "50 %", "75 %"]]
        rows.append([f"{bursts['sequences']:,}", f"{bursts['mean']:.3f}", low, middle, high])
        parts += ["## Burstiness", _table(rows)]
        if self.distraction is not None:
            rows = [["attention on other documents", "share"]]
            rows += [[f"layer {number}", _share(value)] for number, value in enumerate(self.distraction.layers)]
            rows.append(["mean", _share(float(np.mean(self.distraction.layers)))])
            rows.append(["reference: even attention", _share(self.distraction.reference)])
            parts += ["## Distraction", _table(rows)]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: str | Path) -> list[Path]:
        """Write numbers, tables and plots into `folder`, which is made if it is missing; returns the files.

        Files of an earlier analysis are replaced, and its plots of parts that this one lacks removed.

        Raises:
            UnmaskError: matplotlib is not installed; numbers and tables are written all the same.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = [folder / "analysis.json", folder / "tables.md"]
        written[0].write_text(json.dumps(self.numbers(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        written[1].write_text(self.tables(), encoding="utf-8")
        try:
            from matplotlib import rc_context
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            raise UnmaskError(
                f"analyse: {written[1]} is written, the plots need matplotlib; pip install 'unmask[plots]'"
            ) from None
        plots = {"lengths": self._draw_lengths, "burstiness": self._draw_burstiness}
        if self.masks is not None:
            plots["ngrams"] = self._draw_ngrams
        if self.distraction is not None:
            plots["distraction"] = self._draw_distraction
        # those of an earlier analysis, which had more parts
        for name in {"ngrams", "distraction"} - plots.keys():
            (folder / f"{name}.png").unlink(missing_ok=True)
        for name, draw in plots.items():
            # a name may hold a $, which would begin a formula
            with rc_context({"text.parse_math": False}):
                figure = Figure(figsize=(7, 4), layout="constrained")
                axes = figure.add_subplot()
                draw(axes)
                axes.grid(alpha=0.25)
                written.append(folder / f"{name}.png")
                figure.savefig(written[-1], dpi=120)
        return written

    def _draw_lengths(self, axes: Axes) -> None:
        from matplotlib.ticker import NullFormatter, StrMethodFormatter

        for name, one in (*self.documents.items(), ("sequences", self.sequences)):
            width = 2.0 if one is self.sequences else 1.0
            # matplotlib leaves out names that begin with an underscore
            label = f" {name}" if name.startswith("_") else name
            axes.stairs(np.array(one.counts) / one.count, one.edges, label=label, linewidth=width)
        axes.set(title=f"{self.title}: lengths", xlabel="tokens", ylabel="share", xscale="log")
        # the usual labels of a logarithmic axis are formulas, which are off
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False)

    def _draw_burstiness(self, axes: Axes) -> None:
        axes.hist(self.burstiness, bins=40, color=_BLUE)
        axes.set(
            title=f"{self.title}: burstiness", xlabel="exponent of the counts, small: repetitive", ylabel="sequences"
        )

    def _draw_ngrams(self, axes: Axes) -> None:
        assert self.masks is not None
        axes.bar(list(self.masks.ngrams), list(self.masks.ngrams.values()), color=_BLUE)
        axes.set_xticks(list(self.masks.ngrams))
        axes.set(title=f"{self.title}: chosen words", xlabel="words in a run", ylabel="share of the runs")

    def _draw_distraction(self, axes: Axes) -> None:
        assert self.distraction is not None
        axes.plot(self.distraction.layers, color=_BLUE, marker="o", label="attention on other documents")
        axes.axhline(self.distraction.reference, color=_RED, linestyle="--", label="even attention")
        axes.set(title=f"{self.title}: distraction", xlabel="layer", ylabel="share of the attention")
        top = 1.2 * max(*self.distraction.layers, self.distraction.reference) or 1.0
        axes.set_ylim(-0.02 * top, top)  # so that a line at 0 is visible
        axes.set_xticks(range(len(self.distraction.layers)))
        axes.legend(frameon=False)


def _mask_rows(masks: MaskStatistics) -> list[list[str]]:
    return [
        ["masking", "value"],
        ["tokens", f"{masks.tokens:,}"],
        ["predictions", f"{masks.predictions:,}"],
        ["rate", _share(masks.rate)],
        ["become [MASK]", _share(masks.masked)],
        ["become a similar word", _share(masks.similar)],
        ["become other tokens", _share(masks.other)],
        ["stay", _share(masks.kept)],
        ["in words without a similar one", _share(masks.fallback)],
        ["special tokens chosen", f"{masks.specials:,}"],
        ["[MASK] in the input", f"{masks.mask_tokens:,}"],
        ["words chosen as a whole", _share(masks.intact)],
        *(
            [f"runs of {length} word{'s' if length > 1 else ''}", _share(share)]
            for length, share in masks.ngrams.items()
        ),
    ]


def _share(value: float) -> str:
    return f"{value:.2%}"


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    lines.insert(1, f"|{'|'.join('-' * (width + 2) for width in widths)}|")
    return "\n".join(lines)
