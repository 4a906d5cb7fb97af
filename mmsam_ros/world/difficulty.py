# SPDX-License-Identifier: Apache-2.0
"""Hard or easy, as measured on a frame's images; the name of its weather does not matter.

One of `OBJECTS` counts if it covers at least `SMALLEST` of the picture. Its contrast in a sensor
compares it with the ring around it, a quarter as wide: the change of mean and deviation over all
channels, divided by the sensor's noise (`UNITS`). For LiDAR it is the gap in range, without echoes
of fog and rain, and 0 if there are fewer than `RETURNS` returns. An object is visible to a sensor
if its contrast is at least 1. A frame is hard if at least `SHARE` of its objects are visible to an
auxiliary and not to the camera.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors import project, register
from mmsam_ros.world.lidar import AIR
from mmsam_ros.world.samples import Sample
from mmsam_ros.world.scene import CLASS_IDS
from mmsam_ros.world.style import Floats, Mask

OBJECTS = ("person", "rider", "bicycle", "car", "truck", "traffic_sign")
UNITS = 8.0, 0.7, 0.7  # of camera, thermal, LiDAR: grey levels, kelvin, metres
SMALLEST, RETURNS, SHARE = 4e-4, 3, 0.25
_KELVIN = np.float32(0.01)  # per count


def is_hard(sample: Sample) -> bool:
    """Whether the frame is hard, by the rule above."""
    found = contrasts(sample)
    lost = (found[:, 0] < 1) & (found[:, 1:].max(1) >= 1)
    return len(lost) > 0 and bool(lost.mean() >= SHARE)


def contrasts(sample: Sample) -> NDArray[np.float64]:
    """(objects, 3) contrast of every object in camera, thermal image and LiDAR."""
    picture, heat, reach = sample.picture, thermal_in_view(sample), _ranges(sample)
    wanted = np.isin(picture.labels, [CLASS_IDS[name] for name in OBJECTS])
    numbers, areas = np.unique(picture.instance[wanted], return_counts=True)
    rows = []
    for number in numbers[areas >= SMALLEST * wanted.size]:
        mask = (picture.instance == number) & wanted
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        width = max(2, int(np.sqrt(mask.sum()) / 4))  # of the ring
        window = np.s_[max(y - width, 0) : y + h + width, max(x - width, 0) : x + w + width]
        inside, kernel = mask[window], np.ones((2 * width + 1, 2 * width + 1), np.uint8)
        ring = (cv2.dilate(inside.astype(np.uint8), kernel) > 0) & ~inside
        colour = _change(picture.rgb[window], inside, ring)
        warmth = _change(heat[window] * _KELVIN, inside, ring)
        rows.append((colour, warmth, _gap(reach[window], inside, ring)))
    return np.array(rows).reshape(-1, 3) / UNITS


def thermal_in_view(sample: Sample) -> Floats:
    """Counts (H, W) in the camera's view by rotation, as the node registers them; unseen: NaN."""
    counts, size = sample.thermal.astype(np.float32), sample.picture.labels.shape
    heat, valid = register(counts, sample.rig.registration, size, size)
    return np.where(valid, heat, np.float32(np.nan))


def _ranges(sample: Sample) -> Floats:
    """(H, W) range of LiDAR returns in the camera's view, without fog's and rain's; none: NaN."""
    solid = sample.cloud.xyz[sample.cloud.label != AIR]
    _, u, v, depth = project(solid, sample.rig.camera_model, sample.rig.T_camera_lidar)
    found = np.full(sample.picture.labels.shape, np.nan, np.float32)
    order = np.argsort(-depth)
    found[v[order].astype(int), u[order].astype(int)] = depth[order]
    return found


def _change(image: NDArray[np.generic], inside: Mask, ring: Mask) -> float:
    """Change of mean and deviation between two regions, over all channels; 0 where unseen."""
    smooth = cv2.GaussianBlur(image.astype(np.float64), (3, 3), 0.8)  # less of the noise
    within, around = _seen(smooth, inside, ring)
    if min(len(within), len(around)) < 4:
        return 0.0
    change = np.stack([within.mean(0) - around.mean(0), within.std(0) - around.std(0)])
    return float(np.sqrt((change**2).sum() / change.shape[1]))


def _gap(reach: Floats, inside: Mask, ring: Mask) -> float:
    """Difference (m) of the median range of an object and of the ring around it."""
    within, around = _seen(reach, inside, ring)
    if len(within) < RETURNS:
        return 0.0
    return float(abs(np.median(within) - np.median(around))) if len(around) else np.inf


def _seen(image: NDArray[Any], *regions: Mask) -> list[NDArray[Any]]:
    """Values (N, channels) of each region, without NaN."""
    values = image.reshape(*image.shape[:2], -1)
    return [values[region & ~np.isnan(values[..., 0])] for region in regions]
