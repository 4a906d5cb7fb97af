# SPDX-License-Identifier: Apache-2.0
"""A disk that is full or read-only costs what was to be written, not what was there."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.disks import mount, small_disk
from support.networks import lean_spec, random_network

from mmsam_ros._util import write_atomic
from mmsam_ros.inference import InferenceError
from mmsam_ros.inference.engines.cache import new_folder
from mmsam_ros.inference.engines.choose import make_engine
from mmsam_ros.inference.export import sample_inputs
from mmsam_ros.model import PriorConfig

ROOM = 64 * 1024  # bytes of the disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", ROOM) as folder:
        yield folder


@pytest.mark.parametrize("full", [True, False], ids=["full", "read-only"])
def test_a_file_is_as_before_or_new(disk: Path, full: bool) -> None:
    write_atomic(disk / "mask.png", b"before")
    if not full:
        mount("-o", "remount,ro", str(disk))
    with pytest.raises(OSError, match=r"No space|Read-only") as caught:
        write_atomic(disk / "mask.png", bytes(2 * ROOM))
    assert caught.value.errno == (errno.ENOSPC if full else errno.EROFS)
    assert (disk / "mask.png").read_bytes() == b"before"
    assert [path.name for path in disk.iterdir()] == ["mask.png"], "no part is left"


@pytest.mark.parametrize("full", [True, False], ids=["full", "read-only"])
def test_a_folder_is_whole_or_absent(disk: Path, full: bool) -> None:
    if not full:
        mount("-o", "remount,ro", str(disk))
    with pytest.raises(OSError, match=r"No space|Read-only"), new_folder(disk / "net") as part:
        (part / "model").write_bytes(bytes(2 * ROOM))
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("full", [True, False], ids=["full", "read-only"])
def test_the_cache_of_an_engine(disk: Path, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine says what to set, and makes nothing of a part of a network later."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    (disk / "onnx").mkdir()
    if not full:
        mount("-o", "remount,ro", str(disk))
    monkeypatch.setenv("MMSAM_CACHE", str(disk))
    # an encoder and a head: larger than the disk, and soon exported
    spec = lean_spec("synthetic_rgb_lidar_thermal", rgb_only=True, prior=PriorConfig("none"))
    engine = make_engine("onnx", random_network(spec), "cpu", "fp32", spec.geometry.size)
    inputs = sample_inputs(("rgb",), (1, 3, *spec.geometry.size))
    with pytest.raises(InferenceError, match=f"{disk}/onnx cannot be written .*; set MMSAM_CACHE"):
        engine(inputs)
    assert list((disk / "onnx").iterdir()) == []


@pytest.mark.parametrize("name", [".", "/", "", "folder"])
def test_a_folder_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomic(Path(name), b"")
    assert caught.value.filename == str(Path(name))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_path_that_is_no_text_can_be_written_of(tmp_path: Path) -> None:
    write_atomic(tmp_path / "report", "caf\udce9 \u00e9")
    assert (tmp_path / "report").read_bytes() == b"caf\\udce9 \xc3\xa9"
