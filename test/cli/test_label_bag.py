# SPDX-License-Identifier: Apache-2.0
"""A recording is labelled without ROS: what is written, what is refused, and how it goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin
from rosbags.typesys import Stores, get_typestore
from support.drives import (
    FRAMES,
    SEMANTIC,
    as_ros1,
    copy_bag,
    label_bag,
    pixels,
    read_topic,
)

from mmsam_ros.inference.draw import colorise, overlay
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.storage import Connection
from mmsam_ros.sensors import SYNTHETIC_CLASSES, palette

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("label_bag")


@pytest.fixture(scope="module")
def labelled(folder: Path, drive: Path, weights: Path) -> Path:
    """With everything that can be written."""
    out = folder / "labelled"
    before = digests(drive)
    assert label_bag(drive, out, weights, "--all-topics", "--video",
                 "--outputs=confidence,color,overlay,overlays") == 0  # fmt: skip
    assert digests(drive) == before
    return out


def digests(bag: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(bag.iterdir())}


def masks(bag: Path) -> list[bytes]:
    return [pixels(message).tobytes() for _, message in read_topic(bag, SEMANTIC)]


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def test_each_camera_image_gets_a_mask_with_its_header(drive: Path, labelled: Path) -> None:
    images, found = read_topic(drive, "/camera/image"), read_topic(labelled, SEMANTIC)
    assert len(images) == len(found) == FRAMES
    for (when, image), (time_, mask) in zip(images, found, strict=True):
        assert time_ == when
        assert (mask.header, mask.height, mask.width) == (image.header, image.height, image.width)
        assert mask.encoding == "mono8"
        assert set(np.unique(pixels(mask))) <= {info.id for info in SYNTHETIC_CLASSES}
    assert report(labelled)["frames"] == {
        "expected": FRAMES, "labelled": FRAMES, "not labelled": {}, "unreadable": 0,
        "unexplained": 0,
    }  # fmt: skip
    assert report(labelled)["fused"] == {"camera+lidar+thermal": FRAMES}


def test_other_outputs_are_those_of_the_node(drive: Path, labelled: Path) -> None:
    images, found = read_topic(drive, "/camera/image"), read_topic(labelled, SEMANTIC)
    colours = palette(SYNTHETIC_CLASSES)
    kinds = {name: read_topic(labelled, f"/mmsam/{name}") for name in ("color", "overlay")}
    for i, ((_, image), (_, mask)) in enumerate(zip(images, found, strict=True)):
        labels, rgb = pixels(mask), pixels(image)
        assert (pixels(kinds["color"][i][1]) == colorise(labels, colours)).all()
        assert (pixels(kinds["overlay"][i][1]) == overlay(rgb, labels, colours)).all()
    assert len(read_topic(labelled, "/mmsam/confidence")) == FRAMES
    assert len(read_topic(labelled, "/mmsam/overlay/car")) == FRAMES
    ((_, classes),) = read_topic(labelled, "/mmsam/classes")
    table = json.loads(classes.data)
    assert [c["name"] for c in table["classes"]] == [c.name for c in SYNTHETIC_CLASSES]
    assert table["inputs"] == ["camera", "lidar", "thermal"]
    with Recording(labelled) as reader:
        info = next(c for c in reader.connections if c.topic == "/mmsam/label_info")
        assert info.msgtype == "vision_msgs/msg/LabelInfo"
        assert info.offers[0].durability.name == "TRANSIENT_LOCAL"


def test_live_parameters_are_those_of_the_run(folder: Path, drive: Path, weights: Path) -> None:
    out = folder / "as_the_parameters_say"
    given = ["-p", "confidence_threshold:=0.5", "-p", "overlay_opacity:=0.0"]
    assert label_bag(drive, out, weights, "--outputs=overlay", *given) == 0
    images, overlays = read_topic(drive, "/camera/image"), read_topic(out, "/mmsam/overlay")
    for (_, image), (_, picture) in zip(images, overlays, strict=True):
        assert (pixels(picture) == pixels(image)).all(), "nothing is hidden"
    with Recording(out) as reader:
        infos = [c for c in reader.connections if c.topic == "/mmsam/label_info"]
        ((_, _, data),) = reader.messages(infos)
    threshold = np.frombuffer(data, "<f4", offset=len(data) - 4)  # the last field
    assert threshold == 0.5


def test_all_topics_are_copied_byte_by_byte(drive: Path, labelled: Path) -> None:
    with Recording(drive) as reader, Recording(labelled) as other:
        expected = {(c.topic, t, bytes(d)) for c, t, d in reader.messages()}
        found = {(c.topic, t, bytes(d)) for c, t, d in other.messages()}
    assert {entry for entry in found if not entry[0].startswith("/mmsam/")} == expected


def test_the_video_shows_the_overlays(labelled: Path) -> None:
    video = cv2.VideoCapture(str(labelled / "overlay.mp4"))
    shown = read_topic(labelled, "/mmsam/overlay")
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1])
    assert len(frames) == FRAMES
    for picture, (_, message) in zip(frames, shown, strict=True):
        assert np.abs(picture.astype(int) - pixels(message)).mean() < 20  # it is lossy


@pytest.mark.parametrize("kind", ["sqlite3", "ros1", "remapped"])
def test_the_same_masks_of_other_formats(
    folder: Path, drive: Path, labelled: Path, weights: Path, kind: str
) -> None:
    bag, more = folder / f"in_{kind}", ["--params-file", str(drive / "calibration.yaml")]
    if kind == "ros1":
        bag = as_ros1(drive, folder / "in.bag")
    elif kind == "sqlite3":
        copy_bag(drive, bag, plugin=StoragePlugin.SQLITE3)
    else:
        copy_bag(drive, bag)
        more += ["-r", "camera/image:=/camera/image", "-p", "sync.queue:=31"]
    out = folder / f"out_{kind}"
    assert label_bag(bag, out, weights, *more) == 0
    assert masks(out) == masks(labelled)
    suffix = ".db3" if kind == "sqlite3" else ".mcap"
    assert (out / f"out_{kind}{suffix}").is_file()
    assert not read_topic(out, "/camera/image")


def test_several_processes_give_the_same(
    folder: Path, drive: Path, labelled: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert label_bag(drive, folder / "two", weights, "--workers", "2") == 0
    assert masks(folder / "two") == masks(labelled)
    confidence = [
        [pixels(m).astype(int) for _, m in read_topic(out, "/mmsam/confidence")]
        for out in (folder / "two", labelled)
    ]
    assert np.abs(np.array(confidence[0]) - np.array(confidence[1])).max() <= 1


def test_deadlines_run_on_the_recorded_times(folder: Path, drive: Path, weights: Path) -> None:
    """Clouds that came 0.3 s late are not waited for longer than sync.deadline, at any speed."""
    bag = copy_bag(drive, folder / "late",
                   lambda c, t: t + 300_000_000 if c.topic == "/lidar/points" else t)  # fmt: skip
    more = ["--params-file", str(drive / "calibration.yaml"), "-p", "lidar.max_age:=0.0"]
    assert label_bag(bag, folder / "late_out", weights, *more, "-p", "sync.deadline:=0.1") == 0
    # the last one or two wait for a deadline after the last camera image, when all clouds are there
    fused = report(folder / "late_out")["fused"]
    assert fused.get("camera+thermal", 0) >= FRAMES - 2
    assert label_bag(bag, folder / "patient", weights, *more, "-p", "sync.deadline:=1.0") == 0
    assert report(folder / "patient")["fused"] == {"camera+lidar+thermal": FRAMES}


def test_what_the_node_refuses_is_refused(folder: Path, drive: Path, weights: Path) -> None:
    """The first image has no stamp, the last one is of another camera."""
    images = iter(range(FRAMES))

    def rewrite(connection: Connection, data: bytes) -> bytes:
        if connection.topic != "/camera/image":
            return data
        number = next(images)
        if number == 0:
            return data[:4] + bytes(8) + data[12:]  # after the head of the CDR
        return data.replace(b"camera", b"CAMERA", 1) if number in (2, FRAMES - 1) else data

    bag = copy_bag(drive, folder / "refused", rewrite=rewrite)
    label_bag(bag, folder / "refused_out", weights)
    frames = report(folder / "refused_out")["frames"]
    assert frames["not labelled"] == {"refused:stamp": 1, "refused:two_sources": 1}
    assert (frames["labelled"], frames["unexplained"]) == (FRAMES - 2, 0)
    texts = report(folder / "refused_out")["refusals"]
    assert {"camera: stamp", "camera: two_sources"} <= texts.keys()


def test_a_killed_run_goes_on(
    folder: Path, drive: Path, labelled: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, part = folder / "killed", folder / ".killed.part"
    command = [sys.executable, "-m", "mmsam_ros.cli.main", "label-bag", str(drive), str(out),
               "-p", f"weights:={weights}", "-p", "device:=cpu"]  # fmt: skip
    running = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 300
    while not list(part.glob("results/*.npz")) and not out.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    running.kill()
    running.wait()
    if not out.exists():  # else it was faster
        (part / "results/00000004.npz").write_bytes(b"cut")  # as a full disk would leave it
        assert label_bag(drive, out, weights) == 0
        assert "frames are already labelled" in capfd.readouterr().err
    assert masks(out) == masks(labelled)
    assert not part.exists()


def test_another_command_does_not_go_on(
    folder: Path, drive: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    part = folder / ".other.part"
    (part / "results").mkdir(parents=True)
    (part / "results/00000000.npz").touch()
    (part / "job.json").write_text('{"weights": "of others"}')
    assert label_bag(drive, folder / "other", weights) == 2
    said = capfd.readouterr().err
    assert "holds an interrupted run, with other values of: recording, weights, parameter " in said
    assert not (folder / "other").exists()


def test_unusable_arguments(
    tmp_path: Path, drive: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("/**/other:\n  ros__parameters: {device: cpu}\n")
    cases = {
        (str(tmp_path / "there"),): "exists, expected a new folder",
        (str(tmp_path / "link"),): "exists, expected a new folder",
        (str(drive / "inside"),): "is in the recording",
        ("x", "-p", "sync.deadlin:=1.0"): "did you mean 'sync.deadline'?",
        ("x", "-p", "sync.deadline:=1"): "found 1, expected a double",
        ("x", "-p", "device"): "found 'device', expected NAME:=VALUE",
        ("x", "-p", "sync_backend:=message_filters"): "needs a node",
        ("x", "-r", "camera/image"): "expected FROM:=TO",
        ("x", "-r", "camera/image:=/nothing"): "found images on /camera/image, /ground_truth",
        (str(tmp_path / "wrong.yaml/x"),): "choose another OUT",
        ("x", "--params-file", str(wrong)): "found parameters of /**/other, expected some",
    }  # fmt: skip
    (file,) = drive.glob("*.mcap")  # it stands for the whole folder
    assert label_bag(file, drive / "inside", weights) == 2
    assert "is in the recording" in capfd.readouterr().err
    for (out, *more), text in cases.items():
        target = out if out != "x" else str(tmp_path / "x")
        assert label_bag(drive, Path(target), weights, *more) == 2, text
        assert text in capfd.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "there", "wrong.yaml"]


def test_what_is_left_out_and_why_is_said(
    tmp_path: Path, drive: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without transforms the LiDAR is in no mask, and under its topic there is no thermal image."""
    bag = as_ros1(drive, tmp_path / "in.bag")
    more = ("-r", "thermal/image:=/infrared", "-r", "thermal/camera_info:=/infrared_info",
            "-p", "confidence_threshold:=0.25", "--outputs=points")  # fmt: skip
    assert label_bag(bag, tmp_path / "out", weights, *more) == 0
    said = capfd.readouterr().err
    assert said.count("warning: lidar: no_extrinsics: no transform from frame 'lidar'") == 1
    assert "thermal: nothing recorded on /infrared or /infrared/compressed; `mmsam bag" in said
    assert "thermal_info" not in said  # of what is not there
    assert "--outputs points: not written" in said
    with Recording(tmp_path / "out") as reader:
        infos = [c for c in reader.connections if c.topic == "/mmsam/label_info"]
        ((_, _, info),) = reader.messages(infos)
    assert struct.unpack("<f", info[-4:]) == (0.25,)  # the threshold comes last


def test_files_that_are_read_as_well_are_said(
    folder: Path, drive: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drive, folder / "twice")
    (file,) = (folder / "twice").glob("*.mcap")
    shutil.copy(file, file.with_name("copy.mcap"))
    assert label_bag(folder / "twice", folder / "once", weights) == 0
    said, found = capsys.readouterr().err, report(folder / "once")["log"]
    for text in ("copy.mcap is not listed in metadata.yaml and read as well", "are left out"):
        assert text in said
        assert text in "\n".join(found)


def test_clouds_that_the_node_refuses_are_not_written(
    tmp_path: Path, drive: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a pose with which no point is in view."""
    bag, out = as_ros1(drive, tmp_path / "in.bag"), tmp_path / "out"  # without transforms
    pose = "lidar.extrinsics:=[0.0, 0.0, -1000.0, 0.0, 0.0, 0.0, 1.0]"
    assert label_bag(bag, out, weights, "-p", pose, "--outputs=points,labelled_points") == 0
    found = report(out)
    assert any(kind.startswith("lidar: ") for kind in found["refusals"])
    assert not any("lidar" in sensors for sensors in found["fused"])
    assert "--outputs points: not written" in capfd.readouterr().err
    with Recording(out) as reader:
        assert not [c.topic for c in reader.connections if "points" in c.topic]


def test_a_recording_without_a_message(
    tmp_path: Path, drive: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    empty = copy_bag(drive, tmp_path / "empty", lambda *_: None)
    assert label_bag(empty, tmp_path / "out", weights) == 2
    assert "/compressed, and no image on any other topic: nothing" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_damage_is_said_and_what_is_sound_is_labelled(
    tmp_path: Path, drive: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(drive, tmp_path / "cut")
    (file,) = (tmp_path / "cut").glob("*.mcap")
    os.truncate(file, file.stat().st_size * 3 // 4)
    assert label_bag(tmp_path / "cut", tmp_path / "out", weights) == 1
    assert 0 < report(tmp_path / "out")["frames"]["labelled"] < FRAMES
    assert "cut" in capfd.readouterr().err


def test_nothing_of_ros_is_needed(root: Path, tmp_path: Path, drive: Path, weights: Path) -> None:
    code = f"""
import sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("rclpy", "sensor_msgs", "std_msgs", "rcl_interfaces", "tf2_ros"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoRos())
from mmsam_ros.cli.main import main
sys.exit(main(["label-bag", {str(drive)!r}, {str(tmp_path / "out")!r},
               "-p", "weights:={weights}", "--outputs="]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
    assert len(masks(tmp_path / "out")) == FRAMES
    store = get_typestore(Stores.ROS2_JAZZY)
    assert "sensor_msgs/msg/Image" in store.types  # with which the bag was read
