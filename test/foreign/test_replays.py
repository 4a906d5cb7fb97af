# SPDX-License-Identifier: Apache-2.0
"""`mmsam replay` of recordings that are not as they should be: what it plays, says and returns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from support.mcap import Channel, Layout, write_mcap

pytest.importorskip("rclpy")

from mmsam_ros.ros import player, replay
from mmsam_ros.ros.player import Player, ReplayConfig
from mmsam_ros.ros.recording import Recording

STORE = get_typestore(Stores.ROS2_JAZZY)
STRING = "std_msgs/msg/String"
A, B = Channel("/a"), Channel("/b")
START = 1_700_000_000_000_000_000


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No participant outside of this process is met."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")


def cdr(value: str) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[STRING](value), STRING))


def messages(count: int = 12) -> list[tuple[int, int, bytes]]:
    return [(1 + i % 2, START + i * 1_000_000, cdr(f"text {i}")) for i in range(count)]


class Said(SimpleNamespace):
    code: int
    out: str
    err: str

    @property
    def counts(self) -> tuple[int, int]:
        """Messages that were played and that are recorded, by the last line."""
        found = re.search(r"played (\d+) messages in .*, of (\d+) recorded", self.out)
        assert found, self.out + self.err
        return int(found[1]), int(found[2])


@pytest.fixture
def play(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(bag: Path, *options: str) -> Said:
        code = replay.main([str(bag), "--wait", "0", *options])
        out, err = capsys.readouterr()
        assert (code == 0) == (err == "")
        assert err.count("\n") == (code != 0)
        return Said(code=code, out=out, err=err)

    return run


def test_a_sound_bag_is_played_as_a_whole(tmp_path: Path, play: Any) -> None:
    said = play(write_mcap(tmp_path / "x.mcap", [A, B], messages()))
    assert (said.code, said.counts) == (0, (12, 12))
    assert "/a 6, /b 6" in said.out


def test_a_cut_bag_is_played_up_to_the_cut_and_is_an_error(tmp_path: Path, play: Any) -> None:
    path = write_mcap(tmp_path / "x.mcap", [A, B], messages())
    path.write_bytes(path.read_bytes()[:600])
    said = play(path)
    assert said.code == 2
    played, recorded = said.counts
    assert 0 < played == recorded < 12
    assert f"a part could not be played: {played} messages were" in said.err
    assert "x.mcap: it is cut at byte" in said.err
    assert "`mcap recover`" in said.err


def test_a_part_of_a_cut_bag_is_an_error_too(tmp_path: Path, play: Any) -> None:
    path = write_mcap(tmp_path / "x.mcap", [A, B], messages())
    path.write_bytes(path.read_bytes()[:600])
    assert play(path, "--duration", "0.002").code == 2


def test_a_missing_file_is_an_error_after_the_others(tmp_path: Path, play: Any) -> None:
    folder = tmp_path / "bag"
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        connection = writer.add_connection("/a", STRING, typestore=STORE)
        writer.write(connection, START, cdr("a"))
    text = (folder / "metadata.yaml").read_text()
    text = text.replace("- bag.mcap", "- bag.mcap\n  - bag_1.mcap")
    (folder / "metadata.yaml").write_text(text.replace("message_count: 1", "message_count: 5"))
    said = play(folder)
    assert (said.code, said.counts) == (2, (1, 1))
    assert "bag_1.mcap: listed in metadata.yaml, and not there" in said.err
    assert "metadata.yaml says 5 messages, the files have 1" in said.out


def test_the_recorded_split_bag_is_played_as_a_whole(shared: Path, play: Any) -> None:
    said = play(shared / "cases/rosbag2_split_mcap")
    assert (said.code, said.counts) == (0, (6074, 6074))


def test_the_recorded_cases_are_played(shared: Path, play: Any) -> None:
    assert play(shared / "cases/types_without_msg/old.db3").counts == (3, 3)
    assert play(shared / "cases/rosbags_convert_camera_info").counts == (15, 15)
    said = play(shared / "cases/mcap_idl_schema")
    assert said.code == 0
    assert "/cam/camera_info 3, /velo 3" in said.out
    assert "skipping /event_camera/events: event_camera_msgs/msg/EventPacket" in said.out


def test_topics_that_cannot_be_played_are_named_and_spoil_no_other(
    tmp_path: Path, play: Any
) -> None:
    channels = [
        A,
        B,
        Channel("/json", "pose", "jsonschema", "{}", "json"),
        Channel("/unknown", "acme_msgs/msg/Thing"),
        Channel("/no-ros-name"),
        Channel("/a", "std_msgs/msg/Int32", definition="int32 data\n"),
        Channel("/module", "os/msg/Path"),
        Channel("/dots", "../msg/Path"),
    ]
    others = [(number, START + number, cdr("x")) for number in range(3, 9)]
    said = play(write_mcap(tmp_path / "x.mcap", channels, messages() + others))
    assert (said.code, said.counts) == (0, (12, 18))
    for text in (
        "skipping /json: its messages are json",
        "skipping /unknown: acme_msgs/msg/Thing is not installed",
        "skipping /no-ros-name: ROS 2 has no such name; give it one with --remap",
        "skipping /a as std_msgs/msg/Int32: the topic has another type, too",
        "skipping /module: os/msg/Path is not installed",
        "skipping /dots: found '../msg/Path', expected package/msg/Name",
    ):
        assert text in said.out
    renamed = play(tmp_path / "x.mcap", "--remap", "/no-ros-name:=/name")
    assert renamed.counts == (13, 18)


def test_nothing_to_play_is_an_error(tmp_path: Path, play: Any) -> None:
    json = Channel("/json", "pose", "jsonschema", "{}", "json")
    said = play(write_mcap(tmp_path / "x.mcap", [json], [(1, 5, b"{}")]))
    assert said.code == 2
    assert "none of its topics can be played: /json: its messages are json" in said.err
    empty = play(write_mcap(tmp_path / "y.mcap", [A], []))
    assert empty.code == 2
    assert "the bag has no messages" in empty.err


def test_a_summary_that_counts_too_much_is_an_error(tmp_path: Path, play: Any) -> None:
    path = write_mcap(tmp_path / "x.mcap", [A], messages(3)[:1], Layout(compression=""))
    data = path.read_bytes()
    statistics = data.rindex(b"\x0b")
    counted = bytearray(data)
    counted[statistics + 9] = 4  # messages
    counted[data.rindex(b"\x02\x14") - 8] = 4  # of the channel
    path.write_bytes(counted)
    said = play(path)
    assert said.code == 2
    assert "1 messages were, 4 are known of" in said.err


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        assert seconds < 10
        self.now += seconds
        return False

    def is_set(self) -> bool:
        return False


@pytest.fixture
def node() -> Iterator[Any]:
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context)
    try:
        yield rclpy.create_node("test_replays", context=context)
    finally:
        rclpy.try_shutdown(context=context)


def played_times(bag: Path, node: Any, monkeypatch: pytest.MonkeyPatch, **config: Any) -> list[Any]:
    """(text, seconds after the first) of all messages, on a clock of its own."""
    clock = Clock()
    monkeypatch.setattr(player, "time", clock)
    sent: list[tuple[str, float]] = []

    def take(data: bytes) -> None:
        message: Any = STORE.deserialize_cdr(data, STRING)
        sent.append((message.data, clock.now))

    with Recording(bag) as recording:
        playing = Player(ReplayConfig(bag, **config), recording, node, clock)  # type: ignore[arg-type]
        for number in playing.publishers:
            playing.publishers[number] = SimpleNamespace(topic_name="/a", publish=take)  # type: ignore[assignment]
        playing._play_once()
        assert playing.loss() == ""
    return [(value, pytest.approx(at - sent[0][1], abs=1e-6)) for value, at in sent]


SECOND = 10**9


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        # received before the simulated clock ran, or before the network had set the clock
        ([0, 0, START, START + SECOND], [0, 0, 0, 1]),
        ([5 * SECOND, 6 * SECOND, START, START + 2 * SECOND], [0, 1, 1, 3]),
        # a silence that somebody may have recorded on purpose
        ([START, START + 9 * SECOND], [0, 9]),
        # written out of order: played in order
        ([START + SECOND, START, START + 3 * SECOND], [0, 1, 3]),
        ([0, 0, 0], [0, 0, 0]),
    ],
    ids=["zero stamps", "clock set", "silence", "order", "no stamps"],
)
@pytest.mark.parametrize("compression", ["zstd", None])
def test_times(
    tmp_path: Path,
    node: Any,
    monkeypatch: pytest.MonkeyPatch,
    stamps: list[int],
    expected: list[float],
    compression: str | None,
) -> None:
    entries = [(1, stamp, cdr(str(i))) for i, stamp in enumerate(stamps)]
    bag = write_mcap(tmp_path / "x.mcap", [A], entries, Layout(compression=compression))
    found = played_times(bag, node, monkeypatch)
    assert [at for _, at in found] == expected
    order = sorted(range(len(stamps)), key=stamps.__getitem__)
    assert [value for value, _ in found] == [str(i) for i in order]


def test_static_transforms_without_qos_are_kept_for_late_subscribers(tmp_path: Path) -> None:
    """All of them: nothing says which broadcaster sent which."""
    from rclpy.qos import DurabilityPolicy

    path = write_mcap(
        tmp_path / "x.mcap", [Channel("/robot/tf_static")],
        [(1, i, cdr("x")) for i in range(12)],
    )  # fmt: skip
    with Recording(path) as recording:
        (connection,) = recording.connections
        offered = player.offered_qos(connection)
    assert offered.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert offered.depth == 12


def test_subscribers_that_are_awaited_must_come(tmp_path: Path, play: Any) -> None:
    path = write_mcap(tmp_path / "x.mcap", [A, B], messages())
    said = play(path, "--wait-for", "/a", "/b")
    assert said.code == 2
    assert "--wait-for: nobody subscribes to /a, /b after 0 s" in said.err
    said = play(path, "--wait-for", "/c")
    assert "--wait-for: found topic '/c', but these are played: /a, /b" in said.err


TYPES = [Channel("/a"), Channel("/b", "std_msgs/msg/Int32", definition="int32 data\n"),
         Channel("/c")]  # fmt: skip


@pytest.mark.parametrize(
    ("remaps", "said"),
    [
        (["/a:=/x", "/b:=/x"], "/b (std_msgs/msg/Int32) would both be /x"),
        (["/a:=/b"], "would both be /b"),
        (["/b:=/a"], "would both be /a"),
        (["/a:=x", "/b:=/x"], "would both be /x"),
    ],
)
def test_two_types_on_one_name_are_refused(
    tmp_path: Path, play: Any, remaps: list[str], said: str
) -> None:
    number = b"\0\1\0\0\7\0\0\0"
    entries = [(1 + i % 3, START + i, number if i % 3 == 1 else cdr("a")) for i in range(9)]
    path = write_mcap(tmp_path / "x.mcap", TYPES, entries)
    refused = play(path, "--remap", *remaps)
    assert refused.code == 2
    assert "--remap: /" in refused.err
    assert said in refused.err
    # of one type they may become one topic
    assert play(path, "--remap", "/a:=/c").counts == (9, 9)


def test_names_that_become_one_are_one_topic(tmp_path: Path, play: Any) -> None:
    """With and without a slash, as in ROS 1; of two types the one with more messages is played."""
    channels = [Channel("/a"), Channel("a", "std_msgs/msg/Int32", definition="int32 data\n")]
    entries = [(1, START, cdr("a")), (1, START + 1, cdr("b")), (2, START + 2, cdr("c"))]
    said = play(write_mcap(tmp_path / "x.mcap", channels, entries))
    assert (said.code, said.counts) == (0, (2, 3))
    assert "skipping a as std_msgs/msg/Int32: the topic has another type, too" in said.out


@pytest.mark.parametrize("loop", [[], ["--loop"]])
@pytest.mark.parametrize(
    ("window", "named"),
    [
        (["--start", "0.0021", "--duration", "0.0001"], "from --start 0.0021 in --duration 0.0001"),
        (["--start", "0.0105"], "from --start 0.0105"),
    ],
)
def test_a_window_without_a_message_is_an_error(
    tmp_path: Path, play: Any, window: list[str], named: str, loop: list[str]
) -> None:
    others = [(2, START + 11_000_000, b"{}")]  # of a topic that is not played
    json = Channel("/json", "pose", "jsonschema", "{}", "json")
    entries = [(1, START + i * 1_000_000, cdr("a")) for i in range(11)]
    path = write_mcap(tmp_path / "x.mcap", [A, json], entries + others)
    said = play(path, *window, *loop)
    assert said.code == 2
    assert f"x.mcap: no message to play {named}; it is 0.011 s long" in said.err


def test_a_bag_of_which_no_message_can_be_read_is_an_error(tmp_path: Path, play: Any) -> None:
    said = play(write_mcap(tmp_path / "x.mcap", [A], [(1, START, b"")]), "--loop")
    assert said.code == 2
    assert "no message to play; it is 0.000 s long; /a: 1 messages cannot be read" in said.err


def test_copies_are_played_once_and_that_is_no_loss(tmp_path: Path, play: Any) -> None:
    for name in ("a", "b"):
        write_mcap(tmp_path / f"{name}.mcap", [A, B], messages())
    said = play(tmp_path)
    assert (said.code, said.counts) == (0, (12, 24))
    assert "note: b.mcap: 12 messages are left out, a.mcap has the same" in said.out


@pytest.mark.parametrize("stamp", [2**64 - 1, 2**63, 2**31 * 10**9])
def test_a_time_that_no_clock_shows_is_played(tmp_path: Path, play: Any, stamp: int) -> None:
    path = write_mcap(tmp_path / "x.mcap", [A], [(1, START, cdr("a")), (1, stamp, cdr("b"))])
    assert play(path, "--clock").counts == (2, 2)


def test_a_message_that_its_type_cannot_be_costs_itself(tmp_path: Path, play: Any) -> None:
    """It is longer than an Int32."""
    entries = [(1 + i % 2, START + i, cdr("a long text")) for i in range(4)]
    said = play(write_mcap(tmp_path / "x.mcap", TYPES[:2], entries))
    assert (said.code, said.counts) == (2, (2, 4))
    assert "2 messages were, 4 are known of; /b: Failed to publish" in said.err
