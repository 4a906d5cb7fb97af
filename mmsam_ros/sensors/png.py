# SPDX-License-Identifier: Apache-2.0
"""What a PNG file declares, before OpenCV allocates for it or inflates it."""

import zlib
from collections.abc import Iterable, Iterator

from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.limits import check_pixels

START = b"\x89PNG"
_FIRST = 8  # byte after the signature
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}  # inflated by decoders, and used for no pixel
_MOST = 1032  # bytes that deflate makes of one, at most
_STEP = 1 << 20  # bytes that are inflated at a time
_SLACK = 2  # an interlaced image has more rows


def checked(data: bytes) -> bytes:
    """The file without its texts. SensorError where it declares too many pixels, or its data would
    be far more than they are; other faults are left to the decoder.
    """
    if data[12:16] != b"IHDR" or len(data) < 33:
        return data
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    check_pixels(height, width)
    chunks = list(_chunks(data))
    if any(kind in _TEXTS for kind, _ in chunks):
        kept = (data[part] for kind, part in chunks if kind not in _TEXTS)
        data = data[:_FIRST] + b"".join(kept)
        chunks = list(_chunks(data))
    channels = _CHANNELS.get(data[25], 4)
    limit = _SLACK * height * (1 + (width * channels * data[24] + 7) // 8)
    packed = [data[part.start + 8 : part.stop - 4] for kind, part in chunks if kind == b"IDAT"]
    if _MOST * sum(map(len, packed)) > limit and _inflates_to_more(packed, limit):
        raise SensorError(
            f"of {len(data)} bytes inflates to more than {limit} bytes, expected those of "
            f"{width}x{height} pixels"
        )
    return data


def _chunks(data: bytes) -> Iterator[tuple[bytes, slice]]:
    """Type and place of each chunk, length and checksum included; the last one may be cut off."""
    position = _FIRST
    while position + 8 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 8], slice(position, end)
        position = end


def _inflates_to_more(packed: Iterable[bytes], limit: int) -> bool:
    inflate, size = zlib.decompressobj(), 0
    for part in packed:
        while part:
            try:
                size += len(inflate.decompress(part, _STEP))
            except zlib.error:
                return False  # the decoder will say so
            part = inflate.unconsumed_tail
            if size > limit:
                return True
    return False
