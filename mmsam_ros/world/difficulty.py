# SPDX-License-Identifier: Apache-2.0
"""Hard or easy: measured on a frame's images, never taken from the name of its weather.

The rule. An object is a person, a rider, a bicycle, a vehicle or a traffic sign that covers at
least `SMALLEST` of the picture. Its contrast in a sensor compares the object with the ring around
it: the change of mean and of deviation over all channels, divided by what the sensor's noise makes
of nothing (`UNITS`); of LiDAR returns (echoes of fog and rain aside), the gap in range, and 0 where
fewer than `RETURNS` hit it. The camera has lost an object whose contrast is below 1 there; an
auxiliary shows it where its own contrast is at least 1. A frame is hard where auxiliaries show at
least `SHARE` of the objects that it has while the camera has lost them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors import CameraModel, Registration, project, register
from mmsam_ros.world.lidar import AIR
from mmsam_ros.world.rig import Rig
from mmsam_ros.world.samples import Sample
from mmsam_ros.world.scene import CLASS_IDS

OBJECTS = ("person", "rider", "bicycle", "car", "truck", "traffic_sign")
UNITS = {"camera": 8.0, "thermal": 0.7, "lidar": 0.7}  # grey levels, kelvin, metres
SMALLEST, RETURNS, SHARE = 4e-4, 3, 0.25
_KELVIN = np.float32(0.01)


def is_hard(sample: Sample) -> bool:
    """Whether the frame is hard, by the rule above."""
    found = contrasts(sample)
    if not len(found):
        return False
    lost = (found[:, 0] < 1) & (found[:, 1:].max(1) >= 1)
    return bool(lost.mean() >= SHARE)


def contrasts(sample: Sample) -> NDArray[np.float64]:
    """(objects, 3) contrast of every object in camera, thermal image and LiDAR."""
    picture = sample.picture
    heat, reach = thermal_in_view(sample), _ranges(sample)
    wanted = np.isin(picture.labels, [CLASS_IDS[name] for name in OBJECTS])
    numbers, areas = np.unique(picture.instance[wanted], return_counts=True)
    rows = []
    for number in numbers[areas >= SMALLEST * wanted.size]:
        mask = (picture.instance == number) & wanted
        inside, ring, window = _surroundings(mask)
        rows.append((
            _change(picture.rgb[window], inside, ring) / UNITS["camera"],
            _change(heat[window] * _KELVIN, inside, ring) / UNITS["thermal"],
            _gap(reach[window], inside, ring) / UNITS["lidar"],
        ))  # fmt: skip
    return np.array(rows).reshape(-1, 3)


def thermal_in_view(sample: Sample) -> NDArray[np.float32]:
    """Counts (H, W) in the camera's view by rotation, as the node registers them; unseen: NaN."""
    heat, valid = register(
        sample.thermal.astype(np.float32), registration(sample.rig),
        sample.picture.labels.shape, sample.picture.labels.shape,
    )  # fmt: skip
    return np.where(valid, heat, np.float32(np.nan))


def registration(rig: Rig) -> Registration:
    """The thermal camera's registration by rotation."""
    return Registration.from_rotation(rig.camera.K, rig.T_camera_thermal[:3, :3], rig.thermal.K)


def camera_model(rig: Rig) -> CameraModel:
    """The camera as `sensors` describe it."""
    spec = rig.camera
    return CameraModel(
        width=spec.width, height=spec.height, K=spec.K, D=np.zeros(0), distortion="none",
        R=np.eye(3), offset=np.zeros(3),
    )  # fmt: skip


def _ranges(sample: Sample) -> NDArray[np.float32]:
    """(H, W) distance of LiDAR returns in the camera's view, NaN where there is none.

    What fog and rain send back shows no object, however far it is from the road behind.
    """
    solid = sample.cloud.xyz[sample.cloud.label != AIR]
    _, u, v, depth = project(solid, camera_model(sample.rig), sample.rig.T_camera_lidar)
    found = np.full(sample.picture.labels.shape, np.nan, np.float32)
    order = np.argsort(-depth)
    found[v[order].astype(int), u[order].astype(int)] = depth[order]
    return found


def _surroundings(
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], tuple[slice, slice]]:
    """An object's mask and a ring about a quarter of its size wide, cut out, and the window."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    width = max(2, int(np.sqrt(mask.sum()) / 4))
    window = (
        slice(max(rows[0] - width, 0), rows[-1] + width + 1),
        slice(max(columns[0] - width, 0), columns[-1] + width + 1),
    )
    inside = mask[window]
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return inside, (cv2.dilate(inside.astype(np.uint8), kernel) > 0) & ~inside, window


def _change(
    image: NDArray[np.generic], inside: NDArray[np.bool_], ring: NDArray[np.bool_]
) -> float:
    """Change of mean and deviation between two regions, over all channels; 0 where unseen."""
    values = image.astype(np.float64).reshape(*inside.shape, -1)
    smooth = cv2.GaussianBlur(values, (3, 3), 0.8)  # less of the noise
    within, around = (smooth[region].reshape(-1, values.shape[2]) for region in (inside, ring))
    within, around = within[~np.isnan(within[:, 0])], around[~np.isnan(around[:, 0])]
    if min(len(within), len(around)) < 4:
        return 0.0
    change = np.stack([within.mean(0) - around.mean(0), within.std(0) - around.std(0)])
    return float(np.sqrt((change**2).sum() / values.shape[2]))


def _gap(reach: NDArray[np.float32], inside: NDArray[np.bool_], ring: NDArray[np.bool_]) -> float:
    """Metres between the median range of an object and of its surroundings."""
    within, around = reach[inside], reach[ring]
    within, around = within[~np.isnan(within)], around[~np.isnan(around)]
    if len(within) < RETURNS:
        return 0.0
    if not len(around):
        return np.inf
    return float(abs(np.median(within) - np.median(around)))
