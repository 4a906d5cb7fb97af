# SPDX-License-Identifier: Apache-2.0
"""One thread that turns the newest set into a published mask. Needs no node."""

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mmsam_ros._util import MmsamError
from mmsam_ros.inference import Segmenter
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.outputs import Outputs, Shown
from mmsam_ros.ros.plausibility import Plausibility
from mmsam_ros.ros.sets import DEFECT, OUT_OF_MEMORY, Outcome, SyncedSet
from mmsam_ros.ros.sync import Synchroniser
from mmsam_ros.sensors import Refusal


@dataclass(frozen=True)
class Processor:
    """What happens to one set: decode, prepare, infer, publish."""

    builder: FrameBuilder
    segmenter: Segmenter
    outputs: Outputs
    is_running: Callable[[], bool] = lambda: True  # once it is not, publishing fails
    plausibility: Plausibility | None = None

    def __call__(self, synced: SyncedSet) -> Outcome:
        """Process a set; never raises."""
        outcome = self._process(synced)
        if outcome.reason == OUT_OF_MEMORY:
            torch.cuda.empty_cache()  # the error and its frames are gone; the next frame may fit
        return outcome

    def _process(self, synced: SyncedSet) -> Outcome:
        refused: dict[str, Refusal] = {}
        try:
            frame, refused = self.builder.build(synced)
            review = None
            if self.plausibility is not None:
                frame_ids, stamp = self.builder.frame_ids(synced), synced.camera.stamp_ns / 1e9
                review = partial(self.plausibility, frame_ids=frame_ids, stamp=stamp)
            prepared = self.segmenter.prepare(frame, review)
            refused |= prepared.refused
            result = self.segmenter.infer(prepared, **self.outputs.asked._asdict())
            self.outputs.publish(Shown.of(synced, frame, result, refused))
        except MmsamError as error:
            return Outcome("refused", getattr(error, "reason", "invalid"), str(error), refused)
        except torch.OutOfMemoryError as error:
            return Outcome("refused", OUT_OF_MEMORY, str(error).partition("\n")[0], refused)
        except Exception:  # a bug costs one frame, not the node
            if not self.is_running():
                return Outcome("dropped", "shutdown")
            return Outcome("refused", DEFECT, traceback.format_exc(), refused)
        return Outcome("used", sensors=refused, fused=result.present, timings=result.timings)


class Worker(threading.Thread):
    """Processes sets one at a time and settles every set that the synchroniser gives out, once.

    While it is busy the newest camera image wins: older waiting sets are dropped ("busy"). Sets
    that close while it is idle are all processed, in order. `process` must not raise.
    """

    def __init__(
        self,
        synchroniser: Synchroniser,
        process: Callable[[SyncedSet], Outcome],
        settle: Callable[[SyncedSet, Outcome], None],
    ) -> None:
        super().__init__(name="mmsam_worker", daemon=True)
        self._synchroniser = synchroniser
        self._process, self._settle = process, settle
        self._condition = threading.Condition()
        self._waiting: list[SyncedSet] = []
        self._busy = False
        self._stopping = False

    def stop(self) -> None:
        """Finish the current set, drop what waits ("shutdown") and end the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self.join()
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
        if sets and self._busy:
            self._drop(self._waiting[:-1], "busy")
            self._waiting = self._waiting[-1:]

    def _drop(self, sets: list[SyncedSet], reason: str) -> None:
        for synced in sets:
            self._settle(synced, Outcome("dropped", reason))

    def _next(self) -> SyncedSet | None:
        """Block until there is a set; None when stopping."""
        with self._condition:
            self._take(self._synchroniser.poll(time.monotonic()))  # came due meanwhile: newest wins
            self._busy = False
            while not self._stopping:
                if self._waiting:
                    self._busy = True
                    return self._waiting.pop(0)
                deadline = self._synchroniser.next_deadline()
                timeout = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                self._condition.wait(timeout)
                self._take(self._synchroniser.poll(time.monotonic()))
        return None

    def run(self) -> None:
        """Process sets until `stop`."""
        while (synced := self._next()) is not None:
            self._settle(synced, self._process(synced))
