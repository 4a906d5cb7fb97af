# SPDX-License-Identifier: Apache-2.0
"""Label images, and whether a data set's values are the ones that its layout asks for.

What a pixel means follows from the file's header: of a palette the index is the value, of 1, 2 and
4 bits the raw number.
"""

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmsam_ros.data.errors import DataError, naming
from mmsam_ros.data.images import PNG, TIFF_BITS, Turns, orientation, read_file, upright
from mmsam_ros.sensors import NO_LABEL

_PNG_GREY = (0, 4)  # colour types, the second one with alpha
_LOSSY = ("JPEG", "MPO", "WEBP", "jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")
_REMEDY = "export the labels as 8-bit PNG with one channel, whose values are the ids"
Values = NDArray[np.uint8]


def read_label(
    path: Path, classes: int, first: int = 0, red: bool = False, turns: Turns | None = None
) -> Values:
    """Training ids (H, W) of a label image: values less `first`; 255 for no label.

    With `first` 1, a 0 is no label, too. `red`: of a colour image the red channel is read.
    DataError for values beyond the number of classes.
    """
    values = read_values(path, classes + first, red, turns)
    unknown = (values >= classes + first) & (values != NO_LABEL)
    if unknown.any():
        found = ", ".join(map(str, np.unique(values[unknown])[:8]))
        expected = f"0..{classes + first - 1} and {NO_LABEL}"
        raise DataError(f"{path}: label values {found}, expected {expected}")
    return np.where(values == NO_LABEL, values, values - np.uint8(first))  # 0 - 1 is 255


def read_values(path: Path, known: int, red: bool = False, turns: Turns | None = None) -> Values:
    """The values (H, W) that a label image stores, in a PNG or TIFF file.

    known: values from this one on mean nothing, but for 255. DataError for what cannot be ids or
    can be read in two ways.
    """
    content, image = read_file(path, turns)
    with naming(path), Image.open(io.BytesIO(content)) as file:
        kind, mode, packing = file.format, file.mode, file.info.get("compression")
        for form in (kind, packing):  # a TIFF may hold a JPEG
            if form in _LOSSY:
                text = f"{path}: label is {form}, whose compression changes ids; {_REMEDY}"
                raise DataError(text)
        if kind not in ("PNG", "TIFF"):
            raise DataError(f"{path}: label is {kind}; {_REMEDY}")
        if mode in ("P", "PA"):
            return _indices(path, content, file, known, red)
        bits, grey = _depth(content, file)
    if bits < 8 and kind == "TIFF":
        raise DataError(f"{path}: label is TIFF of {bits} bit; {_REMEDY}")
    if image.ndim == 3:
        if not (grey or red):
            raise DataError(f"{path}: label is {mode}, expected one channel of ids; {_REMEDY}")
        image = image[..., 2]  # of blue, green, red
    if image.dtype.kind != "u" or image.max() > NO_LABEL:
        found = f"{image.dtype} with values to {image.max():g}"
        raise DataError(f"{path}: label is {found}, expected ids to {NO_LABEL}; {_REMEDY}")
    spread = 255 // (2**bits - 1) if bits < 8 else 1  # decoders stretch few bits to 0..255
    return (image // spread).astype(np.uint8)


def _depth(content: bytes, file: Image.Image) -> tuple[int, bool]:
    """Bits of a channel of a PNG or TIFF file, and whether it is grey, with or without alpha."""
    if content.startswith(PNG):
        bits, colour = struct.unpack_from(">BB", content, 24)
        return bits, colour in _PNG_GREY
    tags: Mapping[int, Any] = getattr(file, "tag_v2", {})
    return int(min(np.atleast_1d(tags.get(TIFF_BITS, 1)))), file.mode.startswith(("1", "L", "I"))


def _indices(path: Path, content: bytes, file: Image.Image, known: int, red: bool) -> Values:
    """The indices of an image with a palette.

    A tool that makes PNG files smaller numbers the values anew and keeps them as grey levels (of
    a `red` image as red ones): where colours could be ids just as well, nothing tells which are.
    """
    file.info.pop("xmp", None)  # loading a TIFF would turn it by this as well
    colours = np.array(file.getpalette("RGB"), np.uint8).reshape(-1, 3)
    indices = upright(content, np.asarray(file), orientation(content))
    indices = indices[..., 0] if indices.ndim == 3 else indices
    used = np.unique(indices)
    used = used[used < len(colours)]
    r, g, b = colours[used].T
    plain = (g == b) & ((r == g) | (red & (g == 0)))
    legal = ((r < known) | (r == NO_LABEL)).all() and len(np.unique(r)) == len(r)
    if plain.all() and legal and (r != used).any() and set(r.tolist()) - {0, NO_LABEL}:
        i = int(np.argmax(r != used))
        raise DataError(
            f"{path}: label has a palette that can be read in two ways: index {used[i]} is shown "
            f"as {r[i]}, and both could be ids; {_REMEDY}"
        )
    return indices.astype(np.uint8)
