# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 as drivers publish it: layouts, missing returns, headers that are not so."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.notes import Notes
from mmsam_ros.sensors import (
    CameraModel,
    Frame,
    LidarPoints,
    Planes,
    frame_planes,
    plain_modality,
    pose_matrix,
)

CODES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
XYZ = [("x", "f4"), ("y", "f4"), ("z", "f4")]

# field layouts of the drivers, and the field that holds the intensity
DRIVERS: dict[str, tuple[Any, str]] = {
    "velodyne": ([*XYZ, ("intensity", "f4"), ("ring", "u2"), ("time", "f4")], "intensity"),
    "ouster original": (
        {
            "names": [*"xyz", "intensity", "t", "reflectivity", "ring", "ambient", "range"],
            "formats": ["f4"] * 4 + ["u4", "u2", "u2", "u2", "u4"],
            "offsets": [0, 4, 8, 16, 20, 24, 26, 28, 32],
            "itemsize": 48,
        },
        "intensity",
    ),
    "ouster native": (
        [*XYZ, ("t", "u4"), ("ring", "u2"), ("range", "u4"), ("signal", "u2"), ("near_ir", "u2")],
        "signal",
    ),
    "ouster low data": ([*XYZ, ("range", "u4"), ("reflectivity", "u1")], "reflectivity"),
    "hesai": ([*XYZ, ("intensity", "f4"), ("ring", "u2"), ("timestamp", "f8")], "intensity"),
    "livox": (
        [*XYZ, ("intensity", "f4"), ("tag", "u1"), ("line", "u1"), ("timestamp", "f8")],
        "intensity",
    ),
    "robosense": ([*XYZ, ("intensity", "f4"), ("ring", "u2"), ("timestamp", "f8")], "intensity"),
    "sick": ([*XYZ, ("remission", "f4"), ("layer", "u1")], "remission"),
    "in capitals": ([*XYZ, ("Ring", "u2"), ("Intensity", "f4")], "Intensity"),
    "kitti": ([*XYZ, ("i", "f4")], "i"),
    "nuscenes": ([*XYZ, ("intensity", "f4"), ("ring", "f4")], "intensity"),
}  # fmt: skip


def points(kind: Any, count: int = 12) -> np.ndarray:
    """Structured points with a value of its own in each field."""
    found = np.zeros(count, np.dtype(kind))
    for k, name in enumerate(found.dtype.names or ()):
        found[name] = np.arange(1, count + 1) + 20 * k
    return found


def message(
    cloud: np.ndarray, *, height: int = 1, row_step: int | None = None, big: bool = False
) -> Any:
    sent = cloud.astype(cloud.dtype.newbyteorder(">" if big else "<"))
    fields = [
        SimpleNamespace(name=n, offset=f[1], datatype=CODES[f[0].str[1:]], count=1)
        for n, f in (cloud.dtype.fields or {}).items()
    ]
    width = len(cloud) // height
    return SimpleNamespace(
        height=height,
        width=width,
        fields=fields,
        is_bigendian=big,
        point_step=cloud.dtype.itemsize,
        row_step=width * cloud.dtype.itemsize if row_step is None else row_step,
        data=array.array("B", sent.tobytes()),
    )


def taken(given: Any, field: str = "auto") -> tuple[np.ndarray, np.ndarray, list[str]]:
    said: list[str] = []
    notes = Notes(said.append, lambda text: said.append(f"warning {text}"))
    for _ in range(2):  # what is said, is said once
        found = cloud_points(given, needs_intensity=True, intensity_field=field, notes=notes)
    return *found, said


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("height", [1, 4])
@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_drivers(driver: str, height: int, big: bool) -> None:
    kind, field = DRIVERS[driver]
    cloud = points(kind)
    xyz, intensity, said = taken(message(cloud, height=height, big=big))
    assert np.array_equal(xyz, np.stack([cloud[n] for n in "xyz"], -1).astype(np.float32))
    assert np.array_equal(intensity, cloud[field].astype(np.float32))
    assert len(said) == 1
    assert said[0].startswith(f"lidar: intensity is read from the field {field!r}")


def test_the_field_of_the_intensity_is_a_choice() -> None:
    cloud = points(DRIVERS["ouster original"][0])
    given = message(cloud)
    for field in ("reflectivity", "ambient", "range"):
        _, intensity, said = taken(given, field)
        assert np.array_equal(intensity, cloud[field].astype(np.float32))
        assert said == [f"lidar: intensity is read from the field {field!r}"]
    assert taken(given)[2] == [
        "lidar: intensity is read from the field 'intensity' (not reflectivity)"
    ]
    for field in ("signal", "z", "Intensity"):
        with pytest.raises(RosError, match=rf"ed one of {field} among them.*intensity_field") as e:
            taken(given, field)
        assert e.value.reason == "intensity"


@pytest.mark.parametrize("row_step", [0, 1, 16, 10**6])
@pytest.mark.parametrize("height", [1, 4])
def test_a_wrong_row_step_is_noted(height: int, row_step: int) -> None:
    """Concatenating and cropping nodes leave the row_step of the cloud that they got."""
    cloud = points(DRIVERS["velodyne"][0])
    xyz, _, said = taken(message(cloud, height=height, row_step=row_step))
    assert np.array_equal(xyz[:, 0], cloud["x"])
    assert [text for text in said if text.startswith("warning")] == [
        f"warning lidar: row_step is {row_step}, but the data holds {height} rows of "
        f"{12 // height * 22} bytes, and is read so"
    ]


@pytest.mark.parametrize("cut", [1, 22, -3])
@pytest.mark.parametrize("row_step", [0, 66, 10**6])
def test_data_that_does_not_fit_is_refused(row_step: int, cut: int) -> None:
    given = message(points(DRIVERS["velodyne"][0]), height=4, row_step=row_step)
    data = bytes(given.data) + bytes(9)
    given.data = array.array("B", data[: len(data) - 9 - cut])
    with pytest.raises(RosError) as caught:
        taken(given)
    assert caught.value.reason in ("step", "data_length")


def spoilt(change: Any) -> Any:
    given = message(points(DRIVERS["velodyne"][0]))
    change(given)
    return given


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: m.fields.append(m.fields[0]), "field 'x' is there 2 times"),
        (lambda m: m.fields.append(m.fields[4]), "field 'ring' is there 2 times"),
        (lambda m: setattr(m.fields[1], "offset", 0), "fields 'x' and 'y' share bytes"),
        (lambda m: setattr(m.fields[3], "offset", 9), "fields 'z' and 'intensity' share bytes"),
        (lambda m: setattr(m.fields[0], "count", 3), "field 'x' has 3 values"),
        (lambda m: setattr(m.fields[0], "name", "X"), "expected x, y, z among them"),
        (lambda m: setattr(m.fields[0], "datatype", 9), "datatype 9"),
        (lambda m: setattr(m.fields[3], "offset", 20), "ends at byte 24"),
    ],
)
def test_contradicting_fields(change: Any, text: str) -> None:
    with pytest.raises(RosError, match=text) as caught:
        taken(spoilt(change))
    assert caught.value.reason == "fields"


def test_harmless_fields() -> None:
    """Padding has no name of its own; a count of 0 comes of old drivers."""

    def change(given: Any) -> None:
        for name in ("_", "_", "", ""):
            given.fields.append(SimpleNamespace(name=name, offset=16, datatype=2, count=4))
        given.fields[0].count = 0

    assert len(taken(spoilt(change))[0]) == 12


def cloud_of(xyz: Any, intensity: Any) -> Any:
    cloud = points([*XYZ, ("intensity", "f4")])
    for name, column in zip("xyz", np.broadcast_to(np.transpose(xyz), (3, 12)), strict=True):
        cloud[name] = column
    cloud["intensity"] = intensity
    return message(cloud)


NAN = float("nan")


@pytest.mark.parametrize(
    ("xyz", "intensity", "reason"),
    [
        ([[NAN] * 3] * 12, 1.0, "no_returns"),  # organised clouds
        ([[0.0] * 3] * 12, 1.0, "no_returns"),  # solid-state sensors
        ([[NAN] * 3, [0.0] * 3] * 6, NAN, "no_returns"),
        ([[float("inf")] * 3] * 12, 1.0, "no_returns"),
        ([[1e10] * 3] * 12, 1.0, "no_returns"),  # a number that stands for none
        ([[3e38] * 3, [0.0] * 3] * 6, 1.0, "no_returns"),
        *(([[1.0, 2.0, 3.0]] * 12, value, "no_intensity") for value in (float("inf"), 1e12, -1e30)),
        ([[1.0, 2.0, 3.0]] * 12, NAN, "no_intensity"),
        ([[1.0, 2.0, 3.0], [NAN] * 3] * 6, [NAN, 1.0] * 6, "no_intensity"),
    ],
)
def test_nothing_measured(xyz: Any, intensity: Any, reason: str) -> None:
    given = cloud_of(xyz, intensity)
    with pytest.raises(RosError, match=r"NaN") as caught:
        taken(given)
    assert caught.value.reason == reason
    if reason == "no_intensity":
        cloud_points(given, needs_intensity=False)


POSE = pose_matrix((0, 0, 0), (0.5, -0.5, 0.5, 0.5))  # the optical frame of a camera that looks on


def shown(xyz: np.ndarray, intensity: np.ndarray, distortion: str = "none") -> Planes:
    K, D = (
        np.array([[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]),
        {"none": (), "plumb_bob": (-0.3, 0.1, 0, 0)},
    )
    camera = CameraModel(64, 48, K, np.array(D[distortion]), distortion, np.eye(3), np.zeros(3))
    sensors = {"lidar": LidarPoints(xyz, intensity, POSE)}
    frame = Frame(np.zeros((48, 64, 3), np.uint8), sensors, camera)
    return frame_planes(frame, {"lidar": plain_modality("muses_raw")}, (48, 64))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("distortion", ["none", "plumb_bob"])
@pytest.mark.parametrize("big", [False, True])
def test_garbage_goes_by_without_a_word_of_numpy(big: bool, distortion: str) -> None:
    """Any bytes are floats: huge ones, signalling NaN; in the wrong byte order as well."""
    sent = np.random.default_rng(1).integers(0, 256, 16 * 20000, np.uint8).tobytes()
    given = message(np.frombuffer(sent, [*XYZ, ("intensity", "f4")]), big=big)
    xyz, intensity, _ = taken(given)
    raster = shown(xyz, intensity, distortion).auxiliaries["lidar"]
    assert np.isfinite(raster).all()
    away = np.full_like(xyz, 3e38)
    assert shown(away, intensity).blank["lidar"].text.startswith("none of 20000 points has a posi")


def test_the_cause_of_an_empty_raster() -> None:
    ahead = np.tile(np.float32([5.0, 0.1, 0.1]), (30, 1))
    assert not shown(ahead, np.ones(30, np.float32)).blank
    both, unknown = np.concatenate([ahead, -ahead[:20]]), np.ones(50, np.float32)
    unknown[:30] = np.nan
    assert shown(both, unknown).blank["lidar"].text == (
        "none of 20 points is in the camera's view, and 30 more are within 1 m or without a "
        "position or intensity: check the extrinsics"
    )
    near = np.concatenate([-ahead, ahead[:10] / 10])  # the vehicle itself is measured well
    assert "and 10 more are within 1 m" in shown(near, np.ones(40, np.float32)).blank["lidar"].text


def test_some_without_intensity() -> None:
    xyz, intensity, said = taken(cloud_of([[1.0, 2.0, 3.0]] * 12, [NAN] * 8 + [1.0] * 4))
    assert len(xyz) == len(intensity) == 12
    assert said[1:] == [
        "warning lidar: field 'intensity' is NaN or beyond 1e+09 in 8 of 12 points; these points "
        "are not used"
    ]
