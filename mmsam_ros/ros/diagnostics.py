# SPDX-License-Identifier: Apache-2.0
"""What the node measures of itself, its log of refusals, and its diagnostics."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from mmsam_ros.ros.sets import CAMERA, DEFECT, OUT_OF_MEMORY, Outcome, SyncedSet

WINDOW = 10.0  # seconds over which rate, latency and fused sensors are taken
SILENCE = 2.0  # seconds without a mask after which the status is a warning
FAILURES = 5  # frames in a row that fail, after which the status is an error
LOG_PERIOD = 5.0  # seconds between two log lines about the same stream and reason

Counts = Mapping[str, Mapping[str, int]]  # messages by stream and outcome


class _Mask(NamedTuple):
    published: float  # on the steady clock, seconds
    latency: float  # seconds
    outcome: Outcome


class Monitor:
    """Figures of the sets that have ended. Thread-safe. `warn` logs a refusal."""

    def __init__(
        self, warn: Callable[[str], Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._warn, self._clock = warn, clock
        self._lock = threading.Lock()
        self._recent: deque[_Mask] = deque()  # of the last seconds, at least two
        self._fused: Counter[str] = Counter()  # masks by the sensors that were fused
        self._refusals: dict[str, tuple[float, str]] = {}  # by stream: when and why
        self._next_log: dict[tuple[str, ...], float] = {}
        self._failures = 0  # in a row, by a defect or a full memory

    def settled(self, synced: SyncedSet, outcome: Outcome) -> None:
        """Take note of how a set ended."""
        with self._lock:
            now = self._clock()
            if outcome.end == "used":
                self._failures = 0
                self._recent.append(_Mask(now, now - synced.camera.arrival, outcome))
                self._fused["+".join((CAMERA, *outcome.fused))] += 1
            elif outcome.reason in (DEFECT, OUT_OF_MEMORY):
                self._failures += 1
            for refusal in outcome.refusals:
                stream, reason, text = refusal.sensor, refusal.reason, refusal.text
                self._refusals[stream] = now, f"{reason}: {text}"
                defect = text.strip().rpartition("\n")[2] if "\n" in text else ""
                key = stream, reason, defect
                if now >= self._next_log.get(key, now):
                    self._next_log[key] = now + LOG_PERIOD
                    self._warn(f"{stream} refused ({reason}): {text}")

    def status(
        self, name: str, counts: Counts, facts: Mapping[str, Any],
        findings: Mapping[str, str] | None = None,
    ) -> DiagnosticStatus:  # fmt: skip
        """One status with every figure as a key; "weights" of `facts` becomes the hardware_id.
        `findings`: what of a sensor is not plausible, by channel.
        """
        findings = findings or {}
        with self._lock:
            now = self._clock()
            # two stay, so that a slow network has a rate
            while len(self._recent) > 2 and self._recent[0].published < now - WINDOW:
                self._recent.popleft()
            age = now - self._recent[-1].published if self._recent else None
            latencies = [mask.latency for mask in self._recent]
            p50, p95 = np.percentile(latencies or [0.0], (50, 95))
            level, message = self._level(counts, age, p50)
            if findings and level == DiagnosticStatus.OK:
                level, message = DiagnosticStatus.WARN, f"implausible: {', '.join(findings)}"
            timings = self._recent[-1].outcome.timings if self._recent else {}
            values = {
                "masks": self._fused.total(),
                "rate_hz": self._rate(age),
                "latency_p50_ms": f"{p50 * 1e3:.1f}" if latencies else "",
                "latency_p95_ms": f"{p95 * 1e3:.1f}" if latencies else "",
                **{f"step_{step}_ms": round(ms, 1) for step, ms in timings.items()},
                **{f"fused.{sensors}": n for sensors, n in sorted(self._fused.items())},
                **{f"{s}.{end}": n for s, tally in counts.items() for end, n in tally.items()},
                **facts,
                **{f"implausible.{subject}": text for subject, text in findings.items()},
            }
            for stream, (when, text) in self._refusals.items():
                values[f"last_refusal.{stream}"] = f"{text} ({now - when:.0f} s ago)"
        status = DiagnosticStatus(level=level, name=name, message=message)
        status.hardware_id = str(facts.get("weights", ""))
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return status

    def _rate(self, age: float | None) -> str:
        """Masks per second, which falls while none is published; empty before the second one."""
        gaps = len(self._recent) - 1
        if gaps < 1 or age is None:
            return ""
        span = self._recent[-1].published - self._recent[0].published
        return f"{gaps / max(span + max(0.0, age - span / gaps), 1e-9):.1f}"

    def _level(self, counts: Counts, age: float | None, latency: float) -> tuple[bytes, str]:
        if self._failures >= FAILURES:
            return DiagnosticStatus.ERROR, f"{self._failures} frames in a row failed"
        if not counts[CAMERA]["received"]:
            return DiagnosticStatus.WARN, "no camera image yet"
        if age is None:
            return DiagnosticStatus.WARN, "no mask yet"
        if age > max(SILENCE, 2 * latency):  # a slow network is not silent
            return DiagnosticStatus.WARN, f"no mask for {age:.0f} s"
        seen = Counter(sensor for mask in self._recent for sensor in mask.outcome.fused)
        missing = [stream for stream in counts if stream != CAMERA and not seen[stream]]
        if missing:
            return DiagnosticStatus.WARN, f"running without {', '.join(missing)}"
        total = len(self._recent)
        rare = [f"{s} in {n} of {total} masks" for s, n in seen.items() if 2 * n < total]
        if rare:
            return DiagnosticStatus.WARN, f"running with {', '.join(rare)}"
        return DiagnosticStatus.OK, "running"
