# SPDX-License-Identifier: Apache-2.0
"""A small tree of raw MUSES recordings."""

import json
from pathlib import Path

import h5py
import numpy as np

K = [[1000.0, 0, 960], [0, 1000, 540], [0, 0, 1]]
T_RGB_LIDAR = [[0, -1.0, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
CALIB = {
    "intrinsics": {
        "rgb": {"K": K, "dist_coeffs": [0] * 5},
        "event": {
            "K": [[500.0, 0, 640], [0, 500, 360], [0, 0, 1]],
            "dist_coeffs": [0] * 5,
        },
    },
    "extrinsics": {
        "lidar2rgb": T_RGB_LIDAR,
        "lidar2gnss": np.eye(4).tolist(),
        "event2rgb": np.eye(4).tolist(),
    },
}
PLACES = ("train/clear/day/REC0001_frame_000100", "val/fog/night/REC0002_frame_000007")
MIDDLE = 1_650_000_000.05


def gnss_row(rates: tuple[int, int, int] = (0, 0, 0), speed: int = 0) -> str:
    values = [7] * 28
    values[17:20] = rates
    values[23] = speed
    return " ".join(map(str, values))


def write_events(path: Path, events: list[tuple[int, int, int, int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = np.array(events, np.int64).reshape(-1, 4).T
    with h5py.File(path, "w") as file:
        for name, column, kind in zip("xytp", columns, ("u2", "u2", "i8", "u1"), strict=True):
            file[f"events/{name}"] = column.astype(kind)


def make_raw(root: Path) -> Path:
    """Two frames: one point and one event in each. Returns root."""
    meta = {}
    for place in PLACES:
        cloud = np.array([[10.0, 1.0, 0.5, 42.0, 3.0, MIDDLE + 0.1]])
        for folder in ("lidar", "gnss"):
            (root / folder / place).parent.mkdir(parents=True)
        (root / "lidar" / f"{place}_lidar.bin").write_bytes(cloud.tobytes())
        (root / "gnss" / f"{place}_gnss.txt").write_text(gnss_row(speed=10_000))
        write_events(root / "event_camera" / f"{place}_event_camera.h5", [(690, 335, 5, 1)])
        meta[place.split("/", 1)[1]] = {
            "frame_camera_exposure_start_timestamp_us": round(MIDDLE * 1e6) - 5000,
            "frame_camera_exposure_end_timestamp_us": round(MIDDLE * 1e6) + 5000,
        }
    (root / "calib.json").write_text(json.dumps(CALIB))
    (root / "meta.json").write_text(json.dumps(meta))
    return root
