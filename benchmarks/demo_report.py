# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures, video and one-page summary, made of the bag and the recorded masks."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from recorder import Recorded
from sheet import sheet

from mmsam_ros.ros.bags import open_decoded
from mmsam_ros.ros.calibration import read_parameters
from mmsam_ros.ros.camera_info import camera_model
from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.images import camera_rgb, read_pixels, thermal_counts
from mmsam_ros.sensors import Frame, LidarPoints, Registration, SensorImage, pose_matrix
from mmsam_ros.training.metrics import Scores, SubsetMatrices
from mmsam_ros.weights import Spec

PICTURES = 4
VIDEO_WIDTH = 1280
Image = NDArray[np.uint8]

PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>mmsam_ros demo</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; color: #222 }
img, video { width: 100%; border-radius: 4px; margin: .4rem 0 }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .15rem .8rem .15rem 0;
text-align: left; vertical-align: top } td { font-variant-numeric: tabular-nums }
.note { background: #fff4d6; padding: .6rem 1rem; border-radius: 4px }
</style>
<h1>mmsam_ros demo</h1>
<p class="note">Weights: $recipe. $warning</p>
<h2>Frames</h2>
$summary
<h2>Messages by outcome</h2>
$counts
<h2>Modalities fused</h2>
$fused
<h2>Drive</h2>
<video controls loop muted src="drive.webm"></video>
$pictures
</html>
""")


def write_report(
    out: Path,
    bag: Path,
    masks: Recorded,
    spec: Spec,
    facts: Mapping[str, str],
    summary: Mapping[str, Any],
) -> Path:
    """Write `frame_*.png`, `drive.webm` and `index.html` into `out`; returns the page."""
    note = "untrained" if "untrained" in spec.provenance.recipe else ""
    labels = dict(_masks(masks))
    chosen = set(np.linspace(0, len(labels) - 1, PICTURES).round().astype(int).tolist())
    pictures = []
    with _Video(out / "drive.webm", float(summary["camera_frames"]) / 10) as video:
        for k, (stamp, frame) in enumerate((s, f) for s, f in frames(bag) if s in labels):
            picture = sheet(frame, labels[stamp], spec.classes, note)
            video.add(picture)
            if k in chosen:
                pictures.append(f"frame_{k:03d}.png")
                cv2.imwrite(str(out / pictures[-1]), picture[..., ::-1])
    page = out / "index.html"
    page.write_text(_page(spec, facts, summary, pictures, untrained=bool(note)))
    return page


def score(bag: Path, masks: Recorded, spec: Spec) -> Scores:
    """The masks against the bag's ground truth, by stamp."""
    labels, matrices = dict(_masks(masks)), SubsetMatrices(len(spec.classes))
    with open_decoded(bag) as reader:
        wanted = [c for c in reader.connections if c.topic == "/ground_truth/semantic"]
        for connection, _, raw in reader.messages(wanted):
            message = reader.deserialize(raw, connection.msgtype)
            if (mask := labels.get(_stamp(message))) is not None:
                truth = np.array(read_pixels(message, ("mono8",))[0], np.uint8)
                matrices.update(torch.from_numpy(mask), torch.from_numpy(truth), {})
    return matrices.scores([info.name for info in spec.classes])["all"]


def _masks(recorded: Recorded) -> Iterator[tuple[int, Image]]:
    for k in range(len(recorded.data)):
        message = recorded.decode(k)
        yield _stamp(message), np.array(read_pixels(message, ("mono8",))[0], np.uint8)


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def frames(bag: Path) -> Iterator[tuple[int, Frame]]:
    """The bag's camera images with the nearest cloud and thermal image, by camera stamp."""
    parameters = read_parameters(bag)
    poses = {s: _pose(parameters[s]["extrinsics"]) for s in ("lidar", "thermal")}
    clouds: list[tuple[int, Any]] = []
    thermals: list[tuple[int, Any]] = []
    images: list[tuple[int, Any]] = []
    infos: dict[str, Any] = {}
    with open_decoded(bag) as reader:
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            if connection.topic == "/camera/image_raw":
                images.append((_stamp(message), message))
            elif connection.topic == "/lidar/points":
                clouds.append((_stamp(message), message))
            elif connection.topic == "/thermal/image_raw":
                thermals.append((_stamp(message), message))
            elif connection.topic.endswith("camera_info"):
                infos[connection.topic.split("/")[1]] = message
    camera, thermal = (camera_model(infos[name], None) for name in ("camera", "thermal"))
    rotation = Registration.from_rotation(camera.K, poses["thermal"][:3, :3], thermal.K)
    for stamp, message in images:
        cloud = min(clouds, key=lambda c: abs(c[0] - stamp))[1]
        warm = min(thermals, key=lambda c: abs(c[0] - stamp))[1]
        xyz, intensity = cloud_points(cloud, needs_intensity=False)
        sensors: dict[str, LidarPoints | SensorImage] = {
            "lidar": LidarPoints(xyz, intensity, poses["lidar"]),
            "thermal": SensorImage(thermal_counts(warm), rotation),
        }
        yield stamp, Frame(camera_rgb(message), sensors, camera)


def _pose(values: list[float]) -> NDArray[np.float64]:
    return pose_matrix(values[:3], values[3:])


class _Video:
    """A WebM file that browsers play; frames are added in order."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> _Video:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def add(self, picture: Image) -> None:
        height = round(picture.shape[0] * VIDEO_WIDTH / picture.shape[1] / 2) * 2
        small = cv2.resize(picture, (VIDEO_WIDTH, height), interpolation=cv2.INTER_AREA)
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*"VP80")
            size = (VIDEO_WIDTH, height)
            self._writer = cv2.VideoWriter(str(self._path), codec, self._rate, size)
        self._writer.write(small[..., ::-1])


def _page(
    spec: Spec,
    facts: Mapping[str, str],
    summary: Mapping[str, Any],
    pictures: list[str],
    *,
    untrained: bool,
) -> str:
    streams = ("camera", *spec.sources)
    outcomes = {
        key.replace(".", " ", 1): count
        for key, count in facts.items()
        if key.split(".")[0] in streams and count.isdigit() and count != "0"
    }
    fused = {k.removeprefix("fused."): v for k, v in facts.items() if k.startswith("fused.")}
    return PAGE.substitute(
        recipe=html.escape(spec.provenance.recipe),
        warning="The masks mean nothing: they show that the pipeline runs."
        if untrained
        else "The drive is synthetic: what is right here says nothing about a road.",
        summary=_table(summary),
        counts=_table(outcomes),
        fused=_table(fused),
        pictures="\n".join(f'<img src="{name}" alt="frame">' for name in pictures),
    )


def _table(rows: Mapping[str, Any]) -> str:
    cells = "".join(
        f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>"
        for k, v in rows.items()
    )
    return f"<table>{cells}</table>"
