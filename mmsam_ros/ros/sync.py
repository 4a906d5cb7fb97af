# SPDX-License-Identifier: Apache-2.0
"""Camera-driven synchroniser: each camera message gets the auxiliary messages that belong to it.

Pure Python without ROS, threads or a clock of its own: header stamps and the steady time come in
as arguments, closed sets go out as return values, so that no code of the caller runs in the lock.

Matching compares header stamps. A set closes when no nearer auxiliary message can come, or at the
deadline, which runs on the steady clock from the arrival of the camera message. Sets leave in the
order of the camera's stamps. Every message ends in exactly one outcome (`Synchroniser.counts`).

**Backward jumps** (a looped bag, a restarted simulation) reach the streams one after the other.
Each stream therefore has its own timeline. A stream that jumps before the camera keeps its new
messages apart until the camera follows, and its old ones for the old camera frames that are still
on their way; one that jumps after the camera is expected to, and its stragglers are told apart by
being nearer to where the camera's time was than to where it is. Nothing is matched across a jump.
"""

from __future__ import annotations

import math
import threading
from bisect import insort
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from mmsam_ros.ros.errors import RosError

CAMERA = "camera"
OUTCOMES = ("used", "held", "late")  # besides "dropped:<reason>" and "refused:<reason>"
LEARNED, MARGIN = 10, 0.8  # intervals that are looked at; share of the least that is relied on
_USED, _HELD, _REFUSED, _DROPPED = 3, 2, 1, 0  # which set's outcome counts for a shared message


@dataclass(frozen=True)
class AuxiliarySync:
    """How one auxiliary stream is matched; all in seconds.

    `stamp + offset` is compared with the camera's stamp. `slop`: greatest distance of a match.
    `max_age`: an earlier message outside `slop` is reused ("held") up to this age. `min_interval`:
    least time between two messages of the sensor; one that is stamped just before the camera then
    need not be waited for. 0: unknown, every frame waits; None: learned from the stream.
    """

    slop: float
    offset: float = 0.0
    max_age: float = 0.0
    min_interval: float | None = 0.0


@dataclass(frozen=True)
class SyncConfig:
    """`deadline`, `jump`: seconds. `queue`: messages a stream buffers, frames that wait at most.

    A stamp that is more than `jump` before its stream's newest is a jump of time, not disorder.
    """

    auxiliaries: Mapping[str, AuxiliarySync]
    deadline: float
    queue: int = 30
    jump: float = 0.05

    def __post_init__(self) -> None:
        values = {"deadline": self.deadline, "jump": self.jump}
        for name, auxiliary in self.auxiliaries.items():
            if name == CAMERA:
                raise RosError(f"sync: {CAMERA!r} is the reference and cannot be an auxiliary")
            given = {key: value for key, value in vars(auxiliary).items() if value is not None}
            values |= {f"{name}.{key}": value for key, value in given.items()}
        for key, value in values.items():
            if not math.isfinite(value) or (value < 0 and not key.endswith(".offset")):
                raise RosError(f"sync: {key} is {value}, expected a finite time >= 0 s")
        if self.queue < 1:
            raise RosError(f"sync: queue is {self.queue}, expected >= 1")


@dataclass(eq=False, slots=True)
class Entry:
    """One message. `decoded` is free for the user's converted value, shared by all its sets."""

    stream: str
    stamp_ns: int  # header stamp as sent
    message: Any
    time_ns: int  # stamp + offset: on the camera's clock
    arrival: float = 0.0  # steady clock, seconds
    decoded: Any = None
    _sets: int = field(default=0, repr=False)  # unsettled sets that hold it
    _buffered: bool = field(default=True, repr=False)
    _best: tuple[int, str] | None = field(default=None, repr=False)  # outcome of settled sets
    _fallback: str = field(default="dropped:unmatched", repr=False)  # where no set held it


@dataclass(frozen=True, eq=False)
class SyncedSet:
    """A camera message with what belongs to it; a stream without a match is missing.

    `held` names the streams whose message is older than their slop. To be settled exactly once.
    """

    camera: Entry
    auxiliaries: Mapping[str, Entry]
    held: frozenset[str]


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


class _Auxiliary:
    """Buffers and timeline of one auxiliary stream."""

    def __init__(self, config: AuxiliarySync, queue: int) -> None:
        self.slop, self.offset = _ns(config.slop), _ns(config.offset)
        self.max_age = _ns(config.max_age)
        learns = config.min_interval is None
        self.min_interval = None if learns else _ns(config.min_interval or 0.0)
        self.intervals: deque[int] = deque(maxlen=LEARNED)  # the last ones between two messages
        self.buffer: list[Entry] = []  # the camera's timeline, in order of time
        self.ahead: list[Entry] = []  # after this stream's own jump, until the camera follows
        self.newest: int | None = None  # of the present timeline
        self.split: int | None = None  # where the timeline ended that one side has left
        self.expected = True  # whether frames wait for this stream
        self.leads = False  # while split: this stream has jumped, the camera has not; or vice versa
        self.closed: deque[tuple[int, float]] = deque(maxlen=queue)  # frames: (time, distance)

    def complete(self, camera: int) -> bool:
        """Whether no message can still come that is nearer to a camera message of this time."""
        if not self.expected:
            return True
        if self.split is not None:
            return self.leads
        if self.newest is None:
            return False
        return 2 * max(0, camera - self.newest) <= self._least_interval()

    def _least_interval(self) -> int:
        """Time within which the sensor sends no second message."""
        if self.min_interval is not None:
            return self.min_interval
        return round(MARGIN * min(self.intervals)) if len(self.intervals) == LEARNED else 0

    def match(self, camera: int) -> tuple[Entry | None, bool]:
        """The entry for a camera message (the newer of two equally near ones), whether held."""
        nearest = min(reversed(self.buffer), key=lambda e: abs(e.time_ns - camera), default=None)
        distance = math.inf if nearest is None else abs(nearest.time_ns - camera)
        if distance <= self.slop:
            self.closed.append((camera, distance))
            return nearest, False
        self.closed.append((camera, math.inf))
        earlier = [entry for entry in self.buffer if 0 <= camera - entry.time_ns <= self.max_age]
        return (earlier[-1], True) if earlier else (None, False)

    def missed(self, time_ns: int) -> bool:
        """Whether a message of this time would have been the match of a frame that has closed."""
        distances = ((abs(camera - time_ns), best) for camera, best in self.closed)
        return any(distance <= self.slop and distance < best for distance, best in distances)

    def useless(self, floor: int) -> list[Entry]:
        """Takes out what no camera message at or after `floor` can want."""
        past = [entry for entry in self.buffer if entry.time_ns <= floor]
        keep_last = past and past[-1].time_ns >= floor - max(self.slop, self.max_age)
        out = past[:-1] if keep_last else past
        self.buffer = self.buffer[len(out) :]
        return out

    def overtaken(self, camera: int) -> bool:
        """Whether a camera message shows that the camera follows a jump of this stream."""
        if self.split is None or not self.leads or self.newest is None:
            return False
        return _nearer(camera, self.newest, self.split)

    def follow(self) -> list[Entry]:
        """Both sides are past the jump; returns what was left on the other side of it."""
        out, self.buffer, self.ahead, self.split = self.buffer, self.ahead, [], None
        self.closed.clear()
        return out

    def camera_jumped(self, to: int, end: int) -> list[Entry]:
        """The camera went from `end` back to `to`; returns what was left behind."""
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
        self._auxiliaries = {
            name: _Auxiliary(auxiliary, config.queue)
            for name, auxiliary in config.auxiliaries.items()
        }
        self._open: list[tuple[Entry, float]] = []  # camera messages with deadlines, by time
        self._newest: int | None = None  # camera time of the present timeline
        self._floor: int | None = None  # time of the last closed frame of the present timeline
        self._unsettled: set[SyncedSet] = set()
        self._tallies = {
            name: Counter(dict.fromkeys(("received", *OUTCOMES, "waiting"), 0))
            for name in (CAMERA, *self._auxiliaries)
        }

    def add(self, stream: str, stamp_ns: int, message: Any, now: float) -> list[SyncedSet]:
        """Takes a message of `CAMERA` or an auxiliary; returns the sets that this closed."""
        with self._lock:
            if stream not in self._tallies:
                raise RosError(f"sync: no stream {stream!r}, there are {sorted(self._tallies)}")
            self._tallies[stream].update(("received", "waiting"))
            sets = self._advance(now)  # what was due before this message cannot have it
            if stream == CAMERA:
                sets += self._add_camera(Entry(stream, stamp_ns, message, stamp_ns, now), now)
            else:
                auxiliary = self._auxiliaries[stream]
                entry = Entry(stream, stamp_ns, message, stamp_ns + auxiliary.offset, now)
                self._add_auxiliary(auxiliary, entry)
            return sets + self._advance(now)

    def poll(self, now: float) -> list[SyncedSet]:
        """Closes the sets whose deadline has passed."""
        with self._lock:
            return self._advance(now)

    def next_deadline(self) -> float | None:
        """Steady time at which `poll` has something to do; None while no frame waits."""
        with self._lock:
            return min((deadline for _, deadline in self._open), default=None)

    def flush(self, now: float) -> list[SyncedSet]:
        """Closes all frames, empties all buffers and forgets all timelines (for a stop)."""
        with self._lock:
            sets = self._advance(now) + self._close(len(self._open))
            for auxiliary in self._auxiliaries.values():
                self._evict(auxiliary.follow() + auxiliary.follow())
                auxiliary.newest = None
            self._newest = self._floor = None
            return sets

    def expect(self, stream: str, expected: bool) -> None:
        """Whether frames wait for a stream: one that nobody publishes must cost no time."""
        with self._lock:
            self._auxiliaries[stream].expected = expected

    def settle(
        self,
        synced: SyncedSet,
        outcome: Literal["used", "dropped", "refused"],
        reason: str = "busy",
        refused: Mapping[str, str] | None = None,
    ) -> None:
        """Says what became of a set: published, dropped or refused for `reason`.

        `refused` gives reasons for single auxiliaries, whatever became of the camera message. The
        other auxiliaries of a refused set count as "dropped:camera".
        """
        labels = {"used": "used", "dropped": f"dropped:{reason}", "refused": f"refused:{reason}"}
        if outcome not in labels:
            raise RosError(f"sync: outcome {outcome!r}, expected one of {sorted(labels)}")
        with self._lock:
            if synced not in self._unsettled:
                raise RosError(f"sync: set of camera stamp {synced.camera.stamp_ns} settled twice")
            self._unsettled.remove(synced)
            self._release(synced.camera, (_USED, labels[outcome]))
            for name, entry in synced.auxiliaries.items():
                if name in (refused or {}):
                    self._release(entry, (_REFUSED, f"refused:{(refused or {})[name]}"))
                elif outcome == "used":
                    held = name in synced.held
                    self._release(entry, (_HELD, "held") if held else (_USED, "used"))
                else:
                    label = labels["dropped"] if outcome == "dropped" else "dropped:camera"
                    self._release(entry, (_DROPPED, label))

    def counts(self) -> dict[str, dict[str, int]]:
        """Per stream: received, used, held, late, dropped:<reason>, refused:<reason>, waiting."""
        with self._lock:
            return {name: dict(tally) for name, tally in self._tallies.items()}

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
        """Closes what is complete or due (with all before it), and what the queue cannot hold."""
        due = [index + 1 for index, (_, deadline) in enumerate(self._open) if deadline <= now]
        complete = takewhile(lambda frame: self._complete(frame[0]), self._open)
        sets = self._close(max(*due, len(list(complete)), len(self._open) - self._queue, 0, 0))
        for auxiliary in self._auxiliaries.values():
            if self._floor is not None:
                self._evict(auxiliary.useless(self._floor))
        return sets

    def _complete(self, camera: Entry) -> bool:
        return all(auxiliary.complete(camera.time_ns) for auxiliary in self._auxiliaries.values())

    def _close(self, count: int) -> list[SyncedSet]:
        """Closes the first `count` frames with what there is."""
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
            camera._buffered = False
            self._floor = camera.time_ns
            self._unsettled.add(synced)
            sets.append(synced)
        return sets

    def _evict(self, entries: list[Entry], fallback: str | None = None) -> None:
        """Entries leave their buffer; `fallback` is the outcome of those that no set has held."""
        for entry in entries:
            entry._buffered = False
            entry._fallback = fallback or entry._fallback
            self._finish(entry)

    def _release(self, entry: Entry, outcome: tuple[int, str]) -> None:
        entry._sets -= 1
        entry._best = max(entry._best or outcome, outcome, key=lambda ranked: ranked[0])
        self._finish(entry)

    def _finish(self, entry: Entry) -> None:
        """Counts an entry that nothing holds any more."""
        if not entry._buffered and not entry._sets:
            tally = self._tallies[entry.stream]
            tally["waiting"] -= 1
            tally[entry._best[1] if entry._best else entry._fallback] += 1
