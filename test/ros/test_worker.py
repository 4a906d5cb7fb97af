# SPDX-License-Identifier: Apache-2.0
"""The worker: newest wins while busy, nothing lost while idle, deadlines are kept."""

from __future__ import annotations

import threading
import time

from mmsam_ros.ros.sync import CAMERA, AuxiliarySync, SyncConfig, SyncedSet, Synchroniser
from mmsam_ros.ros.worker import Worker

WAIT = 20.0


class Log:
    """Collects what the worker does; `gate` holds it in the middle of a set."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.dropped: list[int] = []
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.finished = threading.Semaphore(0)

    def process(self, synced: SyncedSet) -> None:
        self.entered.release()
        assert self.gate.wait(WAIT)
        self.done.append(synced.camera.stamp_ns)
        self.finished.release()

    def drop(self, synced: SyncedSet) -> None:
        self.dropped.append(synced.camera.stamp_ns)


def make(log: Log, deadline: float = 0.0) -> tuple[Synchroniser, Worker]:
    streams = {"lidar": AuxiliarySync(slop=0.01)} if deadline else {}
    sync = Synchroniser(SyncConfig(streams, deadline=deadline))
    worker = Worker(sync, log.process, log.drop)
    worker.start()
    return sync, worker


def test_newest_wins_while_busy() -> None:
    log = Log()
    sync, worker = make(log)
    worker.put(sync.add(CAMERA, 1, None, time.monotonic()))
    assert log.entered.acquire(timeout=WAIT)  # busy with frame 1
    for stamp in (2, 3, 4):
        worker.put(sync.add(CAMERA, stamp, None, time.monotonic()))
    log.gate.set()
    assert log.finished.acquire(timeout=WAIT)
    assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert (log.done, log.dropped) == ([1, 4], [2, 3])


def test_sets_that_close_together_while_idle_are_all_processed() -> None:
    log = Log()
    log.gate.set()
    sync, worker = make(log)
    now = time.monotonic()
    sets = [s for stamp in (1, 2, 3) for s in sync.add(CAMERA, stamp, None, now)]
    worker.put(sets)
    for _ in range(3):
        assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert (log.done, log.dropped) == ([1, 2, 3], [])


def test_a_deadline_passes_without_further_messages() -> None:
    log = Log()
    log.gate.set()
    sync, worker = make(log, deadline=0.05)
    worker.put(sync.add(CAMERA, 7, None, time.monotonic()))
    assert log.finished.acquire(timeout=WAIT)
    worker.stop()
    assert log.done == [7]


def test_stopping_drops_what_waits() -> None:
    log = Log()
    sync, worker = make(log)
    worker.put(sync.add(CAMERA, 1, None, time.monotonic()))
    assert log.entered.acquire(timeout=WAIT)
    worker.put(sync.add(CAMERA, 2, None, time.monotonic()))
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    log.gate.set()
    stopper.join(WAIT)
    assert not stopper.is_alive()
    assert log.done[0] == 1
    assert sorted(log.done + log.dropped) == [1, 2]
