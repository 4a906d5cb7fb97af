# SPDX-License-Identifier: Apache-2.0
"""Logs why masks or sensors are missing: inputs without messages, sensors that never match."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mmsam_ros.ros.interface import PARAMETERS
from mmsam_ros.sensors import CAMERA

PATIENCE = 5.0  # seconds
_FARTHEST = {row.name: row.high for row in PARAMETERS if row.name.endswith(".offset")}


class Awaited(Protocol):
    """The part of an input that is watched (`topics.Input`)."""

    name: str
    last: float | None

    @property
    def topic(self) -> str | None: ...

    @property
    def published(self) -> bool: ...

    def explain_silence(self) -> str: ...


class Watch:
    """Looks at the inputs and at the distance of stamps; each finding is logged once.

    `inputs`: those whose messages are needed. `unmatched`: of `Synchroniser`. `offsets`: the
    parameters `<sensor>.offset` by sensor, seconds. `warn` and `inform` log a line. `ros_time`: of
    the node, nanoseconds; 0 until something comes on /clock where `use_sim_time` is set.
    """

    def __init__(
        self,
        inputs: Sequence[Awaited],
        unmatched: Callable[[], Mapping[str, float]],
        offsets: Mapping[str, float],
        warn: Callable[[str], Any],
        inform: Callable[[str], Any],
        clock: Callable[[], float] = time.monotonic,
        ros_time: Callable[[], int] = time.time_ns,
    ) -> None:
        self._inputs, self._unmatched, self._offsets = inputs, unmatched, offsets
        self._warn, self._inform, self._clock = warn, inform, clock
        self._ros_time: Callable[[], int] | None = ros_time  # None once that is settled
        self._begin = clock()
        self._silent: set[str] = set()  # inputs that were logged
        self._alone: dict[str, float] = {}  # since when a sensor has not matched
        self._logged: set[str] = set()  # sensors that were logged

    def look(self) -> None:
        """Log new findings; call it about once a second."""
        now = self._clock()
        self._look_for_time(now)
        self._look_for_messages(now)
        self._look_at_stamps(now)

    def _look_for_time(self, now: float) -> None:
        if self._ros_time is None or now - self._begin < PATIENCE:
            return
        if not self._ros_time():
            self._warn(
                f"use_sim_time is set, and nothing has come on /clock for {PATIENCE:g} s: "
                "diagnostics have no stamps, and delays are not known. Set it to false for live "
                "sensors, or play the bag with --clock"
            )
        self._ros_time = None

    def _look_for_messages(self, now: float) -> None:
        silent = {
            stream.name
            for stream in self._inputs
            if now - (self._begin if stream.last is None else stream.last) >= PATIENCE
        }
        self._silent &= silent
        for stream in self._inputs:
            if stream.name in silent - self._silent and self._matters(stream, silent):
                self._silent.add(stream.name)
                self._log_silence(stream)
                break  # one a second: it asks the graph, while the executor waits

    def _log_silence(self, stream: Awaited) -> None:
        what = f"{stream.name}: nothing received for {PATIENCE:g} s"
        gone = f"{what} on {stream.topic}, which nobody publishes any more"
        # a line of its own each: rclpy allows only one severity per line of code
        if stream.last is None or stream.published:
            self._warn(f"{what} {stream.explain_silence()}")
        elif stream.name == CAMERA:  # the end of a bag
            self._inform(gone)
        else:
            self._warn(gone)

    def _matters(self, stream: Awaited, silent: set[str]) -> bool:
        """Whether silence is worth a line: without a camera, only of what has never come."""
        if stream.name == CAMERA:
            return True
        if stream.name.endswith("_info"):  # one message may be all that comes
            return stream.last is None and CAMERA not in silent
        return stream.last is None or CAMERA not in silent

    def _look_at_stamps(self, now: float) -> None:
        found = self._unmatched()
        self._alone = {name: self._alone.get(name, now) for name in found}
        self._logged &= found.keys()
        for name, ahead in found.items():
            if name not in self._logged and now - self._alone[name] >= PATIENCE:
                self._logged.add(name)
                self._warn(self._explain_stamps(name, ahead))

    def _explain_stamps(self, name: str, ahead: float) -> str:
        word = "ahead of" if ahead > 0 else "behind"
        what = (
            f"{name}: its messages come but never match (masks use older ones or none): its stamps "
            f"are {abs(ahead):.2f} s {word} the camera's"
        )
        offset = self._offsets[name] - ahead
        if abs(offset) > _FARTHEST[f"{name}.offset"]:
            return (
                f"{what}. One of the two has another clock or stamps that are not set; let both "
                f"use one clock, as {name}.offset does not reach that far"
            )
        late = ""
        if ahead < 0:
            late = f"; if they are that late to arrive, raise sync.deadline above {-ahead:.2f}"
        return f"{what}. If its clock is off by a constant, set {name}.offset to {offset:.2f}{late}"
