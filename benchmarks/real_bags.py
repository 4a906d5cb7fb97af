# SPDX-License-Identifier: Apache-2.0
"""How the package's weights do on recordings of real sensors: pictures, and their masks alone.

    python benchmarks/real_bags.py --kitti BAG --rgb-thermal BAG

BAG are rosbag2 folders: one with a KITTI camera, its CameraInfo, its point cloud and /tf_static,
one with aligned /rgb/image_raw and /thermal/image_raw. Writes out/real/*.png (all that the network
saw, for one's own eyes: the recordings are not ours to publish) and docs/real_masks.png (masks).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from sheet import sheet

from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.inference.draw import colorise
from mmsam_ros.ros.bags import open_decoded
from mmsam_ros.ros.calibration import read_parameters
from mmsam_ros.ros.camera_info import camera_model
from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.images import camera_rgb, thermal_counts
from mmsam_ros.sensors import Frame, LidarPoints, Registration, SensorImage, palette, pose_matrix
from mmsam_ros.weights import Geometry, default_weights

OUT, DOCS = Path("out/real"), Path(__file__).parents[1] / "docs"
WIDTH = 420  # of a mask in the documentation, pixels
Image = NDArray[np.uint8]


def main() -> None:
    """Segment every frame of both bags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kitti", type=Path, required=True)
    parser.add_argument("--rgb-thermal", type=Path, required=True)
    args = parser.parse_args()
    tune_allocator()
    whole = Segmenter.load(default_weights(), "cpu")
    own = whole.spec.geometry
    # a picture three times as wide as high would shrink to a stripe
    stride = (own.size[0] // 2, own.size[1] // 2)
    windows = Segmenter(whole.model, whole.spec, "cpu", "fp32", Geometry("slide", own.size, stride))
    OUT.mkdir(parents=True, exist_ok=True)
    rows = [
        _segment("kitti", windows, _kitti(args.kitti)),
        _segment("rgb_thermal", whole, _rgb_thermal(args.rgb_thermal)),
    ]
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0))) for row in rows]
    cv2.imwrite(str(DOCS / "real_masks.png"), np.vstack(rows)[..., ::-1])
    print(DOCS / "real_masks.png")


def _segment(name: str, segmenter: Segmenter, frames: Iterator[Frame]) -> Image:
    """Writes a sheet of every frame; the first four masks side by side."""
    classes, masks = segmenter.spec.classes, []
    for k, frame in enumerate(frames):
        result = segmenter(frame)
        print(f"{name} {k}: fused {'+'.join(result.present)}")
        picture = sheet(frame, result.labels, classes)
        cv2.imwrite(str(OUT / f"{name}_{k}.png"), picture[..., ::-1])
        mask = colorise(result.labels, palette(classes))
        size = (WIDTH, round(WIDTH * mask.shape[0] / mask.shape[1]))
        masks.append(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))
    return np.asarray(np.hstack(masks[:4]), np.uint8)


def _messages(bag: Path) -> dict[str, list[Any]]:
    """All messages by topic, in time order."""
    found: dict[str, list[Any]] = {}
    with open_decoded(bag) as reader:
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            found.setdefault(connection.topic, []).append(message)
    return found


def _kitti(bag: Path) -> Iterator[Frame]:
    messages, given = _messages(bag), read_parameters(bag)["lidar"]["extrinsics"]
    camera = "/kitti/camera_color_left"
    model = camera_model(messages[f"{camera}/camera_info"][0], None)
    pose = pose_matrix(given[:3], given[3:])
    pictures, clouds = (
        messages[f"{camera}/image_raw/compressed"],
        messages["/kitti/velo/pointcloud"],
    )
    for picture, cloud in zip(pictures, clouds, strict=True):
        xyz, intensity = cloud_points(cloud, needs_intensity=True)
        yield Frame(camera_rgb(picture), {"lidar": LidarPoints(xyz, intensity, pose)}, model)


def _rgb_thermal(bag: Path) -> Iterator[Frame]:
    messages = _messages(bag)
    pairs = zip(messages["/rgb/image_raw"], messages["/thermal/image_raw"], strict=True)
    for picture, heat in pairs:
        image = SensorImage(thermal_counts(heat), Registration.aligned())
        yield Frame(camera_rgb(picture), {"thermal": image})


if __name__ == "__main__":
    main()
