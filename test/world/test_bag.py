# SPDX-License-Identifier: Apache-2.0
"""The synthetic bag reads back as three calibrated sensors with ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability, QosReliability
from support.networks import SYNTHETIC

from mmsam_ros.cli import synth
from mmsam_ros.data.errors import DataError
from mmsam_ros.ros.bags import read_parameters
from mmsam_ros.ros.interface import INPUTS
from mmsam_ros.sensors import CameraModel
from mmsam_ros.world import (
    CLASSES,
    Rig,
    Vehicle,
    World,
    build_street,
    make_rig,
)
from mmsam_ros.world.bag import START, TOPICS, write_bag
from mmsam_ros.world.meshes import floor
from mmsam_ros.world.scene import CLASS_IDS, Conditions, Instance, Limb, Motion
from mmsam_ros.world.style import Dice, Surface
from mmsam_ros.world.traffic import person

SECONDS = 1.0
Records = dict[str, list[tuple[int, Any]]]


@pytest.fixture(scope="module")
def rig() -> Rig:
    return make_rig(96, 64, steps=128)


@pytest.fixture(scope="module")
def vehicle(rig: Rig) -> Vehicle:
    lawn = floor((-100, 300), (-200, 200), 0.0, Surface("grass", (0.1, 0.2, 0.05)))
    figure = person(Dice(3))
    instances = (
        Instance(CLASS_IDS["terrain"], (Limb(lawn),)),
        Instance(CLASS_IDS["person"], figure, Motion((6.0, 0.0, 0.0), np.pi / 2, 1.0)),
    )
    sun, ego = np.array([0.6, 0.0, 0.8]), Motion((0.0, 0.0, 0.0), speed=1.0)
    return Vehicle(World(4, Conditions.draw(4), instances, ego, (), sun), rig)


@pytest.fixture(scope="module")
def bag(vehicle: Vehicle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bags") / "drive"
    shares: list[float] = []
    counts = write_bag(folder, vehicle, SECONDS, shares.append)
    assert counts["/camera/image"] == 5
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return folder


@pytest.fixture(scope="module")
def records(bag: Path) -> Records:
    found: Records = {topic: [] for topic in TOPICS}
    with AnyReader([bag]) as reader:
        for connection, time, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            found[connection.topic].append((time, message))
    return found


def _stamp(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def test_topics_counts_and_quality_of_service(bag: Path, records: Records) -> None:
    counts = {topic: len(messages) for topic, messages in records.items()}
    assert counts == {
        "/tf_static": 1, "/camera/image": 5, "/camera/camera_info": 5, "/lidar/points": 10,
        "/thermal/image": 9, "/thermal/camera_info": 9, "/ground_truth/semantic": 5,
    }  # fmt: skip
    with AnyReader([bag]) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == TOPICS
        for connection in reader.connections:
            (profile,) = connection.ext.offered_qos_profiles  # type: ignore[union-attr]
            latched = connection.topic == "/tf_static"
            assert profile.reliability == QosReliability.RELIABLE
            assert (profile.durability == QosDurability.TRANSIENT_LOCAL) == latched


def test_rates_stamps_and_frames(records: Records, rig: Rig) -> None:
    streams = {"/camera/image": ("camera", "camera_optical"),
               "/lidar/points": ("lidar", "lidar"),
               "/thermal/image": ("thermal", "thermal_optical")}  # fmt: skip
    stamps = []
    for topic, (sensor, frame) in streams.items():
        times = [time for time, _ in records[topic]]
        assert times == [_stamp(message) for _, message in records[topic]]
        assert times == [START + int(t) for t in rig.stamps(sensor, SECONDS)]
        assert {message.header.frame_id for _, message in records[topic]} == {frame}
        stamps += times
    assert len(set(stamps)) == len(stamps)
    for twin in ("/camera/camera_info", "/ground_truth/semantic"):
        assert [_stamp(m) for _, m in records[twin]] == [t for t, _ in records["/camera/image"]]


def test_images_are_the_rendered_ones(records: Records, vehicle: Vehicle, rig: Rig) -> None:
    time, image = records["/camera/image"][2]
    truth, heat = records["/ground_truth/semantic"][2][1], records["/thermal/image"][3][1]
    assert (image.encoding, truth.encoding, heat.encoding) == ("rgb8", "mono8", "mono16")
    picture = vehicle.camera((time - START) * 1e-9)
    np.testing.assert_array_equal(image.data.reshape(64, 96, 3), picture.rgb)
    np.testing.assert_array_equal(truth.data.reshape(64, 96), picture.labels)
    assert truth.data.max() < len(CLASSES)
    assert (image.step, truth.step, heat.step) == (288, 96, 96)
    counts = heat.data.view("<u2").reshape(32, 48)
    np.testing.assert_array_equal(counts, vehicle.thermal(rig.stamps("thermal", SECONDS)[3] * 1e-9))


def test_clouds_carry_the_rendered_points(records: Records, vehicle: Vehicle) -> None:
    time, message = records["/lidar/points"][4]
    cloud = vehicle.lidar((time - START) * 1e-9)
    formats = {7: "<f4", 4: "<u2"}
    layout = np.dtype(
        {
            "names": [field.name for field in message.fields],
            "formats": [formats[field.datatype] for field in message.fields],
            "offsets": [field.offset for field in message.fields],
            "itemsize": message.point_step,
        }
    )
    assert layout.names == ("x", "y", "z", "intensity", "ring", "time")
    points = np.frombuffer(message.data.tobytes(), layout)
    assert len(points) == message.width == len(cloud.xyz)
    np.testing.assert_array_equal(np.stack([points[k] for k in "xyz"], 1), cloud.xyz)
    np.testing.assert_array_equal(points["intensity"], cloud.intensity)
    np.testing.assert_array_equal(points["ring"], cloud.ring)
    np.testing.assert_array_equal(points["time"], cloud.time)


def test_calibration_equals_the_rig(records: Records, rig: Rig) -> None:
    found = {}
    for transform in records["/tf_static"][0][1].transforms:
        assert transform.header.frame_id == "base_link"
        q, p = transform.transform.rotation, transform.transform.translation
        x, y, z, w = q.x, q.y, q.z, q.w
        assert np.linalg.norm([x, y, z, w]) == pytest.approx(1)
        T = np.eye(4)
        T[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        T[:3, 3] = p.x, p.y, p.z
        found[transform.child_frame_id] = T
    inverse = np.linalg.inv(found["camera_optical"])
    np.testing.assert_allclose(inverse @ found["lidar"], rig.T_camera_lidar, atol=1e-9)
    chain = inverse @ found["thermal_optical"]
    np.testing.assert_allclose(chain, rig.T_camera_thermal, atol=1e-9)
    for topic, spec in (("/camera/camera_info", rig.camera), ("/thermal/camera_info", rig.thermal)):
        info = records[topic][0][1]
        model = CameraModel.from_info(
            width=info.width, height=info.height, k=info.k, d=info.d,
            distortion_model=info.distortion_model, r=info.r, p=info.p, binning_x=info.binning_x,
            binning_y=info.binning_y,
            roi=(info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height),
        )  # fmt: skip
        assert (model.width, model.height) == (spec.width, spec.height)
        np.testing.assert_allclose(model.K, spec.K)


def test_an_existing_folder_or_an_empty_drive_is_refused(
    bag: Path, vehicle: Vehicle, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="exists"):
        write_bag(bag, vehicle, SECONDS)
    with pytest.raises(DataError, match=r"seconds is 0\.01"):
        write_bag(tmp_path / "none", vehicle, 0.01)
    assert not (tmp_path / "none").exists()


def _arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    synth.add_arguments(parser)
    return parser.parse_args(["bag", *words])


def test_the_command_writes_a_night_bag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "night"
    options = ("--seed", "3", "--seconds", "0.3", "--weather", "night", "--size", "64x48")
    args = _arguments(str(out), *options, "--camera-rate", "10")
    args.run(args)
    assert "3 /camera/image" in capsys.readouterr().out
    with AnyReader([out]) as reader:
        assert reader.topics["/lidar/points"].msgcount == 3
    file = yaml.safe_load((out / "calibration.yaml").read_text(encoding="utf-8"))
    given = file["/**/mmsam"]["ros__parameters"]
    assert given["thermal"].pop("registration") == "rotation"
    assert given == read_parameters(out)


def test_the_topics_are_those_that_the_node_reads() -> None:
    """So that the bag plays without remapping."""
    names = {topic.name: topic.type for topic in INPUTS}
    sensors = {topic[1:]: kind for topic, kind in TOPICS.items() if topic[1:] in names}
    assert {name: names[name] for name in sensors} == sensors
    others = {"/tf_static", "/ground_truth/semantic"}
    assert TOPICS.keys() - {f"/{name}" for name in sensors} == others


def test_the_command_refuses_a_size_it_cannot_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _arguments("somewhere", "--size", "wide")
    assert "WIDTHxHEIGHT" in capsys.readouterr().err


@pytest.mark.parametrize("weather", ["sun", "night"])
def test_the_tests_limits_hold_the_thermal_range(weather: str, rig: Rig) -> None:
    limits = SYNTHETIC["thermal"].limits
    assert limits is not None
    counts = Vehicle(build_street(0, weather=weather), rig).thermal(0.0)
    assert np.mean((counts > limits[0]) & (counts < limits[1])) > 0.9  # a clear sky is colder
