# SPDX-License-Identifier: Apache-2.0
"""What the node measures of itself, its log of refusals, and its diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from mmsam_ros.ros.sets import CAMERA, DEFECT, OUT_OF_MEMORY, Outcome, SyncedSet
from mmsam_ros.sensors import Refusal

WINDOW = 10.0  # seconds over which rate, latency and fused sensors are taken
SILENCE = 2.0  # seconds without a mask after which the status is a warning
FAILURES = 5  # frames in a row that fail, after which the status is an error
LOG_PERIOD = 5.0  # seconds between two log lines about the same stream and reason


@dataclass(frozen=True)
class Mask:
    """A published mask; times in seconds on the steady clock."""

    published: float
    latency: float
    sensors: tuple[str, ...]
    timings: Mapping[str, float]


@dataclass(frozen=True)
class Snapshot:
    """The figures at one moment.

    Attributes:
        fused: masks so far by the sensors that were fused.
        age: seconds since the last mask.
        recent: masks of the last seconds.
        refusals: age in seconds and text of the last refusal, by stream.
        failures: frames in a row that failed by a defect or a full memory.
    """

    fused: Mapping[str, int]
    age: float | None
    recent: tuple[Mask, ...]
    refusals: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    failures: int = 0

    @property
    def rate(self) -> float | None:
        """Masks per second; it falls while none is published."""
        gaps = len(self.recent) - 1
        if gaps < 1 or self.age is None:
            return None
        span = self.recent[-1].published - self.recent[0].published
        return gaps / max(span + max(0.0, self.age - span / gaps), 1e-9)

    def latency(self, percentile: float) -> float | None:
        """Seconds from the camera message's arrival to the mask."""
        if not self.recent:
            return None
        return float(np.percentile([mask.latency for mask in self.recent], percentile))


class Monitor:
    """Keeps the figures and logs refusals with `warn`. Thread-safe."""

    def __init__(self, warn: Callable[[str], Any]) -> None:
        self._warn = warn
        self._lock = threading.Lock()
        self._recent: deque[Mask] = deque()
        self._fused: Counter[str] = Counter()
        self._refusals: dict[str, tuple[float, str]] = {}  # by stream: when and why
        self._next_log: dict[tuple[str, str], float] = {}
        self._failures = 0

    def settled(self, synced: SyncedSet, outcome: Outcome) -> None:
        """A set has ended."""
        now = time.monotonic()
        with self._lock:
            if outcome.end == "used":
                self._failures = 0
                latency = now - synced.camera.arrival
                self._recent.append(Mask(now, latency, outcome.fused, outcome.timings))
                self._fused["+".join((CAMERA, *outcome.fused))] += 1
            elif outcome.reason in (DEFECT, OUT_OF_MEMORY):
                self._failures += 1
            for refusal in outcome.refusals:
                self._refused(refusal, now)

    def _refused(self, refusal: Refusal, now: float) -> None:
        """Log a refusal, the same stream and reason at most once per `LOG_PERIOD`."""
        stream, reason, text = refusal.sensor, refusal.reason, refusal.text
        self._refusals[stream] = now, f"{reason}: {text}"
        if now >= self._next_log.get((stream, reason), 0.0):
            self._next_log[stream, reason] = now + LOG_PERIOD
            self._warn(f"{stream} refused ({reason}): {text}")

    def snapshot(self) -> Snapshot:
        """The figures now."""
        now = time.monotonic()
        with self._lock:
            # two stay, so that a slow network has a rate
            while len(self._recent) > 2 and self._recent[0].published < now - WINDOW:
                self._recent.popleft()
            return Snapshot(
                fused=dict(self._fused),
                age=now - self._recent[-1].published if self._recent else None,
                recent=tuple(self._recent),
                refusals={s: (now - when, text) for s, (when, text) in self._refusals.items()},
                failures=self._failures,
            )


def diagnose(
    name: str,
    hardware: str,
    snapshot: Snapshot,
    counts: Mapping[str, Mapping[str, int]],
    facts: Mapping[str, Any],
) -> DiagnosticStatus:
    """One status: level and message for people, every figure as a key.

    Args:
        name: of the status.
        hardware: the hardware_id.
        snapshot: figures of masks and refusals.
        counts: messages by stream and outcome.
        facts: settings (device, backends, topics, ...).
    """
    level, message = _level(snapshot, counts)
    timings = snapshot.recent[-1].timings if snapshot.recent else {}
    values: dict[str, Any] = {
        "masks": sum(snapshot.fused.values()),
        "rate_hz": _rounded(snapshot.rate),
        "latency_p50_ms": _rounded(snapshot.latency(50), 1e3),
        "latency_p95_ms": _rounded(snapshot.latency(95), 1e3),
        **{f"step_{step}_ms": round(ms, 1) for step, ms in timings.items()},
        **{f"fused.{sensors}": n for sensors, n in sorted(snapshot.fused.items())},
        **{f"{s}.{outcome}": n for s, tally in counts.items() for outcome, n in tally.items()},
        **facts,
        **{
            f"last_refusal.{stream}": f"{text} ({age:.0f} s ago)"
            for stream, (age, text) in snapshot.refusals.items()
        },
    }
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=str(k), value=str(v)) for k, v in values.items()],
    )


def _rounded(value: float | None, factor: float = 1.0) -> str:
    return "" if value is None else f"{value * factor:.1f}"


def _level(snapshot: Snapshot, counts: Mapping[str, Mapping[str, int]]) -> tuple[bytes, str]:
    if snapshot.failures >= FAILURES:
        return DiagnosticStatus.ERROR, f"{snapshot.failures} frames in a row failed"
    if not counts[CAMERA]["received"]:
        return DiagnosticStatus.WARN, "no camera image yet"
    if snapshot.age is None:
        return DiagnosticStatus.WARN, "no mask yet"
    if snapshot.age > max(SILENCE, 2 * (snapshot.latency(50) or 0.0)):  # slow is not silent
        return DiagnosticStatus.WARN, f"no mask for {snapshot.age:.0f} s"
    seen = Counter(sensor for mask in snapshot.recent for sensor in mask.sensors)
    missing = [stream for stream in counts if stream != CAMERA and not seen[stream]]
    if missing:
        return DiagnosticStatus.WARN, f"running without {', '.join(missing)}"
    total = len(snapshot.recent)
    rare = [f"{s} in {n} of {total} masks" for s, n in seen.items() if 2 * n < total]
    if rare:
        return DiagnosticStatus.WARN, f"running with {', '.join(rare)}"
    return DiagnosticStatus.OK, "running"
