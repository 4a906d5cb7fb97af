# SPDX-License-Identifier: Apache-2.0
"""What the MUSES server takes: labelTrainIds/REC####_frame_######.png in a zip, training ids."""

import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.evaluate import FrameResult

FOLDER = "labelTrainIds"
FULL = 750  # frames of the whole test set
Size = tuple[int, int]


class Submission:
    """Writes the predictions of an evaluation to labelTrainIds/ and labelTrainIds.zip in `out`."""

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
        """Write the archive: its path and frames; TrainingError lists what makes it invalid."""
        path = self._folder.with_suffix(".zip")
        with zipfile.ZipFile(path, "w") as archive:  # PNGs are compressed already
            for file in sorted(self._folder.iterdir()):
                archive.write(file, f"{FOLDER}/{file.name}")
        if faults := check_submission(path, self._sizes, self._num_classes):
            raise TrainingError(f"{path}: {len(faults)} faults: {'; '.join(faults[:5])}")
        return path, len(self._sizes)


def check_submission(path: Path, sizes: Mapping[str, Size], num_classes: int) -> list[str]:
    """Every fault of a .zip file that has to hold frames of `sizes` (height, width) by name."""
    expected = {f"{FOLDER}/{name}.png": size for name, size in sizes.items()}
    pattern = rf"{FOLDER}/REC\d{{4}}_frame_\d{{6}}\.png"
    with zipfile.ZipFile(path) as archive:
        counts = Counter(archive.namelist())
        data = {name: np.frombuffer(archive.read(name), np.uint8) for name in counts}
    faults = [f"{name} is there {n} times" for name, n in counts.items() if n > 1]
    wrong = [name for name in expected if not re.fullmatch(pattern, name)]
    faults += [f"{name}: expected {FOLDER}/REC####_frame_######.png" for name in wrong]
    faults += [f"{name} is missing" for name in sorted(expected.keys() - data.keys())]
    faults += [f"{name} is no frame of this run" for name in sorted(data.keys() - expected.keys())]
    for name in sorted(expected.keys() & data.keys()):
        size, image = expected[name], cv2.imdecode(data[name], cv2.IMREAD_UNCHANGED)
        if image is None:
            faults.append(f"{name} is no image")
        elif image.dtype != np.uint8 or image.shape != size:
            faults.append(f"{name} is {image.dtype} {image.shape}, expected uint8 {size}")
        elif image.max() >= num_classes:
            faults.append(f"{name} has the id {image.max()}, expected below {num_classes}")
    return faults
