# SPDX-License-Identifier: Apache-2.0
"""One thread that infers on the newest set, fed by callbacks that only store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from mmsam_ros.ros.sync import SyncedSet


class Source(Protocol):
    """The part of a synchroniser that the worker needs."""

    def add(self, stream: str, stamp_ns: int, message: Any, now: float) -> list[SyncedSet]:
        """Take a message; the sets that this closed."""

    def poll(self, now: float) -> list[SyncedSet]:
        """Sets whose deadline has passed."""

    def next_deadline(self) -> float | None:
        """When `poll` has something to do."""


class Worker:
    """Runs `process` on sets, one at a time.

    While it is busy the newest camera frame wins: older waiting sets go to `drop`. What closes
    while it is idle is all processed, in order.

    Args:
        source: gets the messages; asked for sets whose deadline passes meanwhile.
        process: handles a set; must not raise.
        drop: told of a set that is not processed, and why: "busy" (a newer one replaced it) or
            "shutdown".
    """

    def __init__(
        self,
        source: Source,
        process: Callable[[SyncedSet], None],
        drop: Callable[[SyncedSet, str], None],
    ) -> None:
        self._source, self._process, self._drop = source, process, drop
        self._condition = threading.Condition()
        self._waiting: list[SyncedSet] = []
        self._busy = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mmsam_worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the set in hand, drop the waiting ones, end the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()
        for synced in self._waiting:
            self._drop(synced, "shutdown")
        self._waiting.clear()

    def feed(self, stream: str, stamp_ns: int, message: Any, now: float) -> None:
        """Add a message to the source; sets that it closes are handed over in their order."""
        with self._condition:
            self._take(self._source.add(stream, stamp_ns, message, now))
            self._condition.notify()

    def wake(self) -> None:
        """Look again at what is due: the source's expectations may have changed."""
        with self._condition:
            self._condition.notify()

    def _take(self, sets: list[SyncedSet]) -> None:
        if not sets:
            return
        waiting = [*self._waiting, *sets]
        if self._busy:
            for synced in waiting[:-1]:
                self._drop(synced, "busy")
            waiting = waiting[-1:]
        self._waiting = waiting

    def _next(self) -> SyncedSet | None:
        """Block until there is a set; None when stopping."""
        with self._condition:
            self._take(self._source.poll(time.monotonic()))  # what came due meanwhile: newest wins
            self._busy = False
            while not self._stopping:
                if self._waiting:
                    self._busy = True
                    return self._waiting.pop(0)
                deadline = self._source.next_deadline()
                timeout = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                self._condition.wait(timeout)
                self._take(self._source.poll(time.monotonic()))
        return None

    def _run(self) -> None:
        while (synced := self._next()) is not None:
            self._process(synced)
