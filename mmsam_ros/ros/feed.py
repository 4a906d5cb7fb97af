# SPDX-License-Identifier: Apache-2.0
"""A recording through the node's synchroniser, at the times of its messages. Needs no ROS."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mmsam_ros.ros.bags import recorded_transforms
from mmsam_ros.ros.calibration import CAMERAS, CameraInfos, nanoseconds
from mmsam_ros.ros.candidates import info_candidates, sensor_candidates
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.intake import Intake
from mmsam_ros.ros.interface import COMPRESSED, IMAGE, INPUTS, Topic
from mmsam_ros.ros.motion import CloudMotion
from mmsam_ros.ros.parameters import Parameters, make_synchroniser
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.sets import SyncedSet
from mmsam_ros.ros.storage import Connection
from mmsam_ros.ros.transforms import RecordedTransforms
from mmsam_ros.sensors import CAMERA
from mmsam_ros.weights import Spec

_TF = "tf2_msgs/msg/TFMessage"

# takes (connection, receive time, CDR) of every message
Copy = Callable[[Connection, int, bytes], Any]


@dataclass(frozen=True)
class Inputs:
    """The connections of a recording that the node would read."""

    streams: Mapping[str, Connection]  # by sensor, the camera among them
    infos: Mapping[str, Connection]  # CameraInfo by camera
    twist: Connection | None  # of the vehicle, with lidar.motion twist
    lacking: Mapping[str, list[str]]  # topics looked for, by sensor or "<camera>_info"


def find_inputs(
    reader: Recording, parameters: Parameters, spec: Spec, resolve: Callable[[str], str]
) -> Inputs:
    """The connections of the topics that the node would read, as it chooses them."""
    there = {(c.topic, c.msgtype): c for c in reader.connections
             if c.msgcount and c.id not in reader.unreadable}  # fmt: skip
    streams, infos = {}, {}
    lacking: dict[str, list[Topic]] = {}
    for sensor in (CAMERA, *spec.sensors):
        candidates = sensor_candidates(sensor, parameters, spec, resolve)
        found = [there[k] for t in candidates if (k := (resolve(t.name), t.type)) in there]
        if found:
            streams[sensor] = found[0]
        else:
            lacking[sensor] = candidates
    fixed = {n: True for n in (CAMERA, "thermal") if parameters[f"{n}.info.width"]}
    for name, topic in info_candidates(spec.sensors, fixed).items():
        if connection := there.get((resolve(topic.name), topic.type)):
            infos[name] = connection
        else:
            lacking[f"{name}_info"] = [topic]
    twist = next(topic for topic in INPUTS if topic.name == "vehicle/twist")
    found_twist = there.get((resolve(twist.name), twist.type))
    if parameters["lidar.motion"] != "twist":
        found_twist = None
    elif found_twist is None:
        lacking["twist"] = [twist]
    names = {name: [resolve(topic.name) for topic in topics] for name, topics in lacking.items()}
    return Inputs(streams, infos, found_twist, names)


class Feed:
    """Gives the synchronised sets of a recording, in the node's order.

    Arrival is the receive time that was recorded; nothing depends on the machine. CameraInfo and
    static transforms are known from the beginning, though they may have been recorded later.
    RosError if there is no camera image.
    """

    def __init__(
        self, reader: Recording, parameters: Parameters, spec: Spec, resolve: Callable[[str], str]
    ) -> None:
        if parameters["sync_backend"] != "native":
            raise RosError("parameter sync_backend: found 'message_filters', which needs a node; "
                           "expected 'native' for a recording")  # fmt: skip
        self.reader = reader
        self.inputs = find_inputs(reader, parameters, spec, resolve)
        if CAMERA in self.inputs.lacking:
            raise RosError(self._explain_lack())
        self.sync = make_synchroniser(parameters, spec.sensors)
        for sensor in spec.sensors:
            self.sync.expect(sensor, sensor in self.inputs.streams)
        static, changed = recorded_transforms(reader, "tf_static")
        self.transforms = RecordedTransforms(static)
        self.changed_static = sorted(changed)
        self.broken: Counter[str] = Counter()  # messages that cannot be read, by topic
        self.refusals: dict[str, str] = {}  # of messages before matching: text by kind
        self._intake = Intake()

    @property
    def camera(self) -> Connection:
        """The connection of the camera images."""
        return self.inputs.streams[CAMERA]

    def sets(
        self, infos: CameraInfos, copy: Copy | None = None, motion: CloudMotion | None = None
    ) -> Iterator[SyncedSet]:
        """The sets; `infos` and `motion` are kept up to date. `copy` sees every message first."""
        for name, connection in self.inputs.infos.items():
            # the first one counts, unless those of several cameras are on the topic
            for _, message in reversed([*islice(self._decoded([connection]), CAMERAS)]):
                infos.update(name, message)
        self.broken.clear()  # they are counted again below
        streams = {c.id: stream for stream, c in self.inputs.streams.items()}
        cameras = {c.id: name for name, c in self.inputs.infos.items()}
        moving = {c.id for c in self.reader.connections
                  if c.msgtype == _TF and c.topic.split("/")[-1] == "tf"}  # fmt: skip
        twist = self.inputs.twist.id if self.inputs.twist and motion else None
        used = {*streams, *cameras, *moving, twist}
        wanted = [c for c in self.reader.connections if copy or c.id in used]
        begin = now = self.reader.start_time
        for connection, now, data in self.reader.messages(wanted):
            if copy:
                copy(connection, now, data)
            number = connection.id
            if number not in used or (message := self._decode(connection, data)) is None:
                continue
            if number in moving:
                self.transforms.add(message)
            elif motion and number == twist:
                motion.update(message)
            elif number in cameras:
                infos.update(cameras[number], message)
            else:
                yield from self._store(streams[number], message, (now - begin) / 1e9)
        yield from self.sync.flush((now - begin) / 1e9)

    def received(self, synced: SyncedSet) -> int:
        """When the camera image of a set was received (ns)."""
        return self.reader.start_time + round(synced.camera.arrival * 1e9)

    def _store(self, stream: str, message: Any, seconds: float) -> list[SyncedSet]:
        stamp = nanoseconds(message.header.stamp)
        refusal = self._intake.refusal(stream, stamp, message.header.frame_id, seconds)
        if refusal is None:
            return self.sync.add(stream, stamp, message, seconds)
        self.sync.refuse(stream, stamp, refusal.reason)
        self.refusals.setdefault(f"{stream}: {refusal.reason}", refusal.text)
        return []

    def _decode(self, connection: Connection, data: bytes) -> Any:
        try:
            return self.reader.deserialize(data, connection.msgtype)
        except RosError:
            self.broken[connection.topic] += 1
            return None

    def _decoded(self, connections: list[Connection]) -> Iterator[tuple[int, Any]]:
        for connection, when, data in self.reader.messages(connections):
            if (message := self._decode(connection, data)) is not None:
                yield when, message

    def _explain_lack(self) -> str:
        names = " or ".join(self.inputs.lacking[CAMERA])
        lack = f"{self.reader.path}: no camera image on {names}"
        images = sorted(
            c.topic for c in self.reader.connections
            if c.msgtype in (IMAGE, COMPRESSED) and c.msgcount
        )  # fmt: skip
        if not images:
            return f"{lack}, and no image on any other topic: nothing can be labelled"
        return (
            f"{lack}; found images on {', '.join(images)}: name one with -r {CAMERA}/image:=TOPIC "
            "(a compressed one without /compressed); `mmsam bag check` lists what fits"
        )
