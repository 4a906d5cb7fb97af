# SPDX-License-Identifier: Apache-2.0
"""Writers of the benchmarks' layouts: the arrays of one frame become the files of a download."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.folder_writer import write_png
from mmsam_ros.sensors import NO_LABEL

Bytes = NDArray[np.uint8]


def write_deliver(
    root: Path, split: str, weather: str, sequence: str, frame: str, rgb: Bytes, label: Bytes,
    sources: Mapping[str, Bytes],
) -> None:  # fmt: skip
    """A frame of DeLiVER as it is downloaded.

    RGB and labels are RGBA, `depth/` holds something else than `hha/`, and a coloured variant lies
    beside the LiDAR file.
    """

    def write(top: str, kind: str, image: NDArray[Any]) -> None:
        write_png(root / top / weather / split / sequence / f"{frame}_{kind}.png", image)

    opaque = np.full((*label.shape, 1), 255, np.uint8)
    write("img", "rgb_front", np.concatenate([rgb, opaque], 2))
    raw = _raw(label)[..., None]
    write("semantic", "semantic_front", np.concatenate([raw, rgb[..., :2], opaque], 2))
    for source, image in sources.items():
        write("hha" if source == "depth" else source, f"{source}_front", image)
    write("depth", "depth_front", rgb)
    write("lidar", "lidar_front_color", rgb)


def write_deliver_flat(
    root: Path, split: str, weather: str, sequence: str, frame: str, rgb: Bytes, label: Bytes,
    sources: Mapping[str, Bytes],
) -> None:  # fmt: skip
    """A frame of DeLiVER as the paper's converter leaves it; all images have RGB's size."""
    folder = {"train": "training", "val": "validation", "test": "test"}[split]
    kinds = {"images": ("rgb", rgb), "annotations": ("semantic", label)}
    for top, (kind, image) in (kinds | {s: (s, i) for s, i in sources.items()}).items():
        full = cv2.resize(image, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        name = f"{weather}_{sequence}_{frame}_{kind}_front.png"
        write_png(root / "samples" / top / folder / name, full)


def write_fmb(
    root: Path, split: str, number: int, difficulty: str, rgb: Bytes, label: Bytes, thermal: Bytes,
    *, moved: bool = False,
) -> None:  # fmt: skip
    """A frame of FMB as it is downloaded, or as the paper's scripts move its files."""
    name = f"{number:05d}.png"
    folder = root / (split if moved or split != "val" else "train")
    write_png(folder / "Visible" / (difficulty if moved else "") / name, rgb)
    write_png(folder / "Infrared" / name, thermal)
    write_png(folder / "Label" / name, _raw(label))
    write_png(folder / "color" / name, rgb)


def write_fmb_lists(root: Path, frames: Iterable[tuple[str, int, str]]) -> None:
    """The lists of FMB in root/lists, of frames with split, number and difficulty."""
    names = {f"{s}_{d}_files.txt": "" for s in ("train", "val", "test") for d in ("easy", "hard")}
    for split, number, difficulty in frames:
        names[f"{split}_{difficulty}_files.txt"] += f"{number:05d}.png\n"
    (root / "lists").mkdir(parents=True, exist_ok=True)
    for file, text in names.items():
        (root / "lists" / file).write_text(text, encoding="utf-8")


def write_muses(
    root: Path, split: str, weather: str, time: str, name: str, rgb: Bytes, label: Bytes | None,
    sources: Mapping[str, NDArray[Any]],
) -> None:  # fmt: skip
    """A frame of MUSES with `projected_to_rgb/` as the official tool writes it."""
    place = Path(split, weather, time)
    write_png(root / "frame_camera" / place / f"{name}_frame_camera.png", rgb)
    if label is not None:
        write_png(root / "gt_semantic" / place / f"{name}_gt_labelTrainIds.png", label)
    for source, raster in sources.items():
        stem = "event_camera" if source == "event" else source
        path = root / "projected_to_rgb" / stem / place / f"{name}_{stem}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, raster)


def _raw(label: Bytes) -> Bytes:
    """Training ids as DeLiVER and FMB store them: from 1 on, 0 where there is none."""
    return np.where(label == NO_LABEL, 0, label + 1).astype(np.uint8)
