# SPDX-License-Identifier: Apache-2.0
"""Channels of a sensor against those of the training data: what cannot be right, and what to set.

Messages name the node's parameters.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors import (
    FIELDS,
    LIDAR_GAIN,
    ChannelStatistics,
    channel_statistics,
    sample_planes,
)
from mmsam_ros.sensors.limits import shortened
from mmsam_ros.weights import Spec

Channels = Mapping[str, ChannelStatistics]  # by field

# How many times larger or smaller than in training something may be. Scenes differ by less.
_UNIT = 2.0  # height of a cloud, with its range: the unit; without it: tilted
_FAR = 3.0  # range alone
_BRIGHTER = 2.5  # intensity
_SPREAD = 10.0  # what images and rasters span
_SPARSE = 8.0  # times fewer filled pixels than in training
# metres that the ground may be higher or lower than in training; it falls away downhill
_RAISED, _LOWERED, _UNEVEN = 0.6, 0.8, 1.5
# of a correlation with the image row: what clearly has a direction, and what is against it
_SLOPED, _AGAINST = 0.3, 0.15
_TURN = (
    "set lidar.frame to a frame of the sensor whose z points up, or correct the pose (TF or "
    "lidar.extrinsics)"
)
_LIFT = "set lidar.frame to a frame as high above the ground as the LiDAR of the training"
_FRAME = "set lidar.frame to the LiDAR's own frame"
_METRES = "publish x, y and z in metres"
FIELD = "set lidar.intensity_field to another field, or correct the driver"


class Finding(NamedTuple):
    """Something that is wrong with a sensor's data."""

    subject: str  # the channel, such as `intensity`, or `filled`, `pose`
    found: str  # what was found, and what was expected
    remedy: str  # what to set in the node
    certain: bool = True  # else a scene may look like that, too

    @property
    def text(self) -> str:
        """The whole finding as one text; it may quote names of frames."""
        return shortened(f"{self.found}; {self.remedy}")


class ChannelWatch:
    """The channels of each sensor's recent frames, compared with `Spec.seen`.

    Args:
        spec: of the weights.
        window: frames of which the medians are compared.
        least: frames that are enough to judge.
        patience: frames that are enough for a finding that is not certain.
        period: seconds between two of the frames; the first `least` may be nearer.
    """

    def __init__(
        self, spec: Spec, window: int = 100, least: int = 1, patience: int = 1, period: float = 0.0
    ) -> None:
        self._spec, self._window, self._least = spec, window, least
        self._patience, self._period = patience, period
        longest = max(window, 2 * patience)
        self._recent = {sensor: deque[Channels](maxlen=longest) for sensor in spec.sensors}
        self._last = dict.fromkeys(spec.sensors, 0.0)
        self._of_points = set[str]()

    def add(
        self, sensor: str, planes: NDArray[np.float32], *, points: bool, stamp: float | None = None
    ) -> None:
        """Take note of a frame's planes. `points`: they are made from a cloud; `stamp`: in
        seconds, None: the frame counts as far from all others.
        """
        recent = self._recent[sensor]
        if stamp is not None:
            near = 0 <= stamp - self._last[sensor] < self._period
            if near and len(recent) >= self._least:
                return
            self._last[sensor] = stamp
        (self._of_points.add if points else self._of_points.discard)(sensor)
        sample = sample_planes(planes)
        # the same points fill a smaller share of a larger raster
        rows, columns = self._spec.geometry.size
        larger = max(1.0, planes[..., 0].size / (rows * columns))
        sample = replace(sample, filled=min(1.0, sample.filled * larger))
        recent.append(channel_statistics([sample], FIELDS[self._spec.encodings[sensor]]))

    def findings(self, sensor: str, scale: float = 1.0) -> list[Finding]:
        """What is far outside the training data; `scale`: factor applied to the intensity."""
        recent, seen = list(self._recent[sensor]), self._spec.seen.get(sensor)
        if not seen or len(recent) < self._least:
            return []

        def look(some: Sequence[Channels]) -> Iterator[Finding]:
            gain = self._spec.encodings[sensor] == LIDAR_GAIN
            points, medians = sensor in self._of_points, _medians(some)
            return compare(sensor, medians, seen, points=points, scale=None if gain else scale)

        found = [finding for finding in look(recent[-self._window :]) if finding.certain]
        if len(recent) >= self._patience:
            found += [finding for finding in look(recent) if not finding.certain]
        return found


def _medians(frames: Sequence[Channels]) -> Channels:
    """The median of each figure over frames; those in which nothing was measured do not count."""
    frames = [channels for channels in frames if channels]
    names = [field.name for field in fields(ChannelStatistics)]
    return {
        name: ChannelStatistics(
            *np.median([[getattr(c[name], n) for n in names] for c in frames], axis=0).tolist()
        )
        for name in (frames[0] if frames else ())
    }


def compare(
    sensor: str, live: Channels, seen: Channels, *, points: bool, scale: float | None = 1.0
) -> Iterator[Finding]:
    """What of the live channels is far outside those of the training data.

    `points`: of a cloud. A raster was resized, which mixes values with the 0 of empty pixels:
    it is judged as an image. `scale`: factor applied to the intensity; None: it has no unit, and
    may be constant (`lidar_gain`).
    """
    filled, expected = (1 - next(iter(s.values())).empty if s else 0.0 for s in (live, seen))
    if filled * _SPARSE < expected and sensor != "event":  # without motion there are no events
        found = f"{filled:.2%} of the pixels hold data, {expected:.1%} in training"
        remedy = "check the pose, the unit (metres), and that the driver sends all of its data"
        yield Finding("filled", found, remedy if points else _like(sensor))
        return  # what is left tells nothing
    both = {name: (live[name], seen[name]) for name in live.keys() & seen.keys()}
    varied = {}
    for name, (now, before) in both.items():
        if now.low == now.high and before.low < before.high:
            if sensor != "event" and (name != "intensity" or scale is not None):
                found = f"has the value {now.low:g} everywhere, {_range(before)} in training"
                yield Finding(name, found, _like(sensor))
        elif before.low < before.high:
            varied[name] = (now, before)
    if points:
        misplaced: list[Finding] = []
        if {"range", "height"} <= varied.keys():
            misplaced += _geometry(*varied["range"], *varied["height"])
            yield from misplaced
        if "intensity" in varied:
            placed = "height" in varied and not misplaced
            yield from _intensity(*varied["intensity"], scale, placed=placed)
    else:
        for name, channels in varied.items():
            if name != "intensity" or scale is not None:
                yield from _image(sensor, name, *channels)


def _geometry(
    distance: ChannelStatistics, distance_before: ChannelStatistics,
    height: ChannelStatistics, height_before: ChannelStatistics,
) -> Iterator[Finding]:  # fmt: skip
    """Where a cloud lies in its frame: the first cause that explains what is found."""
    farther = distance.mean / distance_before.mean if distance_before.mean > 0 else 1.0
    taller = (height.high - height.low) / (height_before.high - height_before.low)
    deeper = height.low / height_before.low if height_before.low < 0 else taller
    reach, reach_before = (max(-h.low, h.high) for h in (height, height_before))
    stretched = max(taller, reach / reach_before) > _UNIT
    low, mean = height.low - height_before.low, height.mean - height_before.mean
    # in few metres, the ground is where it was; in a tilted cloud, other things are not
    alike = deeper > 0 and _off(deeper, _UNIT) and not _off(farther / deeper, _UNIT)
    shrunk = alike and farther < 0.7 and taller < _UNIT * deeper and 10 * height.mean < reach
    grown = farther > 1.5 and (alike or min(farther, taller) > _FAR)
    sloped = height_before.slope < -_SLOPED
    above = distance_before.slope < -_AGAINST < _AGAINST < distance.slope
    above = above and height_before.mean < 0 < height.mean  # what was below is above
    ranges, heights = _both(distance, distance_before), _both(height, height_before)
    turned = f"{heights}, with a correlation of {height.slope:+.2f} with the image row, "
    turned += f"{height_before.slope:+.2f} in training"
    if shrunk or grown:
        times = deeper if alike else farther
        found = f"{ranges}: range and height are about {times:.2g} times as large"
        yield Finding("range", found, _METRES)
    elif _off(farther, _FAR):
        yield Finding("range", f"{ranges}: the origin is not at the sensor", _FRAME)
    elif not stretched and (above or (sloped and height.slope > _AGAINST)):
        yield Finding("height", f"{turned}: the cloud is upside down", _TURN)
    elif (
        stretched
        or (sloped and height.slope > height_before.slope / 2)
        or (low < -_UNEVEN and mean > 0.25)
    ):
        yield Finding("height", f"{turned}: the cloud is tilted or lies on its side", _TURN)
    elif min(low, mean) > _RAISED:  # houses raise the mean, a slope moves the low
        found = f"the ground lies {low:.1f} m higher, as in base_link, or the cloud is tilted"
        yield Finding("height", f"{heights}: {found}", _LIFT)
    elif max(low, mean) < -_LOWERED:
        found = f"the ground lies {-low:.1f} m lower, or the cloud is tilted"
        yield Finding("height", f"{heights}: {found}", _LIFT)


def _intensity(
    live: ChannelStatistics, seen: ChannelStatistics, scale: float | None, *, placed: bool
) -> Iterator[Finding]:
    """What is wrong with a cloud's intensity. Only what fits a factor can be cured by one.
    `placed`: the cloud lies as in training, so that rows can be compared.
    """
    found = _both(live, seen)
    if seen.low < 0 or seen.mean <= 0:
        return
    brighter, highest = live.mean / seen.mean, live.high / seen.high
    if live.low < 0:
        yield Finding("intensity", f"{found}: below 0, as unsigned bytes read as signed", FIELD)
    elif placed and seen.slope < -_SLOPED and live.slope > _AGAINST:
        slopes = f"a correlation of {live.slope:+.2f} with the image row, {seen.slope:+.2f}"
        yield Finding("intensity", f"{found}, with {slopes} in training: it is reversed", FIELD)
    elif 2 * live.low > max(live.mean, seen.mean) and 4 * seen.low < seen.mean:
        yield Finding("intensity", f"{found}: nothing is dark, as with an offset", FIELD)
    elif scale is not None and _off(brighter, _BRIGHTER):
        found = f"{found}, its mean {live.mean:.3g} and {seen.mean:.3g}"
        if _off(brighter / highest, _BRIGHTER):
            yield Finding("intensity", f"{found}: not by one factor", FIELD)
        else:
            factor = f"'auto', or to the factor between the units (about {scale / brighter:.3g})"
            yield Finding("intensity", found, f"set lidar.intensity_scale to {factor}")


def _image(
    sensor: str, name: str, live: ChannelStatistics, seen: ChannelStatistics
) -> Iterator[Finding]:
    """What is wrong with a channel of an image or raster."""
    wider = (live.high - live.low) / (seen.high - seen.low)
    apart = live.low > seen.high or live.high < seen.low
    small = wider < 1 / _SPREAD and sensor != "event"
    if wider > _SPREAD or small or apart:
        remedy = _like(sensor)
        if (sensor, name) == ("lidar", "intensity"):
            remedy = f"{remedy}, or set lidar.intensity_scale"
        elif sensor == "thermal":
            remedy = "set thermal.limits to the values that should be black and white"
        yield Finding(name, _both(live, seen), remedy)
        return
    against = live.slope * seen.slope < 0 and min(abs(live.slope), abs(seen.slope)) > _SLOPED
    if against and sensor != "event" and name != "intensity":  # they have no direction
        found = f"{_both(live, seen)}, with a correlation of {live.slope:+.2f} with the image row, "
        found += f"{seen.slope:+.2f} in training"
        if sensor == "thermal":
            found, remedy = f"{found}: it is black-hot or upside down", "change thermal.invert"
        else:
            found, remedy = f"{found}: it is upside down", _like(sensor)
        yield Finding(name, found, remedy, certain=False)


def _off(ratio: float, limit: float) -> bool:
    return not 1 / limit <= ratio <= limit


def _like(sensor: str) -> str:
    return f"publish {sensor} data like those that the weights were trained on"


def _both(live: ChannelStatistics, seen: ChannelStatistics) -> str:
    return f"is {_range(live)}, {_range(seen)} in training"


def _range(channel: ChannelStatistics) -> str:
    return f"{channel.low:.3g} to {channel.high:.3g}"
