# SPDX-License-Identifier: Apache-2.0
"""The worker: newest wins while busy, nothing lost while idle, deadlines are kept."""

from __future__ import annotations

import threading
import time

import pytest

from mmsam_ros.ros.sets import CAMERA, OUT_OF_MEMORY, Outcome, SyncedSet
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser
from mmsam_ros.ros.worker import STUCK, STUCK_FIRST, FullMemory, Pace, Worker

WAIT = 600.0  # seconds after which a test hangs, on any machine


class Log:
    """Collects what the worker does; `gate` holds it in the middle of a set."""

    def __init__(self) -> None:
        self.sync: Synchroniser | None = None
        self.done: list[int] = []
        self.dropped: list[tuple[int, str]] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.finished = threading.Semaphore(0)

    def process(self, synced: SyncedSet) -> Outcome:
        self.entered.release()
        assert self.gate.wait(WAIT)
        return Outcome("used")

    def settle(self, synced: SyncedSet, outcome: Outcome) -> None:
        """The synchroniser raises if a set is settled twice."""
        assert self.sync is not None
        self.sync.settle(synced, outcome)
        if outcome.end == "dropped":
            self.dropped.append((synced.camera.stamp_ns, outcome.reason))
        else:
            self.done.append(synced.camera.stamp_ns)
            self.finished.release()

    def counts(self) -> dict[str, int]:
        """Of the camera, where they are not 0; every message must have ended."""
        assert self.sync is not None
        for tally in self.sync.counts().values():
            assert tally["waiting"] == 0
            assert sum(tally.values()) == 2 * tally["received"]
        return {k: n for k, n in self.sync.counts()[CAMERA].items() if n and k != "received"}


def make(log: Log, deadline: float = 0.0) -> Worker:
    streams = {"lidar": AuxiliarySync(slop=0.01)} if deadline else {}
    log.sync = Synchroniser(SyncConfig(streams, deadline=deadline))
    worker = Worker(log.sync, log.process, log.settle)
    worker.start()
    return worker


def test_newest_wins_while_busy() -> None:
    log = Log()
    worker = make(log)
    worker.feed(CAMERA, 1, None, time.monotonic())
    assert log.entered.acquire(timeout=WAIT)  # busy with frame 1
    for stamp in (2, 3, 4):
        worker.feed(CAMERA, stamp, None, time.monotonic())
    log.gate.set()
    assert log.finished.acquire(timeout=WAIT)
    assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert (log.done, log.dropped) == ([1, 4], [(2, "busy"), (3, "busy")])
    assert log.counts() == {"used": 2, "dropped:busy": 2}


@pytest.mark.parametrize(
    ("period", "took", "most"),
    [(0.1, 0.02, 4), (0.1, 0.045, 2), (0.1, 0.06, 1), (0.1, 0.3, 1), (0.0, 0.02, 1)],
)
def test_as_many_sets_wait_as_the_time_to_the_next_image_allows(
    period: float, took: float, most: int
) -> None:
    pace = Pace()
    assert pace.waiting == 1, "nothing is known"
    for number in range(9):
        pace.arrived(100 + number * period + (0.01 if number == 4 else 0))  # one is late
        pace.took(took if number != 6 else 5 * took)
    assert pace.waiting == most


def test_sets_that_close_together_are_processed_where_there_is_time() -> None:
    """Images come every ten seconds, by their arrival, and a set takes much less."""
    log = Log()
    log.gate.set()
    worker = make(log, deadline=WAIT)
    now = time.monotonic()
    for stamp in range(1, 6):
        worker.feed(CAMERA, stamp * 10**9, None, now + 10 * stamp)
        worker.feed("lidar", stamp * 10**9, None, now + 10 * stamp)
        assert log.finished.acquire(timeout=WAIT)
    while log.entered.acquire(blocking=False):
        pass
    log.gate.clear()
    worker.feed(CAMERA, 6 * 10**9, None, now + 60)
    worker.feed("lidar", 6 * 10**9, None, now + 60)
    assert log.entered.acquire(timeout=WAIT)  # busy
    for stamp in (7, 8):
        worker.feed(CAMERA, stamp * 10**9, None, now + 10 * stamp)
    worker.feed("lidar", 10**12, None, now + 81)  # completes both
    log.gate.set()
    for _ in range(3):
        assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert (log.done[-3:], log.dropped) == ([k * 10**9 for k in (6, 7, 8)], [])


def test_sets_that_close_together_while_idle_are_all_processed() -> None:
    log = Log()
    log.gate.set()
    worker = make(log, deadline=WAIT)  # far beyond what this takes
    now = time.monotonic()
    for stamp in (1, 2, 3):  # all wait for the LiDAR, whose next message completes them
        worker.feed(CAMERA, stamp, None, now)
    worker.feed("lidar", 4, None, now)
    for _ in range(3):
        assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert (log.done, log.dropped) == ([1, 2, 3], [])


def test_a_deadline_passes_without_further_messages() -> None:
    log = Log()
    log.gate.set()
    worker = make(log, deadline=0.05)
    worker.feed(CAMERA, 7, None, time.monotonic())
    assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert log.done == [7]


def test_stopping_drops_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    worker = make(log)
    worker.feed(CAMERA, 1, None, time.monotonic())
    assert log.entered.acquire(timeout=WAIT)
    worker.feed(CAMERA, 2, None, time.monotonic())
    # the worker is told to stop before its thread is waited for
    join = worker.join
    monkeypatch.setattr(worker, "join", lambda _: (log.gate.set(), join(WAIT)))
    worker.stop()
    assert (log.done, log.dropped) == ([1], [(2, "shutdown")])
    assert log.counts() == {"used": 1, "dropped:shutdown": 1}


def test_stopping_drops_frames_that_wait_for_a_sensor() -> None:
    log = Log()
    log.gate.set()
    worker = make(log, deadline=WAIT)
    for stamp in (1, 2):
        worker.feed(CAMERA, stamp, None, time.monotonic())
    worker.feed("lidar", 10**12, None, time.monotonic())  # completes both, and waits itself
    worker.feed(CAMERA, 2 * 10**12, None, time.monotonic())
    assert log.finished.acquire(timeout=WAIT)
    assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert (log.done, log.dropped) == ([1, 2], [(2 * 10**12, "shutdown")])
    assert log.counts() == {"used": 2, "dropped:shutdown": 1}


def test_a_message_that_closes_nothing_drops_nothing() -> None:
    """Sets that closed while idle are all processed, also if messages come in meanwhile."""
    log = Log()
    worker = make(log, deadline=WAIT)
    for stamp in (1, 2, 3):
        worker.feed(CAMERA, stamp, None, time.monotonic())
    worker.feed("lidar", 4, None, time.monotonic())  # closes all three
    assert log.entered.acquire(timeout=WAIT)
    worker.feed("lidar", 5, None, time.monotonic())
    log.gate.set()
    for _ in range(3):
        assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert (log.done, log.dropped) == ([1, 2, 3], [])


def test_what_came_due_while_busy_is_not_processed_late() -> None:
    """Frames whose deadline passes during inference: only the newest is worth a pass."""
    log = Log()
    worker = make(log, deadline=0.01)
    worker.feed(CAMERA, 10**9, None, time.monotonic())
    assert log.entered.acquire(timeout=WAIT)
    past = time.monotonic() - 1.0  # already due when the worker comes back
    for stamp in (2, 3, 4):
        worker.feed(CAMERA, stamp * 10**9, None, past)
    log.gate.set()
    assert log.finished.acquire(timeout=WAIT)
    assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert log.done == [10**9, 4 * 10**9]
    assert log.dropped == [(2 * 10**9, "busy"), (3 * 10**9, "busy")]


def test_a_set_that_does_not_end_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopping waits for a while alone; the set is settled when it ends."""
    monkeypatch.setattr("mmsam_ros.ros.worker.PATIENCE", 0.05)
    log = Log()
    worker = make(log)
    worker.feed(CAMERA, 1, None, time.monotonic())
    assert log.entered.acquire(timeout=WAIT)
    worker.feed(CAMERA, 2, None, time.monotonic())
    worker.stop()
    assert worker.is_alive()
    assert (log.done, log.dropped) == ([], [(2, "shutdown")])
    log.gate.set()
    worker.join(WAIT)
    assert not worker.is_alive()
    assert log.counts() == {"used": 1, "dropped:shutdown": 1}


def test_a_worker_that_was_stopped_takes_nothing_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its last set outlasts the stop, and images of the next worker come due meanwhile."""
    monkeypatch.setattr("mmsam_ros.ros.worker.PATIENCE", 0.05)
    log, later = Log(), Log()
    stopped = make(log, deadline=0.01)
    stopped.feed(CAMERA, 1, None, time.monotonic())
    assert log.entered.acquire(timeout=WAIT)
    stopped.stop()
    assert log.sync is not None
    later.sync = log.sync
    worker = Worker(log.sync, later.process, later.settle)  # its thread has not begun yet
    worker.feed(CAMERA, 2, None, time.monotonic() - 1.0)  # due
    log.gate.set()
    stopped.join(WAIT)
    later.gate.set()
    worker.start()
    assert later.finished.acquire(timeout=WAIT)
    worker.stop()
    assert (log.done, later.done) == ([1], [2])
    assert later.counts() == {"used": 2}


def test_a_set_is_stuck_after_many_times_what_others_took(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    assert pace.stuck == STUCK_FIRST
    for seconds, stuck in ((0.1, STUCK), (9.0, 90.0), (40.0, 400.0), (0.1, 400.0)):
        pace.took(seconds)
        assert pace.stuck == stuck
    log = Log()
    worker = make(log)
    assert worker.stuck is None
    worker.feed(CAMERA, 1, None, time.monotonic())
    assert log.entered.acquire(timeout=WAIT)
    assert worker.stuck is None
    monkeypatch.setattr("mmsam_ros.ros.worker.STUCK_FIRST", 0.0)
    assert worker.stuck > 0
    log.gate.set()
    assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert worker.stuck is None


def test_memory_that_stays_full_is_a_fault() -> None:
    full, used = Outcome("refused", OUT_OF_MEMORY, "CUDA out of memory"), Outcome("used")
    memory, late = FullMemory(), FullMemory.LASTING
    assert not memory.fault(full, 100.0)
    assert not memory.fault(used, 100.0 + late)
    assert not memory.fault(full, 101.0 + late), "it begins anew after a mask"
    assert not memory.fault(Outcome("dropped", "busy"), 102.0 + late)
    assert not memory.fault(full, 100.0 + 2 * late)
    said = memory.fault(full, 101.0 + 2 * late)
    assert said == "memory has been full for 30 s: CUDA out of memory"
    assert not memory.fault(full, 200.0 + 4 * late), "there was a pause, of which nothing is known"
    assert not memory.fault(full, 201.0 + 4 * late)


def test_a_thread_that_has_died_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised outside the processing of a set."""

    def settle(*_: object) -> None:
        raise MemoryError

    said: list[object] = []
    monkeypatch.setattr(threading, "excepthook", said.append)
    sync = Synchroniser(SyncConfig({}, deadline=0.0))
    worker = Worker(sync, lambda _: Outcome("used"), settle)
    assert not worker.died
    worker.start()
    assert not worker.died
    worker.feed(CAMERA, 1, "message", time.monotonic())
    worker.join(WAIT)
    assert worker.died
    assert said
    stopped = make(Log())
    stopped.stop()
    assert not stopped.died
