# SPDX-License-Identifier: Apache-2.0
"""Live channels of a sensor against those of the training data. Needs no ROS."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mmsam_ros.sensors import ChannelStatistics

Channels = Mapping[str, ChannelStatistics]  # by field

# How many times larger or smaller than in training a channel may be. Scenes differ by less; units,
# such as 0..1 and 0..255, by more.
_SPREAD = {"intensity": 6.0, "range": 20.0, "height": 20.0}
_IMAGE_SPREAD = 10.0
_RAISED = 1.0  # metres that the ground may be higher than in training; it falls away downhill
_SPARSE = 8.0  # times fewer filled pixels than in training
# of a correlation with the image row: what clearly has a direction, and what clearly has none
_SLOPED, _FLAT = 0.3, 0.25
_TURN = (
    "set lidar.frame to a frame of the sensor whose z points up, or correct the pose (TF or "
    "lidar.extrinsics)"
)
_REMEDIES = {
    ("lidar", "intensity"): "set lidar.intensity_scale to 'auto', or to the factor between the "
    "units (about {factor:.3g})",
    ("lidar", "range"): "publish x, y and z in metres, as seen from the sensor (lidar.frame)",
    ("lidar", "height"): "publish x, y and z in metres, as seen from the sensor (lidar.frame)",
    ("thermal", "value"): "set thermal.limits to the values that should be black and white",
}
_FLIPS = {
    "range": f"the cloud is upside down: {_TURN}",
    "height": f"z points down: {_TURN}",
    "value": "the image is black-hot or upside down: change thermal.invert",
}
_OTHER = "publish {sensor} data like those that the weights were trained on"


class Finding(NamedTuple):
    """Something that a sensor's data should not have."""

    subject: str  # the channel, such as `intensity`, or `filled`, `pose`
    text: str  # what was found, what was expected, what to set


def compare(sensor: str, live: Channels, seen: Channels) -> Iterator[Finding]:
    """What of the live channels is far outside those of the training data."""
    filled, expected = (1 - next(iter(s.values())).empty if s else 0.0 for s in (live, seen))
    if filled * _SPARSE < expected and sensor != "event":  # nothing may have moved
        yield Finding(
            "filled",
            f"{filled:.2%} of the pixels hold data, {expected:.1%} in training; check the pose, "
            "and that the driver sends the whole cloud or image",
        )
    for name in seen:
        if name in live and (text := _compare_field(sensor, name, live[name], seen[name])):
            yield Finding(name, text)
            if name == "range":
                return  # the height follows
    if sensor == "lidar" and {"range", "height"} <= live.keys() & seen.keys():
        yield from _on_its_side(live, seen)


def _compare_field(sensor: str, name: str, live: ChannelStatistics, seen: ChannelStatistics) -> str:
    """What is wrong with a field; empty where nothing is."""
    if seen.low == seen.high:
        return ""
    if live.low == live.high:
        if sensor == "event":
            return ""
        other = _OTHER.format(sensor=sensor)
        return f"has the value {live.low:g} everywhere, {_range(seen)} in training; {other}"
    ratios = _ratios(name, live, seen)
    limit = _SPREAD.get(name, _IMAGE_SPREAD)
    small = max(ratios) < 1 / limit and sensor != "event" and name != "height"  # flat land
    apart = live.low > seen.high or live.high < seen.low
    if min(ratios) > limit or small or apart:
        remedy = _REMEDIES.get((sensor, name), _OTHER)
        remedy = remedy.format(sensor=sensor, factor=1 / max(max(ratios), 1e-9))
        return f"is {_range(live)}, {_range(seen)} in training; {remedy}"
    if name == "height" and live.low > seen.low + _RAISED:
        return (
            f"is {_range(live)}, {_range(seen)} in training, so the ground lies "
            f"{live.low - seen.low:.1f} m higher; a cloud in base_link has its origin there: set "
            "lidar.frame to a frame as high above the ground as the LiDAR of the training"
        )
    if sensor == "event" or name == "intensity":  # they have no direction
        return ""
    if abs(seen.slope) > _SLOPED and live.slope * seen.slope < 0 and abs(live.slope) > _SLOPED:
        flip = _FLIPS.get(name, _OTHER.format(sensor=sensor))
        return f"{_slopes(live, seen)}; {flip}"
    return ""


def _ratios(name: str, live: ChannelStatistics, seen: ChannelStatistics) -> tuple[float, ...]:
    """How many times larger than in training a channel is; an intensity by two measures, as bright
    signs alone make the highest values.
    """
    if name == "intensity" and seen.high > 0 and seen.mean > 0:
        return live.high / seen.high, live.mean / seen.mean
    return ((live.high - live.low) / (seen.high - seen.low),)


def _on_its_side(live: Channels, seen: Channels) -> Iterator[Finding]:
    """A cloud turned about the viewing direction: in its own frame (the height does not fall along
    the image), or by its pose (the ground is not where it was).
    """
    height, range_ = live["height"], live["range"]
    before, range_before = seen["height"], seen["range"]
    level = abs(before.slope) > 2 * _FLAT and abs(height.slope) < _FLAT
    deep = height.low < before.low - (before.high - before.low) / 4
    turned = abs(range_before.slope) > _SLOPED and abs(range_.slope - range_before.slope) > _FLAT
    if level or (deep and turned):
        found = _slopes(height, before)
        yield Finding("height", f"{found}; the cloud lies on its side: {_TURN}")


def _range(channel: ChannelStatistics) -> str:
    return f"{channel.low:.3g} to {channel.high:.3g}"


def _slopes(live: ChannelStatistics, seen: ChannelStatistics) -> str:
    return (
        f"is {_range(live)} with a correlation of {live.slope:+.2f} with the image row, "
        f"{_range(seen)} with {seen.slope:+.2f} in training"
    )
