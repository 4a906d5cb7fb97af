# SPDX-License-Identifier: Apache-2.0
"""`mmsam muses-project` on a small raw tree."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from support.muses_raw import PLACES, make_raw

from mmsam_ros.cli import muses_project
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.muses_projection import ProjectionOptions, record_options


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_raw(tmp_path / "muses")


def run(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    muses_project.add_arguments(parser)
    return muses_project.run(parser.parse_args([*map(str, argv), "--workers", "2"]))


def test_command_writes_the_tree_and_goes_on_where_it_stopped(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--root", raw) == 0
    out = raw / "projected_to_rgb"
    written = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    assert written == {"projection.json"} | {
        f"{folder}/{place}_{folder}.npz" for folder in ("lidar", "event_camera") for place in PLACES
    }
    assert "4 written, 0 there already, 0 failed" in capsys.readouterr().out
    kept, again = (out / "lidar" / f"{place}_lidar.npz" for place in PLACES)
    kept.write_bytes(b"kept")
    again.unlink()
    assert run("--root", raw, "--sensors", "lidar") == 0
    assert kept.read_bytes() == b"kept"
    assert np.load(again)["arr_0"].any()
    assert "1 written, 1 there already, 0 failed" in capsys.readouterr().out


def test_command_passes_its_options_on(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "other"
    options = ("--motion-compensation", "--parity", "--point-size", "1", "--png")
    assert run("--root", raw, "--out", out, "--sensors", "lidar", *options) == 0
    record_options(out, ProjectionOptions(motion_compensation=True, parity=True, point_size=1))
    for place in PLACES:
        assert (out / "lidar" / f"{place}_lidar.png").is_file()
    assert not (raw / "projected_to_rgb").exists()


def test_command_names_every_file_that_it_cannot_read(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = raw / "lidar" / f"{PLACES[0]}_lidar.bin"
    bad.write_bytes(b"x" * 50)
    broken = raw / "event_camera" / f"{PLACES[1]}_event_camera.h5"
    broken.write_bytes(b"not hdf5")
    assert run("--root", raw) == 1
    printed = capsys.readouterr()
    assert "2 written, 0 there already, 2 failed" in printed.out
    assert f"{bad}: 50 bytes, expected rows of 6 float64" in printed.err
    assert str(broken) in printed.err
    assert not list((raw / "projected_to_rgb").rglob("*.part"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta.json", "{}", "meta.json does not tell its camera exposure"),
        (f"gnss/{PLACES[0]}_gnss.txt", "1 2 3", "3 values, expected one row of 28"),
        (f"gnss/{PLACES[0]}_gnss.txt", "a b", "expected 28 numbers"),
    ],
)
def test_motion_compensation_needs_its_files(
    raw: Path, capsys: pytest.CaptureFixture[str], file: str, content: str, message: str
) -> None:
    (raw / file).write_text(content)
    assert run("--root", raw, "--motion-compensation", "--sensors", "lidar") == 1
    assert message in capsys.readouterr().err


def test_exposures_must_be_numbers(raw: Path) -> None:
    keys = [f"frame_camera_exposure_{word}_timestamp_us" for word in ("start", "end")]
    for entry in (dict.fromkeys(keys, None), 5):
        (raw / "meta.json").write_text(json.dumps({PLACES[0].split("/", 1)[1]: entry}))
        with pytest.raises(DataError, match=r"meta\.json: "):
            run("--root", raw, "--motion-compensation", "--sensors", "lidar")


def test_command_refuses_a_folder_without_recordings(raw: Path) -> None:
    with pytest.raises(DataError, match=r"calib\.json: is missing"):
        run("--root", raw / "lidar")
    for path in (raw / "lidar").rglob("*.bin"):
        path.unlink()
    with pytest.raises(DataError, match=r"lidar: no frames, expected <split>/<weather>/<time>"):
        run("--root", raw)
