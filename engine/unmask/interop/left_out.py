"""What a folder and the model that is read from it do not share: parts left out, parts made new.

What another call reads, a pre-training head or the pooler, is an information. What no class here reads, such as a
classifier, is a warning, and so are new weights.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.interop.names import Parameter

__all__ = ["PARTS", "Difference"]

_log = logging.getLogger(__name__)

PARTS = {"mlm": "masked-LM head", "nsp": "next-sentence head", "pooler": "pooler"}
"""What the parts of a model are called."""

# tensors of old folders that are no weights
_BUFFERS = ("position_ids", "token_type_ids")


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """What a folder and a model that is read from it do not share.

    Attributes:
        begins: the beginning of the names of each part of `PARTS` in the folder.
        there: the parts that the folder has.
        unread: those of them that the model leaves out.
        foreign: patterns of the names of weights for which no class here has a place, such as `classifier.*`.
        new: the parts of the model that the folder lacks.
    """

    begins: dict[str, str]
    there: tuple[str, ...]
    unread: tuple[str, ...]
    foreign: tuple[str, ...]
    new: tuple[str, ...]

    @classmethod
    def of(
        cls, tensors: Collection[str], read: Iterable[Parameter], *, prefix: str, new: Sequence[str]
    ) -> "Difference":
        """Compare a folder with a model.

        Args:
            tensors: names of all tensors of the folder.
            read: the parameters that are read.
            prefix: of the names of its encoder.
            new: the parts of the model that the folder lacks, of "mlm", "nsp" and "pooler".
        """
        used = {name for parameter in read for name in parameter.theirs}
        outer = prefix.removesuffix("bert.")
        begins = {
            "mlm": f"{outer}cls.predictions.",
            "nsp": f"{outer}cls.seq_relationship.",
            "pooler": f"{prefix}pooler.",
        }
        there = tuple(part for part, begin in begins.items() if any(name.startswith(begin) for name in tensors))
        # Of a head that is read, the copy of a tied tensor may be unused.
        unread = tuple(part for part in there if not any(name.startswith(begins[part]) for name in used))
        unused = [name for name in tensors if name not in used and not name.startswith(tuple(begins.values()))]
        foreign = sorted({_module(name, prefix) for name in unused if not name.endswith(_BUFFERS)})
        return cls(begins=begins, there=there, unread=unread, foreign=tuple(foreign), new=tuple(new))

    def log(self, folder: Path) -> None:
        """Log in one message what is left out of the folder, and in another what is new; nothing if there is none."""
        named = ", ".join([*(f"the {PARTS[part]} ({self.begins[part]}*)" for part in self.unread), *self.foreign])
        if self.foreign:
            without = ", ".join(self.foreign)
            _log.warning(f"{folder}: left out {named}; load the tensors {without} into a module of your own")
        elif self.unread == ("pooler",):
            _log.info(f"{folder}: left out {named}; read it with unmask.Encoder.from_pretrained")
        elif self.unread:
            heads = "('mlm', 'nsp')" if "nsp" in self.there else "('mlm',)"
            _log.info(
                f"{folder}: left out {named}; read it with unmask.PretrainingModel.from_pretrained and heads={heads}"
            )
        if self.new:
            made = " and ".join(PARTS[part] for part in self.new)
            _log.warning(f"{folder} has no {made}; the model gets new random weights there, so train it before use")


def _module(name: str, prefix: str) -> str:
    """Return the pattern of the tensors of a module: `classifier.*` for `classifier.weight`."""
    outer = prefix.removesuffix("bert.")
    begin = next((one for one in (prefix, outer) if one and name.startswith(one)), "")
    first, dot, _ = name.removeprefix(begin).partition(".")
    return f"{begin}{first}.*" if dot else f"{begin}{first}"
