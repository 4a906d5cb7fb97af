# SPDX-License-Identifier: Apache-2.0
"""Mutated messages into the node's path from message to network input, in this process.

One to four changes are drawn (sizes, steps, encodings, bytes, fields of clouds, values of
calibrations, frames, stamps, within what the types can hold) and made to a good message of every
kind. Each must be used or be refused with a reason; every other exception is a bug. Now and then
the network runs.

    python benchmarks/fuzz_messages.py --messages 100000
"""

import argparse
import array
import struct
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import results
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from mmsam_ros._util import MmsamError
from mmsam_ros.inference import Segmenter
from mmsam_ros.ros import messages
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.frames import FrameBuilder
from mmsam_ros.ros.sets import CAMERA, Entry, SyncedSet
from mmsam_ros.sensors import Registration, pose_matrix
from mmsam_ros.sensors.pixels import PACKINGS
from mmsam_ros.weights import default_weights

HEIGHT, WIDTH = 48, 64
BATCH = 50  # draws of one seed
PREPARE = 4  # every so many messages of a base become inputs of the network
SLOW = 60.0  # seconds that no message may take, on a busy machine
EDGES = (0, 1, 2, 3, 127, 128, 255, 256, 4095, 4096, 4097, 16384, 16385, 65535, 65536, 2**31 - 1,
         2**31, 2**32 - 2, 2**32 - 1)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, 3.5e38, float("inf"), float("-inf"),
          float("nan"))  # fmt: skip
RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
COUNTS = RNG.integers(20000, 33000, (HEIGHT, WIDTH), np.uint16)
POINTS = RNG.uniform((2, -8, -2, 0), (40, 8, 3, 1), (400, 4)).astype(np.float32)


def header(frame: str) -> Any:
    return SimpleNamespace(frame_id=frame, stamp=SimpleNamespace(sec=1, nanosec=0))


def image(encoding: str, data: bytes, frame: str = "camera") -> Any:
    packing = PACKINGS[encoding]
    step = WIDTH * packing.channels * np.dtype(packing.kind).itemsize
    return SimpleNamespace(
        header=header(frame), height=HEIGHT, width=WIDTH, step=step, encoding=encoding,
        is_bigendian=0, data=array.array("B", data),
    )  # fmt: skip


def of_encoding(encoding: str) -> Any:
    packing = PACKINGS[encoding]
    count = HEIGHT * WIDTH * packing.channels * (3 if packing.planes else 2) // 2
    return image(encoding, RNG.integers(0, 256, count * np.dtype(packing.kind).itemsize,
                                        np.uint8).tobytes())  # fmt: skip


def packed(suffix: str, pixels: Any, form: str, *options: int, before: bytes = b"") -> Any:
    data = before + cv2.imencode(suffix, pixels, options)[1].tobytes()
    return SimpleNamespace(header=header("camera"), format=form, data=array.array("B", data))


def cloud() -> Any:
    fields = [
        SimpleNamespace(name=name, offset=4 * k, datatype=7, count=1)
        for k, name in enumerate(("x", "y", "z", "intensity"))
    ]
    return SimpleNamespace(
        header=header("lidar"), height=1, width=len(POINTS), fields=fields, is_bigendian=False,
        point_step=16, row_step=16 * len(POINTS), data=array.array("B", POINTS.tobytes()),
        is_dense=True,
    )  # fmt: skip


def calibration() -> Any:
    f, x, y = 0.7 * WIDTH, WIDTH / 2, HEIGHT / 2
    return SimpleNamespace(
        header=header("camera"), width=WIDTH, height=HEIGHT, distortion_model="plumb_bob",
        d=[0.1, 0.0, 0.0, 0.0, 0.0], k=[f, 0.0, x, 0.0, f, y, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[f, 0.0, x, 0.0, 0.0, f, y, 0.0, 0.0, 0.0, 1.0, 0.0], binning_x=0, binning_y=0,
        roi=SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False),
    )  # fmt: skip


# (stream, name) -> a good message
BASES: dict[tuple[str, str], Callable[[], Any]] = {
    **{(CAMERA, e): partial(of_encoding, e) for e in messages.CAMERA_PIXELS},
    **{("thermal", e): partial(of_encoding, e) for e in messages.THERMAL_PIXELS},
    **{("raster", e): partial(of_encoding, e) for e in messages.RASTER_PIXELS},
    **{("depth", e): partial(of_encoding, e) for e in messages.DEPTH_PIXELS},
    ("thermal", "counts"): lambda: image("mono16", COUNTS.tobytes(), "thermal"),
    (CAMERA, "jpeg"): lambda: packed(".jpg", RGB, "rgb8; jpeg compressed bgr8"),
    (CAMERA, "progressive"): lambda: packed(
        ".jpg", RGB, "jpeg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    (CAMERA, "png"): lambda: packed(".png", RGB, "png"),
    (CAMERA, "mosaic"): lambda: packed(".png", RGB[..., 0], "bayer_rggb8; png compressed "),
    ("thermal", "png"): lambda: packed(".png", COUNTS, "mono16; png compressed "),
    ("thermal", "jpeg"): lambda: packed(".jpg", RGB[..., 0], "mono8; jpeg compressed "),
    ("raster", "png"): lambda: packed(".png", RGB, "png"),
    ("depth", "compressedDepth"): lambda: packed(
        ".png", COUNTS, "16UC1; compressedDepth png", before=bytes(12)),
    ("depth", "inverse"): lambda: packed(
        ".png", COUNTS, "32FC1; compressedDepth png", before=struct.pack("<iff", 0, 100.0, 0.5)),
    ("lidar", "cloud"): cloud,
    ("info", "calibration"): calibration,
}  # fmt: skip

NUMBER = st.sampled_from(EDGES) | st.integers(0, 300) | st.integers(0, 2**32 - 1)
TEXT = st.text(max_size=12) | st.sampled_from(
    [*PACKINGS, "", "jpeg", "png", "16UC1; compressedDepth png", "x", "plumb_bob", "equidistant",
     "camera", "lidar"])  # fmt: skip
REAL = st.sampled_from(FLOATS) | st.floats()
OPERATION = ("number", "number", "text", "bytes", "cut", "grow", "splice", "floats", "fields",
             "list", "stamp", "sizes", "big", "checksum")  # fmt: skip
MUTATION = st.tuples(st.sampled_from(OPERATION), NUMBER, NUMBER, REAL, TEXT)
CHANGES = st.lists(MUTATION, min_size=1, max_size=4)


def mutated(base: tuple[str, str], changes: list[tuple[str, int, int, float, str]]) -> Any:
    """The message of a base after all changes."""
    message = BASES[base]()
    for name, a, b, real, text in changes:
        _OPERATIONS[name](message, a, b, real, text)
    return message


def _owners(message: Any) -> Iterator[Any]:
    """The parts whose values are numbers or texts."""
    yield message
    yield message.header
    yield message.header.stamp
    yield from getattr(message, "fields", ())
    if hasattr(message, "roi"):
        yield message.roi


def _set(message: Any, kind: type, a: int, value: Any) -> None:
    places = [(o, n) for o in _owners(message) for n, v in vars(o).items() if type(v) is kind]
    if places:
        owner, name = places[a % len(places)]
        setattr(owner, name, value)


def _number(message: Any, a: int, b: int, real: float, text: str) -> None:
    _set(message, int, a, b)


def _text(message: Any, a: int, b: int, real: float, text: str) -> None:
    _set(message, str, a, text)


def _sizes(message: Any, a: int, b: int, real: float, text: str) -> None:
    """Width and height that do not change how many pixels there are, or both of them huge."""
    if hasattr(message, "width"):
        message.width, message.height = (b, a) if b % 2 else (message.height, message.width)


def _bytes(message: Any, a: int, b: int, real: float, text: str) -> None:
    if getattr(message, "data", None):
        start = a % len(message.data)
        changed = message.data[start : start + 1 + b % 8]
        message.data[start : start + len(changed)] = array.array(
            "B", bytes((v + 1 + b) % 256 for v in changed))  # fmt: skip


def _cut(message: Any, a: int, b: int, real: float, text: str) -> None:
    if hasattr(message, "data"):
        message.data = message.data[: a % (len(message.data) + 1)]


def _grow(message: Any, a: int, b: int, real: float, text: str) -> None:
    if hasattr(message, "data"):
        message.data.frombytes(bytes([b % 256]) * (a % 3000))


def _splice(message: Any, a: int, b: int, real: float, text: str) -> None:
    """A part is lost, or comes twice."""
    if getattr(message, "data", None):
        first, second = sorted((a % len(message.data), b % len(message.data)))
        start, end = (first, second) if a % 2 else (second, first)
        message.data = message.data[:start] + message.data[end:]


def _floats(message: Any, a: int, b: int, real: float, text: str) -> None:
    """A value among points, or all of one column."""
    data = getattr(message, "data", None)
    if data and len(data) % 16 == 0:
        values = np.frombuffer(data, np.float32).reshape(-1, 4).copy()
        rows = slice(None) if b % 2 else a % len(values)
        with np.errstate(over="ignore"):
            values[rows, b % 4] = np.float32(real)
        message.data = array.array("B", values.tobytes())


def _fields(message: Any, a: int, b: int, real: float, text: str) -> None:
    fields = getattr(message, "fields", None)
    if fields:
        place, other = a % len(fields), b % len(fields)
        if a % 3 == 0:
            del fields[place]
        elif a % 3 == 1:
            fields.insert(place, SimpleNamespace(**vars(fields[other])))
        else:
            fields[place], fields[other] = fields[other], fields[place]


def _list(message: Any, a: int, b: int, real: float, text: str) -> None:
    """A value of a calibration; of its distortion the number as well."""
    if hasattr(message, "distortion_model"):
        values = (message.k, message.p, message.r, message.d)[a % 4]
        if values is message.d and b % 3 == 0:
            message.d = [real] * (b % 20)
        elif values:
            values[b % len(values)] = real


def _stamp(message: Any, a: int, b: int, real: float, text: str) -> None:
    message.header.stamp = SimpleNamespace(sec=a - 2**31, nanosec=b)


def _big(message: Any, a: int, b: int, real: float, text: str) -> None:
    if hasattr(message, "is_bigendian"):
        message.is_bigendian = b % 256


def _checksum(message: Any, a: int, b: int, real: float, text: str) -> None:
    """Right checksums for a PNG that other changes have spoilt: its content is looked at then."""
    data = bytes(getattr(message, "data", b""))
    start = data.find(b"\x89PNG")
    position = start + 8
    if start < 0:
        return
    while position + 12 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + size
        checksum = struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        data = data[:end] + checksum + data[end + 4 :]
        position = end + 4
    message.data = array.array("B", data)


_OPERATIONS: dict[str, Callable[..., None]] = {
    name: globals()[f"_{name}"] for name in set(OPERATION)
}


class Poses:
    """The LiDAR looks where the camera looks."""

    def lookup(self, sensor: str, camera_frame: str, sensor_frame: str, stamp: Any) -> Any:
        return pose_matrix([0.0, 0.2, 0.0], [0.5, -0.5, 0.5, 0.5])


@cache
def segmenter() -> Segmenter:
    return Segmenter.load(default_weights(), "cpu")


@dataclass
class Tally:
    """How messages ended; every so many of each base go through the network."""

    infer_every: int = 500
    taken: Counter[tuple[str, str]] = field(default_factory=Counter)  # by base
    ends: Counter[str] = field(default_factory=Counter)  # by stream and reason, or `used`
    bugs: dict[str, str] = field(default_factory=dict)  # by place, the first message of each
    slowest: float = 0.0
    inferred: int = 0

    def take(self, base: tuple[str, str], changes: Any) -> None:
        """Run one message."""
        stream, began = base[0], time.perf_counter()
        number = self.taken[base]
        self.taken[base] += 1
        turn = number + list(BASES).index(base) * self.infer_every // len(BASES)
        infer = turn % self.infer_every == self.infer_every - 1
        try:
            message = mutated(base, changes)
            reason = self._run(stream, message, prepare=infer or number % PREPARE == 0, infer=infer)
        except MmsamError as error:
            reason = getattr(error, "reason", "invalid")
            if not str(error):
                self.bugs["a refusal without a text"] = f"{base} {changes}"
        except Exception:
            lines = traceback.format_exc().strip().splitlines()
            places = [line.strip() for line in lines if "mmsam_ros" in line]
            self.bugs.setdefault(f"{places[-1]}: {lines[-1]}", f"{base} {changes}")
            reason = "bug"
        self.ends[f"{stream}:{reason}"] += 1
        took = time.perf_counter() - began
        self.slowest = max(self.slowest, took)
        if took > SLOW:
            self.bugs.setdefault(f"takes {took:.1f} s", f"{base} {changes}")

    def _run(self, stream: str, message: Any, *, prepare: bool, infer: bool) -> str:
        """The reason of the stream's refusal, or "used"."""
        if stream == "raster":
            values = messages.raster_values(message)
            assert values.shape[2:] == (3,), values.shape
            return "used"
        if stream == "depth":
            assert messages.depth_values(message).ndim == 2
            return "used"
        good = {CAMERA: BASES[CAMERA, "rgb8"], "lidar": cloud, "info": calibration,
                "thermal": BASES["thermal", "counts"]}  # fmt: skip
        needed = {CAMERA: (), "thermal": (CAMERA,), "lidar": (CAMERA, "info"),
                  "info": (CAMERA, "lidar")}[stream]  # fmt: skip
        found = {name: good[name]() for name in needed} | {stream: message}
        infos = CameraInfos()
        if "info" in found:
            infos.update(CAMERA, found.pop("info"))
        poses: Any = Poses()
        builder = FrameBuilder(segmenter().spec, infos, poses, Registration())
        entries = {name: Entry(name, 0, m, 0) for name, m in found.items()}
        synced = SyncedSet(entries.pop(CAMERA), entries, frozenset())
        frame, refused = builder.build(synced)
        builder.frame_ids(synced)
        assert frame.rgb.dtype == np.uint8, "no picture"
        assert frame.rgb.shape[2:] == (3,), "no picture"
        if prepare:
            prepared = segmenter().prepare(frame)
            refused |= prepared.refused
        if infer:
            labels = segmenter().infer(prepared).labels
            assert labels.shape == frame.rgb.shape[:2], "a mask of another size"
            self.inferred += 1
        name = "lidar" if stream == "info" else stream
        return refused[name].reason if name in refused else "used"


def run(count: int, infer_every: int = 500) -> Tally:
    """At least so many messages, the same ones each time: in batches of the seeds 0, 1, ..."""
    tally, batch = Tally(infer_every), 0
    while tally.ends.total() < count:

        @seed(batch)
        @settings(
            max_examples=BATCH, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(CHANGES)
        def draw(changes: Any) -> None:
            for base in BASES:
                if tally.ends.total() < count:
                    tally.take(base, changes)

        draw()
        batch += 1
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Mutated messages, each of which is used or refused."
    )
    parser.add_argument("--messages", type=int, default=100_000, metavar="N", help="how many")
    count = parser.parse_args().messages
    segmenter()
    before, began = results.peak_gib(), time.monotonic()
    tally = run(count)
    streams: dict[str, dict[str, int]] = {}
    for key, number in sorted(tally.ends.items()):
        stream, _, reason = key.partition(":")
        streams.setdefault(stream, {})[reason] = number
    rows = [{"stream": stream, **ends} for stream, ends in streams.items()]
    rows += [{"bug": place, "message": text} for place, text in tally.bugs.items()]
    bars = [
        results.bar("messages", tally.ends.total(), "", count, lambda v, limit: v >= limit),
        results.bar("bugs", len(tally.bugs), "", 0, lambda v, limit: v <= limit),
        results.bar("slowest message", round(tally.slowest, 3), "s", SLOW, lambda v, b: v <= b),
        results.bar("growth of peak memory", round(results.peak_gib() - before, 2), "GiB", 0.5,
                    lambda v, limit: v <= limit),
        results.bar("masks made", tally.inferred, "", count // 1000, lambda v, b: v >= b),
    ]  # fmt: skip
    print(f"{time.monotonic() - began:.0f} s")
    results.write("fuzz_messages", rows, bars)


if __name__ == "__main__":
    main()
