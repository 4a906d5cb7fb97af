# SPDX-License-Identifier: Apache-2.0
"""Projecting raw MUSES recordings: hand-made cases, a small raw tree, and the official tool's own
output.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.muses_raw import (
    CALIB,
    K,
    gnss_row,
    make_raw,
    write_events,
)

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.muses_projection import (
    Calibration,
    ProjectionOptions,
    compensate_motion,
    describe_projection,
    event_raster,
    lidar_raster,
    project_frame,
    raw_frames,
    read_events,
    read_motion,
    record_options,
)
from mmsam_ros.data.open import BENCHMARKS
from mmsam_ros.sensors import decode_raster

OFFICIAL = ProjectionOptions(parity=True, point_size=1)
OURS = ProjectionOptions(point_size=1)
BOTH = pytest.mark.parametrize("parity", [False, True])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_raw(tmp_path / "muses")


@pytest.fixture
def calibration(tmp_path: Path) -> Calibration:
    path = tmp_path / "calib.json"
    path.write_text(json.dumps(CALIB))
    return Calibration.read(path)


def occupied(raster: NDArray[Any]) -> dict[tuple[int, int], list[float]]:
    rows, columns = np.nonzero(raster.any(axis=2))
    return {(int(r), int(c)): raster[r, c].tolist() for r, c in zip(rows, columns, strict=True)}


def cloud_of(*points: tuple[float, float, float, float]) -> NDArray[np.float64]:
    return np.array([[*point, 0.0, 0.0] for point in points])


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("motion", [False, True])
def test_parity_is_the_official_tool_s(
    shared: Path, tmp_path: Path, motion: bool, enlarge: bool
) -> None:
    root = shared / "data/muses_mini"
    expected = np.load(root / "expected.npz")
    options = ProjectionOptions(motion_compensation=motion, parity=True, point_size=1 + enlarge)
    calib = Calibration.read(root / "calib.json")
    frames = raw_frames(root, tmp_path, ("lidar", "event"), exposures=motion)
    assert len(frames) == 4
    for frame in frames:
        project_frame(frame, calib, options)
        with np.load(frame.target) as file:
            (key,) = file
            raster = file[key]
        assert key == "arr_0"
        assert raster.shape == (1080, 1920, 3)
        assert raster.dtype == (np.uint8 if frame.sensor == "event" else np.float32)
        name = frame.path.name[: len("REC0001_frame_000100")]
        variant = f"mc{motion:d}." if frame.sensor == "lidar" else ""
        rows = expected[f"{name}.{frame.sensor}.{variant}grow{enlarge:d}"]
        theirs = np.zeros(raster.shape, np.float64)
        theirs[rows[:, 0].astype(int), rows[:, 1].astype(int)] = rows[:, 2:]
        ours, full = raster.any(axis=2), theirs.any(axis=2)
        assert (ours ^ full).sum() <= 0.002 * full.sum()
        wrong = (np.abs(raster - theirs)[ours & full] > 1e-3).any(axis=1)
        assert wrong.sum() <= 0.002 * full.sum()


@BOTH
def test_a_point_goes_to_its_pixel_and_is_enlarged_right_and_down(
    calibration: Calibration, parity: bool
) -> None:
    # 10 m ahead, 1 m left, 0.5 m up: 100 pixels left of the centre, 50 above it
    cloud = cloud_of((10.0, 1.0, 0.5, 42.0))
    values = [np.sqrt(101.25), 42.0, 0.5]
    raster = lidar_raster(cloud, calibration, ProjectionOptions(parity=parity))
    found = occupied(raster)
    assert set(found) == {(490, 860), (490, 861), (491, 860), (491, 861)}
    for value in found.values():
        assert value == pytest.approx(values, abs=1e-4)
    bare = occupied(
        lidar_raster(cloud, calibration, ProjectionOptions(parity=parity, point_size=1))
    )
    assert set(bare) == {(490, 860)}


@BOTH
def test_enlarging_takes_the_maximum_among_points_even_below_zero(
    calibration: Calibration, parity: bool
) -> None:
    # left: -1 m, intensity 5; its right neighbour: -2 m, intensity 9
    cloud = cloud_of((10.0, 0.995, -1.0, 5.0), (20.0, 1.97, -2.0, 9.0))
    found = occupied(lidar_raster(cloud, calibration, ProjectionOptions(parity=parity)))
    assert set(found) == {(r, c) for r in (640, 641) for c in (860, 861, 862)}
    assert found[640, 860][1:] == pytest.approx([5.0, -1.0], abs=1e-4)
    assert found[641, 861] == pytest.approx([np.sqrt(20**2 + 1.97**2 + 4), 9.0, -1.0], abs=1e-4)
    assert found[641, 862][1:] == pytest.approx([9.0, -2.0], abs=1e-4)


def test_points_behind_the_camera_are_dropped_but_for_parity(calibration: Calibration) -> None:
    cloud = cloud_of((-10.0, 1.0, 0.5, 42.0))
    assert occupied(lidar_raster(cloud, calibration, OURS)) == {}
    assert set(occupied(lidar_raster(cloud, calibration, OFFICIAL))) == {(590, 1060)}


def test_the_nearest_wins_but_for_parity(calibration: Calibration) -> None:
    cloud = cloud_of((10.0, 1.0, 0.5, 1.0), (20.0, 2.0, 1.0, 2.0))
    for order in (cloud, cloud[::-1]):
        assert occupied(lidar_raster(order, calibration, OURS))[490, 860][1] == 1.0
        assert occupied(lidar_raster(order, calibration, OFFICIAL))[490, 860][1] == order[-1, 3]


def test_borders(calibration: Calibration) -> None:
    """The whole image counts; the official tool leaves the last row and column empty."""
    cloud = cloud_of((10.0, 9.599, 5.399, 1.0), (10.0, -9.599, -5.399, 2.0), (10.0, 9.61, 0.0, 3.0))
    assert set(occupied(lidar_raster(cloud, calibration, OURS))) == {(0, 0), (1079, 1919)}
    assert set(occupied(lidar_raster(cloud, calibration, OFFICIAL))) == {(0, 0)}


@BOTH
def test_points_nearer_than_a_metre_are_dropped(raw: Path, tmp_path: Path, parity: bool) -> None:
    (frame, _) = raw_frames(raw, tmp_path / "out", ("lidar",))
    frame.path.write_bytes(cloud_of((0.9, 0.0, 0.0, 1.0), (1.1, 0.0, 0.0, 2.0)).tobytes())
    options = ProjectionOptions(parity=parity, point_size=1)
    project_frame(frame, Calibration.read(raw / "calib.json"), options)
    (value,) = occupied(np.load(frame.target)["arr_0"]).values()
    assert value[1] == 2.0


def test_motion_with_known_speed() -> None:
    """At 10 m/s a point that was seen 0.05 s before the exposure is half a metre nearer by then."""
    points = np.array([[20.0, 2.0, 1.0], [20.0, 2.0, 1.0], [20.0, 2.0, 1.0]])
    moved = compensate_motion(points, np.array([-0.05, 0.0, 0.1]), np.zeros(3), 10.0, np.eye(4))
    assert moved == pytest.approx(np.array([[19.5, 2, 1], [20, 2, 1], [21, 2, 1]]))
    assert points[0, 0] == 20.0


def test_motion_with_known_turn() -> None:
    """Turning left at 90 degrees/s, what was ahead 0.1 s ago is 9 degrees to the right by now."""
    mounted = np.eye(4)
    mounted[:3, 3] = (-0.5, 0.0, 1.0)
    rates = np.array([0.0, 0.0, np.pi / 2])
    moved = compensate_motion(np.array([[20.5, 0.0, 0.0]]), np.array([-0.1]), rates, 0.0, mounted)
    angle = np.radians(-9)
    assert moved[0] == pytest.approx([20 * np.cos(angle) + 0.5, 20 * np.sin(angle), 0.0])


def test_only_the_official_tool_s_rotation_changes_lengths() -> None:
    rates, points = np.array([0.3, -0.5, 0.9]), np.array([[20.0, -7.0, 3.0]])
    moved, theirs = (
        compensate_motion(points, np.array([0.5]), rates, 0.0, np.eye(4), in_place=in_place)
        for in_place in (False, True)
    )
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(points))
    assert abs(np.linalg.norm(theirs) - np.linalg.norm(points)) > 0.1
    assert theirs[0, 0] == pytest.approx(moved[0, 0])


def test_motion_of_a_file_is_that_of_the_middle_of_the_exposure(raw: Path, tmp_path: Path) -> None:
    frame = raw_frames(raw, tmp_path / "out", ("lidar",), exposures=True)[0]
    options = ProjectionOptions(motion_compensation=True, point_size=1)
    project_frame(frame, Calibration.read(raw / "calib.json"), options)
    (value,) = occupied(np.load(frame.target)["arr_0"]).values()
    # 0.1 s after the middle, at 10 m/s
    assert value[0] == pytest.approx(np.sqrt(11**2 + 1 + 0.25), abs=1e-4)


def test_gnss_row(tmp_path: Path) -> None:
    path = tmp_path / "row.txt"
    path.write_text(gnss_row((150_000, -90_000, 620_000), 9100))
    rates, speed = read_motion(path)
    assert np.degrees(rates) == pytest.approx([1.5, -0.9, 6.2])
    assert speed == pytest.approx(9.1)


def test_events_go_to_their_pixel_by_sign(calibration: Calibration) -> None:
    # 50 pixels right of and 25 above the centre at f = 500: twice that at f = 1000
    pixels = np.array([[690.0, 335.0], [690.0, 335.0], [640.0, 360.0]])
    positive = np.array([True, True, False])
    found = occupied(event_raster(pixels, positive, calibration, OURS))
    assert found == {(490, 1060): [2, 0, 0], (540, 960): [0, 1, 0]}
    enlarged = occupied(event_raster(pixels[2:], positive[2:], calibration, ProjectionOptions()))
    assert enlarged == {(r, c): [0, 1, 0] for r in (540, 541) for c in (960, 961)}


def test_events_outside_the_image_are_dropped(calibration: Calibration) -> None:
    pixels = np.array([[100.0, 360.0], [1200.0, 360.0], [640.0, 10.0], [640.0, 700.0]])
    assert not event_raster(pixels, np.ones(4, bool), calibration, OURS).any()
    assert not event_raster(np.zeros((0, 2)), np.ones(0, bool), calibration, OURS).any()


def test_event_counts_saturate_but_for_parity(calibration: Calibration) -> None:
    pixels, positive = np.tile([[640.0, 360.0]], (300, 1)), np.ones(300, bool)
    assert event_raster(pixels, positive, calibration, OURS)[540, 960, 0] == 255
    assert event_raster(pixels, positive, calibration, OFFICIAL)[540, 960, 0] == 300 - 256


def test_events_are_undistorted_and_rotated(raw: Path) -> None:
    values = json.loads((raw / "calib.json").read_text())
    values["intrinsics"]["event"]["dist_coeffs"] = [-0.2, 0.0, 0.0, 0.0, 0.0]
    turn, _ = cv2.Rodrigues(np.array([0.0, 0.1, 0.0]))
    values["extrinsics"]["event2rgb"] = [*([*row, 9.0] for row in turn.tolist()), [0, 0, 0, 1]]
    (raw / "calib.json").write_text(json.dumps(values))
    calibration = Calibration.read(raw / "calib.json")
    ray = np.array([0.3, -0.2, 1.0])
    event = cv2.projectPoints(
        ray, np.zeros(3), np.zeros(3), calibration.k_event, calibration.d_event
    )[0].reshape(1, 2)
    x, y, z = np.array(K) @ turn @ ray
    raster = event_raster(event, np.array([True]), calibration, OURS)
    assert set(occupied(raster)) == {(round(y / z), round(x / z))}


def test_only_the_last_30_ms_of_events_are_read(tmp_path: Path) -> None:
    path = tmp_path / "event.h5"
    write_events(path, [(1, 2, 10_000, 1), (3, 4, 25_000, 0), (5, 6, 50_000, 1)])
    pixels, positive = read_events(path)
    assert pixels.tolist() == [[3, 4], [5, 6]]
    assert positive.tolist() == [False, True]
    write_events(path, [])
    assert len(read_events(path)[0]) == 0


def test_a_png_decodes_to_the_npz_s_values(raw: Path, tmp_path: Path) -> None:
    calib = Calibration.read(raw / "calib.json")
    rasters = []
    for png in (False, True):
        frame = raw_frames(raw, tmp_path / "out", ("lidar",), png=png)[0]
        project_frame(frame, calib, ProjectionOptions())
        if png:
            stored = cv2.imread(str(frame.target), cv2.IMREAD_UNCHANGED)
            rasters.append(decode_raster(stored[..., ::-1], "muses_png16"))
        else:
            rasters.append(np.load(frame.target)["arr_0"])
    assert rasters[0].any()
    assert np.abs(rasters[1] - rasters[0]).max() <= 1 / 150
    assert np.array_equal(rasters[0] == 0, rasters[1] == 0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v["intrinsics"].pop("rgb"), r"calib\.json: intrinsics\.rgb\.K is missing"),
        (lambda v: v["extrinsics"].update(lidar2rgb=[1, 2]), r"lidar2rgb is .* \(4, 4\)"),
        (lambda v: v["extrinsics"].update(event2rgb="no"), r"event2rgb is missing or not in num"),
        (lambda v: v["intrinsics"]["rgb"].update(K=[10**400]), r"K is missing or not in num"),
    ],
)
def test_an_unusable_calibration_names_the_entry(raw: Path, spoil: Any, message: str) -> None:
    values = json.loads((raw / "calib.json").read_text())
    spoil(values)
    (raw / "calib.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        Calibration.read(raw / "calib.json")


def test_one_tree_holds_one_projection(tmp_path: Path) -> None:
    record_options(tmp_path / "a", OURS)
    record_options(tmp_path / "a", OURS)
    with pytest.raises(DataError, match=r"projection\.json: .*'parity': False"):
        record_options(tmp_path / "a", OFFICIAL)
    (tmp_path / "b/lidar").mkdir(parents=True)
    with pytest.raises(DataError, match=r"b/projection\.json"):
        record_options(tmp_path / "b", OURS)


OTHERS = "the published ones are the official tool's (--parity)"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ProjectionOptions(parity=True),
            "rasters as the official tool makes them, points of 2 x 2 pixels",
        ),
        (ProjectionOptions(), f"rasters as the node makes them, points of 2 x 2 pixels; {OTHERS}"),
        (
            ProjectionOptions(motion_compensation=True, parity=True),
            "rasters as the official tool makes them, points of 2 x 2 pixels, motion compensated",
        ),
        (
            OFFICIAL,
            f"rasters as the official tool makes them, points of 1 x 1 pixels; {OTHERS}",
        ),
    ],
)
def test_a_tree_tells_how_it_was_made(
    tmp_path: Path, options: ProjectionOptions, expected: str
) -> None:
    record_options(tmp_path, options)
    assert describe_projection(tmp_path) == expected
    if options == ProjectionOptions(parity=True):
        assert BENCHMARKS["muses"].rasters == expected


def test_a_tree_of_another_tool(tmp_path: Path) -> None:
    text = describe_projection(tmp_path)
    assert text == f"rasters of an unknown tool: no projection.json; {OTHERS}"
    (tmp_path / "projection.json").write_text('{"parity": "yes"}')
    with pytest.raises(DataError, match=r"projection\.json.*parity: found 'yes'"):
        describe_projection(tmp_path)


@pytest.mark.parametrize("growth", [False, True])
def test_a_tree_that_was_begun_with_the_option_growth_goes_on(tmp_path: Path, growth: bool) -> None:
    begun = {"motion_compensation": False, "parity": True, "growth": growth}
    (tmp_path / "projection.json").write_text(json.dumps(begun))
    record_options(tmp_path, ProjectionOptions(parity=True, point_size=1 + growth))
    with pytest.raises(DataError, match="choose another folder"):
        record_options(tmp_path, ProjectionOptions(parity=True, point_size=2 - growth))
