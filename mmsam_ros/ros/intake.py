# SPDX-License-Identifier: Apache-2.0
"""Checks before messages are matched: their stamps, and who sends them. Needs no ROS."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mmsam_ros.ros.notes import Notes
from mmsam_ros.sensors import Refusal

GONE = 2.0  # seconds without a message after which another sensor may take a topic over
AHEAD = 0.5  # seconds by which stamps may be ahead of this node's clock
ENOUGH = 10  # messages in a row that are ahead; fewer may be a looping bag


@dataclass
class _Source:
    """The sensor that a stream is read from, by the frame that its messages name."""

    frame_id: str
    seen: float = -math.inf  # when its last message came, steady clock
    shared: bool = False  # another one sends on the same topic
    _before: dict[str, float] = field(default_factory=dict)  # other frames, and when they came last

    def takes(self, frame_id: str, now: float) -> bool:
        """Whether a message is from the sensor that is read. A frame id that comes back soon after
        another one shows that two sensors send; one that counts up does not.
        """
        if frame_id != self.frame_id:
            if self.shared and now - self.seen < GONE:
                return False
            lately = {frame: seen for frame, seen in self._before.items() if now - seen < GONE}
            self.shared = frame_id in lately
            self._before = lately | {self.frame_id: self.seen}
            self.frame_id = frame_id
        self.seen = now
        return True


@dataclass
class Intake:
    """Refuses messages without a stamp and those of a second sensor on one topic; says which
    stamps are in the future. `clock`: this node's time in nanoseconds, 0 while it is not known;
    `offsets`: seconds that a stream's stamps are corrected by.
    """

    clock: Callable[[], int] = lambda: 0
    notes: Notes = field(default_factory=Notes)
    offsets: Mapping[str, float] = field(default_factory=dict)
    _sources: dict[str, _Source] = field(default_factory=dict)
    _ahead: Counter[str] = field(default_factory=Counter)  # messages in a row

    def refusal(self, stream: str, stamp_ns: int, frame_id: str, now: float) -> Refusal | None:
        """Why a message of a stream is not used; None if it is. `now`: steady clock, seconds."""
        if stamp_ns <= 0:
            text = (
                f"header.stamp is {stamp_ns / 1e9:g} s: it is not set, so that nothing can be "
                "matched to it; set the driver to stamp its messages"
            )
            return Refusal(stream, "stamp", text)
        source = self._sources.setdefault(stream, _Source(frame_id))
        if not source.takes(frame_id, now):
            text = (
                f"two sensors send on one topic, with header.frame_id {source.frame_id!r} and "
                f"{frame_id!r}; only {source.frame_id!r} is read: give each a topic of its own"
            )
            return Refusal(stream, "two_sources", text)
        self._look_ahead(stream, stamp_ns)
        return None

    def _look_ahead(self, stream: str, stamp_ns: int) -> None:
        clock = self.clock()
        ahead = (stamp_ns - clock) / 1e9 + self.offsets.get(stream, 0.0)
        if not clock or ahead <= AHEAD:
            self._ahead[stream] = 0
            return
        self._ahead[stream] += 1
        if self._ahead[stream] == ENOUGH:
            self.notes.warning(
                f"{stream}: its stamps are {ahead:.1f} s ahead of this node's clock, at which "
                "others do not find transforms yet. Synchronise the clocks; with use_sim_time, let "
                "/clock and the stamps come from one source",
                f"{stream} ahead",
            )
