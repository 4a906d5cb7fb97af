# SPDX-License-Identifier: Apache-2.0
"""Pictures, video and page of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from drive import read_frames
from jinja2 import Environment, FileSystemLoader
from numpy.typing import NDArray

from mmsam_ros.inference.draw import colorise, overlay
from mmsam_ros.sensors import ClassInfo, Frame, LidarPoints, SensorImage, palette, project

Image = NDArray[np.uint8]

PICTURES = 4
VIDEO_WIDTH = 1280
LIDAR_RANGE = 60.0  # metres at the far end of the colour scale
BAND = 26  # height of a caption, pixels
FONT, WHITE, DARK, OUTSIDE = cv2.FONT_HERSHEY_SIMPLEX, (255, 255, 255), (28, 28, 32), (20, 24, 48)


def write_report(
    out: Path,
    bag: Path,
    masks: Mapping[int, Image],
    classes: Sequence[ClassInfo],
    facts: Mapping[str, str],
    summary: Mapping[str, Any],
) -> list[Path]:
    """Write `frame_*.png`, `drive.webm` and `index.html` into `out`; returns the pictures' paths.

    Args:
        out: folder to write.
        bag: the drive.
        masks: label images by stamp.
        classes: of the labels.
        facts: the node's last diagnostics.
        summary: what to show first.
    """
    untrained = "untrained" in facts["recipe"]
    chosen = set(np.linspace(0, len(masks) - 1, PICTURES).round().astype(int).tolist())
    pictures = []
    with closing(Video(out / "drive.webm", summary["camera_frames"] / 10)) as video:
        labelled = ((frame, masks[when]) for when, frame in read_frames(bag) if when in masks)
        for k, (frame, mask) in enumerate(labelled):
            picture = sheet(frame, mask, classes, "untrained" if untrained else "")
            video.add(picture)
            if k in chosen:
                pictures.append(out / f"frame_{k:03d}.png")
                cv2.imwrite(str(pictures[-1]), picture[..., ::-1])
    tables = {
        "Frames": summary,
        "Messages by outcome": {
            key.replace(".", " ", 1): value
            for key, value in facts.items()
            if key.split(".")[0] in ("camera", "lidar", "thermal")
            and value.isdigit()
            and value != "0"
        },
        "Modalities fused": {
            key.removeprefix("fused."): value
            for key, value in facts.items()
            if key.startswith("fused.")
        },
    }
    template = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = template.get_template("page.html.j2").render(
        recipe=facts["recipe"],
        untrained=untrained,
        tables=tables,
        pictures=[path.name for path in pictures],
    )
    (out / "index.html").write_text(page)
    return pictures


class Video:
    """A WebM file, which browsers play; frames are added in order."""

    def __init__(self, path: Path, rate: float) -> None:
        self._path, self._rate = path, rate
        self._writer: cv2.VideoWriter | None = None

    def add(self, picture: Image) -> None:
        """Add a frame, rgb8; all must have one size."""
        size = (VIDEO_WIDTH, round(picture.shape[0] * VIDEO_WIDTH / picture.shape[1] / 2) * 2)
        if self._writer is None:
            codec = cv2.VideoWriter.fourcc(*"VP80")
            self._writer = cv2.VideoWriter(str(self._path), codec, self._rate, size)
        self._writer.write(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)[..., ::-1])

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


def sheet(frame: Frame, labels: Image, classes: Sequence[ClassInfo], note: str = "") -> Image:
    """Six panels in two rows, rgb8. The captions of mask and overlay end with `note`."""
    colours, note = palette(classes), f" ({note})" if note else ""
    panels = [
        captioned(frame.rgb, "camera"),
        captioned(draw_lidar(frame), f"LiDAR depth, 0 to {LIDAR_RANGE:.0f} m"),
        captioned(draw_thermal(frame), "thermal"),
        captioned(colorise(labels, colours), f"mask{note}"),
        captioned(overlay(frame.rgb, labels, colours), f"overlay{note}"),
        captioned(draw_legend(labels, classes), "classes, share of the mask"),
    ]
    return np.vstack([np.hstack(panels[:3]), np.hstack(panels[3:])])


def captioned(panel: Image, text: str) -> Image:
    """A panel with a line of text above it."""
    band = np.full((BAND, panel.shape[1], 3), DARK, np.uint8)
    cv2.putText(band, text, (8, BAND - 8), FONT, 0.5, WHITE, 1, cv2.LINE_AA)
    return np.vstack([band, panel])


def draw_lidar(frame: Frame) -> Image:
    """Points in the colour of their depth over the darkened camera image."""
    cloud, camera = frame.sensors["lidar"], frame.camera
    assert isinstance(cloud, LidarPoints)
    assert camera is not None  # a frame with points has it
    _, u, v, depth = project(cloud.xyz, camera, cloud.T_camera_lidar)
    order = np.argsort(-depth)  # near points over far ones
    near = (255 * np.clip(1 - depth[order] / LIDAR_RANGE, 0, 1)).astype(np.uint8)
    colours = cv2.applyColorMap(near[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1].tolist()
    picture = (frame.rgb * 0.3).astype(np.uint8)
    for x, y, colour in zip(u[order].astype(int), v[order].astype(int), colours, strict=True):
        cv2.circle(picture, (x, y), 1, colour, cv2.FILLED)
    return picture


def draw_thermal(frame: Frame) -> Image:
    """The thermal image in the camera's view, stretched to its own range."""
    image = frame.sensors["thermal"]
    assert isinstance(image, SensorImage)
    counts = image.data.astype(np.float32)
    low, high = np.percentile(counts, (1, 99))
    grey = (255 * np.clip((counts - low) / max(high - low, 1), 0, 1)).astype(np.uint8)
    height, width = frame.rgb.shape[:2]
    view = image.registration.homography
    assert view is not None  # `read_frames` registers by rotation
    colour = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.warpPerspective(colour, view, (width, height), borderValue=OUTSIDE))


def draw_legend(labels: Image, classes: Sequence[ClassInfo]) -> Image:
    """Class colours with their share of the mask, in two columns."""
    height, width = labels.shape
    shares = np.bincount(labels.ravel(), minlength=256) / labels.size
    panel = np.full((height, width, 3), DARK, np.uint8)
    rows = -(-len(classes) // 2)
    step = max(min(34, (height - 10) // rows), 8)
    for k, info in enumerate(classes):
        x, y = 14 + k // rows * (width // 2), 8 + k % rows * step
        cv2.rectangle(panel, (x, y), (x + step - 8, y + step - 8), info.rgb, cv2.FILLED)
        text = f"{info.name}  {100 * shares[info.id]:.1f} %"
        cv2.putText(panel, text, (x + step, y + step - 12), FONT, 0.5, WHITE, 1, cv2.LINE_AA)
    return panel
