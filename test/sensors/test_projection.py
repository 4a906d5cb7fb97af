# SPDX-License-Identifier: Apache-2.0
"""Projection against an independent reference on real data, and the raster's rules by hand."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsam_ros.sensors import CameraModel, SensorError, project, rasterise

# Optical axes (x right, y down, z forward) of a camera at a sensor with x forward, y left, z up.
T_OPTICAL = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def pinhole(width: int, height: int, f: float, cx: float, cy: float) -> CameraModel:
    K = np.array([[f, 0, cx], [0, f, cy], [0, 0, 1]])
    return CameraModel(width, height, K, np.zeros(0), "none", np.eye(3), np.zeros(3))


def at(u: float, v: float, depth: float, camera: CameraModel) -> list[float]:
    """The sensor-frame point that the camera sees at (u, v)."""
    x, y, z = np.linalg.solve(camera.K, [u, v, 1.0]) * depth
    return [z, -x, -y]


def transform_matrix(transform: object) -> np.ndarray:
    """geometry_msgs/Transform -> parent <- child matrix."""
    t, q = transform.translation, transform.rotation  # type: ignore[attr-defined]
    axis, w = np.array([q.x, q.y, q.z]), q.w
    cross = np.array([[0, -q.z, q.y], [q.z, 0, -q.x], [-q.y, q.x, 0]])
    matrix = np.eye(4)
    matrix[:3, :3] = (w * w - axis @ axis) * np.eye(3) + 2 * np.outer(axis, axis) + 2 * w * cross
    matrix[:3, 3] = t.x, t.y, t.z
    return matrix


@pytest.fixture(scope="module")
def kitti(shared: Path) -> dict:
    """Clouds, CameraInfo and static transforms of the KITTI bag."""
    rosbags = pytest.importorskip("rosbags.highlevel")
    bag = shared / "data" / "kitti_camera_lidar_mcap"
    if not bag.is_dir():
        pytest.skip(f"no KITTI bag in {bag}")
    out: dict = {"clouds": [], "parents": {}}
    with rosbags.AnyReader([bag]) as reader:
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            if connection.topic == "/tf_static":
                for item in message.transforms:
                    out["parents"][item.child_frame_id] = (
                        item.header.frame_id,
                        transform_matrix(item.transform),
                    )
            elif connection.msgtype == "sensor_msgs/msg/PointCloud2":
                out["clouds"].append(message)
            elif connection.msgtype == "sensor_msgs/msg/CameraInfo":
                out["info"] = message
    return out


@pytest.mark.parametrize("frame", [0, 2])
def test_kitti_reference(kitti: dict, shared: Path, frame: int) -> None:
    info, cloud = kitti["info"], kitti["clouds"][frame]
    roi = info.roi
    camera = CameraModel.from_info(
        width=info.width,
        height=info.height,
        k=info.k,
        d=info.d,
        distortion_model=info.distortion_model,
        r=info.r,
        p=info.p,
        binning_x=info.binning_x,
        binning_y=info.binning_y,
        roi=(roi.x_offset, roi.y_offset, roi.width, roi.height),
    )
    T_root_camera, name = np.eye(4), info.header.frame_id
    while name != cloud.header.frame_id:
        name, step = kitti["parents"][name]
        T_root_camera = step @ T_root_camera
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields[:3]] == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
    ]
    points = cloud.data.view("<f4").reshape(-1, cloud.point_step // 4)
    index, u, v, depth = project(points, camera, np.linalg.inv(T_root_camera))

    reference = np.load(shared / "data" / "kitti_projection_reference" / f"frame_{frame}.npz")
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index, reference["point_index"])
    np.testing.assert_allclose(u, reference["u"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(v, reference["v"], atol=1e-3, rtol=0)
    np.testing.assert_allclose(depth, reference["depth_w"], atol=1e-3, rtol=0)


def test_image_borders_and_minimum_depth() -> None:
    camera = pinhole(8, 6, 4.0, 4.0, 3.0)
    # All numbers are exact in binary: 0 belongs to the image, the width does not.
    rows = [
        at(0, 3, 2, camera),
        at(8, 3, 2, camera),
        at(7.75, 0, 2, camera),
        at(4, 6, 2, camera),
        at(4, 5.75, 2, camera),
        at(-0.25, 3, 2, camera),
        at(4, 3, 0.1, camera),
        at(4, 3, 0.5, camera),
        at(4, 3, -2, camera),
    ]
    index, u, v, depth = project(np.array(rows), camera, T_OPTICAL)
    assert index.tolist() == [0, 2, 4, 7]
    assert u.tolist() == [0, 7.75, 4, 4]
    assert v.tolist() == [3, 0, 5.75, 3]
    assert depth.tolist() == [2, 2, 2, 0.5]


def test_more_columns_and_other_float_types() -> None:
    camera = pinhole(8, 6, 4.0, 4.0, 3.0)
    for dtype in (np.float16, np.float32, np.float64):
        points = np.array([[*at(2, 3, 2, camera), 99, np.nan]], dtype)
        assert project(points, camera, T_OPTICAL)[1].tolist() == [2.0]


def test_points_that_are_not_finite_are_dropped() -> None:
    camera = pinhole(8, 6, 4.0, 4.0, 3.0)
    good = at(2.5, 3.5, 8, camera)
    bad = [
        [*good[:i], value, *good[i + 1 :]]
        for i, value in itertools.product(range(3), (np.nan, np.inf, -np.inf))
    ]
    points = np.array([*bad, good, good, good])
    intensity = np.full(len(points), 5.0, np.float32)
    intensity[-2:] = np.nan, np.inf
    assert project(points, camera, T_OPTICAL)[0].tolist() == [9, 10, 11]
    raster = rasterise(points, intensity, camera, T_OPTICAL, point_size=1)
    assert np.isfinite(raster).all()
    assert np.argwhere(raster.any(axis=2)).tolist() == [[3, 2]]
    assert raster[3, 2, 1] == 5.0


def test_an_empty_cloud_gives_an_empty_raster() -> None:
    camera = pinhole(8, 6, 4.0, 4.0, 3.0)
    raster = rasterise(np.zeros((0, 4), np.float32), np.zeros(0), camera, T_OPTICAL)
    assert raster.shape == (6, 8, 3)
    assert raster.dtype == np.float32
    assert not raster.any()
    assert [len(part) for part in project(np.zeros((0, 3)), camera, T_OPTICAL)] == [0] * 4


def test_values_are_those_of_the_sensor_frame() -> None:
    camera = pinhole(8, 6, 4.0, 4.0, 3.0)
    T = T_OPTICAL.copy()
    T[:3, 3] = 0.5, -0.25, 1.0  # sensor and camera apart: range and height stay the sensor's
    point = np.array([[6.0, 1.0, -2.0]], np.float32)
    raster = rasterise(point, np.array([37.0]), camera, T, point_size=1)
    occupied = np.argwhere(raster.any(axis=2))
    assert len(occupied) == 1
    np.testing.assert_allclose(raster[tuple(occupied[0])], [np.sqrt(41), 37.0, -2.0], rtol=1e-6)


def test_minimum_range_is_measured_at_the_sensor() -> None:
    camera = pinhole(8, 6, 4.0, 4.0, 3.0)
    T = T_OPTICAL.copy()
    T[2, 3] = 5.0  # the camera is 5 m behind: a point 0.9 m before the sensor has depth 5.9 m
    points = np.array([[0.9, 0.0, 0.0]])
    assert not rasterise(points, np.ones(1), camera, T).any()
    assert rasterise(np.array([[1.0, 0, 0]]), np.ones(1), camera, T).any()


def test_nearest_wins_in_any_order() -> None:
    camera = pinhole(4, 4, 4.0, 2.0, 2.0)
    points = np.array([at(1.2, 2.3, d, camera) for d in (9.0, 3.0, 6.0)])
    intensity = np.array([900.0, 300.0, 600.0])
    for order in itertools.permutations(range(3)):
        raster = rasterise(points[[*order]], intensity[[*order]], camera, T_OPTICAL, point_size=1)
        assert raster[2, 1, 1] == 300.0
        assert np.count_nonzero(raster[..., 0]) == 1


def test_equally_near_points_do_not_depend_on_order_either() -> None:
    camera = pinhole(4, 4, 4.0, 2.0, 2.0)
    points = np.array([at(1.5, 2.5, 4.0, camera), at(1.25, 2.5, 4.0, camera)] * 2)
    intensity = np.array([3.0, 1.0, 8.0, 2.0])
    rasters = [
        rasterise(points[[*order]], intensity[[*order]], camera, T_OPTICAL)
        for order in itertools.permutations(range(4))
    ]
    assert rasters[0][2, 1, 1] == 8.0
    assert all(np.array_equal(rasters[0], other) for other in rasters)


def test_point_size_by_hand() -> None:
    """3x3 pixels; A at row 0, column 0 and B at row 1, column 1, both lower than the sensor."""
    camera = pinhole(3, 3, 1.0, 0.0, 0.0)
    # Camera at the sensor with equal axes: v = y / z is the row, and z is also the height channel.
    points = np.array([[0.5 * 2, 0.5 * 2, 2.0], [1.5 * 4, 1.5 * 4, 4.0]])
    intensity = np.array([7.0, 5.0])
    raster = rasterise(points, intensity, camera, np.eye(4))
    a, b = (np.linalg.norm(p) for p in points)
    assert raster[..., 0] == pytest.approx(np.array([[a, a, 0], [a, b, b], [0, b, b]]))
    # Each channel has its own maximum: in the middle A's intensity meets B's range.
    assert raster[..., 1].tolist() == [[7, 7, 0], [7, 7, 5], [0, 5, 5]]
    assert raster[..., 2].tolist() == [[2, 2, 0], [2, 4, 4], [0, 4, 4]]


def test_point_size_of_negative_heights_by_hand() -> None:
    camera = pinhole(3, 3, 4.0, 1.0, -1.0)  # everything lies below the sensor
    low, high = at(0.5, 0.5, 8.0, camera), at(1.5, 1.5, 4.0, camera)
    assert low[2] == -3.0
    assert high[2] == -2.5
    raster = rasterise(np.array([low, high]), np.array([1.0, 2.0]), camera, T_OPTICAL)
    assert raster[..., 2].tolist() == [[-3, -3, 0], [-3, -2.5, -2.5], [0, -2.5, -2.5]]
    three = rasterise(np.array([low]), np.array([1.0]), camera, T_OPTICAL, point_size=3)
    assert (three[..., 2] == -3).all()
    single = rasterise(np.array([low, high]), np.array([1.0, 2.0]), camera, T_OPTICAL, point_size=1)
    assert single[..., 2].tolist() == [[-3, 0, 0], [0, -2.5, 0], [0, 0, 0]]


def naive_raster(
    points: np.ndarray, intensity: np.ndarray, camera: CameraModel, size: int
) -> np.ndarray:
    """The rules of `rasterise`, a point and a pixel at a time."""
    nearest: dict = {}
    for i, u, v, depth in zip(*project(points, camera, T_OPTICAL), strict=True):
        r = np.linalg.norm(points[i])
        pixel = (int(v), int(u))
        if r >= 1.0 and depth < nearest.get(pixel, (np.inf,))[0]:
            nearest[pixel] = (depth, r, intensity[i], points[i, 2])
    out = np.full((camera.height, camera.width, 3), -np.inf)
    for (row, column), (_, *values) in nearest.items():
        block = out[row : row + size, column : column + size]
        np.maximum(block, values, out=block)
    return np.where(np.isinf(out), 0.0, out)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 200))
def test_agrees_with_a_naive_raster(seed: int, size: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    camera = pinhole(13, 9, 7.0, 6.0, 4.0)
    points = rng.normal(0, 3, (count, 3))
    intensity = rng.uniform(-5, 200, count)
    raster = rasterise(points, intensity, camera, T_OPTICAL, point_size=size)
    expected = naive_raster(points, intensity, camera, size)
    np.testing.assert_allclose(raster, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_muses_tool_agrees_in_front_of_the_camera(shared: Path, size: int) -> None:
    """Where no point behind the camera and no collision is involved, the official tool agrees."""
    root = shared / "data" / "muses_mini"
    if not root.is_dir():
        pytest.skip(f"no made-up MUSES tree in {root}")
    calibration = json.loads((root / "calib.json").read_text())
    expected_rows = np.load(root / "expected.npz")
    for name in ("REC0001_frame_000100", "REC0002_frame_000101"):
        (file,) = root.rglob(f"{name}_lidar.bin")
        cloud = np.fromfile(file).reshape(-1, 6)
        K = np.array(calibration["intrinsics"]["rgb"]["K"], float).reshape(3, 3)
        T = np.array(calibration["extrinsics"]["lidar2rgb"], float).reshape(4, 4)
        camera = CameraModel(1920, 1080, K, np.zeros(0), "none", np.eye(3), np.zeros(3))
        raster = rasterise(cloud, cloud[:, 3], camera, T, point_size=size)
        expected = np.zeros((1080, 1920, 3), np.float32)
        rows = expected_rows[f"{name}.lidar.mc0.grow{size - 1}"]
        expected[rows[:, 0].astype(int), rows[:, 1].astype(int)] = rows[:, 2:]
        # Leave out what the tool's points behind the camera or collisions have touched.
        p = cloud[:, :3] @ T[:3, :3].T + T[:3, 3]
        u, v, _ = (K @ p.T) / p[:, 2]
        inside = (u >= 0) & (u < 1920) & (v >= 0) & (v < 1080)
        pixel = v[inside].astype(int) * 1920 + u[inside].astype(int)
        doubtful = np.bincount(pixel, minlength=1080 * 1920) > 1
        doubtful[pixel[p[inside, 2] < 0.1]] = True
        doubtful = doubtful.reshape(1080, 1920)
        if size > 1:
            doubtful[1:] |= doubtful[:-1].copy()
            doubtful[:, 1:] |= doubtful[:, :-1].copy()
        agree = np.isclose(raster, expected, atol=1e-3).all(axis=2)
        used = (raster.any(axis=2) | expected.any(axis=2)) & ~doubtful
        assert used.sum() > 1000
        assert agree[used].mean() > 0.998


def test_refusals() -> None:
    camera = pinhole(8, 6, 4.0, 4.0, 3.0)
    points = np.ones((5, 3))
    with pytest.raises(SensorError, match=r"points have shape \(5, 2\)"):
        project(points[:, :2], camera, T_OPTICAL)
    with pytest.raises(SensorError, match="camera <- sensor"):
        project(points, camera, np.eye(3))
    with pytest.raises(SensorError, match="camera <- sensor"):
        project(points, camera, np.full((4, 4), np.nan))
    with pytest.raises(SensorError, match=r"intensity has shape \(4,\), expected \(5,\)"):
        rasterise(points, np.ones(4), camera, T_OPTICAL)
    with pytest.raises(SensorError, match="point_size is 0"):
        rasterise(points, np.ones(5), camera, T_OPTICAL, point_size=0)
