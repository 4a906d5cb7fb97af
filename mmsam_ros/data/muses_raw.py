# SPDX-License-Identifier: Apache-2.0
"""The raw MUSES recordings: calibration, LiDAR, events and the vehicle's motion, file by file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.data.read import read_json, stems

Array = NDArray[np.float64]

RAW: Mapping[str, tuple[str, str]] = {"lidar": ("lidar", "bin"), "event": ("event_camera", "h5")}
"""Sensor -> its folder, which the names of its files end with, and their suffix."""

# The official tool's columns of a row of GNSS values: rates about x, y, z (1e-5 degrees/s) and
# ground speed (mm/s).
_GNSS_VALUES, _RATES, _SPEED = 28, slice(17, 20), 23
_EVENT_WINDOW = 30_000  # µs before the last event


@dataclass(frozen=True, eq=False)
class Calibration:
    """What projecting needs of `calib.json`, at 1920 x 1080: intrinsics (3, 3), extrinsics (4, 4),
    named to_from, and the event camera's distortion (OpenCV's order).
    """

    k_rgb: Array
    k_event: Array
    d_event: Array
    t_rgb_lidar: Array
    t_gnss_lidar: Array
    t_rgb_event: Array

    @classmethod
    def read(cls, path: Path) -> Self:
        """DataError names the file and the entry that is missing or of another shape."""
        values = read_json(path)
        return cls(
            _matrix(path, values, "intrinsics.rgb.K", (3, 3)),
            _matrix(path, values, "intrinsics.event.K", (3, 3)),
            _matrix(path, values, "intrinsics.event.dist_coeffs", None).ravel(),
            _matrix(path, values, "extrinsics.lidar2rgb", (4, 4)),
            _matrix(path, values, "extrinsics.lidar2gnss", (4, 4)),
            _matrix(path, values, "extrinsics.event2rgb", (4, 4)),
        )


def _matrix(path: Path, values: Any, entry: str, shape: tuple[int, ...] | None) -> Array:
    try:
        for key in entry.split("."):
            values = values[key]
        matrix = np.array(values, np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {entry} is missing or not in numbers") from error
    if (shape is not None and matrix.shape != shape) or not np.isfinite(matrix).all():
        raise DataError(f"{path}: {entry} is {matrix.tolist()}, expected finite {shape}")
    return matrix


@dataclass(frozen=True)
class RawFrame:
    """One raw file and what it becomes.

    Attributes:
        sensor: `lidar` or `event`.
        path: the raw file.
        target: the raster to write, .npz (key arr_0) or .png (16 bit).
        gnss: the vehicle's motion.
        exposure: middle of the camera's exposure (s), None where `meta.json` does not tell.
    """

    sensor: str
    path: Path
    target: Path
    gnss: Path
    exposure: float | None = None


def raw_frames(
    root: Path, out: Path, sensors: Sequence[str], *, exposures: bool = False, png: bool = False
) -> list[RawFrame]:
    """All raw files below root (`<folder>/<split>/<weather>/<time>/`), by sensor, then name.

    exposures: read them from `meta.json`. png: LiDAR rasters become 16-bit PNG instead of npz.
    DataError where a sensor has no files, or `meta.json` cannot be read.
    """
    times = _exposures(root / "meta.json") if exposures else {}
    frames = []
    for sensor in sensors:
        folder, suffix = RAW[sensor]
        ending = f"_{folder}.{suffix}"
        places = sorted(stems(root / folder, "*/*/*/*", ending))
        if not places:
            raise DataError(
                f"{root / folder}: no frames, expected <split>/<weather>/<time>/<name>{ending}"
            )
        made = f"_{folder}.png" if png and sensor == "lidar" else f"_{folder}.npz"
        for place in places:
            path, target = root / folder / f"{place}{ending}", out / folder / f"{place}{made}"
            gnss, exposure = root / "gnss" / f"{place}_gnss.txt", times.get(place.split("/", 1)[1])
            frames.append(RawFrame(sensor, path, target, gnss, exposure))
    return frames


def _exposures(path: Path) -> dict[str, float]:
    """`<weather>/<time>/<name>` -> middle of the camera's exposure in seconds."""
    begin, end = (f"frame_camera_exposure_{word}_timestamp_us" for word in ("start", "end"))
    with naming(path, TypeError):
        return {
            name: (entry[begin] + entry[end]) / 2e6
            for name, entry in read_json(path).items()
            if begin in entry and end in entry
        }


def read_cloud(path: Path) -> Array:
    """(N, 6): x forward, y left, z up (m), intensity, ring, time (s)."""
    data = path.read_bytes()
    if not data or len(data) % 48:
        raise DataError(f"{path}: {len(data)} bytes, expected rows of 6 float64 (48 bytes)")
    return np.frombuffer(data, "<f8").astype(np.float64).reshape(-1, 6)


def read_motion(path: Path) -> tuple[Array, float]:
    """Rates about x, y, z (rad/s) and ground speed (m/s) of the vehicle."""
    try:
        values = np.array(path.read_text().split(), np.float64)
    except ValueError as error:
        raise DataError(f"{path}: {error}, expected {_GNSS_VALUES} numbers") from error
    if values.shape != (_GNSS_VALUES,):
        raise DataError(f"{path}: {values.size} values, expected one row of {_GNSS_VALUES}")
    return np.deg2rad(values[_RATES] * 1e-5), float(values[_SPEED]) / 1000.0


def read_events(path: Path) -> tuple[Array, NDArray[np.bool_]]:
    """The last 30 ms of events: pixels (N, 2) as x, y, and whether each is positive (N,)."""
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path}: needs h5py to be read (pip install h5py)") from error
    try:
        with h5py.File(path) as file:
            x, y, t, p = (np.asarray(file[f"events/{name}"]).astype(np.int64) for name in "xytp")
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: {error}, expected datasets x, y, t, p in events") from error
    if not x.shape == y.shape == t.shape == p.shape == (t.size,):
        raise DataError(f"{path}: events x, y, t, p have {x.shape}, {y.shape}, {t.shape}, {p.shape}"
                        " values, expected equally many")  # fmt: skip
    late = t >= t[-1:] - _EVENT_WINDOW
    return np.stack([x[late], y[late]], axis=1).astype(np.float64), p[late] > 0
