# SPDX-License-Identifier: Apache-2.0
"""Which points of a cloud a camera sees: by hand, and against rays through the synthetic world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmsam_ros.sensors import CameraModel, SeenPoints, project, seen_points
from mmsam_ros.world import Vehicle, build_street, make_rig
from mmsam_ros.world.lidar import LidarSpec
from mmsam_ros.world.scene import pose

# x forward, y left, z up; to the optical frame, half a metre below the sensor
T = np.array([[0, -1, 0, 0], [0, 0, -1, 0.5], [1, 0, 0, 0], [0, 0, 0, 1.0]])


def camera(focal: float = 200.0, width: int = 160, height: int = 120) -> CameraModel:
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return CameraModel(width, height, K, np.zeros(0), "none", np.eye(3), np.zeros(3))


def look(*points: tuple[float, float, float]) -> SeenPoints:
    return seen_points(np.array(points, np.float32).reshape(-1, 3), camera(), T)


def test_pixel_and_place_of_a_point() -> None:
    """(10, 1, 0.25) in the sensor's frame is (-1, 0.25, 10) in the camera's: u 60, v 65."""
    seen = look((-10, 0, 0), (10, 1, 0.25), (np.nan, 0, 0))
    assert seen.index.tolist() == [1]
    assert seen.pixel.tolist() == [65 * 160 + 60]
    assert np.allclose(seen.xyz, [(-1, 0.25, 10)])
    assert np.allclose(seen.depth, 10)


def test_an_empty_cloud_is_not_seen() -> None:
    seen = look()
    assert seen.xyz.shape == (0, 3)
    assert len(seen.nearest) == 0


@pytest.mark.parametrize(
    ("behind", "hidden"),
    [((20.0, 0.05, 0.0), True), ((10.4, 0.0, 0.0), False), ((11.4, 0.0, 0.0), False),
     ((11.6, 0.0, 0.0), True), ((20.0, 2.0, 0.0), False)],
)  # fmt: skip
def test_a_point_behind_a_nearer_one_is_hidden(
    behind: tuple[float, float, float], hidden: bool
) -> None:
    """By more than 0.5 m and a tenth of 10 m; one to the side is not behind."""
    level = 0.5  # both at the camera's height, so that they are in one direction
    points = [(10.0, 0.0, level), (behind[0], behind[1], level)]
    assert (1 not in look(*points).index) == hidden
    assert (0 not in look(*points[::-1]).index) == hidden, "whatever the order"


def test_the_vehicle_itself_neither_has_labels_nor_hides() -> None:
    seen = look((0.7, 0.0, 0.5), (10.0, 0.0, 0.5))
    assert seen.index.tolist() == [1]


def test_nearest_of_each_pixel() -> None:
    seen = look((10.3, 0, 0.5), (10.0, 0, 0.5), (10.2, 0, 0.5), (10.0, 1.0, 0.5))
    assert sorted(seen.index[seen.nearest].tolist()) == [1, 3]


@pytest.mark.parametrize("place", [(0.0, 0.0, 2.2), (1.5, 0.5, 1.9)], ids=["above", "beside"])
def test_against_rays_from_the_camera(place: tuple[float, float, float]) -> None:
    """Four of five points that are a metre or more behind a surface are found, and at most one in
    twenty points of what the camera sees is lost.
    """
    found, hidden, lost, visible = 0, 0, 0, 0
    for seed in (1, 2):
        rig = make_rig(1280, 720, steps=2048)
        rig = replace(rig, lidar=LidarSpec(np.linspace(15, -25, 64), 2048, pose(place)))
        vehicle = Vehicle(build_street(seed), rig)
        points = vehicle.lidar(0.5).xyz
        base = vehicle.world.ego.at(0.5)
        eye = (base @ rig.camera.T_base)[:3, 3].astype(np.float32)
        cast = base @ rig.lidar.T_base
        rays = points @ cast[:3, :3].T + cast[:3, 3] - eye
        distance = np.linalg.norm(rays, axis=1)
        hits = vehicle.caster.cast(eye, (rays / distance[:, None]).astype(np.float32), 0.5)
        gap = distance - hits.distance
        in_view = np.zeros(len(points), bool)
        in_view[project(points, rig.camera_model, rig.T_camera_lidar)[0]] = True
        seen = np.zeros(len(points), bool)
        seen[seen_points(points, rig.camera_model, rig.T_camera_lidar).index] = True
        behind, clear = in_view & (gap > 1.0), in_view & (np.abs(gap) < 0.3)
        found, hidden = found + (behind & ~seen).sum(), hidden + behind.sum()
        lost, visible = lost + (clear & ~seen).sum(), visible + clear.sum()
    assert hidden > 500
    assert found / hidden > 0.8
    assert lost / visible < 0.05
