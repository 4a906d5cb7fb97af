# SPDX-License-Identifier: Apache-2.0
"""How far the masks can be relied on: the mode, and a diagnostic status of each part."""

import json
import os
import re
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from std_msgs.msg import String

from mmsam_ros._util import first_line
from mmsam_ros.ros.diagnostics import Counts, Figures
from mmsam_ros.ros.pipeline import Pipeline
from mmsam_ros.ros.topics import advertise
from mmsam_ros.sensors import CAMERA
from mmsam_ros.weights import Score

FULL, DEGRADED, STARVED, FAULT, OFF = "FULL", "DEGRADED", "STARVED", "FAULT", "OFF"
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_LEAST = {DEGRADED: WARN, STARVED: WARN, FAULT: ERROR}  # level of the whole, by mode
LOST, BACK = 0.5, 0.6  # shares of masks: below it a sensor is missing, from it on it is back
RATED = 5.0  # seconds over which the rate of an input is taken


@dataclass(frozen=True)
class Mode:
    """FULL: masks of all sensors; DEGRADED: of some, or of implausible data; STARVED: none is made,
    for want of input; FAULT: none is made, inference fails; OFF: not active, or disabled.
    """

    mode: str
    reason: str
    missing: tuple[str, ...] = ()  # sensors
    score: Score | None = None  # measured with these sensors, by the weights file
    implausible: tuple[str, ...] = ()  # sensors, the camera included

    def is_like(self, other: Self | None) -> bool:
        """Whether the two differ in figures and details alone."""

        def gist(mode: Self) -> tuple[Any, ...]:
            reason = re.sub(r"[,:].*|[\d.]+", "", mode.reason)
            return mode.mode, mode.missing, mode.implausible, reason

        return other is not None and gist(self) == gist(other)

    def to_json(self, since: float) -> str:
        """The content of `~/mode`; `since` in seconds of the node's clock."""
        score = self.score and {"miou": self.score.miou, "dataset": self.score.dataset}
        return json.dumps({
            "mode": self.mode, "missing": self.missing, "implausible": self.implausible,
            "score": score, "reason": self.reason, "since": since,
        })  # fmt: skip


def judge(
    figures: Figures, camera_age: float | None, scores: Mapping[str, Score],
    parameters: Mapping[str, Any], missed: Collection[str] = (), implausible: Collection[str] = (),
) -> Mode:  # fmt: skip
    """The mode of a node that reads its sensors. `camera_age`: seconds since the last camera
    image, None if none has come; `scores` by sensors, such as "camera+lidar"; `missed`: sensors
    that were missing until now; `implausible`: those whose data cannot be true.
    """
    silence = parameters["health.silence"]
    if figures.failures >= parameters["health.failures"]:
        return Mode(FAULT, f"{figures.failures} frames in a row failed: {figures.refusal}")
    if camera_age is None:
        return Mode(STARVED, "no camera image yet")
    if camera_age > silence:
        return Mode(STARVED, f"no camera image for {camera_age:.1f} s")
    refusal = f", the last image was refused: {figures.refusal}" if figures.refusal else ""
    if figures.age is None:
        return Mode(STARVED, f"no mask yet{refusal}")
    if figures.age > max(silence, 2 * figures.latency[0]):  # a slow network is not silent
        return Mode(STARVED, f"no mask for {figures.age:.1f} s{refusal}")
    missing = tuple(
        sensor
        for sensor, share in figures.shares.items()
        if share < (BACK if sensor in missed else LOST)
    )
    there = {CAMERA, *figures.shares} - set(missing)
    score = next((s for names, s in scores.items() if set(names.split("+")) == there), None)
    if implausible:  # nothing was measured with such data
        lost = f"without {', '.join(missing)} and " if missing else ""
        reason = f"masks {lost}with implausible {', '.join(implausible)}"
        return Mode(DEGRADED, reason, missing, implausible=tuple(implausible))
    if missing:
        return Mode(DEGRADED, f"masks without {', '.join(missing)}", missing, score)
    return Mode(FULL, "masks of all sensors", score=score)


class Observed(Protocol):
    """The part of the node that `Health` reads (`node.SegmentNode`)."""

    parameters: dict[str, Any]
    pipeline: Pipeline | None
    active: bool
    enabled: bool


class Health:
    """Publishes `~/mode` and `/diagnostics`, whatever the state of the node."""

    def __init__(self, node: Node, what: Observed) -> None:
        self._node, self._what = node, what
        self._mode: Mode | None = None
        self._since = 0.0
        self._modes = advertise(node, "~/mode")
        self._diagnostics = advertise(node, "/diagnostics")

    def look(self) -> None:
        """Publish the mode if it has changed."""
        mode = self._judge()
        if not mode.is_like(self._mode) and self._node.context.ok():
            self._since = self._node.get_clock().now().nanoseconds / 1e9
            self._modes.publish(String(data=mode.to_json(self._since)))
            self._log(mode)
        self._mode = mode

    def report(self) -> None:
        """Publish diagnostics."""
        self.look()
        self._diagnostics.publish(self.array())

    def array(self) -> DiagnosticArray:
        """The status of the whole, then one of each part."""
        node, what, pipeline = self._node, self._what, self._what.pipeline
        mode, name = self._judge(), node.get_fully_qualified_name()
        array = DiagnosticArray()
        array.header.stamp = node.get_clock().now().to_msg()
        if pipeline is None:
            array.status = [_status(f"{name}: segmentation", OK, mode.reason, {"mode": mode.mode})]
            return array
        now, counts, given = time.monotonic(), pipeline.sync.counts(), what.parameters
        whole = pipeline.monitor.status(
            f"{name}: segmentation", counts, self._facts(pipeline, mode),
            pipeline.plausibility.findings, given["health.failures"], given["health.silence"],
        )  # fmt: skip
        figures = pipeline.monitor.figures(pipeline.sensors, given["health.silence"])
        parts = [
            sync_status(counts, pipeline.sync.unmatched()),
            inference_status(figures, pipeline.segmenter.device, given),
            output_status(figures, given),
        ]
        if not pipeline.running:
            for status in (whole, *parts):
                status.level, status.message = OK, mode.reason
        else:
            least = _LEAST.get(mode.mode, OK)
            for status in (whole, parts[1]) if mode.mode == FAULT else (whole,):
                if status.level < least:
                    status.level, status.message = least, mode.reason
            silence, optional = given["health.silence"], pipeline.optional
            parts = [*input_statuses(pipeline.inputs, counts, now, silence, optional), *parts]
        for part in parts:
            part.name, part.hardware_id = f"{name}: {part.name}", whole.hardware_id
        array.status = [whole, *parts]
        return array

    def _facts(self, pipeline: Pipeline, mode: Mode) -> dict[str, Any]:
        score = mode.score
        return {
            "mode": mode.mode,
            "missing": ", ".join(mode.missing),
            "score": f"{score.miou} % mIoU on {score.dataset}" if score else "not measured",
            "mode_reason": mode.reason,
            **pipeline.facts(),
        }

    def _judge(self) -> Mode:
        what, pipeline = self._what, self._what.pipeline
        if pipeline is None:
            return Mode(OFF, "not configured")
        if not what.active:
            return Mode(OFF, "inactive")
        if not what.enabled:
            return Mode(OFF, "disabled by ~/enable")
        if pipeline.fault:
            return Mode(FAULT, pipeline.fault)
        last = next(stream.last for stream in pipeline.inputs if stream.name == CAMERA)
        age = None if last is None else time.monotonic() - last
        silence = what.parameters["health.silence"]
        figures = pipeline.monitor.figures(pipeline.sensors, silence)
        missed = self._mode.missing if self._mode is not None else ()
        scores, implausible = pipeline.segmenter.spec.presence.scores, pipeline.plausibility.doubted
        return judge(figures, age, scores, what.parameters, missed, implausible(silence))

    def _log(self, mode: Mode) -> None:
        score = f" ({mode.score.miou} % mIoU on {mode.score.dataset})" if mode.score else ""
        if mode.mode in (FULL, OFF, STARVED):
            self._node.get_logger().info(f"mode {mode.mode}: {mode.reason}{score}")
        else:
            self._node.get_logger().warning(f"mode {mode.mode}: {mode.reason}{score}")


class Read(Protocol):
    """The part of an input that is read here (`topics.Input`)."""

    name: str
    last: float | None
    arrivals: deque[float]

    @property
    def topic(self) -> str | None: ...


def input_statuses(
    inputs: Sequence[Read], counts: Counts, now: float, silence: float,
    optional: Collection[str] = (),
) -> Iterator[DiagnosticStatus]:  # fmt: skip
    """A status for each input; `now` on the steady clock. `optional` ones may be silent."""
    for stream in inputs:
        recent = [t for t in [*stream.arrivals] if t >= now - RATED]
        rate = (len(recent) - 1) / max(now - recent[0], 1e-9) if len(recent) > 1 else 0.0
        age = None if stream.last is None else now - stream.last
        values = {
            "topic": stream.topic or "none published",
            "rate_hz": f"{rate:.1f}",
            "age_s": "" if age is None else f"{age:.2f}",
            **counts.get(stream.name, {}),
        }
        once = stream.name.endswith("_info")  # one message may be all that comes
        level, message = OK, f"{rate:.1f} Hz"
        if age is None and stream.name in optional:
            message = "no message, none is needed"
        elif age is None:
            level, message = WARN, "no message yet"
        elif age > silence and not once:
            level = ERROR if stream.name == CAMERA else WARN
            message = f"no message for {age:.1f} s"
        yield _status(f"input {stream.name}", level, message, values)


def sync_status(counts: Counts, unmatched: Mapping[str, float]) -> DiagnosticStatus:
    """The status of the synchroniser."""
    ends = ("waiting", "used", "held", "late", "dropped:unmatched", "dropped:reset")
    values: dict[str, Any] = {
        f"{stream}.{end}": tally[end] for stream, tally in counts.items() for end in ends
        if end in tally
    }  # fmt: skip
    values |= {f"stamps_ahead.{s}": f"{ahead:.2f} s" for s, ahead in unmatched.items()}
    if unmatched:
        return _status("synchroniser", WARN, f"never matches: {', '.join(unmatched)}", values)
    return _status("synchroniser", OK, "matching", values)


def inference_status(
    figures: Figures, device: torch.device, parameters: Mapping[str, Any]
) -> DiagnosticStatus:
    """The status of processing, from the messages to the published mask."""
    p50, p95 = figures.latency
    values = {
        "latency_p50_ms": f"{p50 * 1e3:.1f}",
        "latency_p95_ms": f"{p95 * 1e3:.1f}",
        "processing_p50_ms": f"{figures.processing[0] * 1e3:.1f}",
        "processing_p95_ms": f"{figures.processing[1] * 1e3:.1f}",
        "failures_in_a_row": figures.failures,
        "device": device,
        **memory(device),
    }
    limit = parameters["health.latency"]
    level, message = OK, f"latency p95 {p95 * 1e3:.0f} ms"
    if figures.failures >= parameters["health.failures"]:
        level, message = ERROR, f"{figures.failures} frames in a row failed: {figures.refusal}"
    elif figures.failures:
        level, message = WARN, f"the last frame failed: {figures.refusal}"
    elif limit and p95 > limit:
        level, message = WARN, f"{message}, above health.latency"
    return _status("inference", level, message, values)


def output_status(figures: Figures, parameters: Mapping[str, Any]) -> DiagnosticStatus:
    """The status of the masks."""
    values = {
        "masks": figures.masks,
        "rate_hz": "" if figures.rate is None else f"{figures.rate:.1f}",
        "age_s": "" if figures.age is None else f"{figures.age:.2f}",
    }
    if figures.age is None:
        return _status("output", WARN, "no mask yet", values)
    if figures.age > max(parameters["health.silence"], 2 * figures.latency[0]):
        return _status("output", WARN, f"no mask for {figures.age:.1f} s", values)
    if figures.rate is not None and figures.rate < parameters["health.rate"]:
        return _status("output", WARN, f"{figures.rate:.1f} Hz, below health.rate", values)
    return _status("output", OK, "publishing", values)


def memory(device: torch.device) -> dict[str, str]:
    """MiB of GPU memory (reserved by this process, free, total); on the CPU, resident memory."""
    if device.type != "cuda":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {"memory_resident_mib": f"{pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.0f}"}
    try:
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
    except RuntimeError as error:  # the device has failed, which the frames say as well
        return {"memory": first_line(error)}
    found = {"reserved": own, "free": free, "total": total}
    return {f"memory_{name}_mib": f"{size / 2**20:.0f}" for name, size in found.items()}


def _status(name: str, level: bytes, message: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, values=pairs)
