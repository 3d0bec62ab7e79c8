"""Values that `unmask tune` may change: block sizes, tiles, which of two kernels runs.

A *tunable* is one such value. Its family declares it, with the few values that it may have, the default first,

    SCORES = Tunable("attention.scores", 1 << 21, 1 << 20, 1 << 22)

and reads it where it matters, for the shape at hand: `SCORES.value("heads of 64, float32")`. That is the default unless
`using_values` puts another one into effect for that tunable and shape. Nothing here reads a file: `tune.record` does so
once, before a run. So a lookup costs a step nothing, and `torch.compile` traces through it.

A *shape* is a short text that says what the value depends on. It never depends on the documents of a batch, so that a
document gives the same bits wherever it is packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

__all__ = ["Key", "Tunable", "Value", "from_text", "in_effect", "to_text", "tunables", "using_values", "why_not"]

Value: TypeAlias = int | str
T = TypeVar("T", int, str)


class Key(NamedTuple):
    """The name of a tunable, and the shape for which it has a value."""

    name: str
    shape: str


tunables: dict[str, Tunable[int] | Tunable[str]] = {}
"""Every tunable by name."""

# One value for all threads, as in `dispatch`: a backward runs on threads of autograd. It is replaced as a whole.
_values: Mapping[Key, Value] = {}
_lock = Lock()


class Tunable(Generic[T]):
    """A value that depends on the machine.

    Args:
        name: its family and what it is, such as "attention.scores".
        default: the value without a tuning.
        others: the other values that may be tried.
    """

    def __init__(self, name: str, default: T, *others: T) -> None:
        self.name = name
        self.default: T = default
        self.candidates: tuple[Value, ...] = (default, *others)
        known: dict[str, Any] = tunables
        known[name] = self

    def value(self, shape: str) -> T:
        """Return the value in effect for a shape."""
        found: Any = _values.get(Key(self.name, shape), self.default)
        value: T = found
        return value


@contextmanager
def using_values(values: Mapping[Key, Value]) -> Iterator[None]:
    """Put these values into effect inside the block, in every thread, over those that are in effect outside it.

    Raises:
        ValueError: there is no such tunable, or it may not have that value.
    """
    for key, value in values.items():
        if reason := why_not(key, value):
            raise ValueError(f"using_values: {reason}; leave it out, and the default {_default(key)}is used")
    global _values
    with _lock:
        before = _values
        _values = {**before, **values}
    try:
        yield
    finally:
        with _lock:
            _values = before


def in_effect() -> dict[Key, Value]:
    """Return the values that differ from the defaults now."""
    return {key: value for key, value in _values.items() if value != tunables[key.name].default}


def to_text(values: Mapping[Key, Value]) -> dict[str, Value]:
    """Return values by one text each, "name: shape", as a checkpoint has them."""
    return {f"{key.name}: {key.shape}": value for key, value in values.items()}


def from_text(named: Mapping[str, Value]) -> dict[Key, Value]:
    """Return the values that `to_text` wrote, without those that this version does not know."""
    values = {Key(*text.split(": ", 1)): value for text, value in named.items() if ": " in text}
    return {key: value for key, value in values.items() if not why_not(key, value)}


def why_not(key: Key, value: object) -> str:
    """Return why a value cannot be put into effect; empty if it can."""
    tunable = tunables.get(key.name)
    if tunable is None:
        return f"nothing is named {key.name!r} to be tuned"
    if type(value) is not type(tunable.default) or value not in tunable.candidates:
        return f"{key.name} must be one of {', '.join(map(str, tunable.candidates))}, got {value!r}"
    return ""


def _default(key: Key) -> str:
    return f"{tunables[key.name].default} " if key.name in tunables else ""
