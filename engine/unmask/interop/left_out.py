"""Log messages for what a folder and the model that is read from it do not share: heads left out, weights made new.

What another call reads, a pre-training head or the pooler, is an information. What no class here reads, such as a
classifier, is a warning, and so are new weights.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from unmask.interop.names import Parameter

__all__ = ["log_difference"]

_log = logging.getLogger(__name__)

_PARTS = {"mlm": "masked-LM head", "nsp": "next-sentence head", "pooler": "pooler"}
# tensors of old folders that are no weights
_BUFFERS = ("position_ids", "token_type_ids")


def log_difference(
    folder: Path, tensors: Collection[str], read: Iterable[Parameter], *, prefix: str, new: Sequence[str]
) -> None:
    """Log in one message what is left out of a folder, and in another what is new; nothing if there is none.

    Args:
        folder: the folder.
        tensors: names of all its tensors.
        read: the parameters that are read.
        prefix: of the names of its encoder.
        new: the parts of the model that the folder lacks, of "mlm", "nsp" and "pooler".
    """
    used = {name for parameter in read for name in parameter.theirs}
    outer = prefix.removesuffix("bert.")
    begins = {"mlm": f"{outer}cls.predictions.", "nsp": f"{outer}cls.seq_relationship.", "pooler": f"{prefix}pooler."}
    there = {part for part, begin in begins.items() if any(name.startswith(begin) for name in tensors)}
    # Of a head that is read, the copy of a tied tensor may be unused.
    unread = [part for part, begin in begins.items() if part in there and not any(n.startswith(begin) for n in used)]
    known = tuple(begins.values())
    unused = [name for name in tensors if name not in used and not name.startswith(known)]
    foreign = sorted({_module(name, prefix) for name in unused if not name.endswith(_BUFFERS)})
    named = ", ".join([*(f"the {_PARTS[part]} ({begins[part]}*)" for part in unread), *foreign])
    if foreign:
        without = ", ".join(foreign)
        _log.warning(f"{folder}: left out {named}; load the tensors {without} into a module of your own")
    elif unread == ["pooler"]:
        _log.info(f"{folder}: left out {named}; read it with unmask.Encoder.from_pretrained")
    elif unread:
        heads = "('mlm', 'nsp')" if "nsp" in there else "('mlm',)"
        _log.info(f"{folder}: left out {named}; read it with unmask.PretrainingModel.from_pretrained and heads={heads}")
    if new:
        made = " and ".join(_PARTS[part] for part in new)
        _log.warning(f"{folder} has no {made}; the model gets new random weights there, so train it before use")


def _module(name: str, prefix: str) -> str:
    """Return the pattern of the tensors of a module: `classifier.*` for `classifier.weight`."""
    outer = prefix.removesuffix("bert.")
    begin = next((one for one in (prefix, outer) if one and name.startswith(one)), "")
    first, dot, _ = name.removeprefix(begin).partition(".")
    return f"{begin}{first}.*" if dot else f"{begin}{first}"
