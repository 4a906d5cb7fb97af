# SPDX-License-Identifier: Apache-2.0
"""Folders of recordings that contradict themselves or lack files: what is sound in them is played,
and what is not is named.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2.reader import zstd
from support.texts import EACH, PLUGINS, START, STRING, TEXTS, read, write_file

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.recording import Recording


def split_bag(folder: Path, plugin: StoragePlugin) -> Path:
    """Three files with metadata.yaml, as rosbag2 splits a recording."""
    folder.mkdir()
    names = []
    for number in range(3):
        part = folder.parent / f"part_{number}"
        texts = TEXTS[number * EACH : (number + 1) * EACH]
        file = write_file(part, texts, plugin, begin=START + number * EACH * 1_000_000)
        names.append(f"rec_{number}{file.suffix}")
        file.rename(folder / names[-1])
        shutil.rmtree(part)
    topic = {"name": "/a", "type": STRING, "serialization_format": "cdr",
             "offered_qos_profiles": ""}  # fmt: skip
    table: dict[str, Any] = {
        "version": 5,
        "storage_identifier": plugin.name.lower(),
        "relative_file_paths": names,
        "duration": {"nanoseconds": 11_000_000},
        "starting_time": {"nanoseconds_since_epoch": START},
        "message_count": 12,
        "topics_with_message_count": [{"topic_metadata": topic, "message_count": 12}],
        "compression_format": "",
        "compression_mode": "",
    }
    write_metadata(folder, table)
    return folder


def write_metadata(folder: Path, table: dict[str, Any]) -> None:
    text = yaml.safe_dump({"rosbag2_bagfile_information": table})
    (folder / "metadata.yaml").write_text(text)


def edit(**change: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        table = yaml.safe_load((folder / "metadata.yaml").read_text())
        write_metadata(folder, table["rosbag2_bagfile_information"] | change)

    return apply


def without(key: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        table = yaml.safe_load((folder / "metadata.yaml").read_text())
        del table["rosbag2_bagfile_information"][key]
        write_metadata(folder, table["rosbag2_bagfile_information"])

    return apply


def replace_metadata(content: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / "metadata.yaml").write_bytes(content))


def void(_: object) -> None:
    pass


def rename_paths(form: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        table = yaml.safe_load((folder / "metadata.yaml").read_text())
        names = table["rosbag2_bagfile_information"]["relative_file_paths"]
        edit(relative_file_paths=[form.format(name) for name in names])(folder)

    return apply


def rename_files(folder: Path) -> None:
    for file in folder.glob("rec_*"):
        file.rename(folder / file.name.replace("rec", "drive"))


def unlist(folder: Path) -> None:
    names = sorted(file.name for file in folder.glob("rec_*"))
    edit(relative_file_paths=names[:1], message_count=4)(folder)


# metadata.yaml

LIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "is right": (edit(), ""),
    "empty storage": (edit(storage_identifier=""), ""),
    "another storage": (edit(storage_identifier="leveldb"), ""),
    "a version to come": (edit(version=99), ""),
    "compression claimed": (edit(compression_format="zstd", compression_mode="MESSAGE"), ""),
    "files said to be packed": (edit(compression_format="zstd", compression_mode="FILE"), ""),
    "compression of no name": (edit(compression_format="lz4", compression_mode="FILE"), ""),
    "fewer messages": (edit(message_count=3), "3 messages, the files have 12"),
    "no messages": (edit(message_count=0), "0 messages, the files have 12"),
    "more messages": (edit(message_count=900), "900 messages, the files have 12"),
    "a late start": (edit(starting_time={"nanoseconds_since_epoch": START + 5}), "the start"),
    "a short duration": (edit(duration={"nanoseconds": 100}), "100 ns of duration"),
    "a start that is a word": (edit(starting_time={"nanoseconds_since_epoch": "now"}), ""),
    "no topics": (edit(topics_with_message_count=[]), ""),
    "topics are no list": (edit(topics_with_message_count=7), ""),
    "no count": (without("message_count"), ""),
    "no start": (without("starting_time"), ""),
    "no file list": (without("relative_file_paths"), "lists no files"),
    "nothing": (replace_metadata(b""), "cannot be read"),
    "half": (replace_metadata(b"rosbag2_bagfile_information:\n  version"), "cannot be read"),
    "no YAML": (replace_metadata(b"a: [}"), "cannot be read"),
    "no text": (replace_metadata(b"\xff\xfe\x00"), "cannot be read"),
    "nested without end": (replace_metadata(b"[" * 100_000), "cannot be read"),
    "another YAML": (replace_metadata(b"- 1\n- 2\n"), "cannot be read"),
    "is not there": (lambda folder: (folder / "metadata.yaml").unlink(), "no metadata.yaml"),
    "names with the folder": (rename_paths("bag/{}"), ""),
    "names of another machine": (rename_paths("/home/robot/bag/{}"), ""),
    "names of Windows": (rename_paths("C:\\bags\\{}"), ""),
    "names before packing": (rename_paths("{}.zstd"), ""),
    "renamed files": (rename_files, "read as well"),
    "files that are not listed": (unlist, "rec_1"),
}  # fmt: skip


@pytest.mark.parametrize("plugin", PLUGINS)
@pytest.mark.parametrize(("lie", "noted"), LIES.values(), ids=LIES)
def test_metadata_is_checked_and_not_believed(
    tmp_path: Path, plugin: StoragePlugin, lie: Callable[[Path], None], noted: str
) -> None:
    folder = split_bag(tmp_path / "bag", plugin)
    lie(folder)
    texts, notes, faults = read(folder)
    assert texts == TEXTS
    assert faults == []
    assert noted in "\n".join(notes)
    assert bool(notes) == bool(noted)


def test_the_recorded_split_bag(shared: Path) -> None:
    """Its metadata.yaml gives a start and a duration that the files contradict."""
    with Recording(shared / "cases/rosbag2_split_mcap") as recording:
        assert sum(1 for _ in recording.messages()) == recording.message_count == 6074
        assert (recording.start_time, recording.end_time - 1) == (1000, 2998)
        assert recording.faults == []


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_missing_file_is_named_and_the_others_are_read(
    tmp_path: Path, plugin: StoragePlugin
) -> None:
    folder = split_bag(tmp_path / "bag", plugin)
    (gone,) = folder.glob("rec_1*")
    gone.unlink()
    texts, _, faults = read(folder)
    assert texts == TEXTS[:EACH] + TEXTS[2 * EACH :]
    assert faults == [f"{gone.name}: listed in metadata.yaml, and not there"]


def copy(source: str, target: str) -> Callable[[Path], None]:
    return lambda folder: void(shutil.copy(folder / source, folder / target))


def pack(folder: Path) -> None:
    packed = zstd.compress((folder / "rec_1.mcap").read_bytes())
    (folder / "rec_1.mcap.zstd").write_bytes(packed)


def convert(folder: Path) -> None:
    file = write_file(folder / "converted", TEXTS[EACH : 2 * EACH], begin=START + EACH * 1_000_000)
    file.rename(folder / "rec_1.db3")
    shutil.rmtree(folder / "converted")


def recover(folder: Path) -> None:
    """A copy of a file in which a message more was found, while the original is cut."""
    whole = (folder / "rec_1.mcap").read_bytes()
    (folder / "rec_1.mcap").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "rec_1_recovered.mcap").write_bytes(whole)


COPIES: dict[str, tuple[Callable[[Path], None], int]] = {
    "copy": (copy("rec_1.mcap", "rec_1 (copy).mcap"), EACH),
    "backup": (copy("rec_1.mcap", "rec_1.mcap.bak"), EACH),
    "two": (lambda f: void((copy("rec_1.mcap", "a.mcap")(f), copy("rec_1.mcap", "b.mcap")(f))),
            2 * EACH),
    "packed": (pack, EACH),
    "converted": (convert, EACH),
}  # fmt: skip


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize(("make", "left_out"), COPIES.values(), ids=COPIES)
def test_what_two_files_hold_is_played_once(
    tmp_path: Path, make: Callable[[Path], None], left_out: int, metadata: bool
) -> None:
    folder = split_bag(tmp_path / "bag", StoragePlugin.MCAP)
    make(folder)
    if not metadata:
        (folder / "metadata.yaml").unlink()
    with Recording(folder) as recording:
        assert sum(1 for _ in recording.messages()) == len(TEXTS)
        assert recording.repeated == left_out
        assert recording.message_count == len(TEXTS) + left_out
        assert "messages are left out, " in "\n".join(recording.notes)
        assert "the files are believed" not in "\n".join(recording.notes)
    texts, _, faults = read(folder)
    assert (texts, faults) == (TEXTS, [])


def test_a_cut_file_and_its_recovered_copy_are_one(tmp_path: Path) -> None:
    folder = split_bag(tmp_path / "bag", StoragePlugin.MCAP)
    recover(folder)
    texts, _, (fault,) = read(folder)
    assert texts == TEXTS
    assert "rec_1.mcap: it is cut" in fault


def test_a_copy_does_not_stand_for_a_missing_file(tmp_path: Path) -> None:
    folder = split_bag(tmp_path / "bag", StoragePlugin.MCAP)
    copy("rec_0.mcap", "rec_0 (copy).mcap")(folder)
    (folder / "rec_1.mcap").unlink()
    texts, _, faults = read(folder)
    assert texts == TEXTS[:EACH] + TEXTS[2 * EACH :]
    assert faults == ["rec_1.mcap: listed in metadata.yaml, and not there"]


def test_a_split_that_begins_before_the_last_one_ends_is_read(tmp_path: Path) -> None:
    """As caches of a recorder overlap that was killed: not listed, and of the same time."""
    folder = tmp_path / "bag"
    for number, (texts, begin) in enumerate(((TEXTS[:6], 0), (["late", *TEXTS[6:]], 5))):
        file = write_file(
            tmp_path / f"{number}", texts, StoragePlugin.MCAP, begin=START + begin * 1_000_000
        )
        folder.mkdir(exist_ok=True)
        file.rename(folder / f"r_{number}.mcap")
    write_metadata(folder, {"relative_file_paths": ["r_0.mcap"], "message_count": 6})
    texts, notes, faults = read(folder)
    assert texts == [*TEXTS[:6], "late", *TEXTS[6:]]
    assert faults == []
    assert "r_1.mcap is not listed in metadata.yaml and read as well" in notes
    with Recording(folder) as recording:
        assert recording.message_count == 13


def test_other_messages_of_the_same_times_are_read(tmp_path: Path) -> None:
    """Two recorders on a simulated clock; and one file that holds a message twice."""
    folder = tmp_path / "bag"
    folder.mkdir()
    for name, texts in (("one", ["a", "a", "b"]), ("two", ["c", "a", "d"])):
        file = write_file(tmp_path / name, texts, step=0)
        file.rename(folder / file.name)
    assert sorted(read(folder)[0]) == ["a", "a", "b", "c", "d"]


@pytest.mark.parametrize("name", ["R_0.MCAP", "r.mcap.active", "r.mcap.bak", "r.Mcap.ZST", "r"])
def test_files_of_a_folder_are_found(tmp_path: Path, name: str) -> None:
    file = write_file(tmp_path / "bag", TEXTS, StoragePlugin.MCAP)
    (file.parent / "metadata.yaml").unlink()
    data = file.read_bytes()
    file.unlink()
    (file.parent / name).write_bytes(zstd.compress(data) if "ZST" in name else data)
    (file.parent / "notes.txt").write_text("no bag")
    texts, _, faults = read(file.parent)
    assert (texts, faults) == (TEXTS, [])


@pytest.mark.parametrize("encoding", ["cdr", "CDR", "", " cdr "])
def test_encodings_as_recorders_spell_them(tmp_path: Path, encoding: str) -> None:
    file = write_file(tmp_path / "bag", TEXTS)
    with sqlite3.connect(file) as database:
        database.execute("UPDATE topics SET serialization_format = ?", [encoding])
    assert read(file) == (TEXTS, [], [])


def test_files_of_one_time_are_merged(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    for number, name in enumerate(("one", "two")):
        texts = TEXTS[number::2]
        part = tmp_path / name
        file = write_file(part, texts, topic=f"/{name}", begin=START + number, step=10)
        file.rename(folder / file.name)
    assert read(folder)[0] == TEXTS


def test_one_file_that_is_no_bag_spoils_no_other(tmp_path: Path) -> None:
    folder = split_bag(tmp_path / "bag", StoragePlugin.SQLITE3)
    (folder / "rec_0.db3").write_bytes(b"\0" * 5000)
    texts, _, (fault,) = read(folder)
    assert texts == TEXTS[EACH:]
    assert "rec_0.db3: not a readable recording" in fault


def test_folders_without_a_bag_say_so(tmp_path: Path) -> None:
    split_bag(tmp_path / "bag", StoragePlugin.MCAP)
    with pytest.raises(RosError, match=r"without files of a bag; give one of .*: .*/bag$"):
        Recording(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RosError, match=r"without files of a bag$"):
        Recording(tmp_path / "empty")
    assert read(tmp_path / "bag/metadata.yaml")[0] == TEXTS
