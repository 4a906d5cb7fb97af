# SPDX-License-Identifier: Apache-2.0
"""Matching by message_filters, for `sync_backend: message_filters`. Needs ROS."""

from typing import Any

from mmsam_ros.ros.calibration import nanoseconds
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sets import CAMERA, Entry, SyncedSet
from mmsam_ros.ros.sync import SyncConfig, Synchroniser


class StockSynchroniser(Synchroniser):
    """Matches with message_filters' ApproximateTimeSynchronizer; RosError if it is not installed.

    It gives complete sets only, without a deadline, stops matching after a backward jump in time (a
    looped bag), and does not report the messages that it did not match: those are counted as
    "unaccounted".
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
        with self._lock:
            self._tallies[stream].update(("received", "waiting"))
            self._now = now
            self._compare(stream, stamp_ns, now)
            if stamp_ns >= 0:  # rclpy's Time takes no other; such a message stays unaccounted
                self._filters[stream].signalMessage(message)
            closed, self._closed = self._closed, []
            return closed

    def _matched(self, *messages: Any) -> None:
        entries = {}
        for name, message in zip(self._filters, messages, strict=True):
            time_ns = nanoseconds(message.header.stamp)
            entry = Entry(name, time_ns, message, time_ns, self._now, _sets=1, _buffered=False)
            entries[name] = entry
        synced = SyncedSet(entries.pop(CAMERA), entries, frozenset())
        for alone in self._alone.values():
            alone.reset()
        self._unsettled.add(synced)
        self._closed.append(synced)

    def counts(self) -> dict[str, dict[str, int]]:
        counts = super().counts()
        for tally in counts.values():
            tally["unaccounted"] = tally.pop("waiting")
        return counts
