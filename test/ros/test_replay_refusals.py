# SPDX-License-Identifier: Apache-2.0
"""What cannot be played is refused in one line; what a recording says of its publishers is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from recordings import (
    IMAGE,
    STATIC,
    STORE,
    TRANSIENT,
    static,
    write_bag,
)
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer

from mmsam_ros.ros import player, replay
from mmsam_ros.ros.recording import Recording


def refusal(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert replay.main([str(arg) for arg in args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("replay: error: ")
    return err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "0"], r"--rate: found 0.0, expected a number above 0"),
        (["--rate", "-1"], r"--rate: found -1.0"),
        (["--rate", "nan"], r"--rate: found nan"),
        (["--duration", "0"], r"--duration: found 0.0"),
        (["--start", "-1"], r"--start: found -1.0, expected a number from 0"),
        (["--rate", "1e-300"], r"--rate: found 1e-300, expected a number above 0"),
        (["--rate", "1e300"], r"--rate: found 1e+300"),
        (["--duration", "1e300"], r"--duration: found 1e+300, expected a number above 0 up to"),
        (["--start", "1e300"], r"--start: found 1e+300, expected a number from 0 to"),
        (["--wait", "inf"], r"--wait: found inf"),
        (["--start", "7"], r"--start: found 7.0 s, but the bag is 0.550 s long"),
        (["--remap", "/nope:=/x"], f"found topic '/nope', but the bag has /about, {IMAGE}"),
        (["--remap", IMAGE], f"--remap: found '{IMAGE}', expected FROM:=TO"),
    ],
)
def test_bad_options_are_refused_with_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in refusal(capsys, write_bag(tmp_path / "bag"), *options)


def test_bad_bags_are_refused_with_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file or folder" in refusal(capsys, tmp_path / "nothing")
    (tmp_path / "empty.bag").touch()
    assert "found an empty file" in refusal(capsys, tmp_path / "empty.bag")
    (tmp_path / "broken.db3").write_bytes(b"not a database")
    assert "broken.db3: not a readable recording" in refusal(capsys, tmp_path / "broken.db3")
    (tmp_path / "cut.mcap").write_bytes(b"\x89MCAP0\r\n")
    assert replay.main([str(tmp_path / "cut.mcap")]) == 2
    said = capsys.readouterr().err
    assert "the bag has no messages; cut.mcap: it is cut at byte 8 of 8" in said


def test_a_damaged_chunk_is_refused_when_it_comes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag", compress=CompressionMode.STORAGE, image_size=100)
    (file,) = bag.glob("*.mcap")
    data = bytearray(file.read_bytes())
    begin = data.index(b"\x28\xb5\x2f\xfd") + 40  # within the first zstd frame
    data[begin : begin + 300] = bytes(300)
    file.write_bytes(data)
    with Recording(bag) as reader:
        list(reader.messages())
        assert "is damaged" in reader.faults[0]
    assert replay.main([str(bag), "--wait", "0"]) == 2
    said = capsys.readouterr().err
    assert "no message to play" in said
    assert "is damaged" in said


def test_wrong_ros_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, write_bag(tmp_path / "bag"), "--ros-args", "-r", "foo")
    assert "ROS arguments --ros-args -r foo: " in said


def test_late_subscribers_get_what_all_publishers_kept(tmp_path: Path) -> None:
    """Three broadcasters of static transforms, each with a queue of one."""
    from rclpy.qos import DurabilityPolicy

    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        connection = writer.add_connection(
            STATIC, "tf2_msgs/msg/TFMessage", typestore=STORE, offered_qos_profiles=[TRANSIENT] * 3
        )
        writer.write(connection, 1, STORE.serialize_cdr(static(1), connection.msgtype))
    with Recording(tmp_path / "bag") as reader:
        offered = player.offered_qos(reader.connections[0])
    assert offered.depth == 3
    assert offered.durability == DurabilityPolicy.TRANSIENT_LOCAL


@pytest.mark.parametrize(
    ("args", "own", "ros"),
    [
        (["bag", "--remap", "/a:=/b"], ["bag", "--remap", "/a:=/b"], []),
        (["bag", "--ros-args", "-r", "a:=b"], ["bag"], ["--ros-args", "-r", "a:=b"]),
        (["--ros-args", "-p", "x:=1", "--", "bag"], ["bag"], ["--ros-args", "-p", "x:=1"]),
    ],
)
def test_ros_arguments_are_told_from_own_ones(
    args: list[str], own: list[str], ros: list[str]
) -> None:
    assert replay.split_ros_args(args) == (own, ros)
