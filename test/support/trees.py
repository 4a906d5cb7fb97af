# SPDX-License-Identifier: Apache-2.0
"""Small trees in the exact layouts of the data sets, with pictures that a network can learn.

Every picture has four classes of its data set: a sky above, a road below, a box and a disc on it,
and an unlabelled strip at the bottom. A class has one colour in RGB and one value in every
auxiliary. The same seed gives the same files.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.folder_writer import FolderWriter
from mmsam_ros.data.frames import FrameSet, Sample
from mmsam_ros.data.open import BENCHMARKS
from mmsam_ros.sensors import NO_LABEL, SYNTHETIC_CLASSES, ClassInfo
from support.layouts import (
    write_deliver,
    write_deliver_flat,
    write_fmb,
    write_fmb_lists,
    write_muses,
)

Bytes = NDArray[np.uint8]
Image = NDArray[np.uint8] | NDArray[np.uint16]
Size = tuple[int, int]

SPLITS: Mapping[str, int] = {"train": 4, "val": 2, "test": 2}
# training ids of sky, road, box and disc
PICTURED = {"deliver": (12, 6, 9, 3), "fmb": (6, 0, 8, 7), "muses": (10, 0, 13, 11)}
FOLDER_CLASSES = tuple(SYNTHETIC_CLASSES[i] for i in (5, 0, 10, 8))
DELIVER_CASES = (
    "", "underexposure", "motionblur", "eventlowres", "overexposure", "lidarjitter",
)  # fmt: skip
WEATHERS = ("cloud", "fog", "night", "rain", "sun")


def make_deliver(
    root: Path,
    layout: str = "raw",
    *,
    size: Size = (64, 64),
    per_split: Mapping[str, int] = SPLITS,
    cases: Sequence[str] = DELIVER_CASES,
    sources: Sequence[str] = ("depth", "event", "lidar"),
    seed: int = 0,
) -> Path:
    """DeLiVER as it is downloaded (`raw`) or as the paper's converter leaves it (`flat`).

    The i-th frame of a split has the i-th weather and case, in turn. Events have a single channel
    (raw, half the size in eventlowres). Returns root.
    """
    write = {"raw": write_deliver, "flat": write_deliver_flat}[layout]
    for split, i in _frames(per_split):
        rgb, index, label = picture(_rng(seed, split, i), size, "deliver")
        weather, case = WEATHERS[i % len(WEATHERS)], cases[i % len(cases)]
        sequence = f"MAP_{1 + list(per_split).index(split)}_point{100 + i}"
        sequence += f"_{case}" if case else ""
        aux = {source: png8(index, source) for source in sources}
        if "event" in aux:
            aux["event"] = aux["event"][..., 0]
            if case == "eventlowres":
                aux["event"] = aux["event"][::2, ::2]
        write(root, split, weather, sequence, f"{i:0{6 + i % 3}d}", rgb, label, aux)
    return root


def make_fmb(
    root: Path,
    moved: bool = False,
    *,
    size: Size = (60, 80),
    per_split: Mapping[str, int] = SPLITS,
    seed: int = 0,
) -> Path:
    """FMB as it is downloaded, or as the paper's scripts move its files.

    Returns root. The lists lie in root/lists; every second frame of a split is hard.
    """
    frames = []
    for number, (split, i) in enumerate(_frames(per_split), start=1):
        rgb, index, label = picture(_rng(seed, split, i), size, "fmb")
        difficulty, thermal = ("easy", "hard")[i % 2], (40 + 60 * index).astype(np.uint8)
        write_fmb(root, split, number, difficulty, rgb, label, thermal, moved=moved)
        frames.append((split, number, difficulty))
    write_fmb_lists(root, frames)
    return root


def make_muses(
    root: Path,
    *,
    size: Size = (54, 96),
    per_split: Mapping[str, int] = SPLITS,
    sources: Sequence[str] = ("lidar", "event"),
    test_labels: bool = False,
    seed: int = 0,
) -> Path:
    """MUSES with `projected_to_rgb/` as the official tool writes it. Returns root."""
    conditions = list(itertools.product(("clear", "fog", "rain", "snow"), ("day", "night")))
    for number, (split, i) in enumerate(_frames(per_split), start=1):
        rgb, index, label = picture(_rng(seed, split, i), size, "muses")
        weather, time = conditions[(3 * i) % len(conditions)]
        name = f"REC{number:04d}_frame_{100 + number:06d}"
        rasters = {"lidar": muses_raw(index), "event": event_counts(index)}
        given = label if split != "test" or test_labels else None
        chosen = {source: rasters[source] for source in sources}
        write_muses(root, split, weather, time, name, rgb, given, chosen)
    return root


def make_folder(
    root: Path,
    sources: Sequence[str] = ("lidar", "thermal"),
    *,
    encodings: Mapping[str, str] | None = None,
    size: Size = (64, 96),
    per_split: Mapping[str, int] = SPLITS,
    calibrated: bool = False,
    seed: int = 0,
) -> Path:
    """A folder data set of one's own; every second frame has weather fog, the others clear.

    encodings: of the sources, by default muses_raw, mono16, event_counts and png8. calibrated:
    LiDAR as points, thermal at half the size and registered by calib.json. Returns root.
    """
    default = {"lidar": "muses_raw", "thermal": "mono16", "event": "event_counts", "depth": "png8"}
    chosen = {source: (encodings or default).get(source, default[source]) for source in sources}
    writer = FolderWriter(
        root, [ClassInfo(i, info.name, info.rgb) for i, info in enumerate(FOLDER_CLASSES)], chosen,
        calibration(size) if calibrated else None,
        limits=(26000, 31500) if chosen.get("thermal") == "mono16" else None,
    )  # fmt: skip
    for split, i in _frames(per_split):
        rgb, index, label = picture(_rng(seed, split, i), size, "folder")
        arrays = {source: encoded(index, source, encoding) for source, encoding in chosen.items()}
        if calibrated and "lidar" in arrays:
            arrays["lidar"] = points(index)
        if calibrated and "thermal" in arrays:
            arrays["thermal"] = arrays["thermal"][::2, ::2]
        weather = ("clear", "fog")[i % 2]
        writer.add(split, f"{split}_{i:04d}", rgb, label, arrays, {"weather": weather})
    writer.finish()
    return root


def picture(rng: np.random.Generator, size: Size, kind: str) -> tuple[Bytes, Bytes, Bytes]:
    """RGB (h, w, 3), index of the class (h, w) 0..3, and label: training id, 255 at the bottom."""
    h, w = size
    index = np.zeros(size, np.uint8)
    index[int(h * rng.uniform(0.35, 0.5)) :] = 1
    top, left = int(h * rng.uniform(0.3, 0.5)), int(w * rng.uniform(0.05, 0.3))
    index[top : top + h // 3, left : left + w // 4] = 2
    centre = int(w * rng.uniform(0.6, 0.85)), int(h * rng.uniform(0.4, 0.6))
    cv2.circle(index, centre, h // 6, 3, -1)
    if kind == "folder":
        ids, classes = np.arange(4, dtype=np.uint8), FOLDER_CLASSES
    else:
        ids = np.array(PICTURED[kind], np.uint8)
        classes = tuple(BENCHMARKS[kind].classes[i] for i in ids)
    colours = np.array([info.rgb for info in classes], np.int64)
    noise = rng.integers(-12, 13, (*size, 3))
    rgb = np.clip(colours[index] + noise, 0, 255).astype(np.uint8)
    label = ids[index]
    label[-max(1, h // 32) :] = NO_LABEL
    return rgb, index, label


def png8(index: Bytes, source: str) -> Bytes:
    """Three channels of 8 bit, other ones for every source."""
    shift = ("depth", "event", "lidar").index(source) if source != "thermal" else 0
    channels = [60 * index, 200 - 50 * index, np.full_like(index, 20 * (shift + 1))]
    return np.stack(channels, 2).astype(np.uint8)


def muses_raw(index: Bytes) -> NDArray[np.float32]:
    """Range, intensity and height at every second pixel of a chequerboard, 0 elsewhere."""
    values = np.stack([5.0 + 10 * index, 1.0 + 20 * index, index - 1.5], 2).astype(np.float32)
    values[np.indices(index.shape).sum(axis=0) % 2 == 1] = 0
    return values


def event_counts(index: Bytes) -> Bytes:
    return np.stack([index, 3 - index, np.zeros_like(index)], 2).astype(np.uint8)


def encoded(index: Bytes, source: str, encoding: str) -> NDArray[Any]:
    """What a folder's file of this encoding holds."""
    if encoding == "png8":
        return png8(index, source)
    if encoding in ("muses_raw", "lidar_gain"):
        return muses_raw(index)
    if encoding == "event_counts":
        return event_counts(index)
    if encoding == "muses_png16":
        return ((muses_raw(index) + 100) * 150).round().astype(np.uint16)
    if encoding == "mono16":
        return (26500 + 1500 * index.astype(np.uint16)).astype(np.uint16)
    return (40 + 60 * index).astype(np.uint8)


def points(index: Bytes) -> NDArray[np.float32]:
    """Points x, y, z, intensity (m, forward-left-up) through the centre of every second pixel."""
    h, w = index.shape
    rows, columns = np.meshgrid(np.arange(0, h, 2), np.arange(0, w, 2), indexing="ij")
    depth = 5.0 + 10 * index[::2, ::2]
    x = (columns + 0.5 - w / 2) / w * depth
    y = (rows + 0.5 - h / 2) / w * depth
    values = [depth, -x, -y, 1.0 + 20 * index[::2, ::2]]
    return np.stack([value.ravel() for value in values], 1).astype(np.float32)


def calibration(size: Size) -> dict[str, object]:
    """calib.json that fits `points` and a thermal image of half the size."""
    h, w = size
    K = [[w, 0, w / 2], [0, w, h / 2], [0, 0, 1]]
    return {
        "camera": {"width": w, "height": h, "K": K, "D": [], "model": "plumb_bob"},
        "lidar": {"T_camera_lidar": [[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]},
        "thermal": {"homography": [[2, 0, 0], [0, 2, 0], [0, 0, 1]]},
    }


def sample(frames: FrameSet, index: int = 0) -> Sample:
    """The planes and label of one frame of a set."""
    return frames.sample(frames[index])


def samples(frames: FrameSet) -> list[Sample]:
    """Those of all."""
    return [sample(frames, index) for index in range(len(frames))]


def stored(path: Path) -> Image:
    """An image file as OpenCV reads it: BGR order."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    return image.astype(np.uint16) if image.dtype == np.uint16 else image.astype(np.uint8)


def _frames(per_split: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(split, i) for split, count in per_split.items() for i in range(count)]


def _rng(seed: int, split: str, i: int) -> np.random.Generator:
    return np.random.default_rng([seed, ("train", "val", "test").index(split), i])


def edit(path: Path, *keys: str, value: Any) -> None:
    """Sets one key of a JSON file; value None removes it."""
    document = json.loads(path.read_text())
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    path.write_text(json.dumps(document))
