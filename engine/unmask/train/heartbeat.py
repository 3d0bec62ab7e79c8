"""Who of the ranks is missing: a thread of each rank tells the others that it lives, and which collective it is in.

    beat/<rank>    "<beats> <collectives entered>", written about once a second
    gone           who left first and why; written once, by the rank itself or by the first that misses it
    heard/<rank>   the rank has read `gone`, so the process that holds the store may end

The keys are in the store through which the ranks found one another. A collective that fails or takes too long says
little: "Connection closed by peer". So the ranks that are left look at the beats. A rank whose beats have stopped is
dead, or its machine is. A rank that beats, but has entered fewer collectives than the others, is stuck. The first rank
to find out writes `gone`, and it alone tells its user.

The main thread may wait in native code that no exception reaches, for example for a kernel of NCCL. If it does not
leave by itself some seconds after it should, the thread ends the process. A rank that does something else, and so may
be the one that is stuck or may be writing a checkpoint, has as long as the others had to wait for it.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from typing import Any

__all__ = ["Gone", "Heartbeat"]

_BEAT_SECONDS = 1.0
# beats that must fail to come before a rank counts as dead
_BEATS_MISSED = 4
# for the main thread to leave by itself
_GRACE_SECONDS = 15.0
_STORE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Gone:
    """The rank that ended a run for all.

    Attributes:
        rank: the rank.
        by: the rank that tells its user: itself, or the first that missed it; -1 if the ranks could not settle it,
            because the store is gone.
        text: what is told.
        status: exit status of all.
    """

    rank: int
    by: int
    text: str
    status: int


class Heartbeat:
    """The thread of one rank.

    Args:
        store: a connection to the store that nobody else uses.
        rank: this rank.
        names: of all ranks, as messages give them.
        timeout: seconds for which a rank may keep the others waiting.
        status: exit status of a process that this thread ends.
    """

    def __init__(self, store: Any, *, rank: int, names: list[str], timeout: float, status: int) -> None:
        self._store = store
        self._rank = rank
        self._names = names
        self._timeout = timeout
        self._status = status
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._beats = self._entered = 0
        self._since: float | None = None
        self._gone: Gone | None = None
        self._noticed = self._store_is_gone = False
        self.seconds = min(_BEAT_SECONDS, timeout / 10)
        store.set_timeout(timedelta(seconds=_STORE_SECONDS))
        self._beat()
        self._thread = threading.Thread(target=self._run, name="unmask-heartbeat", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a collective, and let the thread see that the main thread is in it."""
        self._entered += 1
        before, self._since = self._since, time.monotonic()
        try:
            yield
        finally:
            self._since = before

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join(timeout=0.0 if self._store_is_gone else 2 * _STORE_SECONDS)

    def gone(self) -> Gone | None:
        """Return who left first; None if nobody did. The main thread leaves then."""
        gone = self._read_gone()
        self._noticed = self._noticed or gone is not None
        return gone

    def _read_gone(self) -> Gone | None:
        with self._lock:
            if self._gone is None and self._store.check(["gone"]):
                self._gone = Gone(**json.loads(self._store.get("gone")))
                self._store.set(f"heard/{self._rank}", "")
            return self._gone

    def leave(self, gone: Gone) -> Gone:
        """Write who leaves and why, unless somebody left before; return who was first."""
        self._noticed = True
        if self._store_is_gone:
            # the thread may wait for an answer with the lock in its hand
            return gone
        with self._lock:
            self._store.compare_set("gone", "", json.dumps(asdict(gone)))
        found = self.gone()
        assert found is not None
        return found

    def linger(self) -> None:
        """Wait until the others have read why the run ends, some beats at most."""
        for _ in range(_BEATS_MISSED):
            with self._lock:
                if self._store.check([f"heard/{rank}" for rank in range(len(self._names))]):
                    return
            time.sleep(self.seconds)

    def lives(self, rank: int) -> bool:
        """Return whether a rank beats. Takes some beats if it does not."""
        before = self._read()[rank]
        for _ in range(_BEATS_MISSED):
            time.sleep(self.seconds)
            if self._read()[rank] != before:
                return True
        return False

    def missing(self) -> Gone:
        """Find out why a collective failed, and return who left first. Takes some beats.

        It asks the store in a thread of its own, because the store does not answer if the machine of rank 0 is stuck.
        """
        self._noticed = True
        if self._gone is not None:
            return self._gone
        answers: list[Gone] = []

        def ask() -> None:
            with suppress(RuntimeError):
                answers.append(self._missing())

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(timeout=3 * _STORE_SECONDS)
        self._store_is_gone = not answers
        return answers[0] if answers else self._without_store()

    def _missing(self) -> Gone:
        before = self._read()
        for _ in range(_BEATS_MISSED):
            time.sleep(self.seconds)
            if (gone := self._read_gone()) is not None:
                return gone
        after = self._read()
        silent = [rank for rank, beat in enumerate(after) if beat[0] == before[rank][0] and rank != self._rank]
        if silent:
            return self.leave(self._lost(silent[0], "ended or does not answer"))
        late = min(range(len(after)), key=lambda rank: after[rank][1])
        if after[late][1] < after[self._rank][1]:
            return self.leave(
                self._lost(late, f"has kept the others waiting for {self._timeout:g} seconds (train.timeout_seconds)")
            )
        others = "the network between the ranks failed, though all of them live"
        return self.leave(Gone(rank=self._rank, by=self._rank, text=others, status=self._status))

    def _without_store(self) -> Gone:
        """Return that rank 0 is lost, which holds the store, or its node does."""
        return replace(self._lost(0, "ended or does not answer"), by=-1)

    def _lost(self, rank: int, problem: str) -> Gone:
        return Gone(rank=rank, by=self._rank, text=f"{self._names[rank]} {problem}", status=self._status)

    def _read(self) -> list[tuple[int, int]]:
        """Return beats and collectives of all ranks."""
        with self._lock:
            found = self._store.multi_get([f"beat/{rank}" for rank in range(len(self._names))])
        return [(int(beats), int(entered)) for beats, entered in (one.split() for one in found)]

    def _beat(self) -> None:
        self._beats += 1
        with self._lock:
            self._store.set(f"beat/{self._rank}", f"{self._beats} {self._entered}")

    def _run(self) -> None:
        known: float | None = None
        grace = min(_GRACE_SECONDS, self._timeout)
        while not self._over.wait(self.seconds):
            gone = self._gone
            try:
                # afterwards the store may end at any time
                if gone is None:
                    self._beat()
                    gone = self._read_gone()
            except RuntimeError:
                gone = self._without_store()
            now, since = time.monotonic(), self._since
            if self._noticed or not (gone or (since is not None and now - since > self._timeout)):
                known = None
                continue
            known = known or now
            if now - known > (self._timeout if since is None else grace):
                self._end(gone or self.missing())

    def _end(self, gone: Gone) -> None:
        if self._over.is_set():
            return
        if gone.by in (self._rank, -1):
            print(f"unmask: run: {gone.text}; all ranks end", file=sys.stderr, flush=True)
        os._exit(gone.status)
