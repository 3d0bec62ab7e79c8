"""Choosing a backend: one explainable decision for each call of a family.

A *family* is one operation (``layer_norm``) with several *backends* (``reference``, ``torch``, ``triton``,
``cuda``). Every backend says, for a described call, why it cannot run it; an empty list means that it can.

- A backend asked for by name runs or raises `BackendUnavailable` with those reasons: there is no silent fallback.
- Otherwise the first backend in the family's order without a reason is taken, or the one that `unmask tune` found to
  be faster on this machine. A hand-written backend also has
  to be *verified* on the device at hand: its tests have passed there on real hardware, at ours (`Backend.verified`) or
  on the user's own machine (`unmask verify`, see `passes`), for calls of that kind.
- ``with using("reference"):`` asks for one backend by name for every call inside the block, and
  ``with using(layer_norm="torch"):`` for the calls of one family.

Choosing is plain Python over tuples of strings and numbers, so that `torch.compile` traces through it; a
backend's module is imported only when it runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch

from .capability import device_names
from .tuned import Tunable

__all__ = ["Backend", "BackendUnavailable", "Call", "Family", "Pass", "known", "using"]


class BackendUnavailable(RuntimeError):
    """The backend asked for, or every backend, cannot run this call; the message lists the reasons."""


class Call(Protocol):
    """What a refusal may look at: each family has its own NamedTuple with at least these two facts."""

    @property
    def device(self) -> str:
        """Device type, "cpu" or "cuda"."""

    @property
    def architecture(self) -> str:
        """ "cpu", or the compute capability such as "sm_90"."""


class Backend(NamedTuple):
    """One implementation.

    Attributes:
        refuses: why it cannot run a call, empty if it can.
        verified: architectures ("cpu", "sm_90") where its tests have passed on real hardware; None means a library or
            plain PyTorch, trusted everywhere.
        must_win: whether right results on the user's machine are not enough to choose it: it must be faster there too.
        module: its code. Default: `_<name>.py` in the folder of its family; the reference is `reference.py`.
    """

    refuses: Callable[[Any], list[str]] = lambda call: []
    verified: tuple[str, ...] | None = None
    must_win: bool = False
    module: str | None = None


class Pass(NamedTuple):
    """A call that a backend has passed on the user's machine.

    Attributes:
        backend: its name.
        device: name of the GPU.
        call: as it was run.
    """

    backend: str
    device: str
    call: Any


_MOST_ANSWERS = 1024

known: dict[str, Family] = {}
"""Every family that has been made, by name."""

# The open blocks of `using`, the innermost last: a backend by family, where the empty name stands for every family
# without an entry of its own. It is one value for all threads of the process. PyTorch 2.13 cannot trace
# `ContextVar.get`, and it sets no guard on `threading.local`, so a compiled function would keep a backend that is asked
# for no more. A tuple is replaced as a whole, and guarded.
_blocks: tuple[Mapping[str, str], ...] = ()
_lock = Lock()


@contextmanager
def using(backend: str | None = None, **families: str) -> Iterator[None]:
    """Ask for backends by name inside the block, in every thread; an explicit `backend=` argument still wins.

    Args:
        backend: for every family that nothing else is asked for.
        families: a backend for each of some families, such as `layer_norm="torch"`.
    Raises:
        ValueError: no such family, or it has no such backend.
    """
    for name, wanted in families.items():
        if name not in known:
            raise ValueError(f"using: {name!r} is not an operation; there are {', '.join(known)}")
        known[name].require_known(wanted)
    global _blocks
    block = families if backend is None else {"": backend, **families}
    with _lock:
        _blocks = (*_blocks, block)
    try:
        yield
    finally:
        with _lock:
            # by identity: a block that another thread opened later may still be open
            _blocks = tuple(other for other in _blocks if other is not block)


class Family:
    """The backends of one operation, best first.

    Attributes:
        name: of the operation.
        backends: by name.
        example: the call at BERT-base size, of a device type, an architecture and a dtype of activations.
        covers: whether a backend that has passed one call is right for another one too: `covers(passed, call)`.
        passed, failed: what has passed and what has failed on this machine. A tuple is replaced as a whole: compiled
            functions follow it.
        shape: what it depends on which backend is the fastest, for `unmask tune`; None: the order decides.
    """

    def __init__(
        self,
        name: str,
        backends: dict[str, Backend],
        *,
        example: Callable[[str, str, torch.dtype], Call],
        covers: Callable[[Any, Any], bool] = lambda passed, call: bool(passed == call),
        shape: Callable[[Any], str] | None = None,
    ) -> None:
        self.name = name
        self.backends = backends
        self.example = example
        self.covers = covers
        self.passed: tuple[Pass, ...] = ()
        self.failed: tuple[Pass, ...] = ()
        self._answered: tuple[Pass, ...] = ()
        self._answers: dict[tuple[str, Call], bool] = {}
        self.shape = shape
        # the reference defines the operation; the compiler cannot trace it everywhere
        ours = [backend for backend in backends if backend != "reference"]
        self.fastest = None if shape is None else Tunable(f"{name}.backend", "first", *ours)
        self._modules: dict[str, ModuleType] = {}
        known[name] = self

    def choose(self, asked: str | None, call: Call) -> str:
        """The backend that runs `call`.

        Raises:
            ValueError: `asked` is not a backend of this family.
            BackendUnavailable: `asked` refuses the call, or nothing was asked for and every backend refuses it.
        """
        for block in reversed(_blocks):
            if asked is None:
                asked = block.get(self.name, block.get(""))
        if asked is None:
            fastest = self._fastest(call)
            if fastest is not None:
                return fastest
            for name, backend in self.backends.items():
                if not backend.refuses(call) and self.is_verified(name, call):
                    return name
            raise BackendUnavailable(
                f"{self.name}: no backend can run this call; mend what one of them needs:\n{self._reasons(call)}"
            )
        self.require_known(asked)
        reasons = self.backends[asked].refuses(call)
        if reasons:
            raise BackendUnavailable(
                f"{self.name}: backend {asked!r} cannot run this call: {'; '.join(reasons)}; leave it out, "
                "and one that can is chosen"
            )
        return asked

    def _fastest(self, call: Call) -> str | None:
        """The backend that was the fastest on this machine, if it can run the call and is right; None if none is known.

        "first" stands for the first one in the order.
        """
        if self.shape is None or self.fastest is None:
            return None
        name = self.fastest.value(self.shape(call))
        if name not in self.backends or self.backends[name].refuses(call):
            return None
        return name if self.is_verified(name, call) or self.has_passed(name, call) else None

    def require_known(self, name: str) -> None:
        """Raise ValueError unless `name` is a backend of this family."""
        if name not in self.backends:
            names = ", ".join(repr(backend) for backend in self.backends)
            raise ValueError(f"{self.name}: backend must be one of {names}, got {name!r}")

    def reasons(self, call: Call) -> dict[str, list[str]]:
        """Why each backend cannot run `call`, by name; an empty list means that it can."""
        return {name: list(backend.refuses(call)) for name, backend in self.backends.items()}

    def is_verified(self, name: str, call: Call) -> bool:
        """Whether backend `name` may be chosen for `call` without being asked for."""
        backend = self.backends[name]
        if backend.verified is None or call.architecture in backend.verified:
            return True
        return not backend.must_win and self.has_passed(name, call)

    def has_passed(self, name: str, call: Call) -> bool:
        """Whether backend `name` has passed such a call on every GPU of this machine with that architecture."""
        if not self.passed:
            return False
        if torch.compiler.is_compiling():
            return self._is_covered(name, call)
        # a step asks the same again and again: comparing records takes longer than the rest of a choice
        if self._answered is not self.passed or len(self._answers) >= _MOST_ANSWERS:
            self._answered, self._answers = self.passed, {}
        key = (name, call)
        if key not in self._answers:
            self._answers[key] = self._is_covered(name, call)
        return self._answers[key]

    def _is_covered(self, name: str, call: Call) -> bool:
        devices = device_names(call.architecture)
        for device in devices:
            found = False
            for one in self.passed:
                if one.backend == name and one.device == device and self.covers(one.call, call):
                    found = True
            if not found:
                return False
        return len(devices) > 0

    def has_failed(self, name: str, call: Call) -> bool:
        """Whether backend `name` has failed a call on a GPU of this machine that a pass of `call` would cover."""
        devices = device_names(call.architecture) if self.failed else ()
        return any(
            one.backend == name
            and one.device in devices
            and (self.covers(one.call, call) or self.covers(call, one.call))
            for one in self.failed
        )

    def explain(self, call: Call) -> str:
        """Which backend `call` gets and why the others do not run it, one line each."""
        chosen = self.chosen(call)
        return f"{self.name}: {chosen or 'no backend can run this call'}\n{self._reasons(call)}"

    def chosen(self, call: Call) -> str | None:
        """The backend that runs `call` if none is asked for by argument; None if every backend refuses it."""
        try:
            return self.choose(None, call)
        except BackendUnavailable:
            return None

    def _reasons(self, call: Call) -> str:
        lines = []
        for name, reasons in self.reasons(call).items():
            if not reasons and not self.is_verified(name, call):
                reasons = [f"{self._missing(name, call)}; runs when asked for by name"]
            elif not reasons and self.has_passed(name, call):
                reasons = ["can run; has passed `unmask verify` on this machine"]
            elif self.backends[name].verified == ():
                reasons.append("has not run on a GPU yet")
            lines.append(f"  {name}: {'; '.join(reasons) or 'can run'}")
        return "\n".join(lines)

    def _missing(self, name: str, call: Call) -> str:
        """What keeps a backend that can run from being chosen."""
        if self.has_passed(name, call):
            return "right on this machine, but not known to be faster"
        if self.has_failed(name, call):
            return "has failed `unmask verify` on this machine"
        way = " (`unmask verify` tries it here)" if call.device == "cuda" else ""
        return f"not verified on {call.architecture} yet{way}"

    def module(self, name: str) -> ModuleType:
        """The module of backend `name`, imported on first use. Call it only inside a registered implementation."""
        # the import system takes microseconds to find what it has, at every call of an operation
        if name not in self._modules:
            file = name if name == "reference" else f"_{name}"
            path = self.backends[name].module or f"unmask_kernels.{self.name}.{file}"
            self._modules[name] = importlib.import_module(path)
        return self._modules[name]
