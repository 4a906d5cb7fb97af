# SPDX-License-Identifier: Apache-2.0
"""The synthetic world: repeatable, complete, and geometrically consistent across its sensors."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.sensors import project
from mmsam_ros.world import (
    CLASSES,
    Rig,
    Sample,
    Vehicle,
    World,
    build_street,
    make_rig,
)
from mmsam_ros.world.camera import view
from mmsam_ros.world.lidar import AIR, Cloud
from mmsam_ros.world.meshes import box, floor
from mmsam_ros.world.scene import (
    CASES,
    CLASS_IDS,
    SKY,
    WEATHERS,
    Conditions,
    Instance,
    Limb,
    Motion,
    Path,
)
from mmsam_ros.world.street import BLOCK, EGO_SPEED, Layout
from mmsam_ros.world.style import SEEDS, TEXTURES, Dice, Style, Surface, world_seed
from mmsam_ros.world.thermal import COUNTS_PER_KELVIN, ZERO_CELSIUS
from mmsam_ros.world.traffic import person


@pytest.fixture(scope="module")
def rig() -> Rig:
    return make_rig(320, 240, steps=512)


@pytest.fixture(scope="module")
def vehicle(rig: Rig) -> Vehicle:
    return Vehicle(build_street(0), rig)


@pytest.fixture(scope="module")
def drive(rig: Rig) -> list[Sample]:
    return list(Vehicle(build_street(2), rig).samples(10, 1.0))


def _plain(weather: str, case: str = "ordinary") -> Conditions:
    """A weather's conditions with the table's temperatures and no chance exposure."""
    return replace(Conditions.draw(0, weather, case), air=0.0)


def _lone_person(distance: float, conditions: Conditions) -> World:
    """One standing person straight ahead on a lawn."""
    figure = person(Dice(1), walking=False)
    lawn = floor((-100, 300), (-200, 200), 0.0, Surface("grass", (0.1, 0.2, 0.05)))
    there = Motion((distance + 1.25, 0.0, 0.0), heading=np.pi)
    instances = (
        Instance(CLASS_IDS["terrain"], (Limb(lawn),)),
        Instance(CLASS_IDS["person"], figure, there),
    )
    ego, sun = Motion((0.0, 0.0, 0.0)), np.array([0.6, 0.0, 0.8])
    return World(0, conditions, instances, ego, (), sun)


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
    camera = rig.camera_model
    own: list[bool] = []
    close: list[bool] = []
    front = 0.5 / rig.rates["lidar"]  # a turn begins behind the vehicle
    for s in (0.0, 20.0, 40.0, 60.0):
        ego = replace(vehicle.world.ego, start=(s, -1.7, 0.0), speed=0.0, sway=0.0)
        parked = Vehicle(replace(vehicle.world, ego=ego), rig)
        picture, cloud = parked.camera(front), parked.lidar(0.0)
        index, u, v, _ = project(cloud.xyz, camera, rig.T_camera_lidar)
        row, column = v.astype(int), u.astype(int)
        own += (picture.labels[row, column] == cloud.label[index]).tolist()
        lens = np.linalg.inv(rig.T_camera_lidar)[:3, 3]
        reach = np.linalg.norm(cloud.xyz[index] - lens, axis=1)
        close += (np.abs(picture.distance[row, column] / reach - 1) < 0.05).tolist()
    assert len(own) > 5000
    assert np.mean(own) >= 0.93  # the rest is at edges
    assert np.mean(close) >= 0.90


def test_the_cloud_is_one_plausible_turn(vehicle: Vehicle, rig: Rig) -> None:
    still = replace(vehicle.world, ego=replace(vehicle.world.ego, speed=0.0, sway=0.0))
    cloud = Vehicle(still, rig).lidar(2.0)
    reach = np.linalg.norm(cloud.xyz, axis=1)
    assert reach.min() > 0.7
    assert reach.max() < 111
    up = np.degrees(np.arcsin(cloud.xyz[:, 2] / reach))
    np.testing.assert_allclose(up, rig.lidar.elevations[cloud.ring], atol=0.01)
    assert cloud.intensity.min() >= 0
    assert cloud.intensity.max() <= 255
    assert np.all(np.diff(cloud.time) >= 0)
    assert 0 <= cloud.time.min() <= cloud.time.max() < 1 / rig.rates["lidar"]


def _area(cloud: Cloud, first: str, second: str) -> float:
    """Share of pairs of points in which the one of the second class is the brighter one."""
    a, b = (np.sort(cloud.intensity[cloud.label == CLASS_IDS[name]]) for name in (first, second))
    return float(np.searchsorted(a, b, "left").mean() / len(a))


def test_intensity_does_not_give_classes_away() -> None:
    """Real cars are as bright as the road, walls as leaves; only signs and marks stand out."""
    rig = make_rig(64, 48, steps=512)
    clouds = [Vehicle(build_street(n, "cloud"), rig).lidar(0.0) for n in range(1, 9)]
    fields = ("xyz", "intensity", "ring", "time", "label")
    cloud = Cloud(*(np.concatenate([getattr(c, name) for c in clouds]) for name in fields))
    for first, second in (("road", "car"), ("road", "sidewalk"), ("building", "vegetation")):
        assert 0.2 < _area(cloud, first, second) < 0.8, (first, second)
    assert _area(cloud, "road", "lane_mark") > 0.6
    assert _area(cloud, "road", "traffic_sign") > 0.8
    medians = [np.median(c.intensity[c.label == CLASS_IDS["road"]]) for c in clouds]
    assert max(medians) > 1.5 * min(medians)


def test_intensity_falls_with_range_and_on_wet_ground(rig: Rig) -> None:
    wall = box((8.0, -9.0, 0.0), (8.5, 9.0, 6.0), Surface("stone", (0.5, 0.5, 0.5)))
    street = floor((-50, 50), (-50, 50), 0.0, Surface("asphalt", (0.2, 0.2, 0.2)))
    things = [("building", wall), ("road", street)]
    instances = tuple(Instance(CLASS_IDS[name], (Limb(mesh),)) for name, mesh in things)
    sun = np.array([0.6, 0.0, 0.8])

    def median(name: str, weather: str = "sun", ahead: float = 0.0, falloff: float = 0.8) -> float:
        ego = Motion((-ahead, 0.0, 0.0))
        world = World(0, _plain(weather), instances, ego, (), sun)
        lidar = replace(rig.lidar, falloff=falloff)
        cloud = Vehicle(world, replace(rig, lidar=lidar)).lidar(0.0)
        return float(np.median(cloud.intensity[cloud.label == CLASS_IDS[name]]))

    assert median("building", ahead=30.0) < 0.7 * median("building")
    assert median("building", ahead=30.0, falloff=0) > 0.8 * median("building", falloff=0)
    assert median("road", "rain") < 0.8 * median("road")


def test_people_are_near_in_most_frames() -> None:
    """At 256 pixels wide, in which the person of a street scene is often a few pixels high."""
    rig, tall = make_rig(256, 192), 0
    for number in range(8):
        picture = Vehicle(build_street(world_seed("test", number), "cloud"), rig).camera(1.0)
        person = picture.labels == CLASS_IDS["person"]
        heights = [
            np.ptp(np.nonzero(person & (picture.instance == one))[0]) + 1
            for one in np.unique(picture.instance[person])
        ]
        tall += max(heights, default=0) >= 20
    assert tall >= 5


def test_people_are_warmer_than_their_surroundings_at_night(rig: Rig) -> None:
    vehicle = Vehicle(build_street(0, weather="night"), rig)
    compared = 0
    for time in (0.0, 1.5, 3.0):
        hits, _ = view(vehicle.caster, rig.thermal, time)
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
    vehicle = Vehicle(_lone_person(distance, _plain("night")), rig)
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
    day, night = (Vehicle(_lone_person(6.0, _plain(weather)), rig) for weather in ("sun", "night"))
    assert day.camera(0.0).rgb.mean() > 2 * night.camera(0.0).rgb.mean()
    lawn = np.s_[-20:, :]
    assert day.thermal(0.0)[lawn].mean() > night.thermal(0.0)[lawn].mean() + 500
    np.testing.assert_array_equal(day.camera(0.0).labels, night.camera(0.0).labels)


def test_sensors_have_their_own_places_and_clocks(rig: Rig) -> None:
    assert 0.3 <= np.linalg.norm(rig.T_camera_lidar[:3, 3]) <= 0.5
    assert np.linalg.norm(rig.T_camera_thermal[:3, 3]) == pytest.approx(0.2)
    stamps = [rig.stamps(sensor, 10.0) for sensor in ("camera", "lidar", "thermal")]
    assert [len(s) for s in stamps] == [50, 100, 90]
    assert len(np.unique(np.concatenate(stamps))) == 240


@pytest.fixture(scope="module")
def figures(rig: Rig) -> dict[tuple[str, str], Vehicle]:
    """The same person and lawn under every weather, and in every case under the sun."""
    kinds = [(weather, "ordinary") for weather in WEATHERS] + [("sun", case) for case in CASES]
    return {kind: Vehicle(_lone_person(12.0, _plain(*kind)), rig) for kind in kinds}


def _figure(vehicle: Vehicle) -> NDArray[np.bool_]:
    return vehicle.camera(0.0).labels == CLASS_IDS["person"]


def test_the_labels_do_not_depend_on_the_weather(
    figures: dict[tuple[str, str], Vehicle],
) -> None:
    masks = [_figure(vehicle) for vehicle in figures.values()]
    assert all(np.array_equal(mask, masks[0]) for mask in masks[1:])


def test_fog_hides_what_is_far_from_the_camera_more_than_from_the_thermal_camera(
    figures: dict[tuple[str, str], Vehicle], rig: Rig
) -> None:
    contrast = {}
    for weather in ("cloud", "fog"):
        vehicle = figures[weather, "ordinary"]
        hits, _ = view(vehicle.caster, rig.thermal, 0.0)
        warm = (vehicle.caster.label[hits.triangle] == CLASS_IDS["person"]).reshape(120, 160)
        for name, image, mask in (
            ("camera", vehicle.camera(0.0).rgb.mean(2), _figure(vehicle)),
            ("thermal", vehicle.thermal(0.0) / COUNTS_PER_KELVIN, warm),
        ):
            around = (cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))) > 0) & ~mask
            contrast[name, weather] = abs(image[mask].mean() - image[around].mean())
    assert contrast["camera", "fog"] < 0.7 * contrast["camera", "cloud"]
    assert contrast["thermal", "fog"] > 0.7 * contrast["thermal", "cloud"]


def test_fog_takes_points_and_sends_some_back_from_the_air(
    figures: dict[tuple[str, str], Vehicle],
) -> None:
    clear, fog = (figures[weather, "ordinary"].lidar(0.0) for weather in ("sun", "fog"))
    assert (clear.label == AIR).sum() == 0
    assert 0.02 < np.mean(fog.label == AIR) < 0.3
    solid = fog.label != AIR
    assert solid.sum() < 0.9 * len(clear.label)
    far = np.linalg.norm(fog.xyz[solid], axis=1) > 30
    assert far.mean() < 0.5 * np.mean(np.linalg.norm(clear.xyz, axis=1) > 30)


def test_cases_change_the_sensor_that_they_name(figures: dict[tuple[str, str], Vehicle]) -> None:
    plain = figures["sun", "ordinary"]

    def edges(vehicle: Vehicle) -> float:
        return float(cv2.Laplacian(vehicle.camera(0.0).rgb[..., 1], cv2.CV_32F).std())

    assert edges(figures["sun", "motionblur"]) < 0.7 * edges(plain)
    bright, dark = (figures["sun", c].camera(0.0).rgb for c in ("overexposure", "underexposure"))
    assert np.mean(bright > 240) > 0.5
    assert dark.mean() < 30
    shaken, straight = (v.lidar(0.0) for v in (figures["sun", "lidarjitter"], plain))
    lawn = [c.xyz[(c.label == CLASS_IDS["terrain"])] for c in (shaken, straight)]
    assert np.std(lawn[0][:, 2]) > 3 * np.std(lawn[1][:, 2])
    coarse = figures["sun", "thermallowres"].thermal(0.0).astype(float) / COUNTS_PER_KELVIN
    squares = coarse.reshape(20, 6, -1)[:, :, :150].reshape(20, 6, 25, 6)
    assert np.median(squares.std(axis=(1, 3))) < 0.12


def test_the_sweep_sees_what_moves_where_it_is_when_the_beam_passes(rig: Rig) -> None:
    lawn = floor((-100, 300), (-200, 200), 0.0, Surface("grass", (0.1, 0.2, 0.05)))
    wall = box((20.0, -60.0, 0.0), (20.5, 60.0, 6.0), Surface("stone", (0.5, 0.5, 0.5)))
    body = box((-0.2, -0.2, 0.0), (0.2, 0.2, 4.0), Surface("paint", (0.5, 0.5, 0.5)))
    instances = (
        Instance(CLASS_IDS["terrain"], (Limb(lawn),)),
        Instance(CLASS_IDS["building"], (Limb(wall),)),
        Instance(CLASS_IDS["car"], (Limb(body),), Motion((10.0, -10.0, 0.0), np.pi / 2, 20.0)),
    )
    ego, sun = Motion((0.0, 0.0, 0.0), speed=10.0), np.array([0.6, 0.0, 0.8])
    world = World(0, _plain("sun"), instances, ego, (), sun)
    cloud = Vehicle(world, rig).lidar(0.5)
    # the wall stands still: compensated, all its points lie in one plane at the stamp
    face = cloud.xyz[(cloud.label == CLASS_IDS["building"]) & (cloud.xyz[:, 2] < 3)]
    np.testing.assert_allclose(face[:, 0], 20.0 - 1.5 - 5.0, atol=0.1)
    # the car goes on while the beams turn: half a turn later it is a metre farther to the left
    car = cloud.label == CLASS_IDS["car"]
    moved = 20.0 * np.median(cloud.time[car])
    assert moved > 0.5
    assert np.median(cloud.xyz[car, 1]) == pytest.approx(moved, abs=0.5)


def test_a_curved_street_keeps_its_widths() -> None:
    path = Path(0.45, 320.0, 1.0)
    s, n = np.meshgrid(np.linspace(-50, 200, 60), np.linspace(-12, 12, 9))
    x, y, _ = path.world(s.ravel(), n.ravel())
    back = path.street(x.astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(back, [s.ravel(), n.ravel()], atol=0.02)


def test_a_long_drive_goes_on_to_its_end() -> None:
    """Of streets that are curved, at the ego vehicle's speed; traffic has places of its own."""
    seconds, curved = 1800.0, 0
    for seed in range(6):
        layout = Layout(seed, EGO_SPEED * seconds)
        ego = Motion((0.0, 0.0, 0.0), speed=EGO_SPEED, path=layout.path)
        places = np.array([ego.at(t)[:2, 3] for t in np.arange(0.0, seconds, 5.0)])
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        assert steps.min() > 0.95 * 5 * EGO_SPEED
        x, _, _ = layout.path.world(np.arange(0.0, layout.traffic + BLOCK, 10.0), 0.0)
        assert np.diff(x).min() > 5.0
        curved += layout.path.swing > 0
    assert curved >= 2


def test_splits_share_no_seed_and_no_texture_value() -> None:
    seeds = {split: [world_seed(split, n) for n in range(40)] for split in SEEDS}
    assert len({s for numbers in seeds.values() for s in numbers}) == 120
    for name in TEXTURES:
        values = {split: {Style(s)[name] for s in seeds[split]} for split in SEEDS}
        low, high = TEXTURES[name]
        cells = {k: {int((v - low) / (high - low) * 25) for v in vs} for k, vs in values.items()}
        assert not cells["train"] & cells["test"]
        assert not cells["train"] & cells["val"]
        assert not cells["val"] & cells["test"]


@pytest.mark.parametrize(("weather", "case"), [("snow", "ordinary"), ("sun", "blur")])
def test_an_unknown_weather_or_case_is_refused(weather: str, case: str) -> None:
    with pytest.raises(DataError, match="unknown"):
        build_street(0, weather=weather, case=case)


@pytest.mark.parametrize(("split", "number"), [("dev", 0), ("train", 10**6), ("test", -1)])
def test_seeds_outside_a_split_are_refused(split: str, number: int) -> None:
    with pytest.raises(DataError, match=r"unknown 'dev'|expected"):
        world_seed(split, number)
