# SPDX-License-Identifier: Apache-2.0
"""`mmsam view`: images, clouds and masks of a recording or a data set, in Rerun."""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsam_ros._util import atomic_path
from mmsam_ros.cli.arguments import CliError
from mmsam_ros.cli.output import progress
from mmsam_ros.data import SPLITS
from mmsam_ros.sensors import AUXILIARY_SENSORS, NO_LABEL, ClassInfo, percentiles

_MASK, _CERTAIN = "semantic", "confidence"  # last words of topics
_NO_CLASSES = (ValueError, LookupError, TypeError, AttributeError, RecursionError)  # another's
_META = "meta.json"  # of a data set in the folder layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show a recording, labelled by `mmsam label-bag` or not, or a data set in the folder "
        "layout: images, clouds, masks with the names and colours of the classes, confidence, all "
        "by time. Needs Rerun: pip install rerun-sdk."
    )
    option = parser.add_argument
    option("source", type=Path, metavar="BAG|FOLDER", help="recording, or data set")
    option("--split", choices=SPLITS, default="test", help="frames of a data set")
    option("--save", type=Path, metavar="FILE.rrd", help="write a file instead of opening a window")


def run(args: argparse.Namespace) -> None:
    if not args.source.exists():
        raise CliError(f"{args.source}: no such file or folder")
    rerun = load_rerun()
    stream = rerun.RecordingStream("mmsam", recording_id=args.source.resolve().name)
    show = _show_folder if (args.source / _META).is_file() else _show_bag
    if args.save is None:
        stream.spawn()
        show(_Viewer(rerun, stream), args)
        return
    with atomic_path(args.save) as part:
        stream.save(part)
        count = show(_Viewer(rerun, stream), args)
        stream.flush()
        stream.disconnect()  # finishes the file
    print(f"{args.save}: {count} entries; open it with `rerun {args.save}`")


def load_rerun() -> Any:
    """Rerun's module; CliError says how to install it."""
    try:
        return importlib.import_module("rerun")
    except ImportError as error:
        need = "view needs Rerun: pip install rerun-sdk"
        raise CliError(f"{need} ({error})") from error


class _Viewer:
    """Logs to a stream of Rerun; counts what it has logged."""

    def __init__(self, rerun: Any, stream: Any) -> None:
        self._rerun, self._stream, self.count = rerun, stream, 0

    def classes(self, classes: Sequence[ClassInfo]) -> None:
        """Names and colours of ids, for everything."""
        table = [(c.id, c.name, c.rgb) for c in classes] + [(NO_LABEL, "no label", (0, 0, 0))]
        self._stream.log("/", self._rerun.AnnotationContext(table), static=True)

    def at(self, **times: Any) -> None:
        """Set the time of what follows: for each timeline nanoseconds, or a frame's number."""
        for name, value in times.items():
            if name == "frame":
                self._stream.set_time(name, sequence=value)
            else:
                self._stream.set_time(name, timestamp=np.datetime64(value, "ns"))

    def image(self, path: str, pixels: NDArray[Any]) -> None:
        """rgb (H, W, 3) uint8, or (H, W) of any unit, which is stretched to its own range."""
        self._log(path, self._rerun.Image(pixels if pixels.ndim == 3 else _stretched(pixels)))

    def mask(self, path: str, labels: NDArray[np.uint8]) -> None:
        """Class ids (H, W)."""
        self._log(path, self._rerun.SegmentationImage(labels))

    def points(
        self, path: str, xyz: NDArray[Any], values: NDArray[Any], *, labels: bool = False
    ) -> None:
        """A cloud (N, 3), coloured by its values or, where they are class ids, by class."""
        there = np.isfinite(xyz).all(axis=1)
        xyz, values = xyz[there], values[there]
        if labels:
            self._log(path, self._rerun.Points3D(xyz, class_ids=values.astype(np.uint16)))
            return
        grey = _stretched(values[:, None])[:, 0]
        self._log(path, self._rerun.Points3D(xyz, colors=np.repeat(grey[:, None], 3, axis=1)))

    def _log(self, path: str, entity: Any) -> None:
        self._stream.log(path, entity)
        self.count += 1


def _stretched(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values scaled to 0..255 between the 1st and 99th percentile; 0 where none was measured."""
    values = np.asarray(values, np.float32)
    there = np.isfinite(values)  # an infinite distance or temperature is no measurement either
    low, high = percentiles(values[there], (1, 99)) if there.any() else (0.0, 1.0)
    scaled = np.where(there, values - low, 0) / max(high - low, 1e-9)
    return np.asarray(255 * scaled.clip(0, 1), np.uint8)


def _show_folder(viewer: _Viewer, args: argparse.Namespace) -> int:
    from mmsam_ros.data.folder_writer import Meta
    from mmsam_ros.data.open import open_frames
    from mmsam_ros.sensors import LidarPoints

    encodings = Meta.read(args.source).encodings
    sensors = [sensor for sensor in AUXILIARY_SENSORS if sensor in encodings]
    frames = open_frames("folder", args.source, args.split, sensors)
    viewer.classes(frames.classes)
    with progress("reading") as advance:
        for number in range(len(frames)):
            item = frames[number]
            viewer.at(frame=number)
            viewer.image("camera/image", item.frame.rgb)
            if item.label is not None:
                viewer.mask("camera/label", item.label)
            for sensor, data in item.frame.sensors.items():
                if isinstance(data, LidarPoints):
                    viewer.points(f"{sensor}/points", data.xyz, data.intensity)
                else:
                    viewer.image(f"{sensor}/image", _drawn(data.data))
            advance(number + 1, len(frames))
    return viewer.count


def _drawn(data: NDArray[Any]) -> NDArray[Any]:
    """A raster as a picture: colours as they are, other channels by the first one."""
    if data.ndim == 3 and (data.dtype != np.uint8 or data.shape[2] != 3):
        return np.asarray(data[..., 0])
    return data


def _show_bag(viewer: _Viewer, args: argparse.Namespace) -> int:
    from mmsam_ros.ros.calibration import nanoseconds
    from mmsam_ros.ros.errors import RosError
    from mmsam_ros.ros.recording import Recording
    from mmsam_ros.ros.survey import KINDS

    notes: set[str] = set()
    with Recording(args.source) as reader:
        viewer.classes(_recorded_classes(reader))
        chosen = [c for c in reader.connections
                  if c.msgtype in KINDS and not c.msgtype.endswith("CameraInfo") and c.msgcount
                  and c.id not in reader.unreadable]  # fmt: skip
        if not chosen:
            raise CliError(f"{args.source}: no image and no cloud is recorded")
        total = sum(c.msgcount for c in chosen)
        with progress("reading") as advance:
            for done, (connection, time, data) in enumerate(reader.messages(chosen), 1):
                try:
                    message: Any = reader.deserialize(data, connection.msgtype)
                    viewer.at(stamp=nanoseconds(message.header.stamp), received=time)
                    _show_message(viewer, connection.topic, message)
                except RosError as error:
                    notes.add(f"{connection.topic}: left out: {error}")
                advance(done, total)
        notes.update(reader.faults)
    for note in sorted(notes):
        print(f"warning: {note}", file=sys.stderr)
    return viewer.count


def _show_message(viewer: _Viewer, topic: str, message: Any) -> None:
    """An image, mask or cloud under its topic's name; RosError if it cannot be read."""
    from mmsam_ros.ros.clouds import cloud_points
    from mmsam_ros.ros.messages import camera_rgb, sent_encoding, thermal_counts

    path, name = topic.strip("/"), topic.removesuffix("/compressed").rpartition("/")[2]
    if hasattr(message, "point_step"):
        labelled = any(str(f.name) == "label" for f in message.fields)
        field = "label" if labelled else "auto"
        xyz, values = cloud_points(message, needs_intensity=labelled, intensity_field=field)
        viewer.points(path, xyz, values, labels=labelled)
    elif name in (_MASK, _CERTAIN):
        show: Callable[..., None] = viewer.mask if name == _MASK else viewer.image
        show(path, thermal_counts(message))
    elif sent_encoding(message) in ("mono16", "16UC1", "32FC1"):
        viewer.image(path, thermal_counts(message))  # or depth
    else:
        viewer.image(path, camera_rgb(message))


def _recorded_classes(reader: Any) -> Sequence[ClassInfo]:
    """The classes of the first readable message on `*/classes`, else the synthetic ones."""
    from mmsam_ros.sensors import SYNTHETIC_CLASSES

    found = [c for c in reader.connections if c.topic.endswith("/classes") and c.msgcount]
    for connection, _, data in reader.messages(found) if found else ():
        try:
            table = json.loads(reader.deserialize(data, connection.msgtype).data)["classes"]
            return [ClassInfo(c["id"], c["name"], tuple(c["rgb"])) for c in table]
        except _NO_CLASSES:
            continue
    return SYNTHETIC_CLASSES
