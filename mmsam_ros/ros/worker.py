# SPDX-License-Identifier: Apache-2.0
"""One thread that turns the newest set into a published mask. Needs no node."""

import statistics
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from threading import Lock
from typing import Any

from mmsam_ros._util import MmsamError
from mmsam_ros.inference import Result, Segmenter
from mmsam_ros.inference.engines.ladder import free_memory, lost, out_of_memory
from mmsam_ros.inference.prepare import Review
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.outputs import Outputs, SegmentedFrame
from mmsam_ros.ros.plausibility import Plausibility
from mmsam_ros.ros.sets import DEFECT, ENGINE, INVALID, OUT_OF_MEMORY, Outcome, SyncedSet
from mmsam_ros.ros.sync import Synchroniser
from mmsam_ros.sensors import Frame, Refusal
from mmsam_ros.sensors.limits import shortened

PATIENCE = 2.0  # seconds that a stop waits for the frame that is processed
# seconds after which a frame counts as stuck: the first one, later ones, and for these at least so
# many times the longest of the last ones
STUCK_FIRST, STUCK, STUCK_TIMES = 1800.0, 60.0, 10.0


@dataclass(frozen=True)
class Processor:
    """What happens to one set: decode, prepare, infer, publish."""

    builder: FrameBuilder
    segmenter: Segmenter
    outputs: Outputs
    is_running: Callable[[], bool] = lambda: True  # once it is not, publishing fails
    is_wanted: Callable[[], bool] = lambda: True  # once it is not, nothing is published
    sending: Lock = field(default_factory=Lock)  # held from that question to the last output
    plausibility: Plausibility | None = None
    # after a mask; the last are milliseconds by step
    made: Callable[[SyncedSet, Frame, Result, Mapping[str, float]], None] = lambda *_: None
    # held while a frame is decoded and prepared: a worker that was stopped may still be at it
    preparing: Lock = field(default_factory=Lock)

    def __call__(self, synced: SyncedSet) -> Outcome:
        """Process a set; never raises."""
        outcome = self._process(synced)
        if outcome.reason == OUT_OF_MEMORY:
            free_memory()  # the error and its frames are gone; the next frame may fit
        return outcome

    def _process(self, synced: SyncedSet) -> Outcome:
        refused: dict[str, Refusal] = {}
        segmented: SegmentedFrame | None = None
        began = time.perf_counter()
        try:
            with self.preparing:
                frame, refused = self.builder.build(synced)
                converted = time.perf_counter()
                prepared = self.segmenter.prepare(frame, self._review(synced))
            refused |= prepared.refused
            result = self.segmenter.infer(prepared, **self.outputs.request._asdict())
            inferred = time.perf_counter()
            with self.sending:
                if not self.is_wanted():
                    return Outcome("dropped", "shutdown")
                segmented = SegmentedFrame.of(synced, frame, result, refused)
                self.outputs.publish(segmented)
                around = {"convert": converted - began, "publish": time.perf_counter() - inferred}
                timings = {**result.timings, **{step: 1e3 * took for step, took in around.items()}}
                self.made(synced, frame, result, timings)
        except Exception as error:  # a bug costs one frame, not the node
            failed = self._failed(error, refused)
            if segmented is None or not segmented.sent:
                return failed
            # a mask was published, though not all that is read of it
            return replace(
                failed, end="used", text=f"after {', '.join(segmented.sent)}: {failed.text}",
                fused=segmented.result.present, timings=segmented.result.timings,
            )  # fmt: skip
        return Outcome("used", sensors=refused, fused=result.present, timings=timings)

    def _review(self, synced: SyncedSet) -> Review | None:
        """What looks at the planes before they become inputs."""
        if self.plausibility is None:
            return None
        frame_ids, stamp = self.builder.frame_ids(synced), synced.camera.stamp_ns / 1e9
        return partial(self.plausibility, frame_ids=frame_ids, stamp=stamp)

    def _failed(self, error: Exception, refused: Mapping[str, Refusal]) -> Outcome:
        """The outcome of a frame that the exception being handled has ended."""
        if isinstance(error, MmsamError):
            reason = getattr(error, "reason", INVALID)
            return Outcome("refused", reason, shortened(str(error)), refused)
        if full := out_of_memory(error):
            return Outcome("refused", OUT_OF_MEMORY, full, refused)
        if not (self.is_running() and self.is_wanted()):
            return Outcome("dropped", "shutdown")
        if said := lost(self.segmenter.device):  # outside of the engine, which knows itself
            return Outcome("refused", ENGINE, f"the device is lost: {said}", refused)
        return Outcome("refused", DEFECT, traceback.format_exc(), refused)


class FullMemory:
    """How long all frames have failed for want of memory. A new process begins without the memory
    that this one holds.
    """

    LASTING = 30.0  # seconds; until then other processes may let go of theirs

    def __init__(self) -> None:
        self._row: tuple[float, float] | None = None  # the first and last failure

    def fault(self, outcome: Outcome, now: float) -> str:
        """Why the process should end after this outcome; empty: it should not."""
        row = self._row  # another thread may set it
        if outcome.end == "used":
            self._row = None
        elif outcome.reason == OUT_OF_MEMORY:
            first = row[0] if row and now - row[1] <= self.LASTING else now
            self._row = first, now
            if now - first >= self.LASTING:
                return f"memory has been full for {now - first:.0f} s: {outcome.text}"
        return ""


class Pace:
    """How many sets may wait: as many as are processed before the next image comes, so that sets
    which a late sensor completes at once are not lost, and none gets old where images come faster
    than the network.
    """

    MOST = 4  # a set holds its messages

    def __init__(self) -> None:
        self._arrivals: deque[float] = deque(maxlen=9)  # of camera images, steady clock
        self._took: deque[float] = deque(maxlen=5)  # seconds for a set

    def arrived(self, moment: float) -> None:
        """A camera image came."""
        self._arrivals.append(moment)

    def took(self, seconds: float) -> None:
        """A set has been processed."""
        self._took.append(seconds)

    @property
    def stuck(self) -> float:
        """Seconds after which a set is not expected to end any more."""
        return max(STUCK, STUCK_TIMES * max(self._took)) if self._took else STUCK_FIRST

    @property
    def waiting(self) -> int:
        """The number of sets; 1 while nothing is known."""
        if len(self._arrivals) < 4 or not self._took:
            return 1
        period = statistics.median(b - a for a, b in pairwise(self._arrivals))
        return min(self.MOST, max(1, int(period / max(statistics.median(self._took), 1e-3))))


class Worker(threading.Thread):
    """Processes sets one at a time and settles every set that the synchroniser gives out, once.

    While it is busy the newest camera images win: older waiting sets that it has no time
    for (`Pace`) are dropped ("busy"). Sets that close while it is idle are all processed, in order.
    `process` must not raise. `pace` is what is known of earlier workers' sets.
    """

    def __init__(
        self,
        synchroniser: Synchroniser,
        process: Callable[[SyncedSet], Outcome],
        settle: Callable[[SyncedSet, Outcome], None],
        pace: Pace | None = None,
    ) -> None:
        super().__init__(name="mmsam_worker", daemon=True)
        self._synchroniser = synchroniser
        self._process, self._settle = process, settle
        self._condition = threading.Condition()
        self._waiting: list[SyncedSet] = []
        self._pace = pace or Pace()
        self._busy = False
        self._began: float | None = None  # when the present set began; steady clock
        self._stopping = threading.Event()

    @property
    def stuck(self) -> float | None:
        """The seconds that the present set has taken, if it is not expected to end any more."""
        began = self._began
        taken = 0.0 if began is None else time.monotonic() - began
        return taken if taken > self._pace.stuck else None

    @property
    def died(self) -> bool:
        """Whether the thread has ended without `stop`: what settles a set has failed."""
        return self.ident is not None and not self.is_alive() and not self._stopping.is_set()

    def stop(self, patience: float | None = None) -> None:
        """Finish the current set, drop what waits ("shutdown") and end the thread.

        A set that takes longer than `patience` (seconds; `PATIENCE`) is settled when it ends, after
        this has returned.
        """
        with self._condition:
            self._stopping.set()
            self._condition.notify()
        self.join(PATIENCE if patience is None else patience)
        with self._condition:
            self._drop([*self._waiting, *self._synchroniser.flush(time.monotonic())], "shutdown")
            self._waiting.clear()

    def feed(self, stream: str, stamp_ns: int, message: Any, now: float) -> None:
        """Pass a message to the synchroniser; `now` is its arrival on the steady clock."""
        with self._condition:
            self._take(self._synchroniser.add(stream, stamp_ns, message, now))
            self._condition.notify()

    def wake(self) -> None:
        """Look again at what is due: the synchroniser may expect other streams now."""
        with self._condition:
            self._condition.notify()

    def _take(self, sets: list[SyncedSet]) -> None:
        self._waiting += sets
        for synced in sets:
            self._pace.arrived(synced.camera.arrival)
        if sets and self._busy:
            kept = self._pace.waiting
            self._drop(self._waiting[:-kept], "busy")
            self._waiting = self._waiting[-kept:]

    def _drop(self, sets: list[SyncedSet], reason: str) -> None:
        for synced in sets:
            self._settle(synced, Outcome("dropped", reason))

    def _next(self) -> SyncedSet | None:
        """Block until there is a set; None when stopping."""
        with self._condition:
            if self._stopping.is_set():  # what is due by now is another worker's
                return None
            self._take(self._synchroniser.poll(time.monotonic()))  # came due meanwhile
            self._busy = False
            while not self._stopping.is_set():
                if self._waiting:
                    self._busy = True
                    return self._waiting.pop(0)
                deadline = self._synchroniser.next_deadline()
                timeout = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                self._condition.wait(timeout)
                if not self._stopping.is_set():
                    self._take(self._synchroniser.poll(time.monotonic()))
        return None

    def run(self) -> None:
        """Process sets until `stop`."""
        while (synced := self._next()) is not None:
            self._began = began = time.monotonic()
            outcome = self._process(synced)
            self._pace.took(time.monotonic() - began)
            self._began = None
            self._settle(synced, outcome)
