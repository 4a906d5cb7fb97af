# SPDX-License-Identifier: Apache-2.0
"""Sensors that are not those of the training: what they cost, and what the node makes of them.

    mmsam synth folder out/implausible --frames test=24 --per-scene 4 --first 300
    python benchmarks/implausible.py --root out/implausible

The package's weights on sensors as drivers publish them: mIoU as they come, with `plausibility:
refuse`, and with the parameter that the node names. Also what the node says, and after how many
frames; it must say nothing of the frames as they were made.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import ge, le
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from results import Row, bar, write

from mmsam_ros.data.frames import LabelledFrame
from mmsam_ros.data.open import open_frames
from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.plausibility import AUTO, IntensityScale, Plausibility
from mmsam_ros.sensors import Frame, LidarPoints, SensorImage
from mmsam_ros.training.metrics import ALL, SubsetMatrices
from mmsam_ros.weights import default_weights

Change = Callable[[Frame], Frame]
Matrix = NDArray[Any]
NEAR = 1.0  # points of mIoU that a parameter may fall short of the frames as they were made


def as_made(frame: Frame) -> Frame:
    """No change."""
    return frame


def only(*sensors: str) -> Change:
    """Leaves out the other sensors."""
    return lambda f: replace(f, sensors={s: d for s, d in f.sensors.items() if s in sensors})


def cloud(change: Callable[[LidarPoints], LidarPoints]) -> Change:
    """Changes the LiDAR's points."""
    return lambda f: replace(f, sensors={**f.sensors, "lidar": change(f.sensors["lidar"])})  # type: ignore[arg-type]


def thermal(change: Callable[[SensorImage], SensorImage]) -> Change:
    """Changes the thermal image."""
    return lambda f: replace(f, sensors={**f.sensors, "thermal": change(f.sensors["thermal"])})  # type: ignore[arg-type]


def intensity(factor: float, offset: float = 0.0) -> Change:
    """Intensity of another unit."""
    return cloud(lambda c: replace(c, intensity=c.intensity * np.float32(factor) + offset))


def turned(matrix: Matrix, *, known: bool = True) -> Change:
    """Points in another frame (other <- LiDAR); `known`: the pose in the camera's frame has it."""

    def change(given: LidarPoints) -> LidarPoints:
        xyz = (given.xyz @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
        back = np.linalg.inv(matrix) if known else np.eye(4)
        return LidarPoints(xyz, given.intensity, given.T_camera_lidar @ back)

    return cloud(change)


def frame(
    axis: int = 0, degrees: float = 0.0, at: tuple[float, float, float] = (0, 0, 0)
) -> Matrix:
    """(4, 4): a turn about an axis, and a place."""
    i, j, angle = (axis + 1) % 3, (axis + 2) % 3, np.radians(degrees)
    matrix = np.eye(4)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[j, i], matrix[i, j] = np.sin(angle), -np.sin(angle)
    matrix[:3, 3] = at
    return matrix


class Case(NamedTuple):
    """What comes, and what the parameter that the node names makes of it."""

    name: str
    change: Change
    parameter: str = ""
    cure: Change | None = None
    scale: float | str = 1.0  # lidar.intensity_scale of the cure
    reference: str = "as made"  # case that the cure should come near to


def moved(name: str, matrix: Matrix) -> Case:
    """A cloud in another frame, and `lidar.frame`."""
    back = turned(np.linalg.inv(matrix))
    change = turned(matrix)
    return Case(name, change, "lidar.frame", lambda f: back(change(f)))


def unit(name: str, factor: float) -> Case:
    """Intensity of another unit, and `lidar.intensity_scale: auto`."""
    change = intensity(factor)
    return Case(name, change, "lidar.intensity_scale: auto", change, AUTO)


OPTICAL = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
BLACK_HOT = thermal(lambda t: replace(t, data=np.invert(t.data.astype(np.uint16))))
CASES = (
    Case("as made", as_made, "lidar.intensity_scale: auto", as_made, AUTO),
    Case("without LiDAR", only("thermal")),
    Case("without thermal", only("lidar")),
    Case("camera alone", only()),
    unit("intensity / 255", 1 / 255),
    unit("intensity / 100", 1 / 100),
    unit("intensity x 16", 16),
    unit("intensity x 257", 257),
    Case("intensity 1", intensity(0, 1)),
    Case("intensity 0", intensity(0)),
    moved("upside down", frame(0, 180)),
    Case("upside down, wrong pose", turned(frame(0, 180), known=False)),
    moved("on its side", frame(0, 90)),
    Case("on its side, wrong pose", turned(frame(0, 90), known=False)),
    moved("optical frame", OPTICAL),
    moved("base_link", frame(at=(1.5, 0, 1.77))),
    moved("odom", frame(2, 40, (300, -120, 5))),
    Case("millimetres", cloud(lambda c: replace(c, xyz=c.xyz * np.float32(1000)))),
    Case(
        "black-hot thermal", BLACK_HOT, "thermal.invert",
        lambda f: thermal(lambda t: replace(t, inverted=True))(BLACK_HOT(f)),
    ),
    Case(
        "black-hot thermal without LiDAR", lambda f: only("thermal")(BLACK_HOT(f)),
        "thermal.invert",
        lambda f: only("thermal")(thermal(lambda t: replace(t, inverted=True))(BLACK_HOT(f))),
        reference="without LiDAR",
    ),
)  # fmt: skip


def main() -> None:
    """Measure all cases and write benchmarks/results/implausible.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="data set with a test split")
    frames = open_frames("folder", parser.parse_args().root, "test", ("lidar", "thermal"))
    tune_allocator()
    segmenter = Segmenter.load(default_weights(), "cpu")
    items = [frames[index] for index in range(len(frames))]
    rows = [measure(segmenter, items, case) for case in CASES]
    made = {row["case"]: row for row in rows}
    short = [
        made[case.reference]["mIoU"] - made[case.name]["parameter mIoU"]
        for case in CASES
        if case.cure is not None
    ]
    broken = [row for row in rows if not row["case"].startswith(("as made", "without", "camera"))]
    write("implausible", rows, [
        bar("findings of the frames as they were made", len(rows[0]["findings"]), "", 0, le),
        bar("cases that are named", sum(map(bool, (r["findings"] for r in broken))), "",
            len(broken), ge),
        bar("most mIoU that is missing with the parameter", round(max(short), 1), "%", NEAR, le),
    ])  # fmt: skip


def measure(segmenter: Segmenter, items: list[LabelledFrame], case: Case) -> Row:
    """Scores of a case, and what the node says of it."""
    warned, findings, first = score(segmenter, items, case.change)
    row: Row = {
        "case": case.name,
        "mIoU": warned,
        "refuse mIoU": score(segmenter, items, case.change, mode="refuse")[0],
        "parameter": case.parameter,
        "parameter mIoU": None,
        "findings": findings,
        "frames until named": first,
    }
    if case.cure is not None:
        row["parameter mIoU"] = score(segmenter, items, case.cure, scale=case.scale)[0]
    print(
        row["case"], row["mIoU"], row["refuse mIoU"], row["parameter mIoU"], *findings, flush=True
    )
    return row


def score(
    segmenter: Segmenter, items: list[LabelledFrame], change: Change, mode: str = "warn",
    scale: float | str = 1.0,
) -> tuple[float, list[str], int | None]:  # fmt: skip
    """mIoU over the classes that are there, what was found, and after how many frames."""
    spec = segmenter.spec
    look = Plausibility(spec, mode, str, IntensityScale(spec, scale), CameraInfos())
    matrices, found, first = SubsetMatrices(len(spec.classes)), dict[str, Any](), None
    for number, item in enumerate(items, start=1):
        prepared = segmenter.prepare(change(item.frame), partial(look, frame_ids={}))
        labels = segmenter.infer(prepared, confidence=False).labels
        matrices.update(torch.from_numpy(labels), torch.from_numpy(item.label), {})
        found |= look.findings
        if found and first is None:
            first = number
    miou = matrices.scores([info.name for info in spec.classes])[ALL].miou_present
    return round(miou, 1), sorted(found), first


if __name__ == "__main__":
    main()
