"""HeadConfig: the output layer that a fine-tuned model has, with the names of its classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from unmask.config.settings import Checked, setting

__all__ = ["HeadConfig", "HeadTask"]

HeadTask = Literal["classification", "multi_label", "regression", "entities", "qa"]
"""What an output layer predicts: one class of a text, any number of classes, a number, a tag for each word, or where
an answer begins and ends."""

_NAMED = ("classification", "multi_label", "entities")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig(Checked):
    """The output layer of a fine-tuned model."""

    task: HeadTask = setting("classification", "What it predicts.")
    labels: tuple[str, ...] = setting(
        (), "Names of the classes or tags, by their numbers. Empty for a regression and for question answering."
    )
    dropout: float = setting(0.1, "Dropout in front of the layer, as in BERT; question answering has none.", ge=0, lt=1)

    def _contradictions(self) -> Iterator[tuple[str, str]]:
        least = 1 if self.task == "multi_label" else 2
        if self.task in _NAMED and len(self.labels) < least:
            yield "labels", f"must name at least {least} classes for {self.task}, got {len(self.labels)}"
        if self.task not in _NAMED and self.labels:
            yield "labels", f"must be empty for {self.task}, got {len(self.labels)} names; leave them out"
        if len(set(self.labels)) < len(self.labels):
            twice = next(name for name in self.labels if self.labels.count(name) > 1)
            yield "labels", f"must differ, got {twice!r} twice; leave one out"

    @property
    def outputs(self) -> int:
        """Outputs of the layer, K: the classes, 1 of a regression, 2 of question answering."""
        return {"regression": 1, "qa": 2}.get(self.task, len(self.labels))

    @property
    def pools(self) -> bool:
        """Whether the layer reads the pooled [CLS], and not single tokens."""
        return self.task in ("classification", "multi_label", "regression")
