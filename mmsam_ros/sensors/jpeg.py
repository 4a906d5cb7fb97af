# SPDX-License-Identifier: Apache-2.0
"""Whether a JPEG file is whole. OpenCV reads what is there and fills up the rest with grey."""

import re

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.errors import SensorError
from mmsam_ros.sensors.limits import MAX_SCANS, check_pixels

START = b"\xff\xd8"
# in entropy-coded data: 0 after an FF, restart markers, and FF as filling; 1 has no length either
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_SCAN, _END = 0xDA, 0xD9
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # hold the size
_BETWEEN = {0xC4, 0xCC, _SCAN, 0xDB, 0xDC, 0xDD, 0xFE}  # what may follow a scan
_FILLED = 128  # what a decoder writes where data is missing
_NOISE = b"\x4b\x93\x2e\x71" * 16  # entropy-coded data of some picture
_MORE = _NOISE + b"".join(bytes([0xFF, 0xD0 + number]) + _NOISE for number in range(8))


def check_whole(data: bytes) -> int | None:
    """SensorError for a JPEG that is cut off, that lacks a part which its markers tell of, or whose
    size or number of scans is not allowed.

    Returns where its entropy-coded data ends if there is one scan, else None.
    """
    position, scans, end = 2, 0, 0
    while found := _MARKER.search(data, position):
        marker, body = data[found.end() - 1], found.end()
        if scans and not end:
            end = found.start()
            restarts = [number[0] & 7 for number in _RESTART.findall(data, position, end)]
            if restarts != [count % 8 for count in range(len(restarts))]:
                raise SensorError(f"of {len(data)} bytes is damaged: parts of it are missing")
        if scans and marker == _END:
            return end if scans == 1 else None
        if scans and marker not in _BETWEEN:
            raise SensorError(f"of {len(data)} bytes is broken at byte {found.start()}")
        if marker in _FRAMES:
            sides = data[body + 3 : body + 7]
            check_pixels(int.from_bytes(sides[:2], "big"), int.from_bytes(sides[2:], "big"))
        if marker == _SCAN:
            scans, end = scans + 1, 0
            if scans > MAX_SCANS:
                raise SensorError(f"has more than {MAX_SCANS} scans, expected about ten")
        position = body + int.from_bytes(data[body : body + 2], "big")
    raise SensorError(f"of {len(data)} bytes is cut off and cannot be decoded")


def with_more_data(data: bytes, end: int, pixels: NDArray[np.generic]) -> bytes | None:
    """The same file with more entropy-coded data at `end`, if the decoder may have run out of it.

    Of a whole picture the rest is ignored; otherwise another picture comes of it.
    """
    if not (pixels[-4:, -4:] == _FILLED).all():
        return None
    return data[:end] + _MORE + data[end:]
