# SPDX-License-Identifier: Apache-2.0
"""Camera-driven synchroniser: each camera message gets the auxiliary messages that belong to it.

Pure Python without ROS. Stamps and the steady time come in as arguments and closed sets are
returned, so no code of the caller runs inside the lock.

Matching compares header stamps. A set closes when no nearer auxiliary message can come, or at the
deadline, which runs on the steady clock from the arrival of the camera message. Sets leave in the
order of the camera's stamps. Every message ends in exactly one outcome (`Synchroniser.counts`).

**Backward jumps** (a looped bag, a restarted simulation) reach the streams one after the other, so
each stream has its own timeline. If a stream jumps before the camera, its new messages are kept
apart until the camera follows, and its old ones still serve camera messages from before the jump.
If it jumps after the camera, its messages count as old as long as their stamps are nearer to the
camera's last stamp before the jump than to its newest one. Nothing is matched across a jump.
"""

import math
import threading
from bisect import insort
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from itertools import takewhile
from statistics import median
from typing import Any

from mmsam_ros._util import Checked, check_word, ranged
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sets import CAMERA, Entry, Outcome, SyncedSet

LEARNED, MARGIN = 10, 0.8  # intervals that are looked at; share of the shortest to rely on
ALONE = 10  # messages of camera and sensor each without a match, after which the sensor is named
_RANKS = {"used": 3, "held": 2, "refused": 1, "dropped": 0}  # which set counts for a shared message


@dataclass(frozen=True)
class AuxiliarySync(Checked):
    """How one auxiliary stream is matched; all in seconds."""

    error = RosError
    where = "sync"
    slop: float = ranged(MISSING, 0, below=True)  # largest distance of stamps that matches
    offset: float = ranged(0.0, -86400, 86400)  # added to the stream's stamps
    max_age: float = ranged(0.0, 0, below=True)  # up to it, a message is reused where none matches
    # Shortest time between two messages. A message shortly before the camera's is then taken
    # without waiting for the next one. 0: unknown, always wait; negative: learned.
    min_interval: float = ranged(0.0, -3600, 3600)


@dataclass(frozen=True)
class SyncConfig(Checked):
    """How all streams are matched."""

    error = RosError
    where = "sync"
    auxiliaries: Mapping[str, AuxiliarySync]  # by stream
    deadline: float = ranged(MISSING, 0, below=True)  # longest wait of a camera message, seconds
    queue: int = ranged(30, 1)  # messages that each stream buffers at most
    jump: float = ranged(0.05, 0, below=True)  # s; a stamp this far before the newest is a jump

    def check(self) -> None:
        self.require(CAMERA not in self.auxiliaries, "auxiliaries", f"streams besides {CAMERA!r}")


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


@dataclass
class _Alone:
    """What arrived from camera and sensor since their last match."""

    apart: deque[int] = field(default_factory=lambda: deque(maxlen=ALONE))  # ns, by message
    images: int = 0  # of the camera

    def reset(self) -> None:
        self.apart.clear()
        self.images = 0


class _Auxiliary:
    """Buffers and timeline of one auxiliary stream."""

    def __init__(self, config: AuxiliarySync, queue: int) -> None:
        self.set(config)
        self.intervals: deque[int] = deque(maxlen=LEARNED)  # the last ones between two messages
        self.buffer: list[Entry] = []  # the camera's timeline, in order of time
        self.ahead: list[Entry] = []  # after this stream's own jump, until the camera follows
        self.newest: int | None = None  # of the present timeline
        self.split: int | None = None  # end of the old timeline while only one side has jumped
        self.leads = False  # while split: whether this stream has jumped, or the camera
        self.expected = True  # whether camera messages wait for this stream
        self.closed: deque[tuple[int, float]] = deque(maxlen=queue)  # (camera time, distance)

    def set(self, config: AuxiliarySync) -> None:
        self.slop, self.offset = _ns(config.slop), _ns(config.offset)
        self.max_age, self.min_interval = _ns(config.max_age), _ns(config.min_interval)

    def complete(self, camera: int) -> bool:
        """Whether no message nearer to a camera message of this time can still come."""
        if not self.expected:
            return True
        if self.split is not None:
            return self.leads
        if self.newest is None:
            return False
        return 2 * max(0, camera - self.newest) <= self._least_interval()

    def _least_interval(self) -> int:
        """Time within which the sensor sends no second message."""
        if self.min_interval >= 0:
            return self.min_interval
        return round(MARGIN * min(self.intervals)) if len(self.intervals) == LEARNED else 0

    def match(self, camera: int) -> tuple[Entry | None, bool]:
        """The entry for a camera message (the newer of two equally near ones), whether held."""
        nearest = min(reversed(self.buffer), key=lambda e: abs(e.time_ns - camera), default=None)
        distance = math.inf if nearest is None else abs(nearest.time_ns - camera)
        self.closed.append((camera, distance))
        if distance <= self.slop:
            return nearest, False
        earlier = [entry for entry in self.buffer if 0 <= camera - entry.time_ns <= self.max_age]
        return (earlier[-1], True) if earlier else (None, False)

    def missed(self, time_ns: int) -> bool:
        """Whether a message of this time would have been the match of a set that has closed."""
        distances = ((abs(camera - time_ns), best) for camera, best in self.closed)
        return any(distance <= self.slop and distance < best for distance, best in distances)

    def useless(self, floor: int) -> list[Entry]:
        """Removes and returns what no camera message at or after `floor` can use."""
        past = [entry for entry in self.buffer if entry.time_ns <= floor]
        keep_last = past and past[-1].time_ns >= floor - max(self.slop, self.max_age)
        out = past[:-1] if keep_last else past
        self.buffer = self.buffer[len(out) :]
        return out

    def overtaken(self, camera: int) -> bool:
        """Whether a camera message shows that the camera follows a jump of this stream."""
        if self.split is None or not self.leads:
            return False
        return _nearer(camera, self.newest or 0, self.split)

    def follow(self) -> list[Entry]:
        """Both sides are past the jump; returns the messages from before it."""
        out, self.buffer, self.ahead, self.split = self.buffer, self.ahead, [], None
        self.closed.clear()
        return out

    def camera_jumped(self, to: int, end: int) -> list[Entry]:
        """The camera went from `end` back to `to`; returns the messages from before the jump."""
        if self.leads and self.split is not None and _nearer(self.newest or 0, to, end):
            return self.follow()
        out = self.follow() + self.follow()
        if self.newest is not None:
            self.split, self.leads = end, False
        return out


def _nearer(time_ns: int, new: int, old: int) -> bool:
    return abs(time_ns - new) < abs(time_ns - old)


class Synchroniser:
    """Thread-safe; `now` is the steady clock in seconds, stamps are nanoseconds."""

    def __init__(self, config: SyncConfig) -> None:
        self._lock = threading.Lock()
        self._deadline, self._jump, self._queue = config.deadline, _ns(config.jump), config.queue
        self._auxiliaries = {n: _Auxiliary(a, config.queue) for n, a in config.auxiliaries.items()}
        self._open: list[tuple[Entry, float]] = []  # camera messages with deadlines, by time
        self._newest: int | None = None  # camera time of the present timeline
        self._floor: int | None = None  # time of the last closed set of the present timeline
        self._unsettled: set[SyncedSet] = set()
        self._ended: deque[tuple[int, str]] = deque(maxlen=1000)
        self._camera_lag: int | None = None  # newest stamp less its arrival, nanoseconds
        self._alone = {name: _Alone() for name in config.auxiliaries}
        self._tallies = {
            name: Counter(dict.fromkeys(("received", "used", "held", "late", "waiting"), 0))
            for name in (CAMERA, *self._auxiliaries)
        }

    def add(self, stream: str, stamp_ns: int, message: Any, now: float) -> list[SyncedSet]:
        """Takes a message of `CAMERA` or an auxiliary; returns the sets that it closed."""
        with self._lock:
            check_word("sync: stream", stream, self._tallies, RosError)
            self._tallies[stream].update(("received", "waiting"))
            sets = self._advance(now)  # sets that were due before this message
            self._compare(stream, stamp_ns, now)
            if stream == CAMERA:
                sets += self._add_camera(Entry(stream, stamp_ns, message, stamp_ns, now), now)
            else:
                auxiliary = self._auxiliaries[stream]
                entry = Entry(stream, stamp_ns, message, stamp_ns + auxiliary.offset, now)
                self._add_auxiliary(auxiliary, entry)
            return sets + self._advance(now)

    def refuse(self, stream: str, stamp_ns: int, reason: str) -> None:
        """Counts a message that is not to be matched."""
        with self._lock:
            self._tallies[stream].update(("received", "waiting"))
            self._evict([Entry(stream, stamp_ns, None, stamp_ns)], f"refused:{reason}")

    def ended(self) -> list[tuple[int, str]]:
        """Stamps of the camera messages that have ended since the last call, and how; at
        most the last 1000.
        """
        with self._lock:
            ended = [*self._ended]
            self._ended.clear()
            return ended

    def poll(self, now: float) -> list[SyncedSet]:
        """Closes the sets whose deadline has passed."""
        with self._lock:
            return self._advance(now)

    def next_deadline(self) -> float | None:
        """Steady time at which `poll` has something to do; None while nothing waits."""
        with self._lock:
            return min((deadline for _, deadline in self._open), default=None)

    def flush(self, now: float) -> list[SyncedSet]:
        """Closes all sets, empties all buffers and forgets all timelines (for a stop)."""
        with self._lock:
            sets = self._advance(now) + self._close(len(self._open))
            for auxiliary in self._auxiliaries.values():
                self._evict(auxiliary.follow() + auxiliary.follow())
                auxiliary.newest = None
            for alone in self._alone.values():
                alone.reset()
            self._newest = self._floor = None
            return sets

    def expect(self, stream: str, expected: bool) -> None:
        """Sets whether camera messages wait for a stream; not for one that nobody publishes."""
        with self._lock:
            self._auxiliaries[stream].expected = expected
            if not expected:
                self._alone[stream].reset()

    def update(self, config: SyncConfig) -> None:
        """Applies other values from now on, except `queue`; a stream whose offset changes begins
        anew. Sets that are open keep their deadline.
        """
        with self._lock:
            self._deadline, self._jump = config.deadline, _ns(config.jump)
            for name, auxiliary in self._auxiliaries.items():
                before = auxiliary.offset
                auxiliary.set(config.auxiliaries[name])
                if auxiliary.offset != before:
                    self._evict(auxiliary.follow() + auxiliary.follow(), "dropped:reset")
                    auxiliary.newest = None
                    self._alone[name].reset()

    def settle(self, synced: SyncedSet, outcome: Outcome) -> None:
        """Counts how a set ended; RosError for one that has been settled already."""
        with self._lock:
            if synced not in self._unsettled:
                raise RosError(f"sync: set of camera stamp {synced.camera.stamp_ns} settled twice")
            self._unsettled.remove(synced)
            for entry in (synced.camera, *synced.auxiliaries.values()):
                entry._sets -= 1
                label = outcome.label(entry.stream, held=entry.stream in synced.held)
                labels = (entry._best or label, label)
                entry._best = max(labels, key=lambda x: _RANKS[x.partition(":")[0]])
                self._finish(entry)

    def counts(self) -> dict[str, dict[str, int]]:
        """Per stream: received, used, held, late, dropped:<reason>, refused:<reason>, waiting."""
        with self._lock:
            return {name: dict(tally) for name, tally in self._tallies.items()}

    def unmatched(self) -> dict[str, float]:
        """Streams that come but never match within slop (what is held is old), with the seconds
        (offset included) by which their stamps are ahead of the camera's, measured by arrival.
        """
        with self._lock:
            deadline = _ns(self._deadline)
            return {
                name: median(alone.apart) * 1e-9
                for name, alone in self._alone.items()
                if len(alone.apart) == ALONE <= alone.images
                and abs(median(alone.apart)) > min(self._auxiliaries[name].slop, deadline)
            }

    def _compare(self, stream: str, stamp_ns: int, now: float) -> None:
        lag = stamp_ns - _ns(now)
        if stream == CAMERA:
            self._camera_lag = lag
            for alone in self._alone.values():
                alone.images += 1
        elif self._camera_lag is not None:
            offset = self._auxiliaries[stream].offset
            self._alone[stream].apart.append(lag + offset - self._camera_lag)

    def _add_camera(self, entry: Entry, now: float) -> list[SyncedSet]:
        time_ns, end, sets = entry.time_ns, self._newest, []
        streams = self._auxiliaries.values()
        if end is not None and time_ns < end - self._jump:
            sets = self._close(len(self._open))
            self._newest = self._floor = None
            for auxiliary in streams:
                self._evict(auxiliary.camera_jumped(time_ns, end), "dropped:reset")
        elif leaders := [auxiliary for auxiliary in streams if auxiliary.overtaken(time_ns)]:
            sets = self._close(len(self._open))
            for auxiliary in leaders:
                self._evict(auxiliary.follow(), "dropped:reset")
        if self._floor is not None and time_ns < self._floor:
            self._evict([entry], "late")
            return sets
        insort(self._open, (entry, now + self._deadline), key=lambda frame: frame[0].time_ns)
        self._newest = time_ns if self._newest is None else max(time_ns, self._newest)
        return sets

    def _add_auxiliary(self, auxiliary: _Auxiliary, entry: Entry) -> None:
        time_ns, end = entry.time_ns, auxiliary.newest
        jumped = end is not None and time_ns < end - self._jump
        if end is not None and time_ns > end:
            auxiliary.intervals.append(time_ns - end)
        auxiliary.newest = time_ns if end is None or jumped else max(end, time_ns)
        if auxiliary.split is not None and not auxiliary.leads:  # the camera has jumped before
            if not jumped and not _nearer(time_ns, self._newest or 0, auxiliary.split):
                self._evict([entry], "dropped:reset")
                return
            auxiliary.split = None
        elif jumped:
            self._evict(auxiliary.ahead, "dropped:reset")  # of a jump before this one
            auxiliary.ahead, auxiliary.split, auxiliary.leads = [], end, True
        if auxiliary.split is None and auxiliary.missed(time_ns):
            entry._fallback = "late"
        buffer = auxiliary.buffer if auxiliary.split is None else auxiliary.ahead
        insort(buffer, entry, key=lambda other: other.time_ns)
        if len(buffer) > self._queue:
            self._evict([buffer.pop(0)], "dropped:overflow")

    def _advance(self, now: float) -> list[SyncedSet]:
        """Closes what is complete or due, with all before it, and what the queue cannot hold."""
        streams = self._auxiliaries.values()
        due = [index + 1 for index, (_, deadline) in enumerate(self._open) if deadline <= now]
        times = (camera.time_ns for camera, _ in self._open)
        complete = list(takewhile(lambda t: all(s.complete(t) for s in streams), times))
        sets = self._close(max([*due, len(complete), len(self._open) - self._queue, 0]))
        for auxiliary in streams:
            if self._floor is not None:
                self._evict(auxiliary.useless(self._floor))
        return sets

    def _close(self, count: int) -> list[SyncedSet]:
        """Closes the first `count` sets with the messages that are there."""
        frames, self._open = self._open[:count], self._open[count:]
        sets = []
        for camera, _ in frames:
            matches = {name: a.match(camera.time_ns) for name, a in self._auxiliaries.items()}
            synced = SyncedSet(
                camera,
                {name: entry for name, (entry, _) in matches.items() if entry is not None},
                frozenset(name for name, (_, held) in matches.items() if held),
            )
            for entry in (camera, *synced.auxiliaries.values()):
                entry._sets += 1
            for name in synced.auxiliaries.keys() - synced.held:
                self._alone[name].reset()
            camera._buffered = False
            self._floor = camera.time_ns
            self._unsettled.add(synced)
            sets.append(synced)
        return sets

    def _evict(self, entries: list[Entry], fallback: str | None = None) -> None:
        """Removes entries from their buffer; `fallback` is the outcome of those without a set."""
        for entry in entries:
            entry._buffered = False
            entry._fallback = fallback or entry._fallback
            self._finish(entry)

    def _finish(self, entry: Entry) -> None:
        """Counts an entry that nothing holds any more."""
        if not entry._buffered and not entry._sets:
            tally = self._tallies[entry.stream]
            tally["waiting"] -= 1
            end = entry._best or entry._fallback
            tally[end] += 1
            if entry.stream == CAMERA:
                self._ended.append((entry.stamp_ns, end))
