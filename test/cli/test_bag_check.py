# SPDX-License-Identifier: Apache-2.0
"""`mmsam bag check` says what a recording can feed, and what to set."""

from __future__ import annotations

import json
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from support.drives import STORE, copy_bag, write_drive
from support.networks import spec_of

from mmsam_ros.cli.main import build_parser, main
from mmsam_ros.ros.bag_check import _size, check_bag
from mmsam_ros.ros.interface import PARAMETERS
from mmsam_ros.ros.parameter_files import read_file, read_given
from mmsam_ros.ros.parameters import check_parameters
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.survey import nearest

LIDAR = "/lidar/points"


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("check"), seconds=2.0)


def check(bag: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(["bag", "check", str(bag), "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def texts(found: Any, level: str) -> str:
    return "\n".join(f"{f['subject']}: {f['text']}" for f in found["findings"]
                     if f["level"] == level)  # fmt: skip


def restamped(source: Path, target: Path, topic: str, shift: int) -> Path:
    """A copy in which a topic's stamps are moved, its receive times are not."""
    with Recording(source) as reader, Writer(
        target, version=9, storage_plugin=StoragePlugin.MCAP
    ) as writer:  # fmt: skip
        connections = {
            c.id: writer.add_connection(c.topic, c.msgtype, typestore=STORE)
            for c in reader.connections
        }
        for connection, time, data in reader.messages():
            if connection.topic == topic:
                message: Any = STORE.deserialize_cdr(data, connection.msgtype)
                stamp = message.header.stamp
                moved = stamp.sec * 10**9 + stamp.nanosec + shift if shift else 0
                stamp.sec, stamp.nanosec = divmod(moved, 10**9)
                data = bytes(STORE.serialize_cdr(message, connection.msgtype))
            writer.write(connections[connection.id], time, data)
    return target


def test_files_that_are_read_as_well_are_said(
    drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drive, tmp_path / "bag")
    (file,) = (tmp_path / "bag").glob("*.mcap")
    shutil.copy(file, file.with_name("copy.mcap"))
    code, found = check(tmp_path / "bag", capsys)
    assert code == 0
    assert "copy.mcap is not listed in metadata.yaml and read as well" in texts(found, "ok")
    assert "messages are left out" in texts(found, "ok")


def test_a_sound_drive(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(drive, capsys)
    assert code == 0, found["findings"]
    assert found["inputs"] == {
        "camera/image": "/camera/image",
        "camera/camera_info": "/camera/camera_info",
        "lidar/points": "/lidar/points",
        "thermal/image": "/thermal/image",
        "thermal/camera_info": "/thermal/camera_info",
    }
    assert found["parameters"] == {"thermal.registration": "rotation"}
    assert found["topics"]["/camera/image"] | {"gaps": []} == {
        "type": "sensor_msgs/msg/Image", "messages": 10, "unreadable": 0, "rate_hz": 5.0,
        "gaps": [], "stamp_less_receive_time_s": 0.0, "jitter_s": 0.0, "drift_s": 0.0,
        "stamps_backward": 0, "stamps_repeated": 0, "stamps_zero": 0, "content": ["rgb8 96x64"],
        "frame": "camera_optical",
    }  # fmt: skip
    launch = shlex.split(found["commands"]["with the bag"])
    assert launch[:4] == ["ros2", "launch", "mmsam_ros", "segment.launch.py"]
    assert launch[4:] == ["registration:=rotation", f"bag:={drive}"]


def test_its_command_line_is_one(drive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = check(drive, capsys)
    program, *words = shlex.split(found["commands"]["without ROS"])
    assert program == "mmsam"
    args = build_parser("label-bag").parse_args(words)
    assert args.bag == drive
    assert args.param == ["thermal.registration:=rotation"]


def test_a_clock_that_is_off(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag, out = restamped(drive, tmp_path / "off", LIDAR, 2_500_000_000), tmp_path / "set.yaml"
    code, found = check(bag, capsys, "-o", str(out))
    assert code == 1
    assert found["parameters"]["lidar.offset"] == -2.5
    assert "its stamps are +2.500 s off" in texts(found, "warning")
    assert read_file(out) == found["parameters"]
    assert f"calibration:={out}" in shlex.split(found["commands"]["node alone"])


def test_stamps_that_are_zero(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = restamped(drive, tmp_path / "zero", LIDAR, 0)
    code, found = check(bag, capsys)
    assert code == 2
    assert "20 of 20 stamps are zero" in texts(found, "error")
    assert "lidar clock: not compared with the camera's" in texts(found, "warning")
    assert taken_by_the_node(found) == {"thermal.registration": "rotation"}


def taken_by_the_node(found: Any) -> dict[str, Any]:
    """The suggested parameters, once each row and the command line's reader have accepted them."""
    rows = {row.name: row for row in PARAMETERS}
    for name, value in found["parameters"].items():
        rows[name].check(value)
    words = shlex.split(found["commands"]["without ROS"])
    given = read_given([], [after for word, after in pairwise(words) if word == "-p"])
    check_parameters(given, pytest.fail)
    assert given == found["parameters"]
    return given


@pytest.mark.parametrize("topic", [LIDAR, "/camera/image"])
def test_a_clock_that_counts_from_its_start(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str], topic: str
) -> None:
    """No lidar.offset reaches that far."""
    with Recording(drive) as reader:
        shift = 100 * 10**9 - reader.start_time
    code, found = check(restamped(drive, tmp_path / "boot", topic, shift), capsys)
    assert code == 2
    assert "lidar clock: its stamps are " in texts(found, "error")
    assert "farther than lidar.offset reaches (86400 s)" in texts(found, "error")
    remedies = [f["remedy"] for f in found["findings"] if f["subject"] == "lidar clock"]
    assert len(remedies) == 1
    assert "use the system's clock" in remedies[0]
    assert taken_by_the_node(found) == {"thermal.registration": "rotation"}


@pytest.mark.parametrize("late", [0.6, 12.0])
def test_a_sensor_that_comes_late(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str], late: float
) -> None:
    """The deadline is for the latest sensor that it can wait for."""
    delays = {LIDAR: round(late * 1e9), "/thermal/image": 300_000_000}
    bag = copy_bag(drive, tmp_path / "late", lambda c, time: time + delays.get(c.topic, 0))
    code, found = check(bag, capsys)
    deadline = taken_by_the_node(found)["sync.deadline"]
    assert "thermal delay: it arrives up to 0.3" in texts(found, "warning")
    if late < 10:
        assert code == 1
        assert late < deadline < late + 0.3
    else:
        assert code == 2
        assert "sync.deadline waits for 10 s at most" in texts(found, "error")
        assert 0.3 < deadline < 0.6


def test_gaps_delays_and_sensors_that_lack(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Recording(drive) as reader:
        begin = reader.start_time

    def edit(connection: Any, time: int) -> int | None:
        if connection.topic == LIDAR:
            return time + 400_000_000
        if connection.topic == "/thermal/image" and 500 < (time - begin) / 1e6 < 1500:
            return None
        return None if connection.topic in ("/tf_static", "/camera/camera_info") else time

    code, found = check(copy_bag(drive, tmp_path / "poor", edit), capsys)
    said = texts(found, "warning")
    assert code == 1
    assert "thermal/image (/thermal/image): 1 gaps, the longest of 1." in said
    assert "lidar delay: it arrives up to 0.4" in said
    assert found["parameters"]["sync.deadline"] == pytest.approx(0.5, abs=0.11)
    assert "camera/camera_info: no CameraInfo is recorded" in said
    assert "lidar pose: no path from frame 'lidar' to frame 'camera_optical'" in said


def test_a_compressed_thermal_image_and_a_cloud_without_intensity(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """12 bits of counts are no camera's picture, and lidar_gain weights know such a cloud."""

    def rewrite(connection: Any, data: bytes) -> bytes:
        message: Any = STORE.deserialize_cdr(data, connection.msgtype)
        if connection.topic == "/thermal/image":
            message.data = (np.frombuffer(message.data, "<u2") % 500 + 900).view(np.uint8)
        elif connection.topic == LIDAR:
            for field in message.fields:
                if field.name == "intensity":
                    field.name = "unused"
        else:
            return data
        return bytes(STORE.serialize_cdr(message, connection.msgtype))

    bag = copy_bag(drive, tmp_path / "counts", rewrite=rewrite)
    _, found = check(bag, capsys)
    assert "would be refused" not in texts(found, "warning")
    with Recording(bag) as reader:
        thermal = next(c for c in reader.connections if c.topic == "/thermal/image")
        data = next(d for c, _, d in reader.messages() if c.topic == thermal.topic)
        raw: Any = STORE.deserialize_cdr(data, thermal.msgtype)
    counts = np.frombuffer(raw.data, "<u2").reshape(raw.height, raw.width)
    png = np.frombuffer(cv2.imencode(".png", counts)[1].tobytes(), np.uint8)
    sent = SimpleNamespace(format="mono16; png compressed ", data=png)
    assert _size(sent, "thermal") == f"{raw.width}x{raw.height}"
    assert _size(SimpleNamespace(format="png", data=png[:40]), "thermal") is None


def test_a_thermal_camera_that_its_topic_does_not_name(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = copy_bag(drive, tmp_path / "flir", rename={"/thermal/image": "/boson/image_raw"})
    code, found = check(bag, capsys)
    assert code == 1
    assert found["inputs"]["thermal/image"] == "/boson/image_raw"
    assert "/boson/image_raw is taken for it by its encoding" in texts(found, "warning")


def test_depth_is_not_taken_for_a_thermal_image_and_reaches_the_launch_file(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Millimetres of 16 bits, and the name that OAK's driver gives them."""
    bag = copy_bag(drive, tmp_path / "oak", rename={"/thermal/image": "/oak/stereo/image_raw"})
    _, found = check(bag, capsys)
    assert "thermal: no message of this sensor is recorded" in texts(found, "warning")
    depth = check_bag(bag, spec_of("deliver_rgb_depth"))
    assert depth.streams["depth/image"] == "/oak/stereo/image_raw"
    words = shlex.split(depth.commands(None, "")["node alone"])
    assert "depth_topic:=/oak/stereo/image_raw" in words


def test_the_nodes_own_names_come_before_encodings(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A camera of 16 grey bits."""

    def rewrite(connection: Any, data: bytes) -> bytes:
        if connection.topic != "/camera/image":
            return data
        message: Any = STORE.deserialize_cdr(data, connection.msgtype)
        grey = np.zeros((message.height, message.width), np.uint16)
        message.encoding, message.step, message.data = (
            "mono16",
            2 * message.width,
            grey.view(np.uint8).ravel(),
        )
        return bytes(STORE.serialize_cdr(message, connection.msgtype))

    _, found = check(copy_bag(drive, tmp_path / "grey", rewrite=rewrite), capsys)
    assert found["inputs"]["camera/image"] == "/camera/image"
    assert found["inputs"]["thermal/image"] == "/thermal/image"


def test_findings_are_said_before_the_file_is_written(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    capsys.readouterr()
    assert main(["bag", "check", str(drive), "-o", str(tmp_path / "file/p.yaml")]) == 2
    out, err = capsys.readouterr()
    assert "camera/image" in out
    assert str(tmp_path / "file") in err
    assert main(["bag", "check", str(drive), "-o", str(tmp_path / "new/p.yaml")]) == 0
    assert read_file(tmp_path / "new/p.yaml")


def test_a_recording_that_is_the_current_folder(
    drive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(drive)
    _, found = check(Path(), capsys)
    command = next(c for c in found["commands"].values() if "label-bag" in c)
    assert shlex.split(command)[2:4] == [".", str(drive.with_name("drive_labelled"))]


def test_a_recording_without_a_camera(
    tmp_path: Path, drive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(connection: Any, time: int) -> int | None:
        return time if connection.topic == LIDAR else None

    code, found = check(copy_bag(drive, tmp_path / "blind", edit), capsys)
    assert code == 2
    assert "camera: no image of this sensor is recorded" in texts(found, "error")
    assert any("record its topic" in finding["remedy"] for finding in found["findings"])
    assert main(["bag", "check", str(tmp_path / "blind")]) == 2
    assert "commands:" not in capsys.readouterr().out


def test_a_real_recording(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(shared / "data/kitti_camera_lidar_mcap", capsys)
    assert code == 1  # it has no thermal camera
    launch = shlex.split(found["commands"]["node alone"])
    assert "image_topic:=/kitti/camera_color_left/image_raw" in launch  # not its /compressed
    assert "points_topic:=/kitti/velo/pointcloud" in launch
    assert "thermal: no message of this sensor is recorded" in texts(found, "warning")


def test_nearest() -> None:
    assert nearest([0.0, 1.0, 2.0], [0.25, 1.875]).tolist() == [0.25, -0.75, -0.125]
    assert nearest([1.0], [4.0]).tolist() == [3.0]
    assert nearest([1.0], []).tolist() == [float("inf")]
