# SPDX-License-Identifier: Apache-2.0
"""The synchroniser whose matching is message_filters' ApproximateTimeSynchronizer.

It gives complete sets only, stops matching after a backward jump in time (a looped bag), and does
not report the messages that it did not match: those are counted as "unaccounted".
"""

from typing import Any

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sets import CAMERA, Entry, SyncedSet
from mmsam_ros.ros.sync import SyncConfig, Synchroniser


class StockSynchroniser(Synchroniser):
    """Sets of message_filters: no deadline, and nothing to close at the end.

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
        super().__init__(config)
        self._filters = {name: SimpleFilter() for name in (CAMERA, *config.auxiliaries)}
        slop = max((a.slop for a in config.auxiliaries.values()), default=0.0)
        self._matcher = ApproximateTimeSynchronizer([*self._filters.values()], config.queue, slop)
        self._matcher.registerCallback(self._matched)
        self._closed: list[SyncedSet] = []
        self._now = 0.0

    def add(self, stream: str, stamp_ns: int, message: Any, now: float) -> list[SyncedSet]:
        """Passes a message to message_filters; returns the sets that it completed."""
        with self._lock:
            self._tallies[stream].update(("received", "waiting"))
            self._now = now
            if stamp_ns >= 0:  # rclpy's Time takes no other; such a message stays unaccounted
                self._filters[stream].signalMessage(message)
            closed, self._closed = self._closed, []
            return closed

    def _matched(self, *messages: Any) -> None:
        entries = {}
        for name, message in zip(self._filters, messages, strict=True):
            stamp = message.header.stamp
            time_ns = stamp.sec * 10**9 + stamp.nanosec
            entry = Entry(name, time_ns, message, time_ns, self._now, _sets=1, _buffered=False)
            entries[name] = entry
        synced = SyncedSet(entries.pop(CAMERA), entries, frozenset())
        self._unsettled.add(synced)
        self._closed.append(synced)

    def counts(self) -> dict[str, dict[str, int]]:
        """Per stream, as of `Synchroniser`; what waits may have been left out unnoticed."""
        counts = super().counts()
        for tally in counts.values():
            tally["unaccounted"] = tally.pop("waiting")
        return counts
