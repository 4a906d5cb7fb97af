# SPDX-License-Identifier: Apache-2.0
"""What the MUSES server takes: labelTrainIds/REC####_frame_######.png in a zip, training ids."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.training.errors import TrainingError
from mmsam_ros.training.evaluate import FrameResult

FOLDER = "labelTrainIds"
FULL = 750  # frames of the whole test set
Size = tuple[int, int]


class Submission:
    """Collects the predictions of a run.

    Args:
        out: folder that labelTrainIds/ and labelTrainIds.zip are written into.
        num_classes: ids are below it.
    """

    def __init__(self, out: Path, num_classes: int) -> None:
        self._folder, self._num_classes = out / FOLDER, num_classes
        self._sizes: dict[str, Size] = {}
        self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, result: FrameResult) -> None:
        """Write one frame's prediction; TrainingError where that fails."""
        name = result.item.record.name
        self._sizes[name] = result.item.size
        path = self._folder / f"{name}.png"
        if not cv2.imwrite(str(path), result.prediction.cpu().numpy()):
            raise TrainingError(f"{path}: cannot be written")

    def close(self) -> tuple[Path, int]:
        """Write the archive and read it again: its path and number of frames.

        Raises:
            TrainingError: it is not what the server takes; lists the faults.
        """
        path = self._folder.with_suffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:  # PNGs are compressed already
            for file in sorted(self._folder.iterdir()):
                archive.write(file, f"{FOLDER}/{file.name}")
        if faults := check_submission(path, self._sizes, self._num_classes):
            listed = "; ".join(faults[:5])
            raise TrainingError(f"{path}: {len(faults)} faults: {listed}")
        return path, len(self._sizes)


def check_submission(path: Path, sizes: Mapping[str, Size], num_classes: int) -> list[str]:
    """Every fault of an archive.

    Args:
        path: the .zip file.
        sizes: (height, width) of every frame that it must hold, by name.
        num_classes: ids are below it.
    """
    with zipfile.ZipFile(path) as archive:
        counts = Counter(archive.namelist())
        faults = [f"{name} is there {n} times" for name, n in counts.items() if n > 1]
        frames = {
            match[1]: np.frombuffer(archive.read(name), np.uint8)
            for name in counts
            if (match := re.fullmatch(rf"{FOLDER}/(REC\d{{4}}_frame_\d{{6}})\.png", name))
        }
        if len(frames) < len(counts):
            faults.append(f"{len(counts) - len(frames)} names are not {FOLDER}/REC*_frame_*.png")
    faults += [f"{name} is missing" for name in sorted(set(sizes) - set(frames))]
    faults += [f"{name} is no frame of this run" for name in sorted(set(frames) - set(sizes))]
    for name in sorted(set(frames) & set(sizes)):
        if fault := _fault(frames[name], sizes[name], num_classes):
            faults.append(f"{name} {fault}")
    return faults


def _fault(data: NDArray[np.uint8], size: Size, num_classes: int) -> str:
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        return "is no image"
    if image.dtype != np.uint8 or image.shape != size:
        return f"is {image.dtype} {image.shape}, expected uint8 {size}"
    if image.max() >= num_classes:
        return f"has the id {image.max()}, expected at most {num_classes - 1}"
    return ""
