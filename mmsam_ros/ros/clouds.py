# SPDX-License-Identifier: Apache-2.0
"""PointCloud2 to arrays. Needs no ROS.

Messages may be those of rclpy or of `rosbags`. They are checked before they are used: a malformed
one raises `RosError` with reason "fields", "step", "data_length", "intensity" (there is none),
"no_intensity" (it is no number) or "no_returns" (no point was measured).
"""

from collections import Counter
from functools import reduce
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.calibration import nanoseconds
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.messages import unpadded_rows
from mmsam_ros.ros.notes import SILENT, Notes
from mmsam_ros.sensors import SensorError
from mmsam_ros.sensors.encodings import MAX_VALUE
from mmsam_ros.sensors.limits import MAX_POINT_STEP
from mmsam_ros.sensors.motion import TIME_FIELDS, point_seconds

Array = NDArray[Any]

AUTO = "auto"
# Names of a cloud's intensity, in order of preference; others are given by parameter.
_INTENSITY = ("intensity", "i", "intensities", "reflectivity", "reflectance", "remission", "signal")
_DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # PointField
_PADDING = ("", "_")  # names of padding fields, which may repeat


class Points(NamedTuple):
    """A cloud."""

    xyz: Array  # (N, 3) float32 m
    intensity: Array  # (N,) float32
    seconds: Array | None = None  # (N,) float64, from the stamp to each point's own time
    untimed: str = ""  # why there are no `seconds`


def cloud_points(
    message: Any, *, needs_intensity: bool, intensity_field: str = AUTO, notes: Notes = SILENT,
    may_lack: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    """xyz (N, 3) in metres and intensity (N,), both float32; an empty cloud is valid.

    `intensity_field` names the field that is taken as intensity; "auto": the first known name,
    ignoring case. Without one the intensity is 0, or RosError if the weights read it (unless
    `may_lack`, for weights that can handle a cloud without intensity).
    """
    fields = _named_fields(message)
    may_lack = may_lack and intensity_field == AUTO
    intensity = _intensity_name(fields, intensity_field, needs_intensity, notes, may_lack)
    names = ["x", "y", "z", *([intensity] if intensity else [])]
    points = _structured(message, [fields[name] for name in names], notes)
    with np.errstate(over="ignore", invalid="ignore"):
        columns = [points[name].astype(np.float32) for name in "xyz"]
        known = [np.abs(column) <= MAX_VALUE for column in columns]
        away = [column != 0 for column in columns]
        values = points[intensity] if intensity else np.zeros(len(points))
        values = values.astype(np.float32)
        if not needs_intensity:  # an intensity that is not read spoils no point
            values[~(np.abs(values) <= MAX_VALUE)] = 0
    measured = reduce(np.logical_and, known) & reduce(np.logical_or, away)
    xyz = np.stack(columns, axis=-1)
    if len(xyz) and not measured.any():
        raise RosError(
            f"all {len(xyz)} points are NaN, beyond {MAX_VALUE:g} m or at 0, 0, 0: the sensor is "
            "covered, starting or has nothing in reach",
            "no_returns",
        )
    if intensity and needs_intensity:
        _check_intensity(intensity, values[measured], fields, notes)
    return xyz, values


def point_times(message: Any, xyz: Array) -> tuple[Array | None, str]:
    """Seconds from the stamp to each point's own time, (N,) float64, or None and why they are not
    known. `xyz` are the points of the message.
    """
    fields = _named_fields(message)
    with np.errstate(over="ignore", invalid="ignore"):
        measured = (np.abs(xyz) <= MAX_VALUE).all(axis=1) & (xyz != 0).any(axis=1)
    names = {name.lower(): name for name in reversed(fields)}
    name = next((names[known] for known in TIME_FIELDS if known in names), None)
    if name is None:
        others = ", ".join(map(repr, fields))
        return None, f"the cloud has no time of its points: fields are {others}"
    if not measured.any():
        return np.zeros(len(measured)), ""
    try:
        values = _structured(message, [fields[name]], SILENT)[name]
        return point_seconds(values, measured, nanoseconds(message.header.stamp)), ""
    except (RosError, SensorError) as error:
        return None, f"field {name!r} is no time of the points: {error}"


def _check_intensity(name: str, values: Array, fields: dict[str, Any], notes: Notes) -> None:
    """RosError where no point has an intensity; a note where many have none."""
    missing = len(values) - int((np.abs(values) <= MAX_VALUE).sum())
    found = f"field {name!r} is NaN or beyond {MAX_VALUE:g} in {missing} of {len(values)} points"
    if missing and missing == len(values):
        raise RosError(
            f"{found}, and these weights read it; set lidar.intensity_field to another one of "
            f"{', '.join(fields)}",
            "no_intensity",
        )
    if 2 * missing > len(values):
        notes.warning(f"lidar: {found}; these points are not used", "NaN intensity")


def _named_fields(message: Any) -> dict[str, Any]:
    """The fields by name, x, y and z among them and none of them twice."""
    count = Counter(str(f.name) for f in message.fields)
    twice = [name for name, times in count.items() if times > 1 and name not in _PADDING]
    if twice:
        raise RosError(f"field {twice[0]!r} is there {count[twice[0]]} times, expected 1", "fields")
    fields = {str(f.name): f for f in message.fields}
    if not {"x", "y", "z"} <= fields.keys():
        raise RosError(f"fields are {sorted(fields)}, expected x, y, z among them", "fields")
    return fields


def _intensity_name(
    fields: dict[str, Any], wanted: str, needed: bool, notes: Notes, may_lack: bool
) -> str | None:
    """The field that is taken as intensity; None: there is none, and none is needed."""
    known = _INTENSITY if wanted == AUTO else (wanted,)
    others = [name for name in fields if name not in ("x", "y", "z")]
    names = {name.lower(): name for name in others if wanted == AUTO} | {n: n for n in others}
    found = [names[name] for name in known if name in names]
    if needed and not found and may_lack:
        notes.info(f"lidar: none of {', '.join(known)} is a field: there is no intensity")
        return None
    if needed and not found:
        raise RosError(
            f"fields besides x, y, z are {sorted(others)}, expected one of {', '.join(known)} "
            "among them, which these weights read; set lidar.intensity_field",
            "intensity",
        )
    if needed:
        rest = f" (not {', '.join(found[1:])})" if found[1:] else ""
        notes.info(f"lidar: intensity is read from the field {found[0]!r}{rest}")
    return found[0] if found else None


def _structured(message: Any, fields: list[Any], notes: Notes) -> NDArray[np.void]:
    """The points as a structured array of the chosen fields, (N,), without a copy if unpadded."""
    point_step = int(message.point_step)
    formats = []
    for field in fields:
        if field.datatype not in _DATATYPES:
            raise RosError(
                f"field {field.name!r} has datatype {field.datatype}, expected 1 to 8", "fields"
            )
        if field.count > 1:
            raise RosError(f"field {field.name!r} has {field.count} values, expected 1", "fields")
        formats.append((">" if message.is_bigendian else "<") + _DATATYPES[field.datatype])
        end = int(field.offset) + np.dtype(formats[-1]).itemsize
        if end > point_step:
            raise RosError(
                f"field {field.name!r} ends at byte {end}, expected within point_step {point_step}",
                "fields",
            )
    if point_step > MAX_POINT_STEP:
        raise RosError(f"point_step is {point_step}, expected at most {MAX_POINT_STEP}", "step")
    _check_overlap(fields, formats)
    names, offsets = [str(f.name) for f in fields], [int(f.offset) for f in fields]
    layout = {"names": names, "formats": formats, "offsets": offsets, "itemsize": point_step}
    kind = np.dtype(layout)  # type: ignore[call-overload]
    rows = _rows(message, notes)
    return rows.view(kind).reshape(-1) if rows.size else np.empty(0, kind)


def _check_overlap(fields: list[Any], formats: list[str]) -> None:
    """RosError where two fields share bytes."""
    spans = sorted(
        (int(field.offset), int(field.offset) + np.dtype(form).itemsize, str(field.name))
        for field, form in zip(fields, formats, strict=True)
    )
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise RosError(f"fields {name!r} and {other!r} share bytes, expected none", "fields")


def _rows(message: Any, notes: Notes) -> NDArray[np.uint8]:
    """The rows of points without padding, (height, width point_step)."""
    height, width, step = int(message.height), int(message.width), int(message.row_step)
    row = width * int(message.point_step)
    data = np.frombuffer(message.data, np.uint8)
    if data.size != height * row:
        content = f"{width} points of {message.point_step} bytes"
        return unpadded_rows(message, row, "row_step", content)
    if height and step != row:
        notes.warning(
            f"lidar: row_step is {step}, but the data holds {height} rows of {row} bytes, and is "
            "read so",
            "row_step",
        )
    return data.reshape(height, row)
