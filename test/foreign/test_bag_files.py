# SPDX-License-Identifier: Apache-2.0
"""Files of recordings: packed, cut, damaged, and under any name."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from random import Random

import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.reader import zstd
from rosbags.typesys import Stores, get_typestore
from support.disks import small_disk
from support.texts import PLUGINS, STORE, STRING, TEXTS, cdr, read, write_file

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.recording import Recording


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize("mode", list(CompressionMode))
def test_packed_recordings_are_read_by_folder_and_by_file(
    tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode
) -> None:
    if mode == CompressionMode.STORAGE and plugin == StoragePlugin.SQLITE3:
        pytest.skip("SQLite has no compression of its own")
    file = write_file(tmp_path / "bag", TEXTS, plugin, compress=mode)
    for path in (file.parent, file):
        assert read(path) == (TEXTS, [], [])
    (tmp_path / "bag/metadata.yaml").unlink()
    assert read(file.parent)[0] == TEXTS


def test_a_message_that_cannot_be_unpacked_costs_itself(tmp_path: Path) -> None:
    file = write_file(tmp_path / "bag", TEXTS, compress=CompressionMode.MESSAGE)
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 9) WHERE id = 3")
        database.execute("UPDATE messages SET data = x'' WHERE id = 5")
        database.execute("UPDATE messages SET data = 'text' WHERE id = 6")
    texts, _, faults = read(file)
    assert texts == [TEXTS[i] for i in range(12) if i not in (2, 4, 5)]
    assert len(faults) == 2
    assert "/a: 2 messages cannot be read (it has 0 bytes)" in faults


def test_no_room_to_unpack_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_file(tmp_path / "bag", ["text" * 100_000], compress=CompressionMode.FILE)
    with small_disk(tmp_path / "disk", 64 * 1024) as folder:
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        with pytest.raises(RosError, match=rf"{file}: .* in {folder} \(No space.*set TMPDIR"):
            Recording(file.parent)


def test_a_packed_file_is_read_up_to_where_it_is_cut(tmp_path: Path) -> None:
    values = [f"{i} {os.urandom(5000).hex()}" for i in range(200)]
    for plugin in PLUGINS:
        file = write_file(tmp_path / plugin.name, values, plugin)
        packed = tmp_path / f"{file.name}.zstd"
        data = zstd.compress(file.read_bytes())
        packed.write_bytes(data[: len(data) * 2 // 3])
        texts, _, faults = read(packed)
        assert texts == values[: len(texts)]
        assert 60 < len(texts) < 140
        assert any("cut" in fault for fault in faults)


# files


@pytest.mark.parametrize("name", ["a b", "äöü", "50%", "what?", "no #1", "x;y", "a&b=c", "%41"])
@pytest.mark.parametrize("plugin", PLUGINS)
def test_any_name_of_a_folder(tmp_path: Path, name: str, plugin: StoragePlugin) -> None:
    folder = write_file(tmp_path / "bag", TEXTS, plugin).parent.rename(tmp_path / name)
    (file,) = (path for path in folder.iterdir() if path.name != "metadata.yaml")
    file = file.rename(folder / f"{name}{file.suffix}")
    for path in (file, folder):
        texts, _, faults = read(path)
        assert (texts, faults) == (TEXTS, [])


def test_files_may_have_any_ending(tmp_path: Path) -> None:
    for plugin in PLUGINS:
        file = write_file(tmp_path / plugin.name, TEXTS, plugin)
        assert read(file.rename(tmp_path / f"recording.{plugin.name}.bak"))[0] == TEXTS


@pytest.mark.parametrize("name", ["db3", "mcap", "bag"])
def test_damage_anywhere_is_a_fault_or_a_refusal(tmp_path: Path, name: str) -> None:
    """Never another error, and never a message too many."""
    if name == "bag":
        writer = Ros1Writer(tmp_path / "x.bag")
        with writer:
            connection = writer.add_connection(
                "/a", STRING, typestore=get_typestore(Stores.ROS1_NOETIC)
            )
            for index, value in enumerate(TEXTS):
                writer.write(connection, index, len(value).to_bytes(4, "little") + value.encode())
        file = tmp_path / "x.bag"
    else:
        file = write_file(tmp_path / "bag", TEXTS, PLUGINS[name == "db3"])
    whole, random = file.read_bytes(), Random(0)
    assert read(file) == (TEXTS, [], [])
    for index in range(60):
        data = bytearray(whole[: random.randrange(len(whole)) if index % 2 else len(whole)])
        for _ in range(random.choice([0, 1, 3, 30]) if data else 0):
            data[random.randrange(len(data))] = random.randrange(256)
        file.write_bytes(data)
        with contextlib.suppress(RosError), Recording(file) as recording:
            assert sum(1 for _ in recording.messages()) <= len(TEXTS)


def test_a_topic_without_messages_has_none(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        writer.add_connection("/empty", STRING, typestore=STORE)
        full = writer.add_connection("/full", STRING, typestore=STORE)
        writer.write(full, 5, cdr("a"))
    with Recording(tmp_path / "bag") as recording:
        assert {c.topic: c.msgcount for c in recording.connections} == {"/empty": 0, "/full": 1}
        assert [c.topic for c, _, _ in recording.messages()] == ["/full"]
