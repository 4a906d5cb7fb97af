# SPDX-License-Identifier: Apache-2.0
"""The synthetic world at a glance: docs/synthetic.jpg.

    python benchmarks/contact_sheet.py

A row for every weather and for every case, each of another world of the test split: picture,
truth, LiDAR returns over the dimmed picture (colour: range), thermal image.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.inference.draw import colorise
from mmsam_ros.sensors import palette, project
from mmsam_ros.world import CLASSES, Sample, make_rig, samples, world_seed
from mmsam_ros.world.difficulty import is_hard

SIZE = (420, 280)
ROWS = (
    ("sun", "ordinary", 900), ("cloud", "ordinary", 901), ("fog", "ordinary", 902),
    ("rain", "ordinary", 903), ("night", "ordinary", 904), ("sun", "overexposure", 905),
    ("cloud", "motionblur", 906), ("rain", "underexposure", 907), ("sun", "lidarjitter", 908),
    ("night", "thermallowres", 909),
)  # fmt: skip
OUT = Path(__file__).parents[1] / "docs" / "synthetic.jpg"
Image = NDArray[np.uint8]


def main() -> None:
    """Render, arrange and write."""
    rows = [_row(*row) for row in ROWS]
    rows.append(_legend(rows[0].shape[1]))
    cv2.imwrite(str(OUT), cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR), [1, 82])
    print(OUT)


def _row(weather: str, case: str, number: int) -> Image:
    seed = world_seed("test", number)
    *_, sample = samples(seed, 3, weather=weather, case=case, rig=make_rig(*SIZE), interval=1.2)
    words = f"{weather}, {case}: {'hard' if is_hard(sample) else 'easy'}"
    truth = colorise(sample.picture.labels, palette(CLASSES))
    row = np.hstack([sample.picture.rgb, truth, _points(sample), _heat(sample)])
    cv2.rectangle(row, (0, 0), (10 + 9 * len(words), 26), (0, 0, 0), -1)
    cv2.putText(row, words, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return row.astype(np.uint8)


def _points(sample: Sample) -> Image:
    image = sample.picture.rgb // 4
    _, u, v, depth = project(sample.cloud.xyz, sample.rig.camera_model, sample.rig.T_camera_lidar)
    tone = (255 * np.clip(1 - np.log(np.maximum(depth, 2) / 2) / np.log(40), 0, 1)).astype(np.uint8)
    colours = cv2.applyColorMap(tone[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    for x, y, colour in zip(u.astype(int), v.astype(int), colours.tolist(), strict=True):
        cv2.circle(image, (x, y), 1, colour, -1)
    return np.asarray(image, np.uint8)


def _heat(sample: Sample) -> Image:
    low, high = np.percentile(sample.thermal, (1, 99))
    share = np.clip((sample.thermal - low) / (high - low), 0, 1)
    image = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(cv2.resize(image, SIZE, interpolation=cv2.INTER_LINEAR)[..., ::-1], np.uint8)


def _legend(width: int) -> Image:
    image = np.full((34, width, 3), 255, np.uint8)
    step = width // len(CLASSES)
    for i, info in enumerate(CLASSES):
        x = 6 + i * step
        cv2.rectangle(image, (x, 8), (x + 20, 26), info.rgb, -1)
        cv2.rectangle(image, (x, 8), (x + 20, 26), (0, 0, 0), 1)
        place = (x + 26, 22)
        cv2.putText(image, info.name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, 16)
    return image


if __name__ == "__main__":
    main()
