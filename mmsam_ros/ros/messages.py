# SPDX-License-Identifier: Apache-2.0
"""Image and CompressedImage to arrays, and arrays to Image. Needs no ROS.

Messages may be those of rclpy or of `rosbags`. They are checked before they are used: a malformed
one raises `RosError` with reason "encoding", "size", "step", "data_length" or "compressed".
"""

import array
import json
from collections.abc import Callable
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.notes import SILENT, Notes
from mmsam_ros.sensors import (
    CAMERA,
    NO_LABEL,
    SensorError,
    decode_image,
    picture_rgb,
    to_single,
)
from mmsam_ros.sensors.limits import SizeError, check_pixels
from mmsam_ros.sensors.pixels import (
    CAMERA_PIXELS,
    DEPTH_PIXELS,
    PACKINGS,
    RASTER_PIXELS,
    THERMAL_PIXELS,
    BitDepth,
    decode_depth,
    is_picture,
    to_rgb,
)
from mmsam_ros.weights import Spec

Array = NDArray[Any]
_NO_COLOURS = ("8UC3", "8UC4", "16UC3", "16UC4")  # channels, in an order of their own
_ENOUGH = 3  # images after which the bits of a camera are judged

# (message, encodings that are allowed) -> (pixels (H, W[, C]), encoding)
Reader = Callable[[Any, tuple[str, ...]], tuple[Array, str]]


def read_pixels(message: Any, allowed: tuple[str, ...]) -> tuple[Array, str]:
    """The pixels of an Image, (H, W) or (H, W, C), and their encoding; (1.5 H, W) for luma and
    chroma in planes.

    Not copied unless rows are padded or the byte order is not the machine's.
    """
    encoding = str(message.encoding)
    if encoding not in allowed:
        _refuse_encoding(encoding, allowed)
    packing = PACKINGS[encoding]
    kind, channels = packing.kind, packing.channels
    height, width, item = int(message.height), int(message.width), np.dtype(kind).itemsize
    _check_sides(height, width)
    if packing.planes:
        return _planes(message, height, width), encoding
    if channels == 2 and width % 2:
        raise RosError(f"size is {width}x{height}, expected an even width for {encoding}", "size")
    if message.step % item:
        raise RosError(f"step is {message.step}, expected a multiple of {item}", "step")
    content = f"{width} pixels of {encoding}"
    rows = unpadded_rows(message, width * channels * item, "step", content)
    sent = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    pixels = rows.view(sent).astype(kind, copy=False)
    return (pixels.reshape(height, width, channels) if channels > 1 else pixels), encoding


def unpadded_rows(message: Any, row: int, step_name: str, content: str) -> NDArray[np.uint8]:
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


def _planes(message: Any, height: int, width: int) -> Array:
    """Luma above chroma, (1.5 H, W). Publishers do not agree on what step means here, so that data
    without padding is read whatever it says.
    """
    if height % 2 or width % 2:
        found = f"size is {width}x{height}"
        raise RosError(f"{found}, expected even sides for {message.encoding}", "size")
    data, rows, step = np.frombuffer(message.data, np.uint8), height * 3 // 2, int(message.step)
    if data.size == rows * width:
        return data.reshape(rows, width)
    if step < width or data.size != rows * step:
        raise RosError(
            f"data has {data.size} bytes, expected {rows * width} ({height} rows of {width} pixels "
            "and half as many of chroma)",
            "data_length",
        )
    return np.ascontiguousarray(data.reshape(rows, step)[:, :width])


def camera_rgb(
    message: Any,
    read: Reader = read_pixels,
    notes: Notes = SILENT,
    depth: BitDepth | None = None,
) -> NDArray[np.uint8]:
    """A camera's Image or CompressedImage -> rgb (H, W, 3) uint8; `depth`: of earlier images."""
    depth = depth or BitDepth()
    try:
        if hasattr(message, "format"):  # only a CompressedImage has one
            if "compressedDepth" in message.format:
                raise RosError(f"format is {message.format!r}, expected jpeg or png", "compressed")
            return picture_rgb(_camera_picture(message), sent_encoding(message), depth)
        pixels, encoding = read(message, CAMERA_PIXELS)
        if encoding in ("8UC3", "8UC4"):
            notes.warning(
                f"camera: the encoding {encoding} names no order of colours; taken is blue, green, "
                "red. If red and blue are swapped, set the driver to rgb8"
            )
        return to_rgb(pixels, encoding, depth)
    except SensorError as error:
        raise RosError(f"{_named(message)}: {error}", "encoding") from error
    finally:
        if depth.bits == 14 and depth.images >= _ENOUGH:
            notes.warning(
                f"camera: no value above 16383 in {depth.images} images of 16 bits. If they have "
                "14 bits, they are read four times too dark: shift them to the upper end, or "
                "publish 8 bits",
                "14 bits",
            )


def thermal_counts(message: Any, read: Reader = read_pixels) -> Array:
    """A thermal Image or CompressedImage -> (h, w) uint8, uint16 or float32, as sent."""
    if hasattr(message, "format"):
        return _single(_as_deep_as_sent(message), str(message.format))
    return _single(*read(message, THERMAL_PIXELS))


def depth_values(message: Any, read: Reader = read_pixels) -> Array:
    """A depth Image or CompressedImage -> (h, w), uint16 millimetres or float32 metres, as sent."""
    if not hasattr(message, "format"):
        return read(message, DEPTH_PIXELS)[0]
    pixels = _single(_as_deep_as_sent(message), str(message.format))
    if pixels.dtype == np.uint8:
        _refuse_encoding(str(message.format), DEPTH_PIXELS)
    return pixels


def _single(pixels: Array, encoding: str) -> Array:
    try:
        return to_single(pixels, encoding)
    except SensorError as error:
        raise RosError(str(error), "encoding") from error


def raster_values(message: Any, read: Reader = read_pixels) -> Array:
    """A projected raster (LiDAR, events, depth) -> (H, W, 3) uint8, uint16 or float32, as sent.

    Colour order is R, G, B; a single channel is repeated.
    """
    if hasattr(message, "format"):
        pixels, encoding = _as_deep_as_sent(message), "bgr8"
        pixels = pixels[..., :3] if pixels.ndim == 3 else pixels  # without alpha
        if (sent := sent_encoding(message)) in _NO_COLOURS:
            encoding = sent  # image_transport compresses these as they are
    else:
        pixels, encoding = read(message, RASTER_PIXELS)
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1]) if encoding == "bgr8" else pixels


def fill_image(message: Any, pixels: Array, encoding: str) -> Any:
    """Write pixels (H, W) or (H, W, C) into a sensor_msgs/Image; returns it.

    Anything but an `array.array` makes the generated setter check every byte (rosidl_python #79).
    """
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).data.cast("B"))
    message.height, message.width = pixels.shape[:2]
    message.step = pixels.nbytes // pixels.shape[0]
    message.encoding, message.is_bigendian, message.data = encoding, 0, data
    return message


def class_table(spec: Spec) -> str:
    """The content of ~/classes, JSON."""
    classes = [{"id": c.id, "name": c.name, "rgb": list(c.rgb)} for c in spec.classes]
    inputs = [CAMERA, *spec.sensors]
    return json.dumps({"classes": classes, "no_label": NO_LABEL, "inputs": inputs})


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
        # cv_bridge crashes on sizes that contradict each other
        pixels, encoding = read_pixels(message, allowed)
        if PACKINGS[encoding].planes:
            return pixels, encoding  # cv_bridge does not know them
        try:
            return np.asarray(bridge.imgmsg_to_cv2(message)), encoding
        except CvBridgeError as error:
            raise RosError(f"cv_bridge: {error}", "encoding") from error

    return read


def _named(message: Any) -> str:
    """The encoding or format of a message."""
    return str(message.format if hasattr(message, "format") else message.encoding)


def sent_encoding(message: Any) -> str:
    """The encoding; of a CompressedImage before compression, as "mono16; png compressed " says."""
    return _named(message).partition(";")[0].strip()


def _decompress(message: Any) -> Array:
    """The pixels of a CompressedImage as OpenCV gives them (B, G, R), or depth.

    The first bytes of the data decide: drivers leave the format empty or invent names.
    """
    form, data = str(message.format), bytes(message.data)
    try:
        if "compressedDepth" in form:
            pixels = decode_depth(data, sent_encoding(message))
        elif is_picture(data) or not data:
            # unchanged: in all its bits, and without the turn that EXIF may ask for
            pixels = decode_image(data, cv2.IMREAD_UNCHANGED)
        else:
            raise RosError(
                f"format is {form!r} and the data is neither JPEG nor PNG, expected jpeg or png",
                "compressed",
            )
    except SizeError as error:
        raise RosError(f"format is {form!r}, {error}", "size") from error
    except SensorError as error:
        raise RosError(f"{form} data {error}", "compressed") from error
    return pixels


def _camera_picture(message: Any) -> Array:
    """The pixels, unless image_transport has clipped 16 bits at 255, as it does to grey and Bayer
    images that become jpeg; others it scales, and then names what it scaled to.
    """
    if message.format.rstrip().endswith("jpeg compressed"):
        return _as_deep_as_sent(message)
    return _decompress(message)


def _as_deep_as_sent(message: Any) -> Array:
    """The pixels, unless compression has lost bits: jpeg has 8 only."""
    pixels, sent = _decompress(message), sent_encoding(message)
    if sent in PACKINGS and pixels.dtype.itemsize < np.dtype(PACKINGS[sent].kind).itemsize:
        raise RosError(
            f"format is {message.format!r}, but the data is {pixels.dtype}: its values are lost; "
            "set the publisher's image_transport parameter compressed.format to png",
            "encoding",
        )
    return pixels


def _check_sides(height: int, width: int) -> None:
    try:
        check_pixels(height, width)
    except SizeError as error:
        raise RosError(str(error), "size") from error


def _refuse_encoding(encoding: str, allowed: tuple[str, ...]) -> NoReturn:
    raise RosError(f"encoding is {encoding!r}, expected one of {', '.join(allowed)}", "encoding")
