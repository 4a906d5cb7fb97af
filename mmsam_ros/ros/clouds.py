# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/PointCloud2 to arrays, by field name, datatype, offset and byte order.

A malformed message raises `RosError` with reason "fields", "step", "data_length" or "intensity".
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.images import unpadded_rows

Array = NDArray[np.float32]

# sensor_msgs/PointField datatypes
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
MAX_POINT_STEP = 4096  # bytes
_INTENSITY = ("intensity", "i", "reflectivity")


def cloud_points(message: Any, *, needs_intensity: bool) -> tuple[Array, Array]:
    """xyz (N, 3) in metres and intensity (N,), both float32; an empty cloud is valid.

    Without an intensity field the intensity is 0, or RosError if the weights read it.
    """
    fields = {str(f.name): f for f in message.fields}
    if not {"x", "y", "z"} <= fields.keys():
        raise RosError(f"fields are {sorted(fields)}, expected x, y and z among them", "fields")
    intensity = next((name for name in _INTENSITY if name in fields), None)
    if intensity is None and needs_intensity:
        raise RosError(
            f"fields are {sorted(fields)}, expected one of {', '.join(_INTENSITY)} among them, "
            "which these weights read",
            "intensity",
        )
    names = ["x", "y", "z", *([intensity] if intensity else [])]
    points = _structured(message, [fields[name] for name in names])
    xyz = np.stack([points[name].astype(np.float32) for name in "xyz"], axis=-1)
    if intensity is None:
        return xyz, np.zeros(len(xyz), np.float32)
    return xyz, points[intensity].astype(np.float32)


def _structured(message: Any, fields: list[Any]) -> NDArray[np.void]:
    """The points as a structured array of the chosen fields, (N,), without a copy if unpadded."""
    width, point_step, row_step = int(message.width), int(message.point_step), int(message.row_step)
    order = ">" if message.is_bigendian else "<"
    formats = []
    for field in fields:
        if field.datatype not in _TYPES:
            raise RosError(
                f"field {field.name!r} has datatype {field.datatype}, expected 1 to 8", "fields"
            )
        formats.append(order + _TYPES[field.datatype])
        end = int(field.offset) + np.dtype(formats[-1]).itemsize
        if end > point_step:
            raise RosError(
                f"field {field.name!r} ends at byte {end}, expected within point_step {point_step}",
                "fields",
            )
    if point_step > MAX_POINT_STEP:
        raise RosError(f"point_step is {point_step}, expected at most {MAX_POINT_STEP}", "step")
    row = width * point_step
    if row_step < row:
        expected = f"at least {row} ({width} points of {point_step} bytes)"
        raise RosError(f"row_step is {row_step}, expected {expected}", "step")
    rows = unpadded_rows(message, row, "row_step")
    names, offsets = [str(f.name) for f in fields], [int(f.offset) for f in fields]
    layout = {"names": names, "formats": formats, "offsets": offsets, "itemsize": point_step}
    kind = np.dtype(layout)  # type: ignore[call-overload]
    return rows.view(kind).reshape(-1) if rows.size else np.empty(0, kind)
