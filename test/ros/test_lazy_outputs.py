# SPDX-License-Identifier: Apache-2.0
"""Outputs that are made only if somebody reads them, by a node in the test's own process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from domains import free_domain
from harness import (
    Client,
    camera_info,
    cloud,
    image,
)
from published import COLOURS, KINDS, POSE
from sensor_msgs.msg import Image, PointCloud2

from mmsam_ros.inference import Result
from mmsam_ros.ros import outputs as module
from mmsam_ros.ros.calibration import camera_model
from mmsam_ros.ros.outputs import Outputs, SegmentedFrame
from mmsam_ros.ros.sets import Entry, SyncedSet
from mmsam_ros.sensors import (
    Frame,
    LidarPoints,
    SensorImage,
)
from mmsam_ros.weights import read_spec

pytestmark = pytest.mark.dds


def entry(stream: str, message: Any, decoded: Any = None) -> Entry:
    return Entry(stream, 5, message, 5, arrival=7.0, decoded=decoded)


def synced_set(held: tuple[str, ...] = (), frame_id: str = "camera") -> SyncedSet:
    xyz = np.array([[10, 0, 0.5], [20, 0, 0.5]], np.float32)
    message = cloud(5, np.column_stack([xyz, np.ones(2, np.float32)]))
    camera = entry("camera", image(5, np.zeros((12, 16, 3), np.uint8), "rgb8"))
    lidar = entry("lidar", message, (xyz, np.ones(2, np.float32)))
    return SyncedSet(camera, {"lidar": lidar}, frozenset(held))


def small_frame(synced: SyncedSet) -> Frame:
    rgb = np.zeros((12, 16, 3), np.uint8)
    lidar = LidarPoints(*synced.auxiliaries["lidar"].decoded, POSE)
    return Frame(rgb, {"lidar": lidar}, camera_model(camera_info(0, 16, 12)))


def small_result(**instead: Any) -> Result:
    labels = np.zeros((12, 16), np.uint8)
    whole = Result(labels, labels + 200, ("lidar",), {}, np.zeros((3, 4, 14), np.float32))
    return dataclasses.replace(whole, **instead)


def test_a_held_or_refused_cloud_gets_no_labels() -> None:
    """Its points are where things were, and not where the mask shows them."""
    for held, refused, there in ((), {}, True), (("lidar",), {}, False), ((), {"lidar": 0}, False):
        synced = synced_set(held)
        segmented = SegmentedFrame.of(synced, small_frame(synced), small_result(), refused)
        assert (segmented.cloud is not None) == there
        assert segmented.header.frame_id == "camera"
    synced = synced_set()
    raster = Frame(
        np.zeros((12, 16, 3), np.uint8), {"lidar": SensorImage(np.zeros((12, 16, 3), np.uint8))}
    )
    assert SegmentedFrame.of(synced, raster, small_result(), {}).cloud is None, (
        "a raster has no points"
    )


class Reader:
    """A node with outputs, and subscriptions to some of them, in one process."""

    def __init__(self, weights: Path) -> None:
        self.client = Client(free_domain(8))
        node = rclpy.create_node("mmsam", context=self.client.context)
        self.client._executor.add_node(node)
        self.node = node
        self.outputs = Outputs(node, read_spec(weights))

    def subscribed(self, name: str) -> bool:
        return self.node.count_subscribers(f"/mmsam/{name}") > 0


@pytest.fixture
def reader(weights: Path) -> Iterator[Reader]:
    reader = Reader(weights)
    yield reader
    reader.node.destroy_node()
    reader.client.close()


MAKERS = {
    "semantic": "fill_image", "semantic/compressed": "fill_png", "confidence": "fill_image",
    "probabilities": "fill_image", "color": "colorise", "color/compressed": "fill_jpeg",
    "overlay": "overlay", "overlay/road": "highlight", "points": "organised_cloud",
    "points/labelled": "labelled_cloud",
}  # fmt: skip


@pytest.mark.parametrize("name", ["", *KINDS])
def test_nothing_is_made_that_is_not_read(
    reader: Reader, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one subscription at most: that message, and nothing else, the softmax included."""
    calls: list[str] = []
    for maker in {*MAKERS.values(), "seen_points", "cloud_message"}:
        function = getattr(module, maker)
        monkeypatch.setattr(
            module, maker, lambda *args, _of=function, _name=maker, **more: (
                calls.append(_name), _of(*args, **more))[1]
        )  # fmt: skip
    got: list[Any] = []
    if name:
        got = reader.client.record(KINDS[name], f"/mmsam/{name}")
        publisher = next(
            o.publisher
            for o in reader.outputs._outputs
            if o.publisher.topic_name == f"/mmsam/{name}"
        )
        reader.client.spin_until(publisher.get_subscription_count, "the subscription")
    clouds = name.startswith("points")
    assert reader.outputs.request == (clouds or name == "confidence", name == "probabilities", 0.0)
    synced = synced_set()
    reader.outputs.publish(SegmentedFrame.of(synced, small_frame(synced), small_result(), {}))
    if not name:
        assert calls == []
        return
    reader.client.spin_until(lambda: got, name)
    others = {"fill_image"} if KINDS[name] is Image else set()
    others |= {"seen_points", "cloud_message"} if clouds else set()
    others |= {"colorise"} if name == "color/compressed" else set()
    assert set(calls) == {MAKERS[name], *others}


@pytest.mark.parametrize("name", ["overlay", "overlay/road"])
@pytest.mark.parametrize(("opacity", "share"), [(None, 0.5), (0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_the_opacity_of_overlays(
    reader: Reader, name: str, opacity: float | None, share: float
) -> None:
    """All pixels are road, and the camera image is black: what is seen is the colour's share."""
    if opacity is not None:
        reader.outputs.opacity = opacity
    got = reader.client.record(Image, f"/mmsam/{name}")
    reader.client.spin_until(
        lambda: any(o.is_read for o in reader.outputs._outputs), "the subscription"
    )
    synced = synced_set()
    reader.outputs.publish(SegmentedFrame.of(synced, small_frame(synced), small_result(), {}))
    reader.client.spin_until(lambda: got, name)
    seen = np.frombuffer(got[0].data, np.uint8).reshape(-1, 3)
    assert np.abs(seen - share * COLOURS[0].astype(float)).max() <= 1


def test_a_subscriber_that_came_while_the_network_ran_waits(reader: Reader) -> None:
    """Nothing was asked for, so that there is no confidence; the next frame has it."""
    got = reader.client.record(PointCloud2, "/mmsam/points")
    masks = reader.client.record(Image, "/mmsam/semantic")
    reader.client.spin_until(
        lambda: all(o.is_read for o in reader.outputs._outputs
                    if o.publisher.topic_name in ("/mmsam/points", "/mmsam/semantic")), "both",
    )  # fmt: skip
    synced = synced_set()
    frame = small_frame(synced)
    reader.outputs.publish(SegmentedFrame.of(synced, frame, small_result(confidence=None), {}))
    reader.client.spin_until(lambda: masks, "a mask")
    assert not got
    reader.outputs.publish(SegmentedFrame.of(synced, frame, small_result(), {}))
    reader.client.spin_until(lambda: got, "the cloud")


def test_what_was_sent_before_a_failure_is_known(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = reader.client.record(Image, "/mmsam/semantic")
    reader.client.record(Image, "/mmsam/overlay")
    reader.client.spin_until(
        lambda: sum(o.is_read for o in reader.outputs._outputs) == 2, "subscriptions"
    )

    def fail(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(module, "overlay", fail)
    synced = synced_set()
    segmented = SegmentedFrame.of(synced, small_frame(synced), small_result(), {})
    with pytest.raises(MemoryError):
        reader.outputs.publish(segmented)
    assert segmented.sent == ["/mmsam/semantic"]
    reader.client.spin_until(lambda: masks, "a mask")


def test_a_cloud_of_several_images_is_labelled_once(reader: Reader) -> None:
    got = reader.client.record(PointCloud2, "/mmsam/points/labelled")
    masks = reader.client.record(Image, "/mmsam/semantic")
    reader.client.spin_until(
        lambda: sum(o.is_read for o in reader.outputs._outputs) == 2, "subscriptions"
    )
    synced = synced_set()
    for _ in range(3):
        reader.outputs.publish(SegmentedFrame.of(synced, small_frame(synced), small_result(), {}))
    reader.client.spin_until(lambda: len(masks) == 3, "three masks")
    assert len(got) == 1
