# SPDX-License-Identifier: Apache-2.0
"""Image, CompressedImage and PointCloud2 to arrays, and arrays to Image. Needs no ROS.

Messages may be those of rclpy or of `rosbags`. They are checked before they are used: a malformed
one raises `RosError` with reason "encoding", "size", "step", "data_length", "compressed", "fields"
or "intensity".
"""

import array
from collections.abc import Callable
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.errors import RosError
from mmsam_ros.sensors import SensorError, decode_image

Array = NDArray[Any]
MAX_SIDE = 16384  # pixels
MAX_POINT_STEP = 4096  # bytes

# encoding: (type, channels), as in sensor_msgs/image_encodings.hpp
ENCODINGS: dict[str, tuple[type[np.generic], int]] = {
    "rgb8": (np.uint8, 3), "bgr8": (np.uint8, 3), "rgba8": (np.uint8, 4), "bgra8": (np.uint8, 4),
    "mono8": (np.uint8, 1), "mono16": (np.uint16, 1), "8UC1": (np.uint8, 1), "8UC3": (np.uint8, 3),
    "16UC1": (np.uint16, 1), "16UC3": (np.uint16, 3),
    "32FC1": (np.float32, 1), "32FC3": (np.float32, 3),
    "bayer_rggb8": (np.uint8, 1), "bayer_bggr8": (np.uint8, 1),
    "bayer_gbrg8": (np.uint8, 1), "bayer_grbg8": (np.uint8, 1),
}  # fmt: skip

# OpenCV names a Bayer pattern by the second and third pixel of its second row.
_TO_RGB: dict[str, int] = {
    "bgr8": cv2.COLOR_BGR2RGB, "rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB, "8UC1": cv2.COLOR_GRAY2RGB,
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB, "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB, "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}  # fmt: skip
_CAMERA = ("rgb8", *_TO_RGB)
_THERMAL = ("mono8", "mono16", "8UC1", "16UC1")
_RASTER = ("rgb8", "bgr8", "mono8", "8UC1", "8UC3", "16UC3", "32FC3")
_INTENSITY = ("intensity", "i", "reflectivity")  # names of its field
_DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # PointField

# (message, encodings that are allowed) -> (pixels (H, W[, C]), encoding)
Reader = Callable[[Any, tuple[str, ...]], tuple[Array, str]]


def read_pixels(message: Any, allowed: tuple[str, ...]) -> tuple[Array, str]:
    """The pixels of an Image, (H, W) or (H, W, C), and their encoding.

    Not copied unless rows are padded or the byte order is not the machine's.
    """
    encoding = str(message.encoding)
    if encoding not in allowed:
        _refuse_encoding(encoding, allowed)
    kind, channels = ENCODINGS[encoding]
    height, width, item = int(message.height), int(message.width), np.dtype(kind).itemsize
    _check_sides(height, width)
    if message.step % item:
        raise RosError(f"step is {message.step}, expected a multiple of {item}", "step")
    content = f"{width} pixels of {encoding}"
    rows = _unpadded_rows(message, width * channels * item, "step", content)
    sent = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    pixels = rows.view(sent).astype(kind, copy=False)
    return (pixels.reshape(height, width, channels) if channels > 1 else pixels), encoding


def _unpadded_rows(message: Any, row: int, step_name: str, content: str) -> NDArray[np.uint8]:
    """The first `row` bytes of each row of the data, (height, row); `content` is for errors."""
    height, step = int(message.height), int(getattr(message, step_name))
    if step < row:
        raise RosError(f"{step_name} is {step}, expected at least {row} ({content})", "step")
    data = np.frombuffer(message.data, np.uint8)
    if data.size != height * step:
        raise RosError(
            f"data has {data.size} bytes, expected {height * step} (height {height} x "
            f"{step_name} {step})",
            "data_length",
        )
    return np.ascontiguousarray(data.reshape(height, step)[:, :row])


def camera_rgb(message: Any, read: Reader = read_pixels) -> NDArray[np.uint8]:
    """A camera's Image or CompressedImage -> rgb (H, W, 3) uint8."""
    if not hasattr(message, "format"):  # only a CompressedImage has one
        pixels, encoding = read(message, _CAMERA)
        return pixels if encoding == "rgb8" else _converted(pixels, encoding)
    sent = _sent_encoding(message)
    is_bayer = sent.startswith("bayer_")  # png holds the mosaic, jpeg colours
    pixels = _decompress(message, cv2.IMREAD_UNCHANGED if is_bayer else cv2.IMREAD_COLOR)
    encoding = "bgr8" if pixels.ndim == 3 else sent
    if pixels.dtype != np.uint8 or encoding not in _TO_RGB:
        _refuse_encoding(sent, _CAMERA)
    return _converted(pixels, encoding)


def thermal_counts(message: Any, read: Reader = read_pixels) -> Array:
    """A thermal Image or CompressedImage -> (h, w) uint8 or uint16, as sent."""
    if not hasattr(message, "format"):
        return read(message, _THERMAL)[0]
    pixels = _as_deep_as_sent(message)
    if pixels.ndim == 3 and pixels.dtype == np.uint8 and bool((pixels == pixels[..., :1]).all()):
        pixels = np.ascontiguousarray(pixels[..., 0])  # a grey picture stored as colour
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        raise RosError(
            f"image data is {pixels.dtype} {pixels.shape}, expected one channel of 8 or 16 bits",
            "encoding",
        )
    return pixels


def raster_values(message: Any, read: Reader = read_pixels) -> Array:
    """A projected raster (LiDAR, events, depth) -> (H, W, 3) uint8, uint16 or float32, as sent.

    Colour order is R, G, B; a single channel is repeated.
    """
    if hasattr(message, "format"):
        pixels, encoding = _as_deep_as_sent(message), "bgr8"
        pixels = pixels[..., :3] if pixels.ndim == 3 else pixels  # without alpha
    else:
        pixels, encoding = read(message, _RASTER)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1]) if encoding == "bgr8" else pixels


def fill_image(message: Any, pixels: NDArray[np.uint8], encoding: str) -> Any:
    """Write pixels (H, W) or (H, W, 3) uint8 into a sensor_msgs/Image; returns it.

    Anything but an `array.array` makes the generated setter check every byte (rosidl_python #79).
    """
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    message.height, message.width = pixels.shape[:2]
    message.step = pixels.nbytes // pixels.shape[0]
    message.encoding, message.is_bigendian, message.data = encoding, 0, data
    return message


def cv_bridge_reader() -> Reader:
    """`read_pixels` by cv_bridge, for `image_backend: cv_bridge`; RosError if not installed."""
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise RosError(
            "parameter image_backend: 'cv_bridge' is not installed; install ros-jazzy-cv-bridge "
            f"or use 'native' ({error})"
        ) from error
    bridge = CvBridge()

    def read(message: Any, allowed: tuple[str, ...]) -> tuple[Array, str]:
        read_pixels(message, allowed)  # cv_bridge crashes on sizes that contradict each other
        try:
            return np.asarray(bridge.imgmsg_to_cv2(message)), str(message.encoding)
        except CvBridgeError as error:
            raise RosError(f"cv_bridge: {error}", "encoding") from error

    return read


def _sent_encoding(message: Any) -> str:
    """The encoding before compression, from a format such as "mono16; png compressed "."""
    return str(message.format).partition(";")[0].strip()


def _decompress(message: Any, flags: int) -> Array:
    """The pixels of a CompressedImage as OpenCV gives them (B, G, R)."""
    form = str(message.format)
    known = any(kind in form.lower() for kind in ("jpeg", "jpg", "png"))
    if not known or "compressedDepth" in form:
        raise RosError(f"format is {form!r}, expected jpeg or png", "compressed")
    try:
        pixels = decode_image(bytes(message.data), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except SensorError as error:
        raise RosError(f"{form} data {error}", "compressed") from error
    _check_sides(*pixels.shape[:2])
    return pixels


def _as_deep_as_sent(message: Any) -> Array:
    """The pixels, unless compression has lost bits: jpeg has 8 only."""
    pixels, sent = _decompress(message, cv2.IMREAD_UNCHANGED), _sent_encoding(message)
    if sent in ENCODINGS and pixels.dtype.itemsize < np.dtype(ENCODINGS[sent][0]).itemsize:
        raise RosError(
            f"format is {message.format!r}, but the data is {pixels.dtype}: its values are lost; "
            "set the publisher's image_transport parameter compressed.format to png",
            "encoding",
        )
    return pixels


def _converted(pixels: Array, encoding: str) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), _TO_RGB[encoding]), np.uint8)


def _check_sides(height: int, width: int) -> None:
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise RosError(f"size is {width}x{height}, expected sides of 1 to {MAX_SIDE}", "size")


def _refuse_encoding(encoding: str, allowed: tuple[str, ...]) -> NoReturn:
    raise RosError(f"encoding is {encoding!r}, expected one of {', '.join(allowed)}", "encoding")


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
    values = points[intensity] if intensity else np.zeros(len(xyz))
    return xyz, values.astype(np.float32)


def _structured(message: Any, fields: list[Any]) -> NDArray[np.void]:
    """The points as a structured array of the chosen fields, (N,), without a copy if unpadded."""
    width, point_step = int(message.width), int(message.point_step)
    formats = []
    for field in fields:
        if field.datatype not in _DATATYPES:
            raise RosError(
                f"field {field.name!r} has datatype {field.datatype}, expected 1 to 8", "fields"
            )
        formats.append((">" if message.is_bigendian else "<") + _DATATYPES[field.datatype])
        end = int(field.offset) + np.dtype(formats[-1]).itemsize
        if end > point_step:
            raise RosError(
                f"field {field.name!r} ends at byte {end}, expected within point_step {point_step}",
                "fields",
            )
    if point_step > MAX_POINT_STEP:
        raise RosError(f"point_step is {point_step}, expected at most {MAX_POINT_STEP}", "step")
    content = f"{width} points of {point_step} bytes"
    rows = _unpadded_rows(message, width * point_step, "row_step", content)
    names, offsets = [str(f.name) for f in fields], [int(f.offset) for f in fields]
    layout = {"names": names, "formats": formats, "offsets": offsets, "itemsize": point_step}
    kind = np.dtype(layout)  # type: ignore[call-overload]
    return rows.view(kind).reshape(-1) if rows.size else np.empty(0, kind)
