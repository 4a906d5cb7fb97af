# SPDX-License-Identifier: Apache-2.0
"""Raw MUSES recordings into the RGB camera's view: the tree `projected_to_rgb` that training reads.

By default the projection is the one that the node makes of a live cloud: points in front of the
camera, the nearest wins, a proper rotation for the motion, event counts that saturate. `parity`
makes what the official MUSES tool makes instead: points behind the camera fold into the image, the
last point of the file wins, K in single precision, a rotation that overwrites its input while it
reads it, event counts that wrap at 256.

The RGB images count as free of distortion, as they do for the tool.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import Checked, from_mapping, ranged, write_atomic
from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.data.files import read_json, read_text, stems
from mmsam_ros.sensors import CameraModel, rasterise
from mmsam_ros.sensors.projection import MIN_RANGE

Array = NDArray[np.float64]
WIDTH, HEIGHT = 1920, 1080
# Sensor -> its folder, which the names of its files end with, and their suffix.
RAW: Mapping[str, tuple[str, str]] = {"lidar": ("lidar", "bin"), "event": ("event_camera", "h5")}
# The official tool's columns of a row of GNSS values: rates about x, y, z (1e-5 degrees/s) and
# ground speed (mm/s).
_GNSS_VALUES, _RATES, _SPEED = 28, slice(17, 20), 23
_OPTIONS = "projection.json"
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
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {entry} is missing or not in numbers") from error
    if (shape is not None and matrix.shape != shape) or not np.isfinite(matrix).all():
        raise DataError(f"{path}: {entry} is {matrix.tolist()}, expected finite {shape}")
    return matrix


@dataclass(frozen=True)
class RawFrame:
    """One raw file and what it becomes."""

    sensor: str  # `lidar` or `event`
    path: Path
    target: Path  # the raster to write, .npz (key arr_0) or .png (16 bit)
    gnss: Path  # the vehicle's motion
    exposure: float | None = None  # middle of the camera's (s); None: not in `meta.json`


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
        ending = f"_{folder}"
        places = stems(root / folder, "*/*/*/*", ending, [f".{suffix}"])
        if not places:
            expected = f"<split>/<weather>/<time>/<name>{ending}.{suffix}"
            raise DataError(f"{root / folder}: no frames, expected {expected}")
        made = f"_{folder}.png" if png and sensor == "lidar" else f"_{folder}.npz"
        for place, path in sorted(places.items()):
            target = out / folder / f"{place}{made}"
            gnss, exposure = root / "gnss" / f"{place}_gnss.txt", times.get(place.split("/", 1)[1])
            frames.append(RawFrame(sensor, path, target, gnss, exposure))
    return frames


def _exposures(path: Path) -> dict[str, float]:
    """`<weather>/<time>/<name>` -> middle of the camera's exposure in seconds."""
    begin, end = (f"frame_camera_exposure_{word}_timestamp_us" for word in ("start", "end"))
    with naming(path, TypeError, OverflowError):
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
    words = read_text(path).split()
    try:
        values = np.array(words, np.float64)
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


@dataclass(frozen=True)
class ProjectionOptions(Checked):
    """How to project."""

    error = DataError

    motion_compensation: bool = False  # brings LiDAR points to the middle of the exposure
    parity: bool = False  # reproduces the official tool, with its errors
    point_size: int = ranged(2, 1, 2)  # side of a point or an event, to the right and down

    @property
    def kernel(self) -> NDArray[np.uint8]:
        """What a point is dilated with; OpenCV's anchor of a 2 x 2 kernel is its last pixel."""
        return np.ones((self.point_size, self.point_size), np.uint8)

    def describe(self) -> str:
        """The rasters in words."""
        whose, size = "the official tool" if self.parity else "the node", self.point_size
        moved = ", motion compensated" if self.motion_compensation else ""
        return f"rasters as {whose} makes them, points of {size} x {size} pixels{moved}"


PUBLISHED = ProjectionOptions(parity=True)  # whether motion was compensated is not known


def record_options(out: Path, options: ProjectionOptions) -> None:
    """Note the options in `projection.json`: one tree never mixes two projections, and who reads it
    knows which it has.

    DataError where the tree was begun with others, or by somebody else.
    """
    path, wanted = out / _OPTIONS, asdict(options)
    if not path.exists() and not any((out / folder).exists() for folder, _ in RAW.values()):
        write_atomic(path, json.dumps(wanted, indent=1))
    found = _options(path)
    if found != wanted:
        raise DataError(f"{path}: {found}, expected {wanted}; choose another folder")


def describe_projection(out: Path) -> str:
    """How the rasters of a tree were made, and what the published ones are where that differs.

    DataError where `projection.json` holds something else than options.
    """
    path, others = out / _OPTIONS, "; the published ones are the official tool's (--parity)"
    if not path.exists():
        return f"rasters of an unknown tool: no {path.name}{others}"
    options = from_mapping(ProjectionOptions, _options(path), f"{path}")
    as_published = options.parity and options.point_size == PUBLISHED.point_size
    return options.describe() + ("" if as_published else others)


def _options(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if "growth" in found:  # the option of earlier trees: points of 2 x 2 pixels, or of one
        found["point_size"] = 2 if found.pop("growth") else 1
    return found


def project_frame(frame: RawFrame, calibration: Calibration, options: ProjectionOptions) -> None:
    """Read one raw file, project it and write its raster, whole or not at all.

    DataError or OSError names the file that cannot be read.
    """
    raster: NDArray[Any]
    if frame.sensor == "event":
        raster = event_raster(*read_events(frame.path), calibration, options)
    else:
        raster = lidar_raster(_read_lidar(frame, calibration, options), calibration, options)
    if frame.target.suffix == ".png":
        stored = np.clip(np.rint((raster + 100.0) * 150.0), 0, 65535).astype(np.uint16)
        write_atomic(frame.target, cv2.imencode(".png", stored[..., ::-1])[1].tobytes())
    else:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, raster)
        write_atomic(frame.target, buffer.getvalue())


def _read_lidar(frame: RawFrame, calibration: Calibration, options: ProjectionOptions) -> Array:
    cloud = read_cloud(frame.path)
    if options.parity:  # elsewhere `rasterise` does it
        cloud = cloud[np.linalg.norm(cloud[:, :3], axis=1) >= MIN_RANGE]
    if options.motion_compensation:
        if frame.exposure is None:
            raise DataError(f"{frame.path}: meta.json does not tell its camera exposure")
        rates, speed = read_motion(frame.gnss)
        since, T = cloud[:, 5] - frame.exposure, calibration.t_gnss_lidar
        in_place = options.parity
        cloud[:, :3] = compensate_motion(cloud[:, :3], since, rates, speed, T, in_place=in_place)
    return cloud


def compensate_motion(
    points: Array, since: Array, rates: Array, speed: float, T: Array, *, in_place: bool = False
) -> Array:
    """LiDAR points (N, 3) as they would lie at the exposure; measured `since` (N,) s after it.

    T: (4, 4), vehicle <- LiDAR. The vehicle moves with speed (m/s) along its x axis and turns with
    rates (3,) (rad/s) about its axes. in_place: the official tool's rotation, which computes y with
    the new x, and z with both.
    """
    moved = points @ T[:3, :3].T + T[:3, 3]
    moved[:, 0] += speed * since
    turn = np.broadcast_to(np.eye(3), (len(points), 3, 3))
    for axis, rate in enumerate(rates):
        turn = _rotations(axis, rate * since) @ turn
    source = moved if in_place else moved.copy()
    for axis in range(3):
        moved[:, axis] = (turn[:, axis] * source).sum(axis=1)
    back = np.linalg.inv(T)
    return moved @ back[:3, :3].T + back[:3, 3]


def lidar_raster(
    cloud: Array, calibration: Calibration, options: ProjectionOptions
) -> NDArray[np.float32]:
    """Cloud (N, >= 4) -> `muses_raw` float32 (1080, 1920, 3): range, intensity, height."""
    points, intensity = cloud[:, :3], cloud[:, 3]
    K, T = calibration.k_rgb, calibration.t_rgb_lidar
    if not options.parity:
        camera = CameraModel(WIDTH, HEIGHT, K, np.zeros(0), "none", np.eye(3), np.zeros(3))
        return rasterise(points, intensity, camera, T, point_size=options.point_size)
    pixels = (points @ T[:3, :3].T + T[:3, 3]) @ K.astype(np.float32).T
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
    keep = (u > 0) & (u < WIDTH - 1) & (v > 0) & (v < HEIGHT - 1)
    values = np.stack([np.linalg.norm(points, axis=1), intensity, points[:, 2]], axis=1)
    raster = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    raster[v[keep].astype(np.int64), u[keep].astype(np.int64)] = values[keep]
    if options.point_size > 1:
        # Shifted, so that a negative height beats an empty neighbour.
        raster[raster.any(axis=2), 2] += 255.0
        raster = np.asarray(cv2.dilate(raster, options.kernel), np.float32)
        raster[raster.any(axis=2), 2] -= 255.0
    return raster


def event_raster(
    pixels: Array, positive: NDArray[np.bool_], calibration: Calibration, options: ProjectionOptions
) -> NDArray[np.uint8]:
    """Events (N, 2) -> `event_counts` uint8 (1080, 1920, 3): positive, negative, zero.

    Events have no depth: the cameras' offset is ignored, so that a rotation is left.
    """
    if not len(pixels):  # OpenCV takes no empty array
        return np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rays = cv2.undistortPoints(pixels[:, None], calibration.k_event, calibration.d_event)
    homogeneous = np.append(rays[:, 0], np.ones((len(pixels), 1)), axis=1)
    x, y, z = calibration.k_rgb @ calibration.t_rgb_event[:3, :3] @ homogeneous.T
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = np.rint(x / z), np.rint(y / z)
    keep = (z > 0) & (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
    cell = ((v[keep] * WIDTH + u[keep]) * 3 + ~positive[keep]).astype(np.int64)
    counts = np.bincount(cell, minlength=HEIGHT * WIDTH * 3)
    if not options.parity:
        counts = np.minimum(counts, 255)
    raster = counts.astype(np.uint8).reshape(HEIGHT, WIDTH, 3)
    return np.asarray(cv2.dilate(raster, options.kernel), np.uint8)


def _rotations(axis: int, angles: Array) -> Array:
    """Rotations (N, 3, 3) about one axis."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrices = np.tile(np.eye(3), (len(angles), 1, 1))
    matrices[:, a, a] = matrices[:, b, b] = np.cos(angles)
    matrices[:, b, a] = np.sin(angles)
    matrices[:, a, b] = -matrices[:, b, a]
    return matrices
