# SPDX-License-Identifier: Apache-2.0
"""Sensors that are not those of the training: what they cost, and what the node makes of them.

    mmsam synth folder out/implausible --frames test=24 --per-scene 4 --first 300
    python benchmarks/implausible.py --root out/implausible

The package's weights on sensors as drivers publish them: mIoU as they come, with `plausibility:
refuse`, and with the parameter that the node names; also what the node says (it must say nothing
of the frames as they were made), and after how many frames, which are 10 s apart.
"""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import ge, le
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from results import ROOT, Row, bar, write

from mmsam_ros.data.frames import LabelledFrame
from mmsam_ros.data.open import open_frames
from mmsam_ros.inference import Segmenter, tune_allocator
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.plausibility import IntensityScale, Plausibility
from mmsam_ros.sensors import Frame, LidarPoints, SensorImage, frame_planes, plain_modality
from mmsam_ros.training.metrics import ALL, SubsetMatrices

Change = Callable[[Frame], Frame]
NEAR = 1.0  # points of mIoU that a parameter may fall short of the frames as they were made
UNIT = 1.5  # and that the intensity of another LiDAR may cost
KNOWN: dict[bytes, Any] = {}  # labels by inputs: those without a sensor come again and again
NOISE = np.random.default_rng(0)


def only(*sensors: str) -> Change:
    """Leaves out the other sensors."""
    return lambda f: replace(f, sensors={s: d for s, d in f.sensors.items() if s in sensors})


def change(sensor: str, function: Callable[[Any], Any]) -> Change:
    """Changes what a sensor gave."""
    return lambda f: replace(f, sensors={**f.sensors, sensor: function(f.sensors[sensor])})


def intensity(function: Callable[[Any], Any]) -> Change:
    """Changes the intensity."""
    return change("lidar", lambda c: replace(c, intensity=np.float32(1) * function(c.intensity)))


def metres(*factors: float) -> Change:
    """Scales the points, by axis or all."""
    return change("lidar", lambda c: replace(c, xyz=c.xyz * np.array(factors, np.float32)))


def frame(x: float = 0, y: float = 0, z: float = 0, *, at: Sequence[float] = (0, 0, 0)) -> Any:
    """(4, 4): a turn about an axis by its length in degrees, and a place."""
    matrix = np.eye(4)
    matrix[:3, :3] = cv2.Rodrigues(np.radians((x, y, z)))[0]
    matrix[:3, 3] = at
    return matrix


def moved(matrix: Any, *, known: bool = True) -> Change:
    """Points in another frame (other <- LiDAR); `known`: the pose in the camera's frame has it."""

    def move(given: LidarPoints) -> LidarPoints:
        xyz = (given.xyz @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
        back = np.linalg.inv(matrix) if known else np.eye(4)
        return LidarPoints(xyz, given.intensity, given.T_camera_lidar @ back)

    return change("lidar", move)


def raster(frame: Frame) -> Frame:
    """The cloud as `lidar/image`."""
    modality = plain_modality("muses_raw")
    found = frame_planes(frame, {"lidar": modality}, frame.size).auxiliaries["lidar"]
    return replace(frame, sensors={**frame.sensors, "lidar": SensorImage(found)})


def image(function: Callable[[Any], Any], *, inverted: bool = False) -> Change:
    """Changes the thermal image, and perhaps sets `thermal.invert`."""
    return change("thermal", lambda t: replace(t, data=function(t.data), inverted=inverted))


UNITS_OF_INTENSITY: dict[str, Callable[[Any], Any]] = {
    f"x {by:.3g}": partial(np.multiply, by) for by in (1 / 255, 1 / 100, 0.5, 2, 16, 257)
}
NO_INTENSITY: dict[str, Callable[[Any], Any]] = {"1": np.ones_like, "0": np.zeros_like}
SPOILT: dict[str, Callable[[Any], Any]] = {
    "+ 100": lambda i: i + 100, "- 128": lambda i: i - 128, "reversed": lambda i: 255 - i,
}  # fmt: skip
FRAMES = {
    "upside down": frame(180), "on its side": frame(90), "pitched up": frame(y=-15),
    "pitched down": frame(y=15), "in an optical frame": frame(69.282, -69.282, 69.282),
    "in base_link": frame(at=(1.5, 0, 1.77)), "2 m too low": frame(at=(0, 0, -2)),
    "in odom": frame(z=40, at=(300, -120, 5)),
}  # fmt: skip
UNITS = {"x 0.1": 0.1, "x 0.3": 0.3, "in feet": 3.28, "in decimetres": 10, "in millimetres": 1000}


def restored(matrix: Any) -> Change:
    """Points in another frame, and `lidar.frame`."""
    return lambda f: moved(np.linalg.inv(matrix))(moved(matrix)(f))


# what comes, and what a parameter makes of it
Case = tuple[Change, Change | None]
GOOD: dict[str, Case] = {
    "as made": (replace, None),
    "without LiDAR": (only("thermal"), None),
    "without thermal": (only("lidar"), None),
    "camera alone": (only(), None),
    "as lidar/image": (raster, None),
    "intensity 60000 in 2 %": (
        intensity(lambda i: np.where(np.arange(len(i)) % 50, i, 60000)), None
    ),
    **{
        f"intensity {name}": (intensity(function), None)
        for name, function in (UNITS_OF_INTENSITY | NO_INTENSITY).items()
    },
}  # fmt: skip
BAD: dict[str, Case] = {
    **{f"intensity {name}": (intensity(function), None) for name, function in SPOILT.items()},
    **{f"cloud {name}": (moved(to), restored(to)) for name, to in FRAMES.items()},
    "cloud upside down, wrong pose": (moved(frame(180), known=False), None),
    "cloud on its side, wrong pose": (moved(frame(90), known=False), None),
    **{f"cloud {name}": (metres(factor), None) for name, factor in UNITS.items()},
    "cloud of one layer": (metres(1, 1, 0), None),
    "thermal black-hot": (image(np.invert), image(np.invert, inverted=True)),
    "thermal bytes swapped": (image(np.ndarray.byteswap), None),
    "thermal noise": (image(lambda t: NOISE.integers(0, 2**16, t.shape, np.uint16)), None),
    "black camera": (lambda f: replace(f, rgb=np.zeros_like(f.rgb)), None),
}


def main() -> None:
    """Measure all cases and write benchmarks/results/implausible.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="data set with a test split")
    frames = open_frames("folder", parser.parse_args().root, "test", ("lidar", "thermal"))
    tune_allocator()
    segmenter = Segmenter.load(ROOT / "models/tiny_synthetic.safetensors", "cpu")
    items = [frames[index] for index in range(len(frames))]
    rows: list[Row] = []
    run = partial(score, segmenter, items)
    for name, (given, cure) in (GOOD | BAD).items():
        miou, findings, first = run(given)
        rows.append({
            "case": name, "mIoU": miou, "refuse mIoU": run(given, "refuse")[0],
            "parameter mIoU": run(cure)[0] if cure else None, "findings": findings,
            "frames until named": first,
        })  # fmt: skip
        print(*rows[-1].values(), flush=True)
    write("implausible", rows, bars({row["case"]: row for row in rows}))


def bars(rows: dict[str, Row]) -> list[Row]:
    """What is named, what a parameter restores, and what the intensity of another LiDAR costs."""
    made, alone = rows["as made"]["mIoU"], rows["without LiDAR"]["mIoU"]
    cured = [r["parameter mIoU"] for r in rows.values() if r["parameter mIoU"] is not None]
    units, changed = (
        [rows[f"intensity {name}"]["mIoU"] for name in names]
        for names in (UNITS_OF_INTENSITY, (*UNITS_OF_INTENSITY, *NO_INTENSITY, *SPOILT))
    )
    none = [rows[f"intensity {name}"]["mIoU"] for name in NO_INTENSITY]
    false = sum(bool(rows[name]["findings"]) for name in GOOD)
    named = sum(bool(rows[name]["findings"]) for name in BAD)
    return [
        bar("findings of good data", false, "", 0, le),
        bar("cases that are named", named, "", len(BAD), ge),
        bar("most mIoU that is missing with the parameter", round(made - min(cured), 1), "%",
            NEAR, le),
        bar("most mIoU that another unit of the intensity costs", round(made - min(units), 1), "%",
            UNIT, le),
        bar("most mIoU that an intensity without information costs", round(made - min(none), 1),
            "%", UNIT, le),
        bar("least mIoU that the LiDAR adds with any intensity", round(min(changed) - alone, 1),
            "%", 0.0, ge),
    ]  # fmt: skip


def score(
    segmenter: Segmenter, items: list[LabelledFrame], change: Change, mode: str = "warn"
) -> tuple[float, list[str], int | None]:  # fmt: skip
    """mIoU over the classes that are there, what was found, and after how many frames."""
    spec = segmenter.spec
    look = Plausibility(spec, mode, str, IntensityScale(spec, 1.0), CameraInfos())
    matrices, found, first = SubsetMatrices(len(spec.classes)), dict[str, str](), None
    for number, item in enumerate(items, start=1):
        review = partial(look, frame_ids={}, stamp=10.0 * number)
        prepared = segmenter.prepare(change(item.frame), review)
        key = b"".join(tensor.numpy().tobytes() for tensor in prepared.inputs.values())
        key = hashlib.sha256(key + " ".join(prepared.inputs).encode()).digest()
        if key not in KNOWN:
            KNOWN[key] = segmenter.infer(prepared, confidence=False).labels
        labels = KNOWN[key]
        matrices.update(torch.from_numpy(labels), torch.from_numpy(item.label), {})
        found |= look.findings
        first = first or (number if found else None)
    miou = matrices.scores([info.name for info in spec.classes])[ALL].miou_present
    return round(miou, 1), sorted(found), first


if __name__ == "__main__":
    main()
