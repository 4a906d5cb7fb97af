# SPDX-License-Identifier: Apache-2.0
"""What the node publishes of a frame. Everything is made only where somebody reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import Header, String

from mmsam_ros.inference import Result
from mmsam_ros.inference.draw import colorise, highlight, overlay
from mmsam_ros.inference.points import labelled_cloud, organised_cloud
from mmsam_ros.ros.interface import message_class
from mmsam_ros.ros.messages import class_table, fill_image
from mmsam_ros.ros.pack import cloud_message, fill_jpeg, fill_png
from mmsam_ros.ros.sets import Entry, SyncedSet
from mmsam_ros.ros.topics import advertise
from mmsam_ros.sensors import (
    Frame,
    LidarPoints,
    SeenPoints,
    made_of_points,
    palette,
    seen_points,
    topic_names,
)
from mmsam_ros.weights import Spec

_REPEAT = 1.0  # seconds between two tables of classes, where they are repeated


@dataclass(frozen=True, eq=False)
class SegmentedFrame:
    """A frame with its labels, to be published."""

    header: Header  # of the camera message
    frame: Frame
    result: Result
    cloud: Entry | None  # whose points may have labels
    sent: list[str] = field(default_factory=list)  # topics on which it has been published

    @classmethod
    def of(
        cls, synced: SyncedSet, frame: Frame, result: Result, refused: Mapping[str, Any]
    ) -> Self:
        """Leaves out a cloud that is missing, refused, or held and so older than the mask."""
        cloud = synced.auxiliaries.get("lidar")
        points = isinstance(frame.sensors.get("lidar"), LidarPoints)
        used = points and "lidar" not in refused and "lidar" not in synced.held
        return cls(synced.camera.message.header, frame, result, cloud if used else None)

    @cached_property
    def seen(self) -> SeenPoints:
        """The points of the cloud that the camera sees."""
        points, camera = self.frame.sensors["lidar"], self.frame.camera
        assert isinstance(points, LidarPoints)
        assert camera is not None  # Frame checks it
        return seen_points(points.xyz, camera, points.T_camera_lidar)


class Request(NamedTuple):
    """What `Segmenter.infer` has to compute."""

    confidence: bool
    probabilities: bool
    threshold: float


class _Output(NamedTuple):
    publisher: Publisher
    make: Callable[[SegmentedFrame], Any]  # the message
    needs: str = ""  # of a result, besides the labels: confidence, probabilities
    of_cloud: bool = False

    @property
    def is_read(self) -> bool:
        return self.publisher.get_subscription_count() > 0

    def can_make(self, segmented: SegmentedFrame) -> bool:
        """Whether what it needs was computed; a subscriber may have come while the network ran."""
        known = not self.needs or getattr(segmented.result, self.needs) is not None
        return known and not (self.of_cloud and segmented.cloud is None)


class Outputs:
    """The publishers of a node, except diagnostics.

    `threshold`: pixels of a lower confidence (0 to 1) have no label. `opacity`: of the colours in
    overlays, 0 to 1; it can be set at any time.
    `repeat`: the tables of classes are published every second, and not only once.
    """

    def __init__(
        self, node: Node, spec: Spec, *, threshold: float = 0.0, opacity: float = 0.5,
        repeat: bool = False,
    ) -> None:  # fmt: skip
        self._threshold, self.opacity = threshold, opacity
        self._node, self._spec = node, spec
        self._colours = palette(spec.classes)
        self._labelled: tuple[int, float] | None = None  # stamp and arrival of the newest cloud
        self._outputs = [
            _Output(advertise(node, "~/semantic"), _image("mono8", lambda s: s.result.labels)),
            _Output(
                advertise(node, "~/semantic/compressed"),
                lambda s: fill_png(CompressedImage(header=s.header), s.result.labels),
            ),
            _Output(
                advertise(node, "~/confidence"),
                _image("mono8", lambda s: s.result.confidence),
                "confidence",
            ),
            _Output(
                advertise(node, "~/probabilities"),
                _image(f"32FC{len(spec.classes)}", lambda s: s.result.probabilities),
                "probabilities",
            ),
            _Output(advertise(node, "~/color"), _image("rgb8", self._color)),
            _Output(
                advertise(node, "~/color/compressed"),
                lambda s: fill_jpeg(CompressedImage(header=s.header), self._color(s)),
            ),
            _Output(advertise(node, "~/overlay"), _image("rgb8", self._overlay)),
            *self._overlays(),
        ]
        if "lidar" in spec.sensors and made_of_points(spec.encodings["lidar"]):
            self._outputs += [
                _Output(advertise(node, "~/points"), self._points, "confidence", of_cloud=True),
                _Output(
                    advertise(node, "~/points/labelled"), self._own_cloud, "confidence",
                    of_cloud=True,
                ),
            ]  # fmt: skip
        self._classes = advertise(node, "~/classes")
        self._label_info = _advertise_label_info(node)
        self.publish_classes()
        if repeat:
            steady = Clock(clock_type=ClockType.STEADY_TIME)  # use_sim_time must not stop it
            node.create_timer(_REPEAT, self.publish_classes, clock=steady)

    @property
    def has_label_info(self) -> bool:
        """Whether ~/label_info is published, which needs vision_msgs."""
        return self._label_info is not None

    @property
    def request(self) -> Request:
        """What the present subscribers need."""
        needs = {output.needs for output in self._outputs if output.needs and output.is_read}
        return Request("confidence" in needs, "probabilities" in needs, self._threshold)

    def set_threshold(self, threshold: float) -> None:
        """Set the threshold from the next frame on; ~/label_info has it, too."""
        if threshold != self._threshold:
            self._threshold = threshold
            self.publish_classes()

    def publish(self, segmented: SegmentedFrame) -> None:
        """Publish the outputs of a frame that have subscribers."""
        for output in self._outputs:
            if output.is_read and output.can_make(segmented):
                message = output.make(segmented)
                if message is not None:
                    output.publisher.publish(message)
                    segmented.sent.append(output.publisher.topic_name)

    def publish_classes(self) -> None:
        """Publish ids, names and colours of the classes."""
        spec = self._spec
        self._classes.publish(String(data=class_table(spec)))
        if self._label_info is not None:
            from vision_msgs.msg import LabelInfo, VisionClass

            named = [VisionClass(class_id=c.id, class_name=c.name) for c in spec.classes]
            info = LabelInfo(class_map=named, threshold=float(self._threshold))
            info.header.stamp = self._node.get_clock().now().to_msg()
            self._label_info.publish(info)

    def _color(self, segmented: SegmentedFrame) -> NDArray[np.uint8]:
        return colorise(segmented.result.labels, self._colours)

    def _overlay(self, segmented: SegmentedFrame) -> NDArray[np.uint8]:
        return overlay(segmented.frame.rgb, segmented.result.labels, self._colours, self.opacity)

    def _overlays(self) -> list[_Output]:
        """An overlay for each class."""

        def draw(
            segmented: SegmentedFrame, class_id: int, color: tuple[int, int, int]
        ) -> NDArray[np.uint8]:
            labels = segmented.result.labels
            return highlight(segmented.frame.rgb, labels, class_id, color, self.opacity)

        outputs, classes = [], self._spec.classes
        for info, name in zip(classes, topic_names(classes), strict=True):
            publisher = advertise(self._node, f"~/overlay/{name}", "~/overlay/<class>")
            make = partial(draw, class_id=info.id, color=info.rgb)
            outputs.append(_Output(publisher, _image("rgb8", make)))
        return outputs

    def _points(self, segmented: SegmentedFrame) -> PointCloud2:
        labels, confidence = segmented.result.labels, segmented.result.confidence
        assert confidence is not None
        points = organised_cloud(segmented.seen, labels, confidence, self._colours)
        return cloud_message(segmented.header, points)

    def _own_cloud(self, segmented: SegmentedFrame) -> PointCloud2 | None:
        """A cloud that goes with several images is published once, with the first one's labels."""
        confidence, cloud = segmented.result.confidence, segmented.cloud
        assert confidence is not None
        assert cloud is not None
        if self._labelled == (cloud.stamp_ns, cloud.arrival):
            return None
        self._labelled = cloud.stamp_ns, cloud.arrival
        xyz, message = cloud.decoded[0], cloud.message
        points = labelled_cloud(
            xyz, segmented.seen, segmented.result.labels, confidence, self._colours
        )
        return cloud_message(message.header, points.reshape(message.height, message.width))


def _image(
    encoding: str, pixels: Callable[[SegmentedFrame], Any]
) -> Callable[[SegmentedFrame], Image]:
    """A function that makes the Image of a frame, from the pixels that `pixels` gives."""
    return lambda segmented: fill_image(Image(header=segmented.header), pixels(segmented), encoding)


def _advertise_label_info(node: Node) -> Publisher | None:
    """The publisher of ~/label_info; None without vision_msgs."""
    if message_class("vision_msgs/msg/LabelInfo") is None:
        node.get_logger().warning(
            "~/label_info is not published: vision_msgs is not installed; if you need it, "
            "install ros-jazzy-vision-msgs"
        )
        return None
    return advertise(node, "~/label_info")
