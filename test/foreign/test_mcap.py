# SPDX-License-Identifier: Apache-2.0
"""MCAP files of other writers, cut ones and damaged ones: every sound message is read."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rosbags.typesys import Stores, get_typestore
from support.mcap import MAGIC, Channel, Layout, write_mcap

from mmsam_ros.ros import storage_mcap
from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.recording import Recording
from mmsam_ros.ros.storage_mcap import McapFile

STORE = get_typestore(Stores.ROS2_JAZZY)
STRING = "std_msgs/msg/String"
A, B = Channel("/a"), Channel("/b")
COUNT = 12


def cdr(value: str) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[STRING](value), STRING))


MESSAGES = [(1 + i % 2, 1000 + 10 * i, cdr(f"text {i}")) for i in range(COUNT)]
TEXTS = [f"text {i}" for i in range(COUNT)]
LAYOUTS = {
    "as rosbag2": Layout(),
    "lz4": Layout(compression="lz4"),
    "not compressed": Layout(compression=""),
    "no chunks": Layout(compression=None),
    "no summary": Layout(summary=False),
    "no summary, lz4": Layout(summary=False, compression="lz4"),
    "no chunks, no summary": Layout(compression=None, summary=False),
    "no message index": Layout(message_index=False),
    "no statistics": Layout(statistics=False),
    "no channels in the summary": Layout(repeat_channels=False),
    "no checksums": Layout(crc=False),
    "profile of no name": Layout(profile=""),
    "profile ros1": Layout(profile="ros1"),
    "one message a chunk": Layout(chunk=1),
}


def read(path: Path) -> tuple[list[str], list[str]]:
    """Texts in the order in which they are played, and faults."""
    with Recording(path) as recording:
        texts = [
            recording.deserialize(data, c.msgtype).data  # type: ignore[attr-defined]
            for c, _, data in recording.messages()
        ]
        assert len(texts) == recording.message_count or recording.faults
        return texts, recording.faults


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_is_read(tmp_path: Path, layout: Layout) -> None:
    path = write_mcap(tmp_path / "x.mcap", [A, B], MESSAGES, layout)
    assert read(path) == (TEXTS, [])
    with Recording(path) as recording:
        assert {c.topic: c.msgcount for c in recording.connections} == {"/a": 6, "/b": 6}
        assert (recording.start_time, recording.end_time) == (1000, 1111)
        only = [c for c in recording.connections if c.topic == "/b"]
        times = [time for _, time, _ in recording.messages(only, 1030, 1090)]
        assert times == [1030, 1050, 1070]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_order_is_that_of_time(tmp_path: Path, layout: Layout) -> None:
    """Also across chunks: writers flush late messages after newer ones."""
    mixed = [MESSAGES[i] for i in (3, 0, 1, 7, 2, 5, 4, 6, 11, 8, 10, 9)]
    assert read(write_mcap(tmp_path / "x.mcap", [A, B], mixed, layout)) == (TEXTS, [])


@pytest.mark.parametrize(
    "layout",
    [
        Layout(compression="", chunk=4),
        Layout(compression="zstd", chunk=4),
        Layout(compression="lz4", chunk=4),
        Layout(compression=None),
    ],
    ids=["not compressed", "zstd", "lz4", "no chunks"],
)
def test_cut_anywhere_it_is_read_up_to_the_cut(tmp_path: Path, layout: Layout) -> None:
    whole = write_mcap(tmp_path / "x.mcap", [A, B], MESSAGES, layout).read_bytes()
    data_end = whole.rindex(struct.pack("<BQI", 15, 4, 0))
    found = []
    for size in range(len(MAGIC) + 1, len(whole)):
        (tmp_path / "cut.mcap").write_bytes(whole[:size])
        texts, faults = read(tmp_path / "cut.mcap")
        assert texts == TEXTS[: len(texts)]
        assert len(texts) >= (found[-1] if found else 0)  # a longer file never gives less
        # cut in the summary, nothing is missing
        assert bool(faults) == (size < data_end + 13), size
        assert all("cut at byte" in fault and "mcap recover" in fault for fault in faults)
        found.append(len(texts))
    assert found[-1] == COUNT
    step = layout.chunk if layout.compression else 1
    assert set(found) == set(range(0, COUNT + 1, step))  # at most a compressed chunk is lost


def test_messages_of_no_topic_are_named(tmp_path: Path) -> None:
    messages = [*MESSAGES, (3, 2000, b"")]
    for compression in ("", None):
        layout = Layout(compression=compression, summary=False)
        path = write_mcap(tmp_path / "x.mcap", [A, B], messages, layout)
        assert read(path) == (TEXTS, ["x.mcap: 1 messages belong to no topic"])


def test_a_disk_that_was_full_leaves_zeros(tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "x.mcap", [A, B], MESSAGES, Layout(compression=None))
    data = path.read_bytes()
    middle = data.index(b"text 6")  # a message that begins sound and ends in zeros
    path.write_bytes(data[:middle] + bytes(5000))
    texts, (fault,) = read(path)
    assert texts == TEXTS[:6]
    assert "it is cut at byte" in fault


@pytest.mark.parametrize("summary", [True, False])
def test_a_damaged_chunk_costs_its_own_messages(tmp_path: Path, summary: bool) -> None:
    path = write_mcap(
        tmp_path / "x.mcap", [A, B], MESSAGES, Layout(compression="", summary=summary)
    )
    path.write_bytes(path.read_bytes().replace(b"text 4", b"text ?"))
    texts, (fault,) = read(path)
    assert texts == [t for t in TEXTS if t not in ("text 3", "text 4", "text 5")]
    assert "is damaged" in fault
    assert "mcap recover" in fault


def test_chunks_are_read_when_their_time_comes(tmp_path: Path) -> None:
    """A sound summary is enough to begin: the damage at the end is not met before."""
    path = write_mcap(tmp_path / "x.mcap", [A, B], MESSAGES, Layout(compression=""))
    path.write_bytes(path.read_bytes().replace(b"text 10", b"text ??"))
    with Recording(path) as recording:
        messages = recording.messages()
        assert [time for _, time, _ in islice(messages, 8)] == [1000 + 10 * i for i in range(8)]
        assert recording.faults == []
        assert [time for _, time, _ in messages] == [1080]
        assert len(recording.faults) == 1


# A summary that the file contradicts. Records after the data: opcodes 4 (channel), 8 (index of a
# chunk: earliest time, latest time, place, ...; channels from byte 36), 11 (statistics: messages,
# chunks at byte 22, earliest and latest time at 26, messages by channel from 46).


def no_times(opcode: int, content: bytearray, number: int) -> None:
    if opcode == 8:
        struct.pack_into("<QQ", content, 0, 0, 0)


def wrong_time_of_one(opcode: int, content: bytearray, number: int) -> None:
    if opcode == 8 and number == 2:
        struct.pack_into("<Q", content, 0, 1090)


def no_times_in_statistics(opcode: int, content: bytearray, number: int) -> None:
    if opcode == 11:
        struct.pack_into("<QQ", content, 26, 0, 0)


def one_channel_only(opcode: int, content: bytearray, number: int) -> None:
    """As if only /a were in the chunks."""
    if opcode == 8:
        for at in (36, 46):
            struct.pack_into("<H", content, at, 1)


def one_chunk_twice(opcode: int, content: bytearray, number: int) -> None:
    if opcode == 8 and number == 1:
        struct.pack_into("<Q", content, 16, first_chunk(content))


def chunks_elsewhere(opcode: int, content: bytearray, number: int) -> None:
    if opcode == 8:
        (place,) = struct.unpack_from("<Q", content, 16)
        struct.pack_into("<Q", content, 16, place + 5)


def other_topic(opcode: int, content: bytearray, number: int) -> None:
    if opcode == 4:
        content[:] = content.replace(b"/b", b"/c")


def one_chunk_less(opcode: int, content: bytearray, number: int) -> None:
    """Of four; the statistics agree."""
    if opcode == 8 and number == 3:
        content.clear()
    if opcode == 11:
        struct.pack_into("<Q", content, 0, 9)
        struct.pack_into("<I", content, 22, 3)
        struct.pack_into("<Q", content, 34, 1080)
        struct.pack_into("<HQHQ", content, 46, 1, 5, 2, 4)


def first_chunk(content: bytearray) -> int:
    return len(MAGIC) + 9 + len("ros2other") + 8


LIES = [no_times, wrong_time_of_one, no_times_in_statistics, one_channel_only, one_chunk_twice,
        chunks_elsewhere, other_topic, one_chunk_less]  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("compression", ["", "zstd", "lz4"])
def test_a_summary_is_not_believed(
    tmp_path: Path, lie: Callable[[int, bytearray, int], None], compression: str
) -> None:
    path = write_mcap(tmp_path / "x.mcap", [A, B], MESSAGES, Layout(compression=compression))
    whole = path.read_bytes()
    at = whole.rindex(struct.pack("<BQI", 15, 4, 0)) + 13
    out, seen = whole[:at], Counter[int]()
    while at < len(whole) - len(MAGIC):
        opcode, size = struct.unpack_from("<BQ", whole, at)
        content = bytearray(whole[at + 9 : at + 9 + size])
        lie(opcode, content, seen[opcode])
        seen[opcode] += 1
        out += struct.pack("<BQ", opcode, len(content)) + content if content else b""
        at += 9 + size
    assert out + MAGIC != whole
    path.write_bytes(out + MAGIC)
    assert read(path) == (TEXTS, [])
    with Recording(path) as recording:
        assert (recording.start_time, recording.end_time) == (1000, 1111)
        assert {c.topic: c.msgcount for c in recording.connections} == {"/a": 6, "/b": 6}
        (second,) = (c for c in recording.connections if c.topic == "/b")
        times = [time for _, time, _ in recording.messages([second], 1030, 1090)]
        assert times == [1030, 1050, 1070]


def test_a_large_file_is_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened, a few chunks are compared with their index, the first and the last among them."""
    messages = [(1, 1 + i, cdr("x" * 1000)) for i in range(100)]
    path = write_mcap(tmp_path / "x.mcap", [A], messages, Layout(compression="", chunk=1))
    monkeypatch.setattr(storage_mcap, "_LOOKED_AT", 20_000)
    looked_at = []
    unpack = McapFile._unpack

    def noted(self: McapFile, at: int, size: int) -> Any:
        looked_at.append(at)
        return unpack(self, at, size)

    monkeypatch.setattr(McapFile, "_unpack", noted)
    with Recording(path) as recording:
        assert recording.message_count == 100
    assert 10 < len(looked_at) < 30
    with ExitStack() as closing:
        blocks = McapFile(path, closing)._blocks
    assert {blocks[0].offset, blocks[-1].offset} <= set(looked_at)


FOREIGN = {
    "protobuf": Channel("/x", "foxglove.Grid", "protobuf", "\x00", "protobuf"),
    "json": Channel("/x", "pose", "jsonschema", "{}", "json"),
    "flatbuffer": Channel("/x", "foxglove.Grid", "flatbuffer", "\x00", "flatbuffer"),
    "no schema": Channel("/x", schema=""),
    "type of no package": Channel("/x", "String"),
    "unknown schema": Channel("/x", "a/msg/B", "next", "?", "cdr"),
    "IDL that cannot be parsed": Channel("/x", "a/msg/B", "ros2idl", "module { x", "cdr"),
    "definition that cannot be parsed": Channel("/x", "a/msg/B", "ros2msg", "%&$", "cdr"),
    "broken QoS": Channel("/x", metadata=(("offered_qos_profiles", "- history: [}"),)),
    "QoS without depth": Channel("/x", metadata=(("offered_qos_profiles", "- history: 1"),)),
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("layout", [Layout(), Layout(summary=False)], ids=["summary", "none"])
def test_a_foreign_topic_spoils_no_other(tmp_path: Path, foreign: Channel, layout: Layout) -> None:
    messages = [*MESSAGES, (3, 1005, b"\x08\x01"), (3, 1115, b"{}")]
    path = write_mcap(tmp_path / "x.mcap", [A, B, foreign], messages, layout.but(profile=""))
    with Recording(path) as recording:
        sound = [c for c in recording.connections if c.topic != "/x"]
        texts = [
            recording.deserialize(data, c.msgtype).data  # type: ignore[attr-defined]
            for c, _, data in recording.messages(sound)
        ]
        assert texts == TEXTS
        assert not recording.faults
        (other,) = (c for c in recording.connections if c.topic == "/x")
        assert other.msgcount == 2
        wrong = foreign.encoding != "cdr" or not foreign.type.startswith(("std_msgs", "a/"))
        assert (other.id in recording.unreadable) == (wrong or not foreign.schema)


def test_types_as_dds_and_as_idl_name_them(tmp_path: Path) -> None:
    names = ["std_msgs::msg::String", "std_msgs::msg::dds_::String_", "std_msgs/String"]
    channels = [Channel(f"/{i}", name) for i, name in enumerate(names)]
    with Recording(write_mcap(tmp_path / "x.mcap", channels, [(1, 1, cdr("a"))])) as recording:
        assert {c.msgtype for c in recording.connections} == {STRING}


def test_channels_of_one_topic_are_one_topic(tmp_path: Path) -> None:
    """Each of several publishers has its own channel, in MCAP of some writers."""
    path = write_mcap(tmp_path / "x.mcap", [A, A], MESSAGES)
    assert read(path) == (TEXTS, [])
    with Recording(path) as recording:
        (connection,) = recording.connections
        assert connection.msgcount == COUNT


def test_messages_of_ros1_in_mcap(tmp_path: Path) -> None:
    """As `mcap convert` makes of a ROS 1 bag: sequence number, frame, no padding."""
    definition = (
        "Header header\nfloat64 temperature\nfloat64 variance\n" + "=" * 80 + "\n"
        "MSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id\n"
    )
    channel = Channel(
        "/t", "sensor_msgs/Temperature", "ros1msg", definition, "ros1", (("latching", "1"),)
    )
    data = struct.pack("<IIII", 7, 5, 6, 3) + b"box" + struct.pack("<dd", 21.5, 0.25)
    path = write_mcap(tmp_path / "x.mcap", [channel], [(1, 9, data)], Layout(profile="ros1"))
    with Recording(path) as recording:
        ((connection, _, found),) = recording.messages()
        assert connection.msgtype == "sensor_msgs/msg/Temperature"
        expected = STORE.types["sensor_msgs/msg/Temperature"](
            STORE.types["std_msgs/msg/Header"](STORE.types["builtin_interfaces/msg/Time"](5, 6),
                                               "box"), 21.5, 0.25,
        )  # fmt: skip
        assert found == bytes(STORE.serialize_cdr(expected, connection.msgtype))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "found an empty file"),
        (MAGIC, "it is cut at byte 8 of 8"),
        (b"\x89MCAP1\r\n" + bytes(50), "begins with b'\\\\x89MCAP1"),
        (b"<html>", "expected MCAP, a rosbag2 database or a ROS 1 bag"),
    ],
)
def test_what_has_no_message_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.mcap"
    path.write_bytes(content)
    with pytest.raises(RosError, match=said), Recording(path) as recording:
        raise RosError("; ".join(recording.faults))
