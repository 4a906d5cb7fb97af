# SPDX-License-Identifier: Apache-2.0
"""Feeds a synchroniser at steady times and reads what it closes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mmsam_ros.ros.sets import Outcome, SyncedSet
from mmsam_ros.ros.sync import AuxiliarySync, SyncConfig, Synchroniser

MS = 1_000_000
USED, DROPPED = Outcome("used"), Outcome("dropped", "busy")


@dataclass
class Feed:
    """Gives messages at steady times (ms), polls at every deadline between, settles as "used"."""

    sync: Synchroniser
    now: int = 0
    settles: bool = True
    sets: list[SyncedSet] = field(default_factory=list)

    def collect(self, sets: list[SyncedSet]) -> list[SyncedSet]:
        for synced in sets:
            self.sets.append(synced)
            if self.settles:
                self.sync.settle(synced, USED)
        return sets

    def until(self, now: int) -> list[SyncedSet]:
        closed = []
        while (deadline := self.sync.next_deadline()) is not None and deadline <= now / 1e3 + 1e-9:
            closed += self.collect(self.sync.poll(deadline))
        self.now = now
        return closed

    def __call__(self, stream: str, stamp: int, message: Any = None, at: int | None = None) -> Any:
        """The sets closed by this message; the stamp is in ms, and so is its steady time."""
        self.until(self.now if at is None else at)
        return self.collect(self.sync.add(stream, stamp * MS, message, self.now / 1e3))

    def check(self) -> dict[str, dict[str, int]]:
        counts = self.sync.counts()
        for stream, tally in counts.items():
            assert sum(tally.values()) == 2 * tally["received"], (stream, tally)
            assert min(tally.values()) >= 0, (stream, tally)
        return counts


def feed(
    *, deadline: float = 0.05, queue: int = 30, settles: bool = True, **auxiliaries: Any
) -> Feed:
    auxiliaries = auxiliaries or {"lidar": AuxiliarySync(slop=0.02)}
    config = SyncConfig(auxiliaries, deadline=deadline, queue=queue)
    return Feed(Synchroniser(config), settles=settles)


def stamps(synced: SyncedSet) -> dict[str, int]:
    return {
        "camera": synced.camera.stamp_ns // MS,
        **{name: entry.stamp_ns // MS for name, entry in synced.auxiliaries.items()},
    }


def nonzero(counts: dict[str, int]) -> dict[str, int]:
    return {key: value for key, value in counts.items() if value}
