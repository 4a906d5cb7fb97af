# SPDX-License-Identifier: Apache-2.0
"""What declares more than it may is refused before it is allocated: sizes and bombs."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.images import read_image
from mmsam_ros.sensors import SensorError, decode_image
from mmsam_ros.sensors.limits import MAX_NOTES, MAX_PIXELS, MAX_SCANS, MAX_SIDE, SizeError

ALLOWED = 32 << 20  # bytes that a refusal may take, beside the message itself
PIXELS = np.random.default_rng(2).integers(0, 256, (48, 64, 3), np.uint8)
HEAD = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(count: int) -> bytes:
    """Deflated, by a block that is repeated."""
    pack = zlib.compressobj(9, wbits=-15)
    whole = pack.compress(bytes(1 << 20)) + pack.flush(zlib.Z_FULL_FLUSH)
    pack = zlib.compressobj(9, wbits=-15)
    rest = pack.compress(bytes(count % (1 << 20))) + pack.flush()
    checksum = (count % 65521 << 16) + 1
    return b"\x78\xda" + whole * (count >> 20) + rest + struct.pack(">I", checksum)


def png(width: int, height: int, packed: bytes, *, bits: int = 8, more: bytes = b"") -> bytes:
    """A PNG of colours (or of one channel of 16 bits) with deflated rows."""
    shape = struct.pack(">IIBBBBB", width, height, bits, 2 if bits == 8 else 0, 0, 0, 0)
    parts = chunk(b"IHDR", shape), more, chunk(b"IDAT", packed), chunk(b"IEND", b"")
    return HEAD + b"".join(parts)


def jpeg(width: int, height: int, *, before: bytes = b"") -> bytes:
    """A JPEG whose header declares another size."""
    data = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    start = data.index(b"\xff\xc0") + 5
    data = data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]
    return data[:2] + before + data[2:]


def tiff(width: int, height: int) -> bytes:
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1),
               (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 100)]  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    place = 8 + 100
    return b"II*\0" + struct.pack("<I", place) + bytes(100) + struct.pack("<H", 9) + body + bytes(4)


def tiff_of_floats(width: int, height: int) -> bytes:
    """Three floats a pixel, which Pillow does not know and OpenCV reads."""
    data = bytearray(cv2.imencode(".tiff", np.ones((4, 8, 3), np.float32))[1].tobytes())
    (at,) = struct.unpack_from("<I", data, 4)
    for place in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
        (tag,) = struct.unpack_from("<H", data, place)
        if side := {256: width, 257: height}.get(tag):
            struct.pack_into("<HII", data, place + 2, 4, 1, side)
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    info = (40, width, height, 1, 24, 0, 96, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IIIIiiHHIIIIII", 150, 0, 54, *info) + bytes(96)


def compressed(data: bytes, form: str) -> dict[str, object]:
    return {"kind": "compressed", "format": form, "data": data.hex()}


def raw(**changes: object) -> dict[str, object]:
    fields = {"height": 4, "width": 4, "step": 12, "encoding": "rgb8", "is_bigendian": 0}
    return {"kind": "raw", **fields, "data": bytes(48).hex(), **changes}


def cloud(**changes: object) -> dict[str, object]:
    fields = {"height": 1, "width": 3, "point_step": 12, "row_step": 36, "is_bigendian": 0}
    return {"kind": "cloud", **fields, "data": bytes(36).hex(), **changes}


SMALL = zlib.compress(bytes(64 * (64 * 3 + 1)))
GIGABYTE = zeros(1 << 30)
TEXT = chunk(b"zTXt", b"a\0\0" + GIGABYTE)
PROFILE = chunk(b"iCCP", b"a\0\0" + GIGABYTE)
THUMBNAIL = b"\xff\xe1\x00\x14Exif\0\0\xff\xc0\0\x0b\x08\0\1\0\1\1"
DEPTH = bytes(12)
HUGE = 2**32 - 1
PNG, JPEG, PNG_DEPTH = "png", "rgb8; jpeg compressed bgr8", "16UC1; compressedDepth png"
COMPRESSED: dict[str, tuple[str, bytes, str]] = {
    "png 60000x60000": (PNG, png(60000, 60000, b""), "size"),
    "png 30000x30000 of zeros": (PNG, png(30000, 30000, zeros(30000 * 90001)), "size"),
    "png of one long row": (PNG, png(2**31 - 1, 1, b""), "size"),
    "png without pixels": (PNG, png(0, 5, b""), "size"),
    "png of 9000x9000": (PNG, png(9000, 9000, b""), "size"),
    "png that inflates to a gigabyte": (PNG, png(64, 64, GIGABYTE), "compressed"),
    "png in parts": (PNG, png(64, 64, SMALL, more=chunk(b"IDAT", GIGABYTE)), "compressed"),
    # a tiny picture, whose texts hold a gigabyte, is read without them
    "png with texts": (PNG, png(64, 64, SMALL, more=TEXT * 2), ""),
    "png with a profile": (PNG, png(64, 64, SMALL, more=PROFILE), ""),
    "jpeg 60000x60000": ("jpeg", jpeg(60000, 60000), "size"),
    "jpeg 30000x30000": (JPEG, jpeg(30000, 30000), "size"),
    # a marker without length hides the header from a parser that takes one for granted
    "jpeg behind a marker": (JPEG, jpeg(60000, 60000, before=b"\xff\x01"), "size"),
    "jpeg behind a thumbnail": (JPEG, jpeg(60000, 60000, before=THUMBNAIL), "size"),
    "tiff 60000x60000": ("mono8; tiff compressed ", tiff(60000, 60000), "compressed"),
    "tiff that says jpeg": ("jpeg", tiff(60000, 60000), "compressed"),
    "bmp that says png": (PNG, bmp(60000, 60000), "compressed"),
    "depth 60000x60000": (PNG_DEPTH, DEPTH + png(60000, 60000, b"", bits=16), "size"),
    "depth of a gigabyte": (PNG_DEPTH, DEPTH + png(64, 64, GIGABYTE, bits=16), "compressed"),
    "depth as RVL of huge size": (
        "16UC1; compressedDepth rvl", DEPTH + struct.pack("<II", 60000, 60000) + bytes(8),
        "compressed"),
}  # fmt: skip
RAW: dict[str, tuple[dict[str, object], str]] = {
    "image of huge height": (raw(height=HUGE), "size"),
    "image of huge width": (raw(width=HUGE), "size"),
    "image of huge step": (raw(step=HUGE), "data_length"),
    "image of huge sides and step": (raw(width=16000, height=16000, step=48000), "size"),
    "image of allowed sides": (raw(width=8192, height=8192, step=3 * 8192), "data_length"),
    "planes of huge size": (raw(encoding="nv12", width=16384, height=4096), "data_length"),
    "cloud of huge width": (cloud(width=HUGE), "step"),
    "cloud of huge height": (cloud(height=HUGE), "data_length"),
    "cloud of huge points": (cloud(point_step=HUGE), "step"),
    "cloud of huge everything": (
        cloud(width=HUGE, height=HUGE, point_step=4096, row_step=HUGE), "step"),
    "cloud of huge rows": (cloud(row_step=HUGE, height=4), "data_length"),
    "cloud of no rows": (cloud(width=HUGE, height=0, point_step=4096, row_step=HUGE, data=""), ""),
}  # fmt: skip
CASES = {
    name: (compressed(data, form), why) for name, (form, data, why) in COMPRESSED.items()
} | RAW

READ = """
import json, resource, sys
from types import SimpleNamespace
from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.messages import camera_rgb, depth_values

with open(sys.argv[1]) as file:
    cases = json.load(file)
cloud_fields = [
    SimpleNamespace(name=n, offset=4 * k, datatype=7, count=1) for k, n in enumerate("xyz")
]
for case in cases.values():
    case["data"] = bytes.fromhex(case["data"])
def read(kind, **fields):
    message = SimpleNamespace(**fields)
    if kind == "cloud":
        message.fields = cloud_fields
        cloud_points(message, needs_intensity=False)
    elif "compressedDepth" in getattr(message, "format", ""):
        depth_values(message)
    else:
        camera_rgb(message)
read("compressed", format="png", data=cases["png with a profile"]["data"])  # OpenCV's own tables
found = {}
for name, case in cases.items():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak
    def memory(key):
        with open("/proc/self/status") as file:
            return int(next(line for line in file if line.startswith(key)).split()[1]) << 10
    before, reason = memory("VmRSS"), ""
    try:
        read(**case)
    except RosError as error:
        reason = error.reason
    found[name] = reason, memory("VmHWM") - before
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """Reason and peak of memory of each case, in a process whose memory is limited as well."""
    path = tmp_path_factory.mktemp("cases") / "cases.json"
    path.write_text(json.dumps({name: fields for name, (fields, _) in CASES.items()}))
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, tuple[str, int]] = json.loads(done.stdout)
    return result


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize("name", CASES)
def test_messages(found: dict[str, tuple[str, int]], name: str) -> None:
    reason, peak = found[name]
    assert reason == CASES[name][1]
    assert peak < ALLOWED


def test_the_largest_that_is_allowed() -> None:
    """A panorama of 64 megapixels; one row more is refused."""
    assert decode_image(png(16384, 4096, zeros(4096 * 49153)), cv2.IMREAD_UNCHANGED).size == 3 << 26
    with pytest.raises(SizeError, match=f"at most {MAX_PIXELS} pixels"):
        decode_image(png(MAX_SIDE, 4097, b""), cv2.IMREAD_UNCHANGED)


def test_scans_are_counted() -> None:
    """Each scan of a progressive JPEG passes over all pixels."""
    data = cv2.imencode(".jpg", PIXELS, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()
    start, end = data.index(b"\xff\xda"), data.rindex(b"\xff\xd9")
    scan = data[start : data.index(b"\xff\xc4", start)]
    assert decode_image(data, cv2.IMREAD_UNCHANGED).shape == PIXELS.shape
    with pytest.raises(SensorError, match=f"more than {MAX_SCANS} scans"):
        decode_image(data[:end] + scan * MAX_SCANS + data[end:], cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
    ("bits", "colour"),
    [*((b, 0) for b in (1, 2, 4, 8, 16)), *((b, 3) for b in (1, 2, 4, 8)),
     *((b, c) for b in (8, 16) for c in (2, 4, 6))],
)  # fmt: skip
def test_whole_pngs_are_not_taken_for_bombs(bits: int, colour: int) -> None:
    """Whatever they are packed with, and if they are all of one value."""
    if (bits < 8 and colour not in (0, 3)) or (bits == 16 and colour == 3):
        pytest.skip("there is no such PNG")
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = 37 * (1 + (53 * channels * bits + 7) // 8)
    palette = chunk(b"PLTE", bytes(range(3)) * 2) if colour == 3 else b""
    shape = chunk(b"IHDR", struct.pack(">IIBBBBB", 53, 37, bits, colour, 0, 0, 0))
    for level in (0, 9):
        packed = zlib.compress(bytes(rows), level)
        parts = [packed[k : k + 100] for k in range(0, len(packed), 100)]
        data = b"".join(chunk(b"IDAT", part) for part in parts) + chunk(b"IEND", b"")
        pixels = decode_image(HEAD + shape + palette + data, cv2.IMREAD_UNCHANGED)
        assert pixels.shape[:2] == (37, 53)


def test_texts_are_left_out_and_nothing_else() -> None:
    """Transparency is a chunk as well, and counts."""
    indices = zlib.compress(b"".join(b"\0" + bytes([k % 2] * 8) for k in range(4)))
    shape = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 4, 8, 3, 0, 0, 0))
    tables = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60])) + chunk(b"tRNS", bytes([7, 255]))
    pixels = [
        decode_image(HEAD + shape + text + tables + chunk(b"IDAT", indices) + text
                     + chunk(b"IEND", b""), cv2.IMREAD_UNCHANGED)
        for text in (b"", chunk(b"tEXt", b"a\0b"), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b")))
    ]  # fmt: skip
    assert pixels[0][0, 0].tolist() == [30, 20, 10, 7]
    assert all(np.array_equal(p, pixels[0]) for p in pixels)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", png(60000, 60000, b"")),
        ("a.jpg", jpeg(60000, 60000)),
        ("a.tif", tiff(60000, 60000)),
        ("a.tiff", tiff_of_floats(60000, 60000)),
        ("a.bmp", bmp(60000, 60000)),
    ],
)
def test_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: size is 60000x60000, expected sides"):
        read_image(path)


def test_a_tiff_that_pillow_does_not_know_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff_of_floats(8, 4))
    np.testing.assert_array_equal(read_image(path), np.ones((4, 8, 3), np.float32))


def test_a_picture_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""
    ran = tmp_path / "ran"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {ran}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 4\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="expected a whole PNG, JPEG or TIFF image"):
        read_image(path)
    assert not ran.exists()


def test_what_a_message_says_stays_one_short_line() -> None:
    """Texts that it brings along neither fill logs and diagnostics nor forge lines in them."""
    from mmsam_ros.ros.diagnostics import Monitor
    from mmsam_ros.ros.notes import Notes
    from mmsam_ros.ros.sets import Outcome
    from mmsam_ros.sensors.limits import MAX_TEXT

    logged: list[str] = []
    monitor = Monitor(logged.append)
    camera = SimpleNamespace(stamp_ns=0, arrival=0.0)
    for k in range(50):
        text = f"encoding is {k}\n[FATAL] \x1b[31mred {'x' * 10**6}"
        monitor.settled(SimpleNamespace(camera=camera), Outcome("refused", "encoding", text))  # type: ignore[arg-type]
    assert len(logged) == 1, "the same thing, however it is worded"
    assert logged[0].isprintable()
    assert len(logged[0]) < MAX_TEXT + 100
    noted: list[str] = []
    notes = Notes(log_warning=noted.append)
    for k in range(MAX_NOTES + 50):
        notes.warning(f"{k}")
    assert len(noted) == MAX_NOTES
