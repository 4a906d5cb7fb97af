# SPDX-License-Identifier: Apache-2.0
"""What a recording could feed into the node, and what to set for it. Needs no ROS."""

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmsam_ros._util.findings import ERROR, OK, WARNING, Finding
from mmsam_ros.ros import messages
from mmsam_ros.ros.bags import THERMAL_NAMES, recorded_transforms, transform_chain
from mmsam_ros.ros.calibration import camera_doubts, camera_model
from mmsam_ros.ros.clouds import cloud_points
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.interface import CLOUD, INFO, INPUTS, LAUNCH_ARGUMENTS, PARAMETERS, ParameterRow
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.survey import TopicSurvey, nearest, survey
from mmsam_ros.sensors import CAMERA, DEPTH_METRES, LIDAR_GAIN, SensorError, made_of_points
from mmsam_ros.weights import Spec

_NO_INPUT = ("/mmsam/", "semantic", "label", "ground_truth", "mask", "overlay")  # in topic names
_NAMES = {"thermal": THERMAL_NAMES, "depth": ("depth", "disparity"), "event": ("event", "dvs")}
_OWN = {f"/{topic.name}": topic.name.partition("/")[0] for topic in INPUTS}
_MEASURED = ("mono16", "16UC1", "32FC1")  # encodings that colour cameras do not have
_ROWS: Mapping[str, ParameterRow] = {row.name: row for row in PARAMETERS}
_DEFAULTS: Mapping[str, Any] = {row.name: row.default for row in PARAMETERS}
_CLOSE = 0.02  # seconds of slop beyond the measured distance
_DRIFT = 0.02  # seconds of a clock against the other, over the recording


@dataclass
class BagCheck:
    """What `check_bag` found.

    Attributes:
        topics: The topics that were examined.
        streams: The topic that feeds each input, by the input's name (`camera/image`).
        others: Further topics that would fit an input.
        parameters: Parameters to set, by name.
        findings: Each has a level and a remedy.
    """

    bag: Path
    topics: dict[str, TopicSurvey]
    streams: dict[str, str] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def say(self, level: str, subject: str, text: str, remedy: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(level, subject, text, remedy))

    def suggest(self, name: str, value: Any) -> bool:
        """Add a parameter to set; False if the node would refuse this value."""
        try:
            _ROWS[name].check(value)
        except RosError:
            return False
        self.parameters[name] = value
        return True

    def commands(self, params_file: Path | None, weights: str) -> dict[str, str]:
        """Command lines: launch with the bag, node and replay separately, and without ROS."""
        bag = str(self.bag)
        # a compressed image is named without its ending
        named = {n: _base(t) for n, t in self.streams.items() if f"/{n}" != _base(t)}
        launch = ["ros2", "launch", "mmsam_ros", "segment.launch.py"]
        launch += [f"{LAUNCH_ARGUMENTS[n]}:={t}" for n, t in named.items()]
        plain = dict(self.parameters)
        registration = plain.pop("thermal.registration", None)
        launch += [f"registration:={registration}"] if registration else []
        launch += [f"weights:={weights}"] if weights else []
        launch += [f"calibration:={params_file}"] if plain and params_file else []
        replay = ["mmsam", "replay", bag]
        folder = self.bag.resolve()
        labelled = Path(f"{folder.stem}_labelled")
        if Path.cwd().is_relative_to(folder):  # not into the recording
            labelled = folder.with_name(labelled.name)
        label = ["mmsam", "label-bag", bag, str(labelled)]
        label += [word for n, t in named.items() for word in ("-r", f"{n}:={t}")]
        given = self.parameters | ({"weights": weights} if weights else {})
        label += [word for n, v in given.items() for word in ("-p", f"{n}:={v}")]
        return {
            "with the bag": shlex.join([*launch, f"bag:={bag}"]),
            "node alone": shlex.join(launch),
            "replay": shlex.join(replay),
            "without ROS": shlex.join(label),
        }


def check_bag(bag: Path, spec: Spec) -> BagCheck:
    """Read a recording once; RosError if nothing in it can be read."""
    with Recording(bag) as reader:
        found = BagCheck(bag, survey(reader))
        for sensor in (CAMERA, *spec.sensors):
            _choose(found, sensor, spec)
        for name in (CAMERA, "thermal"):
            if f"{name}/image" in found.streams:
                _choose_info(found, name)
        for name, topic in found.streams.items():
            found.findings += _of_topic(name, found.topics[topic])
        if "camera/image" in found.streams:
            _look_at_clocks(found, spec)
        _look_at_content(found, spec)
        _look_at_calibration(found, reader, spec)
        for text in reader.notes:
            found.say(OK, "file", text)
        for text in reader.faults:
            found.say(WARNING, "file", text)
        for connection in reader.connections:
            if why := reader.unreadable.get(connection.id):
                found.say(WARNING, connection.topic, f"cannot be read: {why}")
    return found


def _role(one: TopicSurvey) -> str:
    """The sensor that a topic belongs to, by type, name and encoding; empty if none."""
    name = one.topic.lower()
    if any(word in name for word in _NO_INPUT) or one.first is None or one.type == INFO:
        return ""
    if one.type == CLOUD:
        return "lidar"
    if sensor := _named(one):
        return sensor
    if not _measures(one):
        return CAMERA
    # as the depth of OAK cameras: oak/stereo/image_raw
    return "depth" if "stereo" in name else "thermal"


def _named(one: TopicSurvey) -> str:
    """The sensor that an image's topic names; empty if it names none."""
    words = (s for s, words in _NAMES.items() if any(word in one.topic.lower() for word in words))
    return _OWN.get(_base(one.topic), "") or next(words, "")


def _measures(one: TopicSurvey) -> bool:
    """Whether an image has an encoding of measured values, thermal or depth."""
    encoding = getattr(one.first, "encoding", getattr(one.first, "format", ""))
    return str(encoding).startswith(_MEASURED)


def _choose(found: BagCheck, sensor: str, spec: Spec) -> None:
    """The topic of a sensor, and which others fit."""
    fitting = [one for one in found.topics.values() if _role(one) == sensor]
    raw = f"{sensor}/image"
    if sensor == "lidar" and made_of_points(spec.encodings["lidar"]):
        raw = "lidar/points"
    # the node's own name, then the most messages, then raw images before compressed ones
    fitting.sort(
        key=lambda one: (
            _base(one.topic) != f"/{raw}", -one.count, one.topic != _base(one.topic), one.topic
        )
    )  # fmt: skip
    if not fitting:
        level = ERROR if sensor == CAMERA else WARNING
        what = "image" if sensor == CAMERA else "message"
        is_needed = "no mask can be made: record its topic, or give another recording"
        remedy = is_needed if sensor == CAMERA else "masks are made without it"
        found.say(level, sensor, f"no {what} of this sensor is recorded", remedy)
        return
    chosen, *others = fitting
    found.streams[raw] = chosen.topic
    if sensor == "thermal" and not _named(chosen):
        text = f"{chosen.topic} is taken for it by its encoding, its name does not say so"
        found.say(WARNING, sensor, text, "if it is depth or a grey camera, leave it out below")
    if others:
        found.others[raw] = [one.topic for one in others]


def _choose_info(found: BagCheck, name: str) -> None:
    """The CameraInfo beside an image, else the only one of its kind."""
    infos = [t for t, one in found.topics.items() if one.type == INFO and one.count]
    image = _base(found.streams[f"{name}/image"])
    beside = [t for t in infos if t.rpartition("/")[0] == image.rpartition("/")[0]]
    beside = beside or [t for t in infos if t.rpartition("/")[0] == image]
    is_thermal = [t for t in infos if any(word in t.lower() for word in THERMAL_NAMES)]
    alone = is_thermal if name == "thermal" else [t for t in infos if t not in is_thermal]
    if chosen := beside or (alone if len(alone) == 1 else []):
        found.streams[f"{name}/camera_info"] = chosen[0]


def _base(topic: str) -> str:
    """The topic without the suffix of image_transport."""
    return topic.removesuffix("/compressedDepth").removesuffix("/compressed")


def _of_topic(name: str, one: TopicSurvey) -> Iterator[Finding]:
    """What is wrong with one topic's messages and times."""
    subject = f"{name} ({one.topic})"
    if one.broken:
        yield Finding(WARNING, subject, f"{one.broken} messages cannot be read")
    if one.zero_stamps:
        yield Finding(ERROR, subject, f"{one.zero_stamps} of {one.count} stamps are zero",
                      "sensors are matched by them: have the driver set them")  # fmt: skip
    if name.endswith("_info"):
        return
    if gaps := one.gaps:
        at, length = max(gaps, key=lambda gap: gap[1])
        text = f"{len(gaps)} gaps, the longest of {length:.2f} s at {at:.2f} s"
        yield Finding(WARNING, subject, text, "masks there are made without it, or not at all")
    if one.backward:
        text = f"{one.backward} stamps are before the one before them"
        yield Finding(WARNING, subject, text, "raise sync.jump if these are no jumps in time")
    if one.repeated:
        yield Finding(WARNING, subject, f"{one.repeated} stamps are there twice in a row")
    if len(one.frames) > 1:
        yield Finding(WARNING, subject, f"frames differ: {', '.join(map(repr, one.frames))}")
    if len(one.forms) > 1:
        forms = ", ".join(form for form, _ in one.forms.most_common(4))
        yield Finding(WARNING, subject, f"content differs: {forms}")
    if not one.frame:
        yield Finding(WARNING, subject, "header.frame_id is empty",
                      "calibration is found by it: set it in the driver")  # fmt: skip


def _look_at_clocks(found: BagCheck, spec: Spec) -> None:
    """Whether the stamps of camera and sensors match, and which parameters make them match."""
    camera = found.topics[found.streams["camera/image"]]
    for sensor in spec.sensors:
        topic = found.streams.get(f"{sensor}/points") or found.streams.get(f"{sensor}/image")
        if topic is None or not found.topics[topic].count or not camera.count:
            continue
        one = found.topics[topic]
        if camera.zero_stamps or one.zero_stamps:  # reported separately
            found.say(WARNING, f"{sensor} clock", "not compared with the camera's, as stamps are "
                      "zero", "have the drivers set them, and record again")  # fmt: skip
            continue
        _look_at_clock(found, sensor, camera, one)


def _look_at_clock(found: BagCheck, sensor: str, camera: TopicSurvey, one: TopicSurvey) -> None:
    apart = nearest(camera.stamps, one.stamps)
    clocks = float(np.median(one.lag) - np.median(camera.lag))
    offset, slop = 0.0, float(_DEFAULTS[f"{sensor}.slop"])
    subject = f"{sensor} clock"
    if np.median(np.abs(apart)) > slop:
        offset = round(-clocks, 3)
        apart = nearest(camera.stamps, [stamp + offset for stamp in one.stamps])
    if offset and not found.suggest(f"{sensor}.offset", offset):
        found.say(ERROR, subject, f"its stamps are {clocks:+.3f} s off, which is farther than "
                  f"{sensor}.offset reaches ({_ROWS[f'{sensor}.offset'].high:g} s)", "one of the "
                  "two counts from elsewhere, such as from its start: let the drivers of both use "
                  "the system's clock, and record again")  # fmt: skip
        return
    within = float(np.mean(np.abs(apart) <= slop))
    text = f"{within:.0%} of images have a match within {slop} s"
    if offset:
        text = f"its stamps are {clocks:+.3f} s off; with {sensor}.offset {offset}, {text}"
    wider = math.ceil(100 * (0.5 / one.rate + _CLOSE)) / 100 if one.rate else 0.0
    helps = within < 0.9 and slop < wider <= 1 and np.mean(np.abs(apart) <= wider) > within
    if helps and found.suggest(f"{sensor}.slop", wider):
        text += f"; its rate of {one.rate:.1f} Hz asks for {sensor}.slop {wider}"
    level = OK if within >= 0.9 and not offset else WARNING
    found.say(level, subject, text, "" if level == OK else "set the parameters below")
    _look_at_delay(found, sensor, float(np.median(camera.lag) - np.percentile(one.lag, 5) - offset))
    if abs(one.drift - camera.drift) > _DRIFT:
        found.say(WARNING, subject, f"its clock moves by {one.drift - camera.drift:+.3f} s "
                  "against the camera's meanwhile", "synchronise the clocks (PTP)")  # fmt: skip


def _look_at_delay(found: BagCheck, sensor: str, late: float) -> None:
    """`late`: seconds from an image to the sensor's message of the same time."""
    row = _ROWS["sync.deadline"]
    if late <= _DEFAULTS[row.name]:
        return
    others = found.parameters.get(row.name, 0.0)  # the latest sensor decides
    text = f"it arrives up to {late:.2f} s after the image"
    if found.suggest(row.name, max(others, math.ceil(10 * (late + 0.05)) / 10)):
        found.say(WARNING, f"{sensor} delay", text, f"set the parameter {row.name} below")
    else:
        found.say(ERROR, f"{sensor} delay", f"{text}, and {row.name} waits for {row.high:g} s at "
                  "most: masks are made without it", "find what holds its messages back: driver, "
                  "network, or its stamps if another clock makes them")  # fmt: skip


def _look_at_content(found: BagCheck, spec: Spec) -> None:
    """Read the first message of each stream as the node does."""
    for name, topic in found.streams.items():
        sensor, first = name.partition("/")[0], found.topics[topic].first
        subject = f"{name} ({topic})"
        if name.endswith("_info") or first is None:
            continue
        try:
            if name == "lidar/points":
                needed = "intensity" in spec.inputs["lidar"].fields
                lacks = spec.encodings["lidar"] == LIDAR_GAIN
                cloud_points(first, needs_intensity=needed, may_lack=lacks)
            elif sensor == CAMERA:
                messages.camera_rgb(first)
            elif sensor == "thermal":
                messages.thermal_counts(first)
            elif spec.encodings[sensor] == DEPTH_METRES:
                messages.depth_values(first)
            else:
                messages.raster_values(first)
        except (RosError, SensorError) as error:
            level = ERROR if sensor == CAMERA else WARNING
            found.say(level, subject, f"the first message would be refused: {error}")
        else:
            found.say(OK, subject, f"{found.topics[topic].rate:.1f} Hz, "
                      f"{'; '.join(list(found.topics[topic].forms)[:2])}")  # fmt: skip


def _look_at_calibration(found: BagCheck, reader: Recording, spec: Spec) -> None:
    """CameraInfo and transforms that the sensors need."""
    camera = found.streams.get("camera/image")
    points = found.streams.get("lidar/points")
    thermal = found.streams.get("thermal/image")
    for name in (CAMERA, "thermal"):
        image, info = found.streams.get(f"{name}/image"), found.streams.get(f"{name}/camera_info")
        needed = image if name == "thermal" else points or thermal
        if image and info:
            _look_at_info(found, name, found.topics[image], found.topics[info])
        elif image and needed:
            found.say(WARNING, f"{name}/camera_info", "no CameraInfo is recorded",
                      f"set the parameters {name}.info")  # fmt: skip
    if thermal and camera:
        sizes = [
            _size(found.topics[t].first, n) for n, t in ((CAMERA, camera), ("thermal", thermal))
        ]
        differ = None not in sizes and sizes[0] != sizes[1]  # an unreadable one is reported above
        both = all(f"{name}/camera_info" in found.streams for name in (CAMERA, "thermal"))
        if differ and both:
            found.suggest("thermal.registration", "rotation")
            found.say(OK, "thermal view", "it has its own CameraInfo and size: registration by "
                      "rotation")  # fmt: skip
        elif differ:
            found.say(WARNING, "thermal view", f"its size is {sizes[1]}, the camera's {sizes[0]}",
                      "set thermal.registration to 'rotation' or 'homography'")  # fmt: skip
    if camera is None:
        return
    needing = [points] if points else []
    if found.parameters.get("thermal.registration") == "rotation" and thermal:
        needing.append(thermal)
    for topic in needing:
        _look_at_pose(found, reader, found.topics[camera].frame, found.topics[topic])


def _size(message: Any, sensor: str) -> str | None:
    """Width x height of an image; None for a compressed one that cannot be read."""
    if not hasattr(message, "format"):
        return f"{message.width}x{message.height}"
    read = messages.camera_rgb if sensor == CAMERA else messages.thermal_counts
    try:
        height, width = read(message).shape[:2]
    except (RosError, SensorError):
        return None
    return f"{width}x{height}"


def _look_at_info(found: BagCheck, name: str, image: TopicSurvey, info: TopicSurvey) -> None:
    subject = f"{name}/camera_info ({info.topic})"
    own, others = ({frame.lstrip("/") for frame in one.frames} for one in (image, info))
    if "" not in own | others and not own <= others:
        frames = [", ".join(map(repr, sorted(some))) for some in (others, own)]
        found.say(WARNING, subject, f"is of frame {frames[0]}, the images of frame {frames[1]}",
                  "if it is another camera's, remap it to that of this one")  # fmt: skip
    try:
        model = camera_model(info.first, where=info.topic)
    except RosError as error:
        found.say(ERROR if name == CAMERA else WARNING, subject, str(error))
        return
    size = _size(image.first, name)
    if size not in (f"{model.width}x{model.height}", None):
        found.say(WARNING, subject, f"it is for {model.width}x{model.height}, the image has {size}",
                  "record the CameraInfo of this image")  # fmt: skip
    else:
        found.say(OK, subject, f"{model.width}x{model.height}, {info.first.distortion_model}")
    for doubt in camera_doubts(info.first, name=name):
        found.say(WARNING, subject, doubt)


def _look_at_pose(found: BagCheck, reader: Recording, camera: str, one: TopicSurvey) -> None:
    sensor = "lidar" if one.type == CLOUD else "thermal"
    frames, subject = (camera.lstrip("/"), one.frame.lstrip("/")), f"{sensor} pose"
    for name in ("tf_static", "tf"):
        try:
            transforms = dict(recorded_transforms(reader, name)[0])
            if name == "tf":  # beside the static ones, which win
                transforms |= recorded_transforms(reader, "tf_static")[0]
            transform_chain(transforms, *frames)
        except RosError as error:
            reason = error
        else:
            found.say(OK, subject, f"from frame {frames[1]!r} to {frames[0]!r} on /{name}")
            return
    found.say(WARNING, subject, str(reason), f"set the parameter {sensor}.extrinsics, or record "
              "/tf_static")  # fmt: skip
