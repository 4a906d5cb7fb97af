# SPDX-License-Identifier: Apache-2.0
"""What the node measures of itself, and its diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

WINDOW = 10.0  # seconds over which rate, latency and fused sensors are taken
SILENCE = 2.0  # seconds without a mask after which the status is a warning
FAILURES = 5  # frames in a row that fail, after which the status is an error


@dataclass(frozen=True)
class Mask:
    """A published mask; times on the steady clock, seconds."""

    published: float
    latency: float
    sensors: tuple[str, ...]
    timings: Mapping[str, float]


@dataclass(frozen=True)
class Snapshot:
    """All masks so far, how often which sensors were fused, and the masks of the last seconds."""

    masks: int
    fused: Mapping[str, int]
    age: float | None
    recent: tuple[Mask, ...]

    @property
    def interval(self) -> float | None:
        """Mean seconds from one mask to the next."""
        if len(self.recent) < 2:
            return None
        span = self.recent[-1].published - self.recent[0].published
        return span / (len(self.recent) - 1)

    @property
    def rate(self) -> float | None:
        """Masks a second; falls while none comes."""
        if self.interval is None or self.age is None:
            return None
        late = max(0.0, self.age - self.interval)
        return 1 / max(self.interval + late / (len(self.recent) - 1), 1e-9)

    def latency(self, percentile: float) -> float | None:
        """Seconds from the camera message's arrival to the mask."""
        if not self.recent:
            return None
        return float(np.percentile([mask.latency for mask in self.recent], percentile))


class Statistics:
    """Thread-safe; the worker writes, diagnostics read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[Mask] = deque()
        self._fused: Counter[str] = Counter()
        self._last: float | None = None

    def mask(self, arrival: float, sensors: tuple[str, ...], timings: Mapping[str, float]) -> None:
        """A mask was published for a camera message that arrived at `arrival` (steady clock)."""
        now = time.monotonic()
        with self._lock:
            self._recent.append(Mask(now, now - arrival, sensors, dict(timings)))
            self._fused["+".join(("camera", *sensors))] += 1
            self._last = now

    def snapshot(self) -> Snapshot:
        """The figures now."""
        now = time.monotonic()
        with self._lock:
            # two stay, so that a slow network has a rate
            while len(self._recent) > 2 and self._recent[0].published < now - WINDOW:
                self._recent.popleft()
            return Snapshot(
                masks=self._fused.total(),
                fused=dict(self._fused),
                age=None if self._last is None else now - self._last,
                recent=tuple(self._recent),
            )


def diagnose(
    name: str,
    hardware: str,
    snapshot: Snapshot,
    counts: Mapping[str, Mapping[str, int]],
    facts: Mapping[str, Any],
    refusals: Mapping[str, tuple[float, str]],
    failures: int = 0,
) -> DiagnosticStatus:
    """One status: level and message for people, every figure as a key.

    Args:
        name: of the status.
        hardware: what identifies the weights.
        snapshot: figures of the masks.
        counts: messages by stream and outcome.
        facts: settings worth knowing (device, backends, fallbacks, topics).
        refusals: when (steady clock) and why a message was last refused, by stream.
        failures: frames in a row that a defect or a full memory has cost.
    """
    level, message = _level(snapshot, counts)
    if failures >= FAILURES:
        level, message = DiagnosticStatus.ERROR, f"{failures} frames in a row failed"
    values: dict[str, Any] = {
        "masks": snapshot.masks,
        "rate_hz": _rounded(snapshot.rate),
        "latency_p50_ms": _rounded(snapshot.latency(50), 1e3),
        "latency_p95_ms": _rounded(snapshot.latency(95), 1e3),
    }
    timings = snapshot.recent[-1].timings if snapshot.recent else {}
    values |= {f"step_{step}_ms": round(ms, 1) for step, ms in timings.items()}
    values |= {f"fused.{sensors}": n for sensors, n in sorted(snapshot.fused.items())}
    for stream, tally in counts.items():
        values |= {f"{stream}.{outcome}": n for outcome, n in tally.items()}
    values |= dict(facts)
    now = time.monotonic()
    values |= {f"last_refusal.{s}": f"{text} ({now - t:.0f} s ago)" for s, (t, text) in
               refusals.items()}  # fmt: skip
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
    if not counts["camera"]["received"]:
        return DiagnosticStatus.WARN, "no camera image yet"
    if snapshot.age is None:
        return DiagnosticStatus.WARN, "no mask yet"
    if snapshot.age > max(SILENCE, 2 * (snapshot.latency(50) or 0.0)):  # a slow network is none
        return DiagnosticStatus.WARN, f"no mask for {snapshot.age:.0f} s"
    seen = Counter(sensor for mask in snapshot.recent for sensor in mask.sensors)
    missing = [stream for stream in counts if stream != "camera" and not seen[stream]]
    if missing:
        return DiagnosticStatus.WARN, f"running without {', '.join(missing)}"
    total = len(snapshot.recent)
    rare = [f"{s} in {n} of {total} masks" for s, n in seen.items() if 2 * n < total]
    if rare:
        return DiagnosticStatus.WARN, f"running with {', '.join(rare)}"
    return DiagnosticStatus.OK, "running"
