# SPDX-License-Identifier: Apache-2.0
"""The synthetic world: repeatable, complete, and geometrically consistent across its sensors."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.synthetic import (
    CLASSES,
    Rig,
    Sample,
    Vehicle,
    World,
    build_street,
    make_rig,
    samples,
)
from mmsam_ros.data.synthetic.camera import view
from mmsam_ros.data.synthetic.meshes import Surface, floor
from mmsam_ros.data.synthetic.people import person
from mmsam_ros.data.synthetic.thermal import COUNTS_PER_KELVIN, ZERO_CELSIUS
from mmsam_ros.data.synthetic.world import CLASS_IDS, SKY, Instance, Limb, Motion
from mmsam_ros.sensors import CameraModel, project


def _camera_model(rig: Rig) -> CameraModel:
    spec = rig.camera
    return CameraModel(
        width=spec.width, height=spec.height, K=spec.K, D=np.zeros(0), distortion="none",
        R=np.eye(3), offset=np.zeros(3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Rig:
    return make_rig(320, 240, steps=512)


@pytest.fixture(scope="module")
def vehicle(rig: Rig) -> Vehicle:
    return Vehicle(build_street(0), rig)


@pytest.fixture(scope="module")
def drive(rig: Rig) -> list[Sample]:
    return list(samples(2, 6, rig=rig, interval=1.0))


def _lone_person(distance: float, *, night: bool) -> World:
    """One standing person straight ahead on a lawn."""
    figure = person(np.random.default_rng(3), walking=False)
    lawn = floor((-100, 300), (-200, 200), 0.0, Surface("grass", (0.1, 0.2, 0.05)))
    there = Motion((distance + 1.25, 0.0, 0.0), heading=np.pi)
    instances = (
        Instance(CLASS_IDS["terrain"], (Limb(lawn),)),
        Instance(CLASS_IDS["person"], figure, there),
    )
    return World(0, night, instances, Motion((0.0, 0.0, 0.0)), (), np.array([0.6, 0.0, 0.8]))


def test_the_same_seed_gives_the_same_frames_in_any_order(vehicle: Vehicle, rig: Rig) -> None:
    again = Vehicle(build_street(0), rig)
    late = again.camera(4.2)
    thermal, cloud, early = again.thermal(1.3), again.lidar(1.3), again.camera(1.3)
    first = vehicle.camera(1.3)
    np.testing.assert_array_equal(first.rgb, early.rgb)
    np.testing.assert_array_equal(first.labels, early.labels)
    np.testing.assert_array_equal(vehicle.camera(4.2).rgb, late.rgb)
    np.testing.assert_array_equal(vehicle.thermal(1.3), thermal)
    np.testing.assert_array_equal(vehicle.lidar(1.3).xyz, cloud.xyz)
    np.testing.assert_array_equal(vehicle.lidar(1.3).intensity, cloud.intensity)


def test_other_seeds_and_times_give_other_scenes(vehicle: Vehicle, drive: list[Sample]) -> None:
    here = vehicle.camera(1.0).labels
    assert np.mean(here != drive[1].picture.labels) > 0.1
    assert np.mean(here != vehicle.camera(2.0).labels) > 0.05


def test_every_class_appears_in_a_drive(drive: list[Sample]) -> None:
    counts = np.zeros(256, np.int64)
    for sample in drive:
        counts += np.bincount(sample.picture.labels.reshape(-1), minlength=256)
    assert {info.name for info in CLASSES if counts[info.id] < 20} == set()
    assert counts[len(CLASSES) :].sum() == 0


def test_sky_is_where_no_ray_hits(vehicle: Vehicle) -> None:
    picture = vehicle.camera(0.0)
    np.testing.assert_array_equal(np.isinf(picture.distance), picture.labels == SKY)


def test_points_land_on_pixels_of_their_own_class(vehicle: Vehicle, rig: Rig) -> None:
    camera = _camera_model(rig)
    own: list[bool] = []
    close: list[bool] = []
    for time in (0.0, 3.0, 6.0, 9.0):
        picture, cloud = vehicle.camera(time), vehicle.lidar(time)
        index, u, v, _ = project(cloud.xyz, camera, rig.T_camera_lidar)
        row, column = v.astype(int), u.astype(int)
        own += (picture.labels[row, column] == cloud.label[index]).tolist()
        lens = np.linalg.inv(rig.T_camera_lidar)[:3, 3]
        reach = np.linalg.norm(cloud.xyz[index] - lens, axis=1)
        close += (np.abs(picture.distance[row, column] / reach - 1) < 0.05).tolist()
    assert len(own) > 5000
    assert np.mean(own) >= 0.95
    assert np.mean(close) >= 0.90


def test_the_cloud_is_one_plausible_turn(vehicle: Vehicle, rig: Rig) -> None:
    cloud = vehicle.lidar(2.0)
    reach = np.linalg.norm(cloud.xyz, axis=1)
    assert reach.min() > 0.7
    assert reach.max() < 111
    up = np.degrees(np.arcsin(cloud.xyz[:, 2] / reach))
    np.testing.assert_allclose(up, rig.lidar.elevations[cloud.ring], atol=0.01)
    assert cloud.intensity.min() >= 0
    assert cloud.intensity.max() <= 255
    assert np.all(np.diff(cloud.time) >= 0)
    assert 0 <= cloud.time.min() <= cloud.time.max() < 1 / rig.lidar_rate
    mark, road = (
        np.median(cloud.intensity[cloud.label == CLASS_IDS[name]]) for name in ("lane_mark", "road")
    )
    assert mark > 2 * road


def test_people_are_warmer_than_their_surroundings_at_night(vehicle: Vehicle, rig: Rig) -> None:
    vehicle = Vehicle(replace(vehicle.world, night=True), rig)
    compared = 0
    for time in (0.0, 1.5, 3.0):
        T = vehicle.world.ego.at(time) @ rig.thermal.T_base
        hits, _ = view(vehicle.caster, rig.thermal, T, time)
        image = vehicle.thermal(time).astype(float)
        person = (vehicle.caster.label[hits.triangle] == CLASS_IDS["person"]).reshape(image.shape)
        inside = cv2.erode(person.astype(np.uint8), np.ones((3, 3))) > 0
        around = (cv2.dilate(person.astype(np.uint8), np.ones((9, 9))) > 0) & ~person
        if inside.sum() > 20:
            assert image[inside].mean() > image[around].mean() + 5 * COUNTS_PER_KELVIN
            compared += 1
    assert compared


def _centre(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5, 1.0])


@pytest.mark.parametrize("distance", [5.0, 12.0])
def test_parallax_between_camera_and_thermal_is_that_of_the_geometry(distance: float) -> None:
    rig = make_rig(640, 480)
    vehicle = Vehicle(_lone_person(distance, night=True), rig)
    seen = _centre(vehicle.camera(0.0).labels == CLASS_IDS["person"])
    # skin, clothes and shoes are above 16 degrees Celsius, the lawn and the sky below 8
    warm = vehicle.thermal(0.0) > ZERO_CELSIUS + 12 * COUNTS_PER_KELVIN
    found = _centre(warm)
    T = np.linalg.inv(rig.T_camera_thermal)
    ray = np.linalg.inv(rig.camera.K) @ seen
    near = rig.thermal.K @ (T[:3, :3] @ (ray * distance) + T[:3, 3])
    far = rig.thermal.K @ T[:3, :3] @ ray
    near, far = near / near[2], far / far[2]
    np.testing.assert_allclose(found[:2], near[:2], atol=0.6)
    # the thermal camera is 0.2 m to the right, so near things move to the left
    shift = rig.thermal.K[0, 0] * 0.2 / distance
    assert far[0] - found[0] == pytest.approx(shift, abs=0.6)


def test_by_day_the_sun_warms_and_brightens_what_it_reaches() -> None:
    rig = make_rig(320, 240)
    day, night = (Vehicle(_lone_person(6.0, night=dark), rig) for dark in (False, True))
    assert day.camera(0.0).rgb.mean() > 3 * night.camera(0.0).rgb.mean()
    lawn = np.s_[-20:, :]
    assert day.thermal(0.0)[lawn].mean() > night.thermal(0.0)[lawn].mean() + 500
    np.testing.assert_array_equal(day.camera(0.0).labels, night.camera(0.0).labels)


def test_sensors_have_their_own_places_and_clocks(rig: Rig) -> None:
    assert 0.3 <= np.linalg.norm(rig.T_camera_lidar[:3, 3]) <= 0.5
    assert np.linalg.norm(rig.T_camera_thermal[:3, 3]) == pytest.approx(0.2)
    stamps = [rig.stamps(sensor, 10.0) for sensor in ("camera", "lidar", "thermal")]
    assert [len(s) for s in stamps] == [50, 100, 90]
    assert len(np.unique(np.concatenate(stamps))) == 240


@pytest.mark.parametrize("size", [(16, 240), (320, 31)])
def test_sizes_that_make_no_picture_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=f"{size[0]}x{size[1]}"):
        make_rig(*size)


def test_a_rate_that_is_not_positive_is_refused() -> None:
    with pytest.raises(DataError, match="rate"):
        make_rig(camera_rate=0.0)
