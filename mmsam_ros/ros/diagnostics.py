# SPDX-License-Identifier: Apache-2.0
"""What the node measures of itself, its log of refusals, and its diagnostics."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from mmsam_ros.ros.sets import CAMERA, DEFECT, OWN_FAILURES, Outcome, SyncedSet
from mmsam_ros.sensors import Refusal
from mmsam_ros.sensors.limits import shortened

WINDOW = 10.0  # seconds over which rate, latency and fused sensors are taken
REPORT_PERIOD = 10.0  # seconds between two log lines on masks and frames
FAILURES = 5  # frames in a row that fail, after which the status is an error
LOG_PERIOD = 5.0  # seconds between two log lines about the same stream and reason

BUSY_HINT = (
    "the network is slower than the camera; a GPU, precision bf16 or smaller weights help, or a "
    "bag that is played more slowly"
)

Counts = Mapping[str, Mapping[str, int]]  # messages by stream and outcome


class _Mask(NamedTuple):
    published: float  # on the steady clock, seconds
    latency: float  # seconds from the camera message's arrival
    age: float  # seconds from the camera image's stamp
    outcome: Outcome


@dataclass(frozen=True)
class Figures:
    """Figures of the last masks, for mode and diagnostics. Times in seconds."""

    failures: int  # frames in a row that failed
    masks: int  # since configure
    age: float | None  # since the last mask
    rate: float | None  # masks per second
    latency: tuple[float, float]  # p50, p95; from the camera message's arrival
    processing: tuple[float, float]  # p50, p95; of all steps together
    shares: Mapping[str, float]  # by sensor: share of the recent masks that have it
    refusal: str  # the last recent one of a camera image, in one line


class Monitor:
    """Figures of the sets that have ended. Thread-safe. `warn` and `inform` log a line; `topic`
    gives a stream's topic, where that is known; `stamp` is the time in nanoseconds of the clock by
    which messages are stamped.
    """

    def __init__(
        self,
        warn: Callable[[str], Any],
        clock: Callable[[], float] = time.monotonic,
        inform: Callable[[str], Any] = lambda _: None,
        topic: Callable[[str], str | None] = lambda _: None,
        stamp: Callable[[], int] = time.time_ns,
    ) -> None:
        self._stamp = stamp
        self._warn, self._inform, self._clock, self._topic = warn, inform, clock, topic
        self._begin = clock()
        self._next_report: float | None = None  # none before the first mask
        self._ends: deque[tuple[float, str]] = deque()  # of the last seconds: when, fused or reason
        self._lock = threading.Lock()
        self._recent: deque[_Mask] = deque()  # of the last seconds, at least two
        self._fused: Counter[str] = Counter()  # masks by the sensors that were fused
        self._refusals: dict[str, tuple[float, str]] = {}  # by stream: when and why
        self._next_log: dict[tuple[str, ...], float] = {}
        self._failures = 0  # in a row, by the node's own

    def settled(self, synced: SyncedSet, outcome: Outcome) -> None:
        """Take note of how a set ended."""
        with self._lock:
            now = self._clock()
            self._forget(now)
            if outcome.end == "used":
                self._failures = 0
                age = (self._stamp() - synced.camera.stamp_ns) / 1e9
                self._recent.append(_Mask(now, now - synced.camera.arrival, age, outcome))
                sensors = "+".join((CAMERA, *outcome.fused))
                self._fused[sensors] += 1
                self._ends.append((now, sensors))
                self._log_first(now, sensors)
            else:
                self._ends.append((now, outcome.reason))
            if outcome.reason in OWN_FAILURES:
                self._failures += 1
            for refusal in outcome.refusals:
                self._note_refusal(refusal, now)

    def refused(self, refusal: Refusal) -> None:
        """Take note of a message that was refused before it was matched."""
        with self._lock:
            self._note_refusal(refusal, self._clock())

    def _note_refusal(self, refusal: Refusal, now: float) -> None:
        stream, reason, text = refusal.sensor, refusal.reason, refusal.text
        # by the place and the kind of error: its message may quote what differs each time
        traceback = text.strip().split("\n") if reason == DEFECT else []
        places = [line for line in traceback if line.startswith("  File ")]
        defect = " ".join([*places[-1:], traceback[-1].partition(":")[0]]) if traceback else ""
        text = text if defect else shortened(text)
        self._refusals[stream] = now, f"{reason}: {text}"
        key = stream, reason, defect
        if now >= self._next_log.get(key, now):
            self._next_log = {k: time for k, time in self._next_log.items() if time > now}
            self._next_log[key] = now + LOG_PERIOD
            name = self._topic(stream)
            where = f"{name}: " if name else ""
            self._warn(f"{stream} refused ({reason}): {where}{text}")

    def report(self) -> None:
        """Log masks and frames of the last seconds, every `REPORT_PERIOD` and only if frames came;
        call it about once a second.
        """
        with self._lock:
            now = self._clock()
            self._forget(now)
            if self._next_report is None or now < self._next_report or not self._ends:
                return
            self._next_report = now + REPORT_PERIOD
            frames, busy = len(self._ends), self._busy()
            fused = Counter(word for _, word in self._ends if word.partition("+")[0] == CAMERA)
            parts = [
                f"{fused.total() / WINDOW:.1f} masks/s of {frames / WINDOW:.1f} camera images/s",
                f"{busy} of {frames} dropped as busy",
                "fused: " + (", ".join(f"{k} {n}" for k, n in fused.items()) or "none"),
            ]
            if 2 * busy > frames:
                self._warn("; ".join([*parts, BUSY_HINT]))
            else:
                self._inform("; ".join(parts))

    def _log_first(self, now: float, sensors: str) -> None:
        if self._next_report is None:
            self._next_report = now + REPORT_PERIOD
            self._inform(f"first mask {now - self._begin:.1f} s after the start, of {sensors}")

    def _busy(self) -> int:
        return sum(word == "busy" for _, word in self._ends)

    def _forget(self, now: float) -> None:
        """Drop what is older than the window, except two masks: a slow network has a rate, too."""
        while len(self._recent) > 2 and self._recent[0].published < now - WINDOW:
            self._recent.popleft()
        while self._ends and self._ends[0][0] <= now - WINDOW:
            self._ends.popleft()

    def status(
        self, name: str, counts: Counts, facts: Mapping[str, Any],
        findings: Mapping[str, str] | None = None, failures: int = FAILURES, silence: float = 2.0,
    ) -> DiagnosticStatus:  # fmt: skip
        """One status with every figure as a key; "weights" of `facts` becomes the hardware_id.
        `findings`: what is implausible, by sensor and channel. `failures`: failed frames in a row
        that are an error. `silence`: seconds without a mask that are a warning.
        """
        findings = findings or {}
        with self._lock:
            now = self._clock()
            self._forget(now)
            age = now - self._recent[-1].published if self._recent else None
            latencies, rate = [mask.latency for mask in self._recent], self._rate(age)
            p50, p95 = _percentiles(latencies)
            age_p50, age_p95 = _percentiles([mask.age for mask in self._recent])
            level, message = self._level(counts, age, p50, failures, silence)
            if findings and level == DiagnosticStatus.OK:
                level, message = DiagnosticStatus.WARN, f"implausible: {', '.join(findings)}"
            timings = self._recent[-1].outcome.timings if self._recent else {}
            values = {
                "masks": self._fused.total(),
                "rate_hz": "" if rate is None else f"{rate:.1f}",
                "latency_p50_ms": f"{p50 * 1e3:.1f}" if latencies else "",
                "latency_p95_ms": f"{p95 * 1e3:.1f}" if latencies else "",
                "age_p50_ms": f"{age_p50 * 1e3:.1f}" if latencies else "",
                "age_p95_ms": f"{age_p95 * 1e3:.1f}" if latencies else "",
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

    def figures(self, sensors: Sequence[str], while_s: float) -> Figures:
        """Figures of the last masks; the shares by sensor are those of the last `while_s` seconds,
        or of the last mask.
        """
        with self._lock:
            now = self._clock()
            self._forget(now)
            age = now - self._recent[-1].published if self._recent else None
            last = [m for m in self._recent if now - m.published <= while_s] or [*self._recent][-1:]
            shares = {
                s: sum(s in m.outcome.fused for m in last) / max(1, len(last)) for s in sensors
            }
            when, text = self._refusals.get(CAMERA, (now, ""))
            lines = text.strip().split("\n") if now - when <= while_s else [""]
            refusal = lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
            return Figures(
                self._failures, self._fused.total(), age, self._rate(age),
                _percentiles([mask.latency for mask in self._recent]),
                _percentiles([sum(m.outcome.timings.values()) / 1e3 for m in self._recent]),
                shares, refusal,
            )  # fmt: skip

    def _rate(self, age: float | None) -> float | None:
        """Masks per second, which falls while none is published; None before the second one."""
        gaps = len(self._recent) - 1
        if gaps < 1 or age is None:
            return None
        span = self._recent[-1].published - self._recent[0].published
        return gaps / max(span + max(0.0, age - span / gaps), 1e-9)

    def _level(
        self, counts: Counts, age: float | None, latency: float, failures: int, silence: float
    ) -> tuple[bytes, str]:
        if self._failures >= failures:
            return DiagnosticStatus.ERROR, f"{self._failures} frames in a row failed"
        if not counts[CAMERA]["received"]:
            return DiagnosticStatus.WARN, "no camera image yet"
        if age is None:
            return DiagnosticStatus.WARN, "no mask yet"
        if age > max(silence, 2 * latency):  # a slow network is not silent
            return DiagnosticStatus.WARN, f"no mask for {age:.0f} s"
        problems = []
        seen = Counter(sensor for mask in self._recent for sensor in mask.outcome.fused)
        missing = [stream for stream in counts if stream != CAMERA and not seen[stream]]
        total = len(self._recent)
        rare = [f"{s} in {n} of {total} masks" for s, n in seen.items() if 2 * n < total]
        if missing:
            problems.append(f"without {', '.join(missing)}")
        elif rare:
            problems.append(f"with {', '.join(rare)}")
        busy, frames = self._busy(), len(self._ends)
        if 2 * busy > frames:
            problems.append(f"with {busy} of {frames} images dropped as busy: {BUSY_HINT}")
        level = DiagnosticStatus.WARN if problems else DiagnosticStatus.OK
        return level, " ".join(["running", "; ".join(problems)]).rstrip()


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p95; 0 without values."""
    p50, p95 = np.percentile(values or [0.0], (50, 95))
    return float(p50), float(p95)
