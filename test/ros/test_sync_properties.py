# SPDX-License-Identifier: Apache-2.0
"""The synchroniser under random traffic: the books balance, nothing is matched wrongly."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sync_feed import MS, USED, Feed

from mmsam_ros.ros.sets import CAMERA, Entry, Outcome, SyncedSet
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser
from mmsam_ros.sensors import Refusal

STREAMS = ("lidar", "thermal")


@st.composite
def bags(draw: st.DrawFn) -> tuple[SyncConfig, list[tuple[float, str, int, int]]]:
    """A looped bag as it arrives: (steady ms, stream, stamp ms, loop), late by up to an eighth."""
    length = draw(st.sampled_from([800, 2000, 4000]))
    offsets = {name: draw(st.sampled_from([-150, 0, 40])) for name in STREAMS}
    events = []
    for stream in (CAMERA, *STREAMS):
        period = draw(st.sampled_from([50, 70, 100]))
        phase = draw(st.integers(0, 30))
        delays = st.integers(0, length // 8)
        out = draw(st.integers(0, length * 3 // 10))  # silent for the last part of each loop
        lost = draw(st.sets(st.integers(0, 20)))
        arrival = 0.0
        for loop in range(draw(st.integers(2, 3))):
            times = range(phase, length - out, period)
            for index, time in enumerate(times):
                if index in lost and stream != CAMERA and time not in (times[0], times[-1]):
                    continue
                arrival = max(arrival, loop * length + time + draw(delays))
                stamp = time - offsets.get(stream, 0)
                events.append((arrival, stream, stamp, loop))
    config = SyncConfig(
        {
            name: AuxiliarySync(
                slop=draw(st.sampled_from([0.0, 0.02, 0.05])),
                offset=offsets[name] / 1e3,
                max_age=draw(st.sampled_from([0.0, 0.15, 0.4])),
            )
            for name in STREAMS
        },
        deadline=draw(st.sampled_from([0.0, 0.03, 0.5])),
        queue=100,
    )
    return config, sorted(events, key=lambda event: event[0])


@settings(max_examples=150)
@given(bags())
def test_every_frame_of_a_looped_bag_gets_exactly_what_had_arrived_for_it(
    bag: tuple[SyncConfig, list[tuple[float, str, int, int]]],
) -> None:
    """Against a brute-force oracle: the best of all messages of its loop that were there."""
    config, events = bag
    sync = Feed(Synchroniser(config))
    arrived: dict[str, list[tuple[int, int]]] = {name: [] for name in STREAMS}

    def expect(sets: list[SyncedSet]) -> None:
        for synced in sets:
            loop, camera = synced.camera.message
            for name, auxiliary in config.auxiliaries.items():
                entry = synced.auxiliaries.get(name)
                there = [time for of, time in arrived[name] if of == loop]
                near = [abs(time - camera) for time in there]
                held = [time for time in there if 0 <= camera - time <= auxiliary.max_age * 1e3]
                if near and min(near) <= auxiliary.slop * 1e3:
                    assert entry is not None
                    assert (entry.message[0], abs(entry.message[1] - camera)) == (loop, min(near))
                elif held:
                    assert entry is not None
                    assert entry.message == (loop, max(held))
                else:
                    assert entry is None
                assert (name in synced.held) == (
                    entry is not None and min(near) > auxiliary.slop * 1e3
                )

    for arrival, stream, stamp, loop in events:
        expect(sync.until(int(arrival)))
        time = stamp + round(config.auxiliaries[stream].offset * 1e3) if stream != CAMERA else stamp
        if stream != CAMERA:
            arrived[stream].append((loop, time))
        expect(sync(stream, stamp, (loop, time)))
        sync.check()
    expect(sync.collect(sync.sync.flush(1e6)))
    frames = [synced.camera.message for synced in sync.sets]
    assert frames == [(loop, stamp) for _, stream, stamp, loop in events if stream == CAMERA]
    assert all(tally["waiting"] == 0 for tally in sync.check().values())


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes in whatever order: nothing is lost, counted twice or out of bounds."""

    slop, max_age, queue, jump = 20, 150, 4, 50

    @initialize(deadline=st.sampled_from([0.0, 0.05]))
    def start(self, deadline: float) -> None:
        auxiliaries = {
            "lidar": AuxiliarySync(self.slop / 1e3),
            "thermal": AuxiliarySync(self.slop / 1e3, 0.01, self.max_age / 1e3, 0.04),
        }
        self.sync = Synchroniser(SyncConfig(auxiliaries, deadline, self.queue, self.jump / 1e3))
        self.now = 0
        self.unsettled: list[SyncedSet] = []
        self.sent: Counter[str] = Counter()
        self.served: dict[Entry, int] = {}  # auxiliary message -> timeline of its first frame
        self.left: list[int] = []  # camera messages that have left, by number
        self.last = (0, 0)  # timeline and stamp of the last frame that left
        self.timeline, self.newest = 0, -1  # number of jumps, newest camera stamp since the last

    def take(self, sets: list[SyncedSet]) -> None:
        for synced in sets:
            camera = synced.camera.stamp_ns // MS
            timeline, number = synced.camera.message
            assert number not in self.left
            self.left.append(number)
            assert self.last <= (timeline, camera)
            self.last = timeline, camera
            for name, entry in synced.auxiliaries.items():
                # what served one timeline of the camera never serves the next
                assert self.served.setdefault(entry, timeline) == timeline
                age = (synced.camera.time_ns - entry.time_ns) // MS
                if name in synced.held:
                    assert self.slop < age <= self.max_age
                else:
                    assert abs(age) <= self.slop
        self.unsettled += sets

    @rule(
        stream=st.sampled_from((CAMERA, *STREAMS)), stamp=st.integers(0, 30), wait=st.integers(0, 9)
    )
    def message(self, stream: str, stamp: int, wait: int) -> None:
        self.now += wait
        self.sent[stream] += 1
        if stream == CAMERA:
            if stamp * 10 < self.newest - self.jump:
                self.timeline, self.newest = self.timeline + 1, -1
            self.newest = max(stamp * 10, self.newest)
        message = self.timeline, self.sent[stream]
        self.take(self.sync.add(stream, stamp * 10 * MS, message, self.now / 1e3))

    @rule(wait=st.integers(0, 60))
    def poll(self, wait: int) -> None:
        self.now += wait
        self.take(self.sync.poll(self.now / 1e3))
        deadline = self.sync.next_deadline()
        assert deadline is None or deadline > self.now / 1e3

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if self.unsettled:
            synced = self.unsettled.pop(data.draw(st.integers(0, len(self.unsettled) - 1)))
            refused = {
                name: Refusal(name, "x", "")
                for name in synced.auxiliaries
                if data.draw(st.booleans())
            }
            end: Any = data.draw(st.sampled_from(["used", "dropped", "refused"]))
            self.sync.settle(synced, Outcome(end, "" if end == "used" else "x", "", refused))

    @rule()
    def flush(self) -> None:
        self.take(self.sync.flush(self.now / 1e3))
        self.timeline, self.newest = self.timeline + 1, -1

    @invariant()
    def all_accounted_for(self) -> None:
        counts = self.sync.counts()
        held = {entry for s in self.unsettled for entry in (s.camera, *s.auxiliaries.values())}
        for stream, tally in counts.items():
            ends = sum(value for key, value in tally.items() if key not in ("received", "waiting"))
            assert tally["received"] == self.sent[stream] == ends + tally["waiting"]
            in_sets = sum(entry.stream == stream for entry in held)
            assert in_sets <= tally["waiting"] <= in_sets + 2 * self.queue

    def teardown(self) -> None:
        if hasattr(self, "sync"):
            self.flush()
            for synced in self.unsettled:
                self.sync.settle(synced, USED)
            counts = self.sync.counts()
            assert all(tally["waiting"] == 0 for tally in counts.values())
            late = counts[CAMERA]["late"]
            assert len(self.left) == self.sent[CAMERA] - late  # every frame in one set, or late


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestAnyOrder = AnyOrder.TestCase


def test_threads_share_it() -> None:
    """Four producers and a settling worker at once: the books still balance."""
    sync = Synchroniser(SyncConfig({name: AuxiliarySync(0.02) for name in STREAMS}, deadline=0.01))
    start = threading.Barrier(4)
    closed: list[SyncedSet] = []

    def produce(stream: str | None) -> None:
        start.wait()
        for step in range(2000):
            now = step / 10
            sets = (
                sync.poll(now) if stream is None else sync.add(stream, step * 100 * MS, None, now)
            )
            for synced in sets:
                closed.append(synced)
                sync.settle(synced, USED)

    threads = [threading.Thread(target=produce, args=(name,)) for name in (CAMERA, *STREAMS, None)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for synced in sync.flush(1e6):
        closed.append(synced)
        sync.settle(synced, USED)
    counts = sync.counts()
    assert len(closed) + counts[CAMERA]["late"] == 2000
    for tally in counts.values():
        assert tally["waiting"] == 0
        assert sum(tally.values()) == 2 * tally["received"] == 4000
