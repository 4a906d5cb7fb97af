# SPDX-License-Identifier: Apache-2.0
"""Writes samples as data sets: the `folder` layout, and those of DeLiVER, FMB and MUSES.

`folder` keeps what the sensors measured (points, counts) beside the calibration, and the world's
own classes. The other layouts hold the auxiliary that the data set has, in the camera's view, with
labels by `CLASS_MAPS`: LiDAR in DeLiVER's (range, intensity, height as 8 bit) and MUSES's, thermal
in FMB's.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.synthetic.classmaps import id_map
from mmsam_ros.data.synthetic.difficulty import camera_model, registration
from mmsam_ros.data.synthetic.rig import Rig
from mmsam_ros.data.synthetic.samples import Sample
from mmsam_ros.data.synthetic.thermal import LIMITS
from mmsam_ros.data.synthetic.world import CLASSES
from mmsam_ros.sensors import NO_LABEL, project, rasterise, register, scale_thermal

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Row:
    """One frame of an export. scene and number count over the whole data set."""

    split: str
    scene: int
    number: int
    weather: str
    case: str
    difficulty: str = ""


class Export(ABC):
    """One layout."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def frame(self, row: Row, sample: Sample) -> None:
        """Writes the files of one frame."""

    def finish(self, rows: Sequence[Row], rig: Rig) -> None:  # noqa: B027
        """Writes what belongs to all frames."""


class Folder(Export):
    """images/, labels/, lidar/ (points in view), thermal/ (counts), meta.json, calib.json."""

    def frame(self, row: Row, sample: Sample) -> None:
        name, cloud = self._name(row), sample.cloud
        seen = project(cloud.xyz, camera_model(sample.rig), sample.rig.T_camera_lidar)[0]
        points = np.concatenate([cloud.xyz, cloud.intensity[:, None]], 1)[np.sort(seen)]
        _write(self.root / "images" / f"{name}.png", sample.picture.rgb)
        _write(self.root / "labels" / f"{name}.png", sample.picture.labels)
        _write(self.root / "thermal" / f"{name}.png", sample.thermal)
        path = self.root / "lidar" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, points.astype(np.float32))

    def finish(self, rows: Sequence[Row], rig: Rig) -> None:
        subsets = {
            key: {self._name(row): getattr(row, key) for row in rows}
            for key in ("weather", "case", "difficulty")
        }
        meta = {
            "format": "mmsam-folder/1",
            "classes": [{"id": c.id, "name": c.name, "rgb": c.rgb} for c in CLASSES],
            # every frame by its own contrast: thermal cameras differ in what a count means
            "encodings": {"lidar": "muses_raw", "thermal": "frame_gain"},
            "splits": {s: [self._name(row) for row in rows if row.split == s] for s in SPLITS},
            "subsets": subsets,
            "growth": 2,
        }
        _write_json(self.root / "meta.json", meta)
        _write_json(self.root / "calib.json", _calibration(rig))

    @staticmethod
    def _name(row: Row) -> str:
        return f"{row.split}_{row.number:05d}"


class Deliver(Export):
    """img/, lidar/ and semantic/, as DeLiVER is downloaded."""

    def frame(self, row: Row, sample: Sample) -> None:
        known = row.case not in ("ordinary", "thermallowres")
        sequence = f"MAP_{1 + SPLITS.index(row.split)}_point{row.scene}"
        sequence += f"_{row.case}" if known else ""
        place = Path(row.weather, row.split, sequence)
        label = id_map("deliver")[sample.picture.labels]
        raw = np.where(label == NO_LABEL, 0, label + 1).astype(np.uint8)
        opaque = np.full((*label.shape, 1), 255, np.uint8)
        raster = _raster(sample)
        low, high = np.array([0, 0, -3], np.float32), np.array([100, 255, 7], np.float32)
        share = np.clip((raster - low) / (high - low), 1 / 255, 1) * (raster[..., :1] > 0)
        for top, kind, image in (
            ("img", "rgb", np.concatenate([sample.picture.rgb, opaque], 2)),
            ("semantic", "semantic", np.concatenate([np.stack([raw] * 3, 2), opaque], 2)),
            ("lidar", "lidar", np.round(255 * share).astype(np.uint8)),
        ):
            _write(self.root / top / place / f"{row.number:06d}_{kind}_front.png", image)


class Fmb(Export):
    """train/ and test/ with Visible, Infrared and Label, and lists of easy and hard frames."""

    def frame(self, row: Row, sample: Sample) -> None:
        folder = self.root / ("test" if row.split == "test" else "train")
        label = id_map("fmb")[sample.picture.labels]
        heat = scale_thermal(sample.thermal, "mono16", LIMITS).astype(np.float32)
        size = sample.picture.labels.shape
        seen, _ = register(heat, registration(sample.rig), size, size)
        for top, image in (
            ("Visible", sample.picture.rgb),
            ("Infrared", np.round(seen).astype(np.uint8)),
            ("Label", np.where(label == NO_LABEL, 0, label + 1).astype(np.uint8)),
        ):
            _write(folder / top / self._name(row), image)

    def finish(self, rows: Sequence[Row], rig: Rig) -> None:
        for split in SPLITS:
            for word in ("easy", "hard"):
                names = [self._name(r) for r in rows if r.split == split and r.difficulty == word]
                path = self.root / "lists" / f"{split}_{word}_files.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(f"{name}\n" for name in names))

    @staticmethod
    def _name(row: Row) -> str:
        return f"{row.number:05d}.png"


class Muses(Export):
    """frame_camera/, gt_semantic/ and projected_to_rgb/lidar/; rain and fog fall by day."""

    def frame(self, row: Row, sample: Sample) -> None:
        weather = row.weather if row.weather in ("fog", "rain") else "clear"
        place = Path(row.split, weather, "night" if row.weather == "night" else "day")
        name = f"REC{row.scene:04d}_frame_{row.number:06d}"
        _write(self.root / "frame_camera" / place / f"{name}_frame_camera.png", sample.picture.rgb)
        label = id_map("muses")[sample.picture.labels]
        _write(self.root / "gt_semantic" / place / f"{name}_gt_labelTrainIds.png", label)
        path = self.root / "projected_to_rgb" / "lidar" / place / f"{name}_lidar.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, _raster(sample))


EXPORTS: dict[str, type[Export]] = {
    "folder": Folder, "deliver": Deliver, "fmb": Fmb, "muses": Muses,
}  # fmt: skip


def _raster(sample: Sample) -> NDArray[np.float32]:
    T = sample.rig.T_camera_lidar
    return rasterise(sample.cloud.xyz, sample.cloud.intensity, camera_model(sample.rig), T)


def _calibration(rig: Rig) -> dict[str, Any]:
    return {
        "camera": {
            "width": rig.camera.width, "height": rig.camera.height, "K": rig.camera.K.tolist(),
            "D": [], "model": "plumb_bob",
        },
        "lidar": {"T_camera_lidar": rig.T_camera_lidar.tolist()},
        "thermal": {
            "width": rig.thermal.width, "height": rig.thermal.height,
            "K": rig.thermal.K.tolist(), "R_camera_thermal": rig.T_camera_thermal[:3, :3].tolist(),
        },
    }  # fmt: skip


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _write(path: Path, image: NDArray[Any]) -> None:
    """A PNG of an RGB, RGBA or single-channel image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.ndim == 3:
        code = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
        image = cv2.cvtColor(image, code)
    if not cv2.imwrite(str(path), image):
        raise DataError(f"{path}: could not be written")
