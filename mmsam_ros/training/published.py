# SPDX-License-Identifier: Apache-2.0
"""Published mIoU (percent, absent classes count 0) to set our own beside, by exact setting.

T4 to T9 are tables of arXiv 2509.10408. DeLiVER's val and test rank methods differently and differ
by up to 15 points, so a number only ever stands beside one of its own split and sensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_DIFFICULTY = ("all", "difficulty=easy", "difficulty=hard")
_MUSES = (
    "all", "time=day", "time=night", "weather=clear", "weather=fog", "weather=rain", "weather=snow",
)  # fmt: skip
_CHOSEN_ON_TEST = "its paper; epoch chosen on the test set"


@dataclass(frozen=True)
class Published:
    """A method's row: data set, split, sensors besides the camera, mIoU by subset, and where."""

    method: str
    kind: str
    split: str
    sources: tuple[str, ...]
    miou: Mapping[str, float]
    table: str


def _rows(
    setting: str, columns: tuple[str, ...], table: str, rows: Mapping[str, tuple[float, ...]]
) -> Iterator[Published]:
    kind, split, *sources = setting.split()
    for method, values in rows.items():
        miou = dict(zip(columns, values, strict=False))
        yield Published(method, kind, split, tuple(sources), miou, table)


PUBLISHED: tuple[Published, ...] = (
    *_rows("deliver test depth", _DIFFICULTY, "T4", {
        "CMNeXt": (53.87, 54.07, 49.66), "GeminiFusion": (54.98, 55.07, 53.00),
        "RoadFormer+": (55.95, 56.12, 52.39), "MM SAM-adapter": (57.35, 57.62, 53.35),
    }),
    *_rows("deliver test lidar", _DIFFICULTY, "T4", {
        "CMNeXt": (51.32, 51.97, 39.29), "GeminiFusion": (50.57, 51.07, 40.93),
        "RoadFormer+": (54.56, 55.41, 40.26), "MM SAM-adapter": (57.14, 57.75, 45.46),
    }),
    *_rows("deliver test event", _DIFFICULTY, "T4", {
        "CMNeXt": (50.81, 51.56, 37.08), "GeminiFusion": (51.71, 52.32, 40.27),
        "RoadFormer+": (54.10, 54.80, 41.98), "MM SAM-adapter": (55.70, 56.29, 44.67),
    }),
    *_rows("deliver test", _DIFFICULTY, "T9", {
        "SAM": (53.32, 54.28, 35.57), "SAM adapter": (55.98, 57.07, 37.93),
    }),
    *_rows("deliver val depth", _DIFFICULTY, "T7", {"MM SAM-adapter": (69.60,)}),
    *_rows("deliver val lidar", _DIFFICULTY, "T7", {"MM SAM-adapter": (61.89,)}),
    *_rows("deliver val event", _DIFFICULTY, "T7", {"MM SAM-adapter": (60.74,)}),
    *_rows("fmb test thermal", _DIFFICULTY, "T5", {
        "CMNeXt": (61.66, 64.81, 56.85), "GeminiFusion": (64.75, 68.05, 61.03),
        "RoadFormer+": (64.57, 66.31, 61.79), "MM SAM-adapter": (66.10, 68.45, 62.59),
    }),
    *_rows("fmb test thermal", _DIFFICULTY, _CHOSEN_ON_TEST, {
        "StitchFusion-B3": (64.85,), "SHIFNet": (67.8,),
    }),
    *_rows("muses test lidar", _MUSES, "T6", {
        "CMNeXt": (72.36, 75.42, 64.27, 72.81, 59.98, 72.48, 71.92),
        "GeminiFusion": (74.22, 75.90, 67.67, 74.79, 62.95, 73.30, 74.16),
        "RoadFormer+": (80.38, 82.56, 74.51, 79.39, 69.64, 80.69, 79.49),
        "MM SAM-adapter": (81.07, 83.34, 74.97, 80.82, 74.12, 80.00, 80.85),
    }),
    *_rows("muses test event", _MUSES, "T6", {
        "CMNeXt": (70.49, 74.02, 60.72, 71.24, 60.91, 68.78, 70.54),
        "GeminiFusion": (68.62, 72.04, 58.19, 70.40, 60.53, 65.27, 68.87),
        "RoadFormer+": (77.70, 80.62, 69.02, 78.44, 69.29, 76.40, 77.70),
        "MM SAM-adapter": (79.92, 83.39, 72.38, 81.52, 68.97, 78.92, 78.72),
    }),
    *_rows("muses test", _MUSES, "leaderboard, anonymous", {"GtA": (82.39,)}),
)  # fmt: skip


def published_rows(kind: str, split: str, sources: tuple[str, ...]) -> list[Published]:
    """What is published for exactly this data set, split and set of sensors; best last."""
    setting = (kind, split, set(sources))
    rows = [row for row in PUBLISHED if (row.kind, row.split, set(row.sources)) == setting]
    return sorted(rows, key=lambda row: row.miou["all"])
