# SPDX-License-Identifier: Apache-2.0
"""Inputs follow their publishers: topic, transport and QoS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from domains import free_domain
from harness import Client
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from mmsam_ros.ros.interface import COMPRESSED as COMPRESSED_IMAGE
from mmsam_ros.ros.interface import IMAGE, Topic
from mmsam_ros.ros.topics import Input

pytestmark = pytest.mark.dds
RAW = Topic("/cam", IMAGE, "")
COMPRESSED = Topic("/cam/compressed", COMPRESSED_IMAGE, "")


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(free_domain(5))
    yield client
    client.close()


def offer(reliability: ReliabilityPolicy, durability: DurabilityPolicy | None = None) -> QoSProfile:
    return QoSProfile(
        depth=3, reliability=reliability, durability=durability or DurabilityPolicy.VOLATILE
    )


def subscribed(client: Client, topic: str) -> list[tuple[ReliabilityPolicy, DurabilityPolicy]]:
    infos = client.node.get_subscriptions_info_by_topic(topic)
    return [(i.qos_profile.reliability, i.qos_profile.durability) for i in infos]


def follow(client: Client, stream: Input, topic: str, expected: object) -> None:
    def settled() -> bool:
        stream.update()
        return subscribed(client, topic) == expected

    client.spin_until(settled, f"{topic} subscribed as {expected}")


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_qos_follows_the_publisher(client: Client, reliability: ReliabilityPolicy) -> None:
    stream = Input(client.node, "camera", [RAW], "auto", lambda _: None)
    assert not stream.update()
    assert stream.topic is None
    client.node.create_publisher(Image, "/cam", offer(reliability))
    follow(client, stream, "/cam", [(reliability, DurabilityPolicy.VOLATILE)])
    assert stream.update()


def test_the_topic_is_known_while_another_qos_is_taken(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker asks for it at any moment, to say where a refused message came from."""
    stream = Input(client.node, "camera", [RAW], "auto", lambda _: None)
    first = client.node.create_publisher(Image, "/cam", offer(ReliabilityPolicy.RELIABLE))
    client.spin_until(stream.update, "a publisher")
    create, asked = client.node.create_subscription, []

    def ask_and_create(*args: object) -> object:
        asked.append(stream.topic)
        return create(*args)

    monkeypatch.setattr(client.node, "create_subscription", ask_and_create)
    client.node.destroy_publisher(first)
    client.node.create_publisher(Image, "/cam", offer(ReliabilityPolicy.BEST_EFFORT))
    best = (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
    follow(client, stream, "/cam", [best])
    assert set(asked) == {"/cam"}
    stream.close()
    assert stream.topic is None


def test_latched_publishers_are_read_latched(client: Client) -> None:
    latched = offer(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
    client.node.create_publisher(Image, "/cam", latched)
    stream = Input(client.node, "camera", [RAW], "auto", lambda _: None)
    expected = [(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)]
    follow(client, stream, "/cam", expected)


def test_a_weaker_publisher_that_joins_is_heard_too(client: Client) -> None:
    client.node.create_publisher(Image, "/cam", offer(ReliabilityPolicy.RELIABLE))
    stream = Input(client.node, "camera", [RAW], "auto", lambda _: None)
    follow(client, stream, "/cam", [(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)])
    client.node.create_publisher(Image, "/cam", offer(ReliabilityPolicy.BEST_EFFORT))
    follow(client, stream, "/cam", [(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)])


def test_given_reliability_subscribes_without_a_publisher(client: Client) -> None:
    stream = Input(client.node, "camera", [RAW], "best_effort", lambda _: None)
    assert stream.topic is None
    expected = [(ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)]
    for _ in range(2):  # and again after it was closed
        assert not stream.update()
        client.spin_until(lambda: subscribed(client, "/cam") == expected, "a subscription")
        stream.close()
        client.spin_until(lambda: subscribed(client, "/cam") == [], "none")
        assert stream.topic is None


def test_raw_and_compressed_are_never_both_read(client: Client) -> None:
    stream = Input(client.node, "camera", [RAW, COMPRESSED], "auto", lambda _: None)
    compressed = client.node.create_publisher(CompressedImage, "/cam/compressed", 3)
    reliable = [(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)]
    follow(client, stream, "/cam/compressed", reliable)
    client.node.create_publisher(Image, "/cam", 3)  # what runs already is kept
    client.spin_until(lambda: client.node.count_publishers("/cam"), "the raw publisher")
    stream.update()
    assert stream.topic == "/cam/compressed"
    client.node.destroy_publisher(compressed)
    follow(client, stream, "/cam", reliable)
    assert subscribed(client, "/cam/compressed") == []


def test_a_topic_of_another_type_is_not_read(client: Client) -> None:
    client.node.create_publisher(CompressedImage, "/cam", 3)
    stream = Input(client.node, "camera", [RAW], "auto", lambda _: None)
    client.spin_until(lambda: client.node.count_publishers("/cam"), "the publisher")
    assert not stream.update()
    assert subscribed(client, "/cam") == []


def test_silence_is_explained_with_the_topics_that_are_published(
    client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    """Names as they are after remapping."""
    node = rclpy.create_node(
        "mmsam", context=client.context,
        cli_args=["--ros-args", "-r", "camera/image:=/front/image/compressed"],
    )  # fmt: skip
    asked = Topic("camera/image", IMAGE, "")
    stream = Input(node, "camera", [asked], "auto", lambda _: None)
    client.spin_until(lambda: not stream.update(), "the first look")
    text = stream.explain_silence()
    assert text.startswith("on /front/image/compressed, and no other topic of type Image is publ")
    node.create_publisher(Image, "~/overlay", 3)  # its own
    client.node.create_publisher(CompressedImage, "/front/image/compressed", 3)
    client.node.create_publisher(Image, "/rear/image", 3)
    client.spin_until(
        lambda: "/rear/image" in stream.explain_silence() and not stream.update(), "its publisher"
    )
    client.spin_until(
        lambda: node.count_publishers("/front/image/compressed") and not stream.update(), "both"
    )
    assert stream.explain_silence() == (
        "on /front/image/compressed (published as sensor_msgs/msg/CompressedImage). Published: "
        "/rear/image; remap camera/image (launch argument image_topic) to the right one. Give the "
        "name without /compressed"
    )
    assert (
        "/front/image/compressed is published as sensor_msgs/msg/CompressedImage, expected "
        "sensor_msgs/msg/Image; it is not read: give the name without /compressed: /front/image\n"
    ) in "".join(capfd.readouterr())
    node.destroy_node()


def test_two_nodes_on_one_topic_are_said(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two publishers of one node are one driver's."""
    warned: list[str] = []
    monkeypatch.setattr(client.node.get_logger(), "warning", warned.append)
    stream = Input(client.node, "camera", [RAW], "auto", lambda _: None)
    other = rclpy.create_node("other", context=client.context)
    try:
        for count, node in enumerate((client.node, client.node, other), start=1):
            node.create_publisher(Image, "/cam", 5)
            client.spin_until(
                lambda n=count: client.node.count_publishers("/cam") == n, "a publisher"
            )
            for _ in range(3):
                assert stream.update()
            assert len(warned) == (count == 3)
    finally:
        other.destroy_node()
    assert "2 nodes publish /cam (/client, /other)" in warned[0]


def test_silence_of_a_publisher_is_no_matter_of_names(client: Client) -> None:
    client.node.create_publisher(Image, "/cam", 3)
    stream = Input(client.node, "camera", [RAW], "auto", lambda _: None)
    client.spin_until(stream.update, "the publisher")
    assert stream.explain_silence().startswith("on /cam, though client publishes it. If its source")
    assert stream.last is None


def test_silence_of_a_publisher_that_offers_less(client: Client) -> None:
    client.node.create_publisher(Image, "/cam", offer(ReliabilityPolicy.BEST_EFFORT))
    stream = Input(client.node, "camera", [RAW], "reliable", lambda _: None)
    client.spin_until(stream.update, "the publisher")
    expected = "on /cam, though client publishes it as best effort: set input_reliability to 'auto'"
    assert stream.explain_silence() == expected
