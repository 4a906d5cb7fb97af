# SPDX-License-Identifier: Apache-2.0
"""What the topics of a recording hold: rates, gaps, clocks, encodings. Needs no ROS."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.calibration import nanoseconds
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import CLOUD, COMPRESSED, IMAGE, INFO
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.storage import Connection

KINDS = (IMAGE, COMPRESSED, CLOUD, INFO)
_GAP, _SHORTEST = 3.0, 0.3  # intervals that make a gap, and seconds at least
_FORMS = 4  # encodings and sizes that are listed

Seconds = NDArray[np.float64]


@dataclass
class TopicSurvey:
    """One topic; times are seconds from the start of the recording."""

    topic: str
    type: str
    received: list[float] = field(default_factory=list)
    stamps: list[float] = field(default_factory=list)  # on the receive times' scale
    forms: Counter[str] = field(default_factory=Counter)  # encoding and size, or fields
    frames: Counter[str] = field(default_factory=Counter)  # header.frame_id
    zero_stamps: int = 0
    broken: int = 0  # messages that cannot be read
    first: Any = None  # the first message

    @property
    def count(self) -> int:
        """Messages that can be read."""
        return len(self.received)

    @property
    def rate(self) -> float:
        """Messages a second while they come; 0 where there are fewer than two."""
        gaps = np.diff(self.received)
        return float(1 / np.median(gaps)) if len(gaps) and np.median(gaps) > 0 else 0.0

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """(when it begins, seconds) of each time in which messages are missing."""
        steps = np.diff(self.received)
        if not len(steps):
            return []
        least = max(_GAP * float(np.median(steps)), _SHORTEST)
        return [(self.received[i], float(steps[i])) for i in np.flatnonzero(steps > least)]

    @property
    def lag(self) -> Seconds:
        """Stamp less receive time of each message."""
        return np.asarray(self.stamps) - np.asarray(self.received)

    @property
    def backward(self) -> int:
        """Stamps that are before the one before."""
        return int((np.diff(self.stamps) < 0).sum())

    @property
    def repeated(self) -> int:
        """Stamps that are the same as the one before."""
        return int((np.diff(self.stamps) == 0).sum())

    @property
    def drift(self) -> float:
        """Growth of the lag from the first to the last quarter, seconds."""
        quarter = len(self.lag) // 4
        if not quarter:
            return 0.0
        return float(np.median(self.lag[-quarter:]) - np.median(self.lag[:quarter]))

    @property
    def frame(self) -> str:
        """The frame of most messages."""
        return self.frames.most_common(1)[0][0] if self.frames else ""

    def facts(self) -> dict[str, Any]:
        """The figures, for people and scripts."""
        lag = self.lag
        return {
            "type": self.type,
            "messages": self.count,
            "unreadable": self.broken,
            "rate_hz": round(self.rate, 2),
            "gaps": [[round(at, 3), round(length, 3)] for at, length in self.gaps],
            "stamp_less_receive_time_s": round(float(np.median(lag)), 4) if len(lag) else None,
            "jitter_s": round(float(np.ptp(np.percentile(lag, (5, 95)))), 4) if len(lag) else None,
            "drift_s": round(self.drift, 4),
            "stamps_backward": self.backward,
            "stamps_repeated": self.repeated,
            "stamps_zero": self.zero_stamps,
            "content": [form for form, _ in self.forms.most_common(_FORMS)],
            "frame": self.frame,
        }


def survey(reader: Recording) -> dict[str, TopicSurvey]:
    """Images, clouds and CameraInfo of a recording, by topic."""
    chosen = [c for c in reader.connections if c.msgtype in KINDS and c.msgcount]
    chosen = [c for c in chosen if c.id not in reader.unreadable]
    found = {c.topic: TopicSurvey(c.topic, c.msgtype) for c in chosen}
    for connection, time, data in reader.messages(chosen) if chosen else ():
        _add(found[connection.topic], reader, connection, time, data)
    return {topic: one for topic, one in found.items() if one.count or one.broken}


def _add(
    one: TopicSurvey, reader: Recording, connection: Connection, time: int, data: bytes
) -> None:
    try:
        message: Any = reader.deserialize(data, connection.msgtype)
    except RosError:
        one.broken += 1
        return
    stamp, begin = nanoseconds(message.header.stamp), reader.start_time
    one.received.append((time - begin) / 1e9)
    one.stamps.append((stamp - begin) / 1e9)
    one.zero_stamps += stamp == 0
    one.forms[content(message)] += 1
    one.frames[str(message.header.frame_id)] += 1
    one.first = message if one.first is None else one.first


def content(message: Any) -> str:
    """Encoding and size of an image, fields of a cloud."""
    if hasattr(message, "point_step"):
        return f"{', '.join(str(f.name) for f in message.fields)}"
    if hasattr(message, "format"):
        return str(message.format) or "no format"
    what = message.encoding if hasattr(message, "encoding") else message.distortion_model
    return f"{what} {message.width}x{message.height}"


def nearest(times: Sequence[float], others: Sequence[float]) -> Seconds:
    """For each time, how much later the nearest one of the others is."""
    wanted, known = np.asarray(times), np.sort(np.asarray(others))
    if not len(known):
        return np.full(len(wanted), np.inf)
    after = np.searchsorted(known, wanted).clip(1, max(1, len(known) - 1))
    pairs = np.stack([known[after - 1], known[np.minimum(after, len(known) - 1)]]) - wanted
    best = np.abs(pairs).argmin(axis=0)
    return np.asarray(pairs[best, np.arange(len(wanted))])
