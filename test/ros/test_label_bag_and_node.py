# SPDX-License-Identifier: Apache-2.0
"""`mmsam label-bag` writes what the node publishes of the same messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from domains import free_domain
from harness import running
from sensor_msgs.msg import Image, PointCloud2
from support.drives import FRAMES, read_topic, write_drive, write_weights

from mmsam_ros.cli.main import main
from mmsam_ros.ros.calibration import CameraInfos
from mmsam_ros.ros.feed import Feed
from mmsam_ros.ros.interface import message_class
from mmsam_ros.ros.parameter_files import read_given, read_remaps
from mmsam_ros.ros.parameters import check_parameters
from mmsam_ros.ros.recording import Recording
from mmsam_ros.weights import read_spec

pytestmark = [pytest.mark.dds, pytest.mark.filterwarnings("ignore::UserWarning")]
# messages of the node that are in the bag, too
TOPICS = {
    "/mmsam/semantic": Image,
    "/mmsam/confidence": Image,
    "/mmsam/color": Image,
    "/mmsam/overlay": Image,
    "/mmsam/points": PointCloud2,
    "/mmsam/points/labelled": PointCloud2,
}
DEADLINE = "sync.deadline:=3.0"  # longer than the drive: only the last set waits for it


def test_the_node_and_the_command_agree_byte_by_byte(tmp_path: Path) -> None:
    bag, weights = write_drive(tmp_path), write_weights(tmp_path)
    out, calibration = tmp_path / "out", bag / "calibration.yaml"
    common = ["-p", f"weights:={weights}", "-p", "device:=cpu", "-p", DEADLINE]
    chosen = "--outputs=confidence,color,overlay,points,labelled_points"
    assert main(["label-bag", str(bag), str(out), *common, chosen]) == 0

    given = read_given([calibration], [f"weights:={weights}", DEADLINE])
    parameters = check_parameters(given, pytest.fail)
    with (
        Recording(bag) as reader,
        running(free_domain(), "--params-file", str(calibration), *common) as (_, client),
    ):
        feed = Feed(reader, parameters, read_spec(weights), read_remaps([]))
        found = {topic: client.record(kind, topic) for topic, kind in TOPICS.items()}
        read = [*feed.inputs.streams.values(), *feed.inputs.infos.values()]
        sent = {c.id: client.publisher(message_class(c.msgtype), c.topic) for c in read}
        client.spin_until(
            lambda: (
                all(p.get_subscription_count() for p in sent.values())
                and all(client.node.count_publishers(topic) for topic in TOPICS)
            ),
            "the node subscribes",
        )
        closed = 0

        def play(connection: Any, time: int, data: bytes) -> None:
            """As fast as the node labels: what is complete by now has come back."""
            client.spin_until(lambda: len(found["/mmsam/semantic"]) >= closed, f"mask {closed}")
            if connection.id in sent:
                sent[connection.id].publish(bytes(data))

        for _ in feed.sets(CameraInfos(), play):
            closed += 1
        assert closed == FRAMES
        for topic, messages in found.items():
            count = len(read_topic(out, topic))
            assert count >= FRAMES - 1
            client.spin_until(lambda m=messages, n=count: len(m) == n, topic)

    for topic, messages in found.items():
        for (_, expected), message in zip(read_topic(out, topic), messages, strict=True):
            header, given_header = message.header, expected.header
            assert (header.stamp.sec, header.stamp.nanosec, header.frame_id) == (
                given_header.stamp.sec, given_header.stamp.nanosec, given_header.frame_id
            )  # fmt: skip
            assert bytes(message.data) == expected.data.tobytes(), topic
            assert (message.height, message.width) == (expected.height, expected.width)
            if topic.startswith("/mmsam/points"):
                assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields] == [
                    (f.name, f.offset, f.datatype, f.count) for f in expected.fields
                ]
                steps = (message.point_step, message.row_step, message.is_dense)
                assert steps == (expected.point_step, expected.row_step, expected.is_dense)
            else:
                assert (message.encoding, message.step) == (expected.encoding, expected.step)
