# SPDX-License-Identifier: Apache-2.0
"""`mmsam label-bag` on a disk that is full: no OUT, and the same command goes on with more room."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin
from support.disks import resize, small_disk
from support.drives import FRAMES, copy_bag, label_bag

from mmsam_ros.cli.video import Video
from mmsam_ros.ros.recording import Recording

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
MORE = "--all-topics", "--video"
KIB = 1 << 10
PLENTY = 1 << 24  # bytes


@pytest.fixture(scope="module")
def recordings(
    drive: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """The drive in each format, and what a run without a fault makes of it."""
    folder = tmp_path_factory.mktemp("formats")
    database = copy_bag(drive, folder / "database", plugin=StoragePlugin.SQLITE3)
    shutil.copy(drive / "calibration.yaml", database)
    found = {}
    for name, bag in (("mcap", drive), ("sqlite3", database)):
        assert label_bag(bag, folder / name / "out", weights, *MORE) == 0
        found[name] = bag, content(folder / name / "out")
    return found


def content(out: Path) -> dict[str, Any]:
    """Messages, pictures and counts of a labelled bag."""
    report = json.loads((out / "report.json").read_text())
    with Recording(out) as reader:
        messages = [(c.topic, time, bytes(data)) for c, time, data in reader.messages()]
    return {
        "files": sorted(path.name for path in out.iterdir()),
        "messages": messages,
        "video": (out / "overlay.mp4").read_bytes(),
        "report": {k: v for k, v in report.items() if k not in ("labelled", "log")},
    }


def digests(bag: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(bag.iterdir())}


@pytest.mark.parametrize(
    ("kind", "room", "where", "least"),
    [
        ("mcap", 0, ".out.part/results", 0),
        ("mcap", 16 * KIB, ".out.part", 1),
        ("mcap", 256 * KIB, ".out.part/out", 3),
        ("mcap", 900 * KIB, ".out.part/out/report.html", FRAMES),
        ("sqlite3", 16 * KIB, ".out.part/out", 0),  # its tables alone need more
        ("sqlite3", 256 * KIB, ".out.part/out", FRAMES),
    ],
)
def test_the_same_command_goes_on_with_more_room(
    kind: str, room: int, where: str, least: int, weights: Path, tmp_path: Path,
    recordings: dict[str, tuple[Path, dict[str, Any]]], capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bag, expected = recordings[kind]
    before = digests(bag)
    with small_disk(tmp_path / "disk", 8 * KIB + room) as disk:
        out, part = disk / "out", disk / ".out.part"
        capfd.readouterr()
        assert label_bag(bag, out, weights, *MORE) == 2
        said = capfd.readouterr().err
        *_, again, error = said.splitlines()
        assert error.startswith("mmsam: error: [Errno 28] "), said
        assert f"{disk / where}" in error
        assert again == "mmsam: give the same command again to resume"
        assert [path.name for path in disk.iterdir()] == [part.name], "no OUT"
        kept = sorted(path.stem for path in part.glob("results/*.npz"))
        assert kept == [f"{number:08d}" for number in range(len(kept))]
        assert len(kept) >= least
        resize(disk, PLENTY)
        assert label_bag(bag, out, weights, *MORE) == 0
        assert (f"resuming: {len(kept)} frames" in capfd.readouterr().err) == bool(kept)
        assert content(out) == expected
        assert [path.name for path in disk.iterdir()] == [out.name]
    assert digests(bag) == before


def test_a_video_on_a_full_disk(tmp_path: Path) -> None:
    """OpenCV does not say that it writes nothing."""
    noise = np.random.default_rng(3).integers(0, 255, (4, 96, 96, 3), np.uint8)

    def write(path: Path) -> None:
        with Video(path, 10.0) as video:
            for picture in noise:
                video.add(picture)

    write(tmp_path / "v.mp4")
    lacking = pytest.raises(OSError, match=r"lacks some of 4 pictures; .*v\.mp4")
    with small_disk(tmp_path / "disk", 16 * KIB) as disk, lacking:
        write(disk / "v.mp4")
