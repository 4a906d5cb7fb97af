# SPDX-License-Identifier: Apache-2.0
"""What became of every camera image that a player sent, by the logs of player and node."""

import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from results import Row

FLIGHT = 2.0  # seconds before its end in which a killed node may not have said what it had
NAMING = 0.1  # seconds between an image's counting and the line that names it
LOOKS = 5  # diagnostics that are looked at
MATCHING = 3.0  # seconds that publishers and subscriptions take to find each other
ENDED = re.compile(r"\[DEBUG\] \[([\d.]+)\] \[\S+\]: camera (-?\d+): (\S+)")
READING = re.compile(r"\[INFO\] \[([\d.]+)\] \[\S+\]: camera: reading ")
SENT_BY = "-"  # the fault of a sound image


@dataclass
class Session:
    """A process of the node."""

    log: Path
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.time)
    killed: float | None = None  # wall clock
    memory: list[float] = field(default_factory=list)  # MiB, sampled
    counted: list[tuple[float, int]] = field(default_factory=list)  # when, images that had ended

    def read(self) -> tuple[float | None, list[tuple[float, int, str]]]:
        """When it began to read the camera, and what it said became of images."""
        text = self.log.read_text(errors="replace")
        began = READING.search(text)
        ends = [(float(t), int(stamp), end) for t, stamp, end in ENDED.findall(text)]
        return (float(began[1]) if began else None), ends

    def sample(self) -> None:
        """Note the memory that it has."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        if found := re.search(r"VmRSS:\s+(\d+) kB", status):
            self.memory.append(int(found[1]) / 1024)


class Played(Protocol):
    """What is accounted for (`bench_faults.Stage`)."""

    folder: Path
    sessions: list[Session]
    masks: list[tuple[float, int]]  # arrival, stamp

    def sent(self) -> list[tuple[float, int, str, int]]: ...


def account(stage: Played) -> Row:
    """What became of every image that was sent."""
    ends = Counter[tuple[int, str]]()
    spans: list[tuple[float | None, float, bool]] = []
    for number, session in enumerate(stage.sessions):
        began, said = session.read()
        ends.update((stamp, end) for _, stamp, end in said)
        over = session.killed or time.time()
        spans.append((began, over, number < len(stage.sessions) - 1))
    by_stamp: dict[int, list[str]] = {}
    for (stamp, end), count in ends.items():
        by_stamp.setdefault(stamp, []).extend([end] * count)
    seen = {stamp for _, stamp in stage.masks}
    found, healthy = Counter[str](), Counter[str]()
    sent = stage.sent()
    starts = _starts(stage)
    for at, stamp, fault, _ in sent:
        left = by_stamp.get(stamp, [])
        if left:
            end = left.pop()
        elif stamp in seen:
            end = "used"  # the node was killed before it said so
        else:
            end = why_unsaid(at, spans, starts)
        found[end] += 1
        if fault == SENT_BY and not end.startswith(("no node", "in a node", "not connected")):
            healthy[end] += 1
    arrived = healthy.total() - healthy["lost between the processes"]
    return {
        "expected": len(sent),
        "published": found["used"],
        "ended": dict(sorted(found.items())),
        # named without having been sent, or counted without having been named: what is said to be
        # lost between the processes has not reached the node
        "unexplained": sum(map(len, by_stamp.values())) + unnamed(stage.sessions),
        "sound": dict(sorted(healthy.items())),
        "published_of_sound": round(healthy["used"] / max(arrived, 1), 4),
    }


def _starts(stage: Played) -> list[float]:
    """When each player sent its first image."""
    found = []
    for path in sorted(stage.folder.glob("sent*.log")):
        first = path.read_text().partition("\n")[0].split("\t")
        if len(first) == 4:
            found.append(float(first[0]))
    return found


def why_unsaid(
    at: float, spans: Sequence[tuple[float | None, float, bool]], starts: Sequence[float]
) -> str:
    """Why the node said nothing of an image that was sent at a time."""
    for began, end, killed in spans:
        if at > end or (began is None and killed):
            continue
        if began is None or at < began:
            return "no node"
        if killed and at > end - FLIGHT:
            return "in a node that was killed"
        since = max([began, *(start for start in starts if start <= at)])
        if at < since + MATCHING:
            return "not connected yet"
        return "lost between the processes"
    return "no node"


def unnamed(sessions: Sequence[Session]) -> int:
    """Images that a node counted in its diagnostics and did not name.

    An image may be named a moment after it was counted, so of a killed node the least of some
    diagnostics counts; after the last of the last node, no image comes any more.
    """
    found = 0
    for session in sessions:
        names = [moment for moment, _, _ in session.read()[1]]
        looks = 1 if session is sessions[-1] else LOOKS
        lacks = [
            ended - sum(moment <= at + NAMING for moment in names)
            for at, ended in session.counted[-looks:]
        ]
        found += max(0, min(lacks, default=0))
    return found


def loops(stage: Played) -> int:
    """How often the bag was begun: stamps of each loop differ by a nanosecond."""
    return len({stamp % 1_000_000 for _, stamp, fault, _ in stage.sent() if fault == SENT_BY})
