# SPDX-License-Identifier: Apache-2.0
"""The last messages, frames and masks, kept for a bug report and written as a folder."""

import array
import io
import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from mmsam_ros.inference import Result
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.sets import Entry, Outcome, SyncedSet
from mmsam_ros.sensors import Frame, LidarPoints

MEMORY = 512 * 2**20  # bytes that the sets of a recorder may hold together
FILES = {  # of a set, by what they hold
    "view": "camera.jpg", "labels": "labels.png", "confidence": "confidence.png",
    "outcome": "outcome.json",
}  # fmt: skip

# libyaml's where it is there: Python that runs beside the network waits for the interpreter's lock
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A set with what became of it; without `frame` and `result`, it was refused."""

    synced: SyncedSet
    outcome: Outcome
    ended: float  # on the steady clock, seconds
    frame: Frame | None
    result: Result | None
    size: int  # bytes


class Recorder:
    """Keeps the sets of the last `snapshot.seconds`, the last one in any case, within `MEMORY`.

    Thread-safe. Messages are kept by reference, not copied. Sets that were dropped are left out.
    `parameters` are read at every use.
    """

    def __init__(
        self, parameters: Mapping[str, Any], infos: CameraInfos,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._parameters, self._infos, self._clock = parameters, infos, clock
        self._lock = threading.Lock()
        self._kept: deque[_Kept] = deque()
        self._made: tuple[SyncedSet, Frame, Result] | None = None  # until it is settled

    def keep(self, synced: SyncedSet, frame: Frame, result: Result) -> None:
        """Take note of what was made of a set; `settled` is called for it next."""
        with self._lock:
            self._made = synced, frame, result

    def settled(self, synced: SyncedSet, outcome: Outcome) -> None:
        """Keep a set that was used or refused."""
        if outcome.end == "dropped":
            return
        with self._lock:
            frame, result = None, None
            if self._made is not None and self._made[0] is synced:
                (_, frame, result), self._made = self._made, None
            size = sum(_sizes(synced, frame, result))
            self._kept.append(_Kept(synced, outcome, self._clock(), frame, result, size))
            self._forget()

    def _forget(self) -> None:
        begin = self._clock() - self._parameters["snapshot.seconds"]
        while len(self._kept) > 1 and (
            self._kept[0].ended < begin or sum(kept.size for kept in self._kept) > MEMORY
        ):
            self._kept.popleft()

    def write(self, diagnostics: Any) -> Path:
        """Write what is kept now; `diagnostics` are plain values. Returns the folder, which is
        complete or absent; RosError says why it is absent. What is kept stays.
        """
        with self._lock:
            self._forget()
            sets = list(self._kept)
        top = snapshot_folder(self._parameters)
        now = datetime.now(UTC)
        target = top / now.strftime("%Y-%m-%dT%H-%M-%S.%fZ")
        part = target.with_name(f".{target.name}.part")
        try:
            part.mkdir(parents=True)
            for number, kept in enumerate(sets):
                folder = part / f"{number:04d}"
                folder.mkdir()
                self._write_set(folder, kept)
            given = {k: v for k, v in self._parameters.items() if v is not None}
            values = {"/**/mmsam": {"ros__parameters": given}}
            text = yaml.dump(values, Dumper=_DUMPER, sort_keys=False)
            (part / "parameters.yaml").write_text(text)
            infos = {name: plain(info) for name, info in self._infos.known().items()}
            _write_json(part / "camera_info.json", infos)
            _write_json(part / "diagnostics.json", diagnostics)
            part.rename(target)
        except (OSError, cv2.error) as error:
            raise RosError(f"snapshot: {target} cannot be written: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return target

    def _write_set(self, folder: Path, kept: _Kept) -> None:
        entries = (kept.synced.camera, *kept.synced.auxiliaries.values())
        for entry in entries:
            _write_message(folder / f"{entry.stream}.npz", entry, kept.frame)
        if kept.frame is not None:  # to look at: camera.npz has the message as it came
            _write_image(folder / FILES["view"], kept.frame.rgb[..., ::-1])
        if kept.result is not None:
            _write_image(folder / FILES["labels"], kept.result.labels)
            if kept.result.confidence is not None:
                _write_image(folder / FILES["confidence"], kept.result.confidence)
        outcome = kept.outcome
        _write_json(
            folder / FILES["outcome"],
            {
                "end": outcome.end, "reason": outcome.reason, "text": outcome.text,
                "refused": {s: [r.reason, r.text] for s, r in outcome.sensors.items()},
                "fused": outcome.fused, "held": sorted(kept.synced.held),
                "milliseconds": dict(outcome.timings),
                "stamps_ns": {entry.stream: entry.stamp_ns for entry in entries},
                "seconds_ago": round(self._clock() - kept.ended, 3),
            },
        )  # fmt: skip


def snapshot_folder(parameters: Mapping[str, Any]) -> Path:
    """Where snapshots are written."""
    if parameters["snapshot.folder"]:
        return Path(os.path.expanduser(parameters["snapshot.folder"])).absolute()
    home = os.environ.get("ROS_HOME") or "~/.ros"
    return Path(os.path.expanduser(home)) / "mmsam_snapshots"


def plain(value: Any) -> Any:
    """A message, or a value in one, as JSON types, without `data`."""
    if hasattr(value, "get_fields_and_field_types"):
        names = [name for name in value.get_fields_and_field_types() if name != "data"]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, SimpleNamespace):  # a CameraInfo by parameters
        return {name: plain(inner) for name, inner in vars(value).items()}
    if isinstance(value, (list, tuple, array.array, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):  # the level of a DiagnosticStatus
        return int.from_bytes(value, "little")
    return value.item() if isinstance(value, np.generic) else value


def _sizes(synced: SyncedSet, frame: Frame | None, result: Result | None) -> Iterator[int]:
    """Bytes that a set holds, what its parts share counted more than once."""
    for entry in (synced.camera, *synced.auxiliaries.values()):
        yield len(entry.message.data)
        decoded = entry.decoded if isinstance(entry.decoded, tuple) else (entry.decoded,)
        yield sum(part.nbytes for part in decoded if isinstance(part, np.ndarray))
        points = frame and frame.sensors.get(entry.stream)
        if isinstance(points, LidarPoints) and all(points.xyz is not part for part in decoded):
            yield points.xyz.nbytes  # moved by lidar.frame or lidar.motion
    if frame is not None:
        yield frame.rgb.nbytes
    if result is not None:
        yield 2 * result.labels.nbytes
        yield 0 if result.probabilities is None else result.probabilities.nbytes


def _write_message(path: Path, entry: Entry, frame: Frame | None) -> None:
    """All of a message as it came (`data`, and the rest as JSON), and what it was decoded to."""
    arrays: dict[str, NDArray[Any]] = {
        "data": np.frombuffer(entry.message.data, np.uint8),
        "message": np.array(json.dumps(plain(entry.message))),
    }
    sensor = None if frame is None else frame.sensors.get(entry.stream)
    if isinstance(sensor, LidarPoints):
        arrays |= {"xyz": sensor.xyz, "intensity": sensor.intensity}
        arrays["T_camera_lidar"] = sensor.T_camera_lidar
    elif sensor is not None:
        arrays["pixels"] = sensor.data
    packed = io.BytesIO()  # of a full disk numpy's own file would be closed again, and say so
    np.savez(packed, **arrays)  # type: ignore[arg-type]
    path.write_bytes(packed.getvalue())


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n")
