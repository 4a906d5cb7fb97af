# SPDX-License-Identifier: Apache-2.0
"""Whether a JPEG file is whole. OpenCV reads what is there and fills up the rest with grey."""

import re

import numpy as np
from numpy.typing import NDArray

from mmsam_ros.sensors.errors import SensorError

START = b"\xff\xd8"
_START_OF_SCAN, _END, _RESTART_INTERVAL = 0xDA, 0xD9, 0xDD
# in entropy-coded data: 0 after an FF, restart markers, and FF as filling
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_BASELINE = (0xC0, 0xC1)
_TABLES = {0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE}  # also between two scans
_SEGMENTS = _TABLES | {*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xE0, 0xF0)}
_FILLED = 128  # what a decoder writes where data is missing
_MORE = b"\x4b\x93\x2e\x71" * 16  # entropy-coded data of some picture


def check_whole(data: bytes) -> int | None:
    """SensorError for a JPEG that is cut off, or has a marker where there can be none.

    Returns where its entropy-coded data ends if there is one scan (baseline), else None.
    """
    position, frame, interval, units = 2, 0, 0, 0
    scans: list[tuple[int, int]] = []  # start and end, 0 until it is known
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            raise SensorError(f"of {len(data)} bytes is cut off and cannot be decoded")
        if scans and scans[-1][1] == 0:
            scans[-1] = (scans[-1][0], found.start())
        marker = data[found.start() + 1]
        if marker == _END:
            break
        body = found.end()
        if marker not in (_TABLES if scans else _SEGMENTS) or body + 2 > len(data):
            raise SensorError(f"of {len(data)} bytes is broken at byte {found.start()}")
        position = body + int.from_bytes(data[body : body + 2], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, units = marker, _units(data[body + 2 : position])
        if marker == _RESTART_INTERVAL:
            interval = int.from_bytes(data[body + 2 : body + 4], "big")
        if marker == _START_OF_SCAN:
            scans.append((position, 0))
    if not scans:
        raise SensorError(f"of {len(data)} bytes has no picture")
    for start, end in scans:
        restarts = [marker[0] & 7 for marker in _RESTART.findall(data, start, end)]
        if restarts != [count % 8 for count in range(len(restarts))]:
            raise SensorError(f"of {len(data)} bytes is damaged: parts of it are missing")
    if frame not in _BASELINE or len(scans) != 1:
        return None
    if interval and units and len(restarts) != -(-units // interval) - 1:
        raise SensorError(f"of {len(data)} bytes is damaged: parts of it are missing")
    return scans[0][1]


def _units(frame: bytes) -> int:
    """How many minimum coded units a picture has, from its frame header; SensorError if broken."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    sampling = frame[7::3]  # of each component, across and down
    if len(frame) < 9 or frame[5] != len(sampling) or not all(s >> 4 and s & 15 for s in sampling):
        raise SensorError("has a broken header")
    if len(sampling) == 1:
        sampling = b"\x11"  # its sampling does not matter
    across, down = 8 * max(s >> 4 for s in sampling), 8 * max(s & 15 for s in sampling)
    return -(-width // across) * -(-height // down)


def with_more_data(data: bytes, end: int, pixels: NDArray[np.generic]) -> bytes | None:
    """The same file with more entropy-coded data at `end`, if the decoder may have run out of it.

    Of a whole picture the rest is ignored; otherwise another picture comes of it.
    """
    if not (pixels[-4:, -4:] == _FILLED).all():
        return None
    return data[:end] + _MORE + data[end:]
