# SPDX-License-Identifier: Apache-2.0
"""message_filters' ApproximateTimeSynchronizer behind our synchroniser's interface.

For `sync_backend: message_filters`. It publishes complete sets only, matches nothing more after
time has jumped back (a looped bag), and does not say what became of the messages that it did not
match: those are counted as "unaccounted".
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sync import CAMERA, Entry, SyncConfig, SyncedSet


class StockSynchroniser:
    """Sets of message_filters; see `Synchroniser` for the methods.

    Raises:
        RosError: message_filters is not installed.
    """

    def __init__(self, config: SyncConfig) -> None:
        try:
            from message_filters import ApproximateTimeSynchronizer, SimpleFilter
        except ImportError as error:
            raise RosError(
                f"sync_backend is 'message_filters', but it is not installed ({error})"
            ) from error
        self._lock = threading.Lock()
        self._streams = (CAMERA, *config.auxiliaries)
        self._filters = {name: SimpleFilter() for name in self._streams}
        slop = max((a.slop for a in config.auxiliaries.values()), default=0.0)
        matcher = ApproximateTimeSynchronizer(list(self._filters.values()), config.queue, slop)
        matcher.registerCallback(self._matched)
        self._matcher = matcher
        self._closed: list[SyncedSet] = []
        self._now = 0.0
        self._received: Counter[str] = Counter()
        self._outcomes: dict[str, Counter[str]] = {name: Counter() for name in self._streams}

    def add(self, stream: str, stamp_ns: int, message: Any, now: float) -> list[SyncedSet]:
        """Hand a message to message_filters; returns the sets that it completed."""
        with self._lock:
            self._received[stream] += 1
            self._now = now
            self._filters[stream].signalMessage(message)
            closed, self._closed = self._closed, []
            return closed

    def _matched(self, *messages: Any) -> None:
        entries = {}
        for name, message in zip(self._streams, messages, strict=True):
            stamp = message.header.stamp
            time_ns = stamp.sec * 10**9 + stamp.nanosec
            entries[name] = Entry(name, time_ns, message, time_ns, self._now)
        camera = entries.pop(CAMERA)
        self._closed.append(SyncedSet(camera, entries, frozenset()))

    def poll(self, now: float) -> list[SyncedSet]:
        """Nothing: message_filters has no deadline."""
        return []

    def next_deadline(self) -> float | None:
        """None: message_filters has no deadline."""
        return None

    def flush(self, now: float) -> list[SyncedSet]:
        """Nothing: incomplete sets cannot be had."""
        return []

    def expect(self, stream: str, expected: bool) -> None:
        """Nothing: message_filters waits for every input."""

    def settle(
        self,
        synced: SyncedSet,
        outcome: str,
        reason: str = "busy",
        refused: Mapping[str, str] | None = None,
    ) -> None:
        """Count what became of a set."""
        label = outcome if outcome == "used" else f"{outcome}:{reason}"
        with self._lock:
            self._outcomes[CAMERA][label] += 1
            for name in synced.auxiliaries:
                why = (refused or {}).get(name)
                self._outcomes[name][f"refused:{why}" if why else label] += 1

    def counts(self) -> dict[str, dict[str, int]]:
        """Per stream: received, outcomes of matched messages, and the unaccounted rest."""
        with self._lock:
            counts = {}
            for name in self._streams:
                known = dict(self._outcomes[name])
                rest = self._received[name] - sum(known.values())
                counts[name] = {"received": self._received[name], **known, "unaccounted": rest}
            return counts
