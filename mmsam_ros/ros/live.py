# SPDX-License-Identifier: Apache-2.0
"""Looks at a running node from outside: do its inputs arrive, and are its outputs right?"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)

from mmsam_ros._util.findings import ERROR, OK, WARNING, Finding
from mmsam_ros.ros.calibration import nanoseconds
from mmsam_ros.ros.interface import CLOUD, COMPRESSED, IMAGE, INFO, message_class
from mmsam_ros.ros.live_outputs import MASK, OWN_CLOUD, Summary, is_judged, judge, read_output
from mmsam_ros.ros.live_tf import PARAMETERS as OF_POSES
from mmsam_ros.ros.live_tf import HeardTransforms, check_pose, poses_needed
from mmsam_ros.ros.survey import content
from mmsam_ros.sensors import NO_LABEL

_TWIST = "geometry_msgs/msg/TwistStamped"
_INPUTS = (IMAGE, COMPRESSED, CLOUD, INFO, _TWIST)
_PICTURES = (IMAGE, COMPRESSED)
_OLD = 1.0  # seconds by which stamps may differ from the clock
_TF = "tf2_msgs/msg/TFMessage"
_LEVELS = (OK, WARNING, ERROR, ERROR)  # of a DiagnosticStatus
_ADVICE = "see docs/troubleshooting.md"
_TopicT = TypeVar("_TopicT", bound="_Topic")
_DISCOVERY = 3.0  # seconds to look for a node, at least
_ANSWER = 3.0  # seconds to wait for the node's parameters


@dataclass(eq=False)
class _Topic:
    name: str
    type: str
    arrivals: list[float] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)

    def receive(self, message: Any) -> None:
        self.arrivals.append(time.time())
        self.messages.append(message)


@dataclass(eq=False)
class _Output(_Topic):
    """Keeps only its newest message: some are large."""

    short: str = ""  # name in the node's namespace
    summaries: list[Summary] = field(default_factory=list)

    def receive(self, message: Any) -> None:
        self.arrivals.append(time.time())
        self.messages[:] = [message]
        self.summaries.append(read_output(self.short, message))


def look_at(name: str, seconds: float) -> list[Finding]:
    """Listen to a node's inputs and outputs for some seconds."""
    context = Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node("mmsam_doctor", context=context, start_parameter_services=False)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        return list(_Live(node, executor, name, seconds).findings())
    finally:
        rclpy.try_shutdown(context=context)


class _Live:
    def __init__(
        self, node: Node, executor: SingleThreadedExecutor, name: str, seconds: float
    ) -> None:
        self._node, self._executor, self._seconds = node, executor, seconds
        self._full = f"/{name.strip('/')}"
        namespace, _, self._name = self._full.rpartition("/")
        self._namespace = namespace or "/"
        self._inputs: list[_Topic] = []
        self._reports: dict[str, _Topic] = {}  # of the node on itself
        self._outputs: dict[str, _Output] = {}  # by their names in its namespace
        self._transforms: HeardTransforms | None = None
        self._given: dict[str, Any] = {}  # parameters of the node

    def findings(self) -> Iterator[Finding]:
        """All findings."""
        found = (self._name, self._namespace)
        self._spin(max(_DISCOVERY, self._seconds), lambda: found in self._nodes())
        if found not in self._nodes():
            others = ", ".join(f"{ns.rstrip('/')}/{n}" for n, ns in self._nodes()) or "none"
            yield Finding(ERROR, "node", f"{self._full} is not found; nodes: {others}",
                          "start it, name it with --node, and compare ROS_DOMAIN_ID and "
                          "ROS_AUTOMATIC_DISCOVERY_RANGE")  # fmt: skip
            return
        yield from self._ask()
        self._hear_transforms()
        self._spin(self._seconds, self._subscribe)  # its topics may be discovered after its name
        if self._given.get("use_sim_time") and not self._node.get_clock().now().nanoseconds:
            yield Finding(ERROR, "/clock", "use_sim_time is set and nothing came on /clock", "play "
                          "the recording with --clock, or set use_sim_time to false")  # fmt: skip
        for topic in self._inputs:
            yield from self._of_input(topic)
        yield from self._of_transforms()
        yield from self._of_outputs()
        yield from self._of_diagnostics()

    def _nodes(self) -> list[tuple[str, str]]:
        own = self._node.get_name()
        return [n for n in self._node.get_node_names_and_namespaces() if n[0] != own]

    def _spin(self, seconds: float, holds: Any) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not holds():
            self._executor.spin_once(timeout_sec=0.05)

    def _subscribe(self) -> None:
        """Subscribe to what the node reads and publishes by now."""
        name, space = self._name, self._namespace
        try:
            read = self._node.get_subscriber_names_and_types_by_node(name, space)
            made = self._node.get_publisher_names_and_types_by_node(name, space)
        except NodeNameNonExistentError:  # it has ended meanwhile
            return
        for topic, types in read:
            if types[0] in _INPUTS and topic not in {known.name for known in self._inputs}:
                self._inputs.append(self._listen(_Topic(topic, types[0])))
        images = [topic for topic, types in made if types[0] == IMAGE]
        own = [topic for topic in images if topic.startswith(f"{self._full}/")]
        remapped = [topic for topic in images if topic not in own]
        for topic, types in made:
            short = topic.removeprefix(f"{self._full}/")
            if remapped == [topic] and f"{self._full}/{MASK}" not in own:
                short = MASK
            if short in ("classes", "/diagnostics") and short not in self._reports:
                self._reports[short] = self._listen(_Topic(topic, types[0]))
            elif is_judged(short) and short not in self._outputs and self._is_made(short, topic):
                self._outputs[short] = self._listen(_Output(topic, types[0], short=short))

    def _is_made(self, short: str, topic: str) -> bool:
        """Whether the node makes an output without us: masks always, others for their readers."""
        return short == MASK or bool(self._node.get_subscriptions_info_by_topic(topic))

    def _listen(self, topic: _TopicT) -> _TopicT:
        offers = self._node.get_publishers_info_by_topic(topic.name)
        reliable = offers and all(
            o.qos_profile.reliability == ReliabilityPolicy.RELIABLE for o in offers
        )
        latched = {o.qos_profile.durability for o in offers} == {DurabilityPolicy.TRANSIENT_LOCAL}
        profile = QoSProfile(
            depth=5 if isinstance(topic, _Output) else 20,  # a cloud has megabytes
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        kind = message_class(topic.type)
        self._node.create_subscription(kind, topic.name, topic.receive, profile)
        return topic

    def _hear_transforms(self) -> None:
        kind = message_class(_TF)
        if kind is not None:
            self._transforms = heard = HeardTransforms()
            latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._node.create_subscription(kind, "/tf_static", heard.add_static, latched)
            self._node.create_subscription(kind, "/tf", heard.add, 100)

    def _ask(self) -> Iterator[Finding]:
        """Ask for the parameters that say what the node needs, and use its clock from then on."""
        names = [*OF_POSES, "use_sim_time"]
        client = AsyncParameterClient(self._node, self._full)
        self._spin(_ANSWER, client.services_are_ready)
        if client.services_are_ready():
            answer = client.get_parameters(names)
            self._spin(_ANSWER, answer.done)
            if answer.done():
                values = list(map(parameter_value_to_python, answer.result().values))
                if len(values) == len(names):  # none at all where one is not declared
                    self._given = dict(zip(names, values, strict=True))
        if not self._given:
            yield Finding(WARNING, "parameters", f"{self._full} does not give those of this "
                          "package's node, so its clock and its poses are not looked at", "name "
                          "the node with --node; if it is this one, start it again")  # fmt: skip
        if self._given.get("use_sim_time"):
            simulated = Parameter("use_sim_time", Parameter.Type.BOOL, True)
            self._node.set_parameters([simulated])

    def _of_transforms(self) -> Iterator[Finding]:
        """Whether the poses that the node needs are in TF or its parameters."""
        newest = {t: t.messages[-1].header for t in self._inputs if t.messages}
        topics = self._streams()
        cameras = [header for t, header in newest.items() if t.name == topics.get("camera")]
        if not cameras or not self._given:
            return
        headers = {
            "lidar": [header for t, header in newest.items() if t.type == CLOUD],
            "thermal": [header for t, header in newest.items() if t.name == topics.get("thermal")],
            "twist": [header for t, header in newest.items() if t.type == _TWIST],
        }
        for pose in poses_needed(self._given, cameras[0].frame_id.lstrip("/"), headers):
            yield check_pose(pose, self._transforms)

    def _streams(self) -> dict[str, str]:
        """The topic of each stream, such as "camera", as the node says in its diagnostics."""
        arrays = self._reports.get("/diagnostics")
        return {
            value.key.removeprefix("topic."): value.value
            for array in (arrays.messages if arrays else ())
            for status in array.status if status.name.startswith(f"{self._full}:")
            for value in status.values if value.key.startswith("topic.")
        }  # fmt: skip

    def _of_input(self, topic: _Topic) -> Iterator[Finding]:
        publishers = self._node.get_publishers_info_by_topic(topic.name)
        subscribers = self._node.get_subscriptions_info_by_topic(topic.name)
        if not publishers:
            yield Finding(ERROR, topic.name, "nobody publishes it", "start the driver, or remap")
            return
        for publisher in publishers:
            for reader in subscribers:
                if reader.node_name != self._name:
                    continue
                fits, why = qos_check_compatible(publisher.qos_profile, reader.qos_profile)
                if fits == QoSCompatibility.ERROR:
                    yield Finding(ERROR, topic.name, f"QoS of {publisher.node_name}: {why}",
                                  "set input_reliability to 'auto'")  # fmt: skip
        if not topic.messages:
            yield Finding(ERROR, topic.name, f"nothing in {self._seconds:g} s, though "
                          f"{publishers[0].node_name} publishes it",
                          "if it is not paused, large messages are lost: `mmsam doctor` checks the "
                          "middleware")  # fmt: skip
            return
        yield self._of_messages(topic)

    def _of_messages(self, topic: _Topic) -> Finding:
        newest, count = topic.messages[-1], len(topic.arrivals)
        span = topic.arrivals[-1] - topic.arrivals[0]
        rate = f"{(count - 1) / span:.1f} Hz, " if count > 1 and span > 0 else ""
        policy = self._node.get_publishers_info_by_topic(topic.name)
        qos = policy[0].qos_profile.reliability.name.lower() if policy else "no publisher"
        what = "" if topic.type == _TWIST else f"{content(newest)}, "
        text = f"{rate}{qos}, {what}frame {newest.header.frame_id!r}"
        now = self._node.get_clock().now().nanoseconds
        age = (now - nanoseconds(newest.header.stamp)) / 1e9
        if nanoseconds(newest.header.stamp) == 0:
            return Finding(ERROR, topic.name, f"{text}, stamps are zero", "set them in the driver")
        clock = "/clock" if self._given.get("use_sim_time") else "this clock"
        if abs(age) > _OLD and topic.type != INFO and now:
            side = "behind" if age > 0 else "ahead of"
            said = f"{text}, stamps are {abs(age):.1f} s {side} {clock}"
            return Finding(WARNING, topic.name, said, "a bag without use_sim_time, or clocks "
                           "that differ: all sensors need the same one")  # fmt: skip
        return Finding(OK, topic.name, text)

    def _of_outputs(self) -> Iterator[Finding]:
        """Whether they have stamp, frame and size of what they were made of, and ids of classes."""
        masks = self._outputs.get(MASK)
        if masks is None or not masks.summaries:
            yield Finding(ERROR, "masks", f"none in {self._seconds:g} s",
                          "see the findings on the inputs, and the node's log")  # fmt: skip
            return
        yield self._of_messages(masks)
        classes = self._reports.get("classes")
        table = json.loads(classes.messages[-1].data) if classes and classes.messages else None
        if table is None:
            yield Finding(WARNING, "classes", f"nothing on {self._full}/classes",
                          "listen longer (--seconds)")  # fmt: skip
        ids = {c["id"] for c in table["classes"]} | {NO_LABEL} if table else None
        images, clouds = self._received("camera", _PICTURES), self._received("lidar", (CLOUD,))
        for name, output in self._outputs.items():
            if output.summaries:
                yield judge(name, output.summaries, clouds if name == OWN_CLOUD else images, ids)
                continue
            yield Finding(WARNING, name, f"none in {self._seconds:g} s, though somebody reads it",
                          "see the findings on the LiDAR" if output.type == CLOUD else
                          "listen longer (--seconds)")  # fmt: skip

    def _received(self, stream: str, types: tuple[str, ...]) -> list[list[Any]]:
        """Messages of a stream's topic, or, where it is not known, of all topics of these types."""
        name = self._streams().get(stream)
        some = [topic for topic in self._inputs if topic.type in types and topic.messages]
        chosen = [topic for topic in some if topic.name == name] or some
        return [topic.messages for topic in chosen]

    def _of_diagnostics(self) -> Iterator[Finding]:
        topic, said = self._reports.get("/diagnostics"), set[str]()
        for array in topic.messages[-1:] if topic else ():
            for status in array.status:
                if not status.name.startswith(self._full):
                    continue
                level = _LEVELS[min(int.from_bytes(status.level, "little"), 3)]
                values = {value.key: value.value for value in status.values}
                silent = values.get("topic") == "none published"
                remedy = "start the driver or the bag, or remap the input" if silent else _ADVICE
                text = f"{status.message}, nobody publishes it" if silent else status.message
                yield Finding(level, status.name, text, "" if level == OK else remedy)
                for value in status.values:
                    if value.key in said:  # some are in two statuses
                        continue
                    said.add(value.key)
                    if value.key.startswith(("last_refusal.", "implausible.", "stamps_ahead.")):
                        yield Finding(WARNING, value.key, value.value, _ADVICE)
                    elif value.key == "extrinsics":
                        yield Finding(OK, "extrinsics", f"read from {value.value}")
        if topic is None or not topic.messages:
            yield Finding(WARNING, "/diagnostics", "nothing received",
                          "listen longer (--seconds), or start the node again")  # fmt: skip
