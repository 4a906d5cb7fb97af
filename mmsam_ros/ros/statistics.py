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

WINDOW = 200  # frames over which rate and latency are taken
SILENCE = 2.0  # seconds without a mask after which the status is a warning


@dataclass(frozen=True)
class Snapshot:
    """Figures over the last frames; times in seconds, None where there is nothing yet."""

    masks: int
    rate: float | None
    latency_p50: float | None
    latency_p95: float | None
    age: float | None
    fused: Mapping[str, int]
    timings: Mapping[str, float]


class Statistics:
    """Thread-safe; the worker writes, diagnostics read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._published: deque[float] = deque(maxlen=WINDOW)
        self._fused: Counter[str] = Counter()
        self._timings: dict[str, float] = {}
        self._masks = 0

    def mask(self, arrival: float, sensors: tuple[str, ...], timings: Mapping[str, float]) -> None:
        """A mask was published for a camera message that arrived at `arrival` (steady clock)."""
        now = time.monotonic()
        with self._lock:
            self._masks += 1
            self._latencies.append(now - arrival)
            self._published.append(now)
            self._fused["+".join(("camera", *sensors))] += 1
            self._timings = dict(timings)

    def snapshot(self) -> Snapshot:
        """The figures now."""
        with self._lock:
            times, latencies = list(self._published), list(self._latencies)
            span = times[-1] - times[0] if len(times) > 1 else 0.0
            p50, p95 = np.percentile(latencies, (50, 95)) if latencies else (None, None)
            return Snapshot(
                masks=self._masks,
                rate=(len(times) - 1) / span if span > 0 else None,
                latency_p50=None if p50 is None else float(p50),
                latency_p95=None if p95 is None else float(p95),
                age=time.monotonic() - times[-1] if times else None,
                fused=dict(self._fused),
                timings=self._timings,
            )


def diagnose(
    name: str,
    hardware: str,
    snapshot: Snapshot,
    counts: Mapping[str, Mapping[str, int]],
    facts: Mapping[str, Any],
    refusals: Mapping[str, str],
) -> DiagnosticStatus:
    """One status: level and message for people, every figure as a key.

    Args:
        name: of the status.
        hardware: what identifies the weights.
        snapshot: figures of the masks.
        counts: messages by stream and outcome.
        facts: settings worth knowing (device, backends, fallbacks, topics).
        refusals: text of the newest refusal by stream.
    """
    level, message = _level(snapshot, counts)
    values: dict[str, Any] = {
        "masks": snapshot.masks,
        "rate_hz": _rounded(snapshot.rate),
        "latency_p50_ms": _rounded(snapshot.latency_p50, 1e3),
        "latency_p95_ms": _rounded(snapshot.latency_p95, 1e3),
    }
    values |= {f"step_{step}_ms": round(ms, 1) for step, ms in snapshot.timings.items()}
    values |= {f"fused.{sensors}": n for sensors, n in sorted(snapshot.fused.items())}
    for stream, tally in counts.items():
        values |= {f"{stream}.{outcome}": n for outcome, n in tally.items()}
    values |= dict(facts)
    values |= {f"last_refusal.{stream}": text for stream, text in refusals.items()}
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
    if snapshot.age > SILENCE:
        return DiagnosticStatus.WARN, f"no mask for {snapshot.age:.0f} s"
    missing = [s for s, tally in counts.items() if not tally["received"]]
    if missing:
        return DiagnosticStatus.WARN, f"running without {', '.join(missing)}"
    return DiagnosticStatus.OK, "running"
