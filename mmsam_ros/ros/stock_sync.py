# SPDX-License-Identifier: Apache-2.0
"""message_filters' ApproximateTimeSynchronizer behind the interface of `Synchroniser`.

For `sync_backend: message_filters`. It publishes complete sets only, stops matching after a
backward jump in time (a looped bag), and does not report the messages that it did not match: those
are counted as "unaccounted".
"""

import threading
from collections import Counter
from typing import Any

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sets import CAMERA, Entry, Outcome, SyncedSet
from mmsam_ros.ros.sync import SyncConfig


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
                "parameter sync_backend: 'message_filters' is not installed; install "
                f"ros-jazzy-message-filters or use 'native' ({error})"
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
        """Passes a message to message_filters; returns the sets that it completed."""
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
        """Nothing: message_filters does not give up incomplete sets."""
        return []

    def expect(self, stream: str, expected: bool) -> None:
        """Nothing: message_filters waits for every input."""

    def settle(self, synced: SyncedSet, outcome: Outcome) -> None:
        """Counts how a set ended."""
        with self._lock:
            for stream in (CAMERA, *synced.auxiliaries):
                self._outcomes[stream][outcome.label(stream)] += 1

    def counts(self) -> dict[str, dict[str, int]]:
        """Per stream: received, outcomes of matched messages, and the unaccounted rest."""
        with self._lock:
            counts = {}
            for name, ended in self._outcomes.items():
                rest = self._received[name] - ended.total()
                counts[name] = {"received": self._received[name], **ended, "unaccounted": rest}
            return counts
