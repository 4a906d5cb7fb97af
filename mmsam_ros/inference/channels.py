# SPDX-License-Identifier: Apache-2.0
"""Channels of a sensor against those of the training data: what cannot be right, and what to set.

Messages name the node's parameters.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors import (
    FIELDS,
    ChannelStatistics,
    PlaneSample,
    channel_statistics,
    sample_planes,
)
from mmsam_ros.weights import Spec

Channels = Mapping[str, ChannelStatistics]  # by field

# How many times larger or smaller than in training a channel may be. Scenes differ by less; units,
# such as 0..1 and 0..255, by more.
_SPREAD = {"intensity": 4.0, "range": 20.0, "height": 20.0}
_IMAGE_SPREAD = 10.0
_RAISED = 1.0  # metres that the ground may be higher than in training; it falls away downhill
_SPARSE = 8.0  # times fewer filled pixels than in training
# of a correlation with the image row: what clearly has a direction, and what clearly has none
_SLOPED, _FLAT = 0.3, 0.25
_TURN = (
    "set lidar.frame to a frame of the sensor whose z points up, or correct the pose (TF or "
    "lidar.extrinsics)"
)
_LIFT = (
    "a cloud in base_link has its origin there: set lidar.frame to a frame as high above the "
    "ground as the LiDAR of the training"
)
_METRES = "publish x, y and z in metres, as seen from the sensor (lidar.frame)"
_UNITS = {
    ("lidar", "range"): _METRES,
    ("lidar", "height"): _METRES,
    ("lidar", "intensity"): "set lidar.intensity_scale to 'auto', or to the factor between the "
    "units (about {factor:.3g})",
    ("thermal", "value"): "set thermal.limits to the values that should be black and white",
}
_FLIPS = {
    "range": ("the cloud is upside down", _TURN),
    "height": ("z points down", _TURN),
    "value": ("the image is black-hot or upside down", "change thermal.invert"),
}


class Finding(NamedTuple):
    """Something that a sensor's data should not have."""

    subject: str  # the channel, such as `intensity`, or `filled`, `pose`
    found: str  # what was found, and what was expected
    remedy: str  # what to set in the node

    @property
    def text(self) -> str:
        """All in one."""
        return f"{self.found}; {self.remedy}"


class ChannelWatch:
    """The channels of the last `window` frames of each sensor, compared with `Spec.seen`."""

    def __init__(self, spec: Spec, window: int) -> None:
        self._spec = spec
        self._recent = {sensor: deque[PlaneSample](maxlen=window) for sensor in spec.sensors}

    def add(self, sensor: str, planes: NDArray[np.float32]) -> None:
        """Take note of a frame's planes."""
        sample = sample_planes(planes)
        # the same points fill a smaller share of a larger raster
        rows, columns = self._spec.geometry.size
        larger = max(1.0, planes[..., 0].size / (rows * columns))
        self._recent[sensor].append(replace(sample, filled=min(1.0, sample.filled * larger)))

    def findings(self, sensor: str, least: int = 1) -> list[Finding]:
        """What is far outside the training data; nothing before `least` frames."""
        recent, seen = self._recent[sensor], self._spec.seen.get(sensor)
        if not seen or len(recent) < least:
            return []
        live = channel_statistics(recent, FIELDS[self._spec.encodings[sensor]])
        return list(compare(sensor, live, seen))


def compare(sensor: str, live: Channels, seen: Channels) -> Iterator[Finding]:
    """What of the live channels is far outside those of the training data; one finding a field."""
    filled, expected = (1 - next(iter(s.values())).empty if s else 0.0 for s in (live, seen))
    if filled * _SPARSE < expected and sensor != "event":  # nothing may have moved
        found = f"{filled:.2%} of the pixels hold data, {expected:.1%} in training"
        yield Finding("filled", found, "check the pose, and that the driver sends all of its data")
    named = set()
    for name in seen:
        finding = name in live and _compare_field(sensor, name, live[name], seen[name])
        if finding and not (name == "height" and "range" in named):  # the same cause
            named.add(name)
            yield finding
    both = {"range", "height"}
    if both <= live.keys() & seen.keys() and not both & named and _on_its_side(live, seen):
        found = _slopes(live["height"], seen["height"])
        yield Finding("height", f"{found}: the cloud lies on its side", _TURN)


def _compare_field(
    sensor: str, name: str, live: ChannelStatistics, seen: ChannelStatistics
) -> Finding | None:
    """What is wrong with a field."""
    other = f"publish {sensor} data like those that the weights were trained on"
    if seen.low == seen.high:
        return None
    if live.low == live.high:
        found = f"has the value {live.low:g} everywhere, {_range(seen)} in training"
        return None if sensor == "event" else Finding(name, found, other)
    found = f"is {_range(live)}, {_range(seen)} in training"
    ratios = _ratios(name, live, seen)
    limit = _SPREAD.get(name, _IMAGE_SPREAD)
    small = max(ratios) < 1 / limit and sensor != "event" and name != "height"  # flat land
    apart = live.low > seen.high or live.high < seen.low
    if min(ratios) > limit or small or apart:
        remedy = _UNITS.get((sensor, name), other)
        return Finding(name, found, remedy.format(factor=1 / max(*ratios, 1e-9)))
    if name == "height" and live.low > seen.low + _RAISED:
        return Finding(name, f"{found}: the ground lies {live.low - seen.low:.1f} m higher", _LIFT)
    if sensor == "event" or name == "intensity":  # they have no direction
        return None
    if live.slope * seen.slope < 0 and min(abs(live.slope), abs(seen.slope)) > _SLOPED:
        meaning, remedy = _FLIPS.get(name, ("it is upside down", other))
        return Finding(name, f"{_slopes(live, seen)}: {meaning}", remedy)
    return None


def _ratios(name: str, live: ChannelStatistics, seen: ChannelStatistics) -> tuple[float, ...]:
    """How many times larger than in training a channel is; an intensity by two measures, as bright
    signs alone make the highest values.
    """
    if name == "intensity" and seen.high > 0 and seen.mean > 0:
        return live.high / seen.high, live.mean / seen.mean
    return ((live.high - live.low) / (seen.high - seen.low),)


def _on_its_side(live: Channels, seen: Channels) -> bool:
    """A cloud turned about the viewing direction: in its own frame (the height does not fall along
    the image), or by its pose (the ground is not where it was).
    """
    height, before = live["height"], seen["height"]
    level = abs(before.slope) > 2 * _FLAT and abs(height.slope) < _FLAT
    deep = height.low < before.low - (before.high - before.low) / 4
    slope, slope_before = live["range"].slope, seen["range"].slope
    return level or (deep and abs(slope_before) > _SLOPED and abs(slope - slope_before) > _FLAT)


def _range(channel: ChannelStatistics) -> str:
    return f"{channel.low:.3g} to {channel.high:.3g}"


def _slopes(live: ChannelStatistics, seen: ChannelStatistics) -> str:
    return (
        f"is {_range(live)} with a correlation of {live.slope:+.2f} with the image row, "
        f"{_range(seen)} with {seen.slope:+.2f} in training"
    )
