# SPDX-License-Identifier: Apache-2.0
"""Files as they are stored: images, rasters, labels and JSON. Every DataError names its file."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.sensors import (
    FIELDS,
    NO_LABEL,
    SensorError,
    SensorImage,
    decode_image,
    decode_raster,
)

Array = NDArray[Any]


def stems(folder: Path, pattern: str, ending: str) -> set[str]:
    """Paths below a folder of the files that match `pattern` and `ending`, without the ending."""
    found = folder.glob(f"{pattern}{ending}")
    return {path.relative_to(folder).as_posix().removesuffix(ending) for path in found}


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    with naming(path, ValueError):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds a {type(values).__name__}, expected a JSON object")
    return values


def read_image(path: Path) -> Array:
    """A PNG or JPEG as it is stored: (H, W) or (H, W, C) with RGB order, 8 or 16 bit."""
    with naming(path):
        content = path.read_bytes()
    try:
        image = decode_image(content, cv2.IMREAD_UNCHANGED)
    except SensorError as error:
        raise DataError(f"{path}: is broken, expected a whole PNG or JPEG image") from error
    if image.ndim == 3:
        order = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, order)
    return image


def read_array(path: Path) -> Array:
    """The array `arr_0` of an .npz file, or the one of an .npy file."""
    with naming(path), path.open("rb") as file:
        try:
            loaded = np.load(file)
            return loaded if isinstance(loaded, np.ndarray) else np.asarray(loaded["arr_0"])
        except Exception as error:  # a dozen types, of numpy, zipfile, zlib and tokenize
            raise DataError(f"{path}: is broken, expected an array ({error})") from error


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An RGB image (H, W, 3); alpha is dropped, a single channel is replicated."""
    image = _three_channels(read_image(path))
    if image.dtype != np.uint8:
        raise DataError(f"{path}: RGB image is {image.dtype}, expected uint8")
    return np.ascontiguousarray(image)


def read_sensor_image(path: Path, encoding: str) -> SensorImage:
    """A stored image or raster, as `frame_planes` decodes it; dtype and shape are checked there.

    An 8-bit colour raster may have an alpha or a single channel, a grey image three equal ones, and
    a `muses_raw` raster may be the 16-bit PNG that the official tool writes on request.
    """
    image = read_array(path) if path.suffix in (".npz", ".npy") else read_image(path)
    with naming(path, SensorError, IndexError):  # an array without axes or channels
        if encoding == "muses_raw" and path.suffix == ".png":
            image = decode_raster(image, "muses_png16")
        elif encoding == "png8":
            image = _three_channels(image)
        elif len(FIELDS[encoding]) == 1 and image.ndim == 3:
            if (image[..., :3] != image[..., :1]).any():
                raise SensorError(f"{encoding} image has colours, expected a grey one")
            image = image[..., 0]
        return SensorImage(image.astype(np.float32) if image.dtype == np.float64 else image)


def decode_label(path: Path, image: Array, classes: int, offset: int) -> NDArray[np.uint8]:
    """A stored label image (H, W) uint8 to training ids: values less `offset`; 255 for no label.

    DataError for values beyond the number of classes. With an offset of 1, a 0 is no label, too.
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise DataError(
            f"{path}: label is {image.dtype} {image.shape}, expected uint8 (H, W): ids, not colours"
        )
    unknown = (image >= classes + offset) & (image != NO_LABEL)
    if unknown.any():
        values = ", ".join(map(str, np.unique(image[unknown])[:8]))
        expected = f"0..{classes + offset - 1} and {NO_LABEL}"
        raise DataError(f"{path}: label values {values}, expected {expected}")
    return np.where(image == NO_LABEL, image, image - np.uint8(offset))  # 0 - 1 is 255


def _three_channels(image: Array) -> Array:
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]
