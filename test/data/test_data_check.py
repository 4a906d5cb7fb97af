# SPDX-License-Identifier: Apache-2.0
"""`mmsam data check` finds each fault that was planted, counts, and computes the statistics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.trees import make_deliver, make_fmb, make_folder, make_muses

from mmsam_ros.cli.main import main
from mmsam_ros.data.check import Report, check_dataset

DELIVER = ("depth", "event", "lidar")


def run(*argv: str) -> int:
    return main(["data", "check", *argv])


@pytest.mark.parametrize(
    ("dataset", "make", "sensors"),
    [
        ("deliver", make_deliver, DELIVER),
        ("fmb", make_fmb, ("thermal",)),
        ("muses", make_muses, ("lidar", "event")),
        ("folder", make_folder, ("lidar", "thermal")),
    ],
)
def test_a_whole_tree_has_no_faults(
    tmp_path: Path, dataset: str, make: Callable[[Path], Path], sensors: tuple[str, ...]
) -> None:
    done: list[tuple[int, int]] = []
    root = make(tmp_path)
    lists = root / "lists" if dataset == "fmb" else ""
    report = check_dataset(dataset, root, sensors, lists, lambda i, n: done.append((i, n)))
    assert report.faults == []
    assert {split: counts["all"] for split, counts in report.counts.items()} == {
        "train": 4, "val": 2, "test": 2,
    }  # fmt: skip
    assert done == [(i, 8) for i in range(1, 9)]
    assert list(report.forms) == ["rgb", *sensors, "label"]
    assert set(report.statistics) == set(sensors)
    # counts that differ from the published ones are notes
    assert any("published are" in note for note in report.notes) == (dataset != "folder")


def test_every_deliver_fault_is_found(tmp_path: Path) -> None:
    root = make_deliver(tmp_path, per_split={"train": 5, "val": 1, "test": 1})
    files = {
        kind: sorted(root.glob(f"{top}/*/train/*/*_{kind}_front.png"))
        for top, kind in (("img", "rgb"), ("hha", "depth"), ("event", "event"),
                          ("lidar", "lidar"), ("semantic", "semantic"))
    }  # fmt: skip
    gone, cut, small, label, image = (
        files["depth"][0], files["lidar"][0], files["event"][2], files["semantic"][2],
        files["rgb"][4],
    )  # fmt: skip
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:200])
    cv2.imwrite(str(small), np.zeros((8, 8), np.uint8))
    cv2.imwrite(str(label), np.full((64, 64), 77, np.uint8))
    image.write_bytes(b"")
    report = check_dataset("deliver", root, DELIVER)
    for path, what in (
        (gone, "is missing"), (cut, "is broken"), (small, "is 8x8, but"),
        (label, "label values 77"), (image, "is broken"),
    ):  # fmt: skip
        assert sum(fault.startswith(f"{path}: {what}") for fault in report.faults) == 1, path
    assert len(report.faults) == 5
    assert report.counts["train"]["all"] == 5


def test_what_cannot_be_scanned_is_a_fault(tmp_path: Path) -> None:
    root = make_deliver(tmp_path, per_split={"train": 1, "test": 1})
    stray = root / "img/rainy/train/MAP_1_point1/000000_rgb_front.png"
    stray.parent.mkdir(parents=True)
    stray.touch()
    report = check_dataset("deliver", root, DELIVER)
    assert len(report.faults) == 2
    assert f"{stray}: weather: unknown 'rainy'; did you mean 'rain'?" in report.faults
    assert "found no frames of the split 'val'" in report.faults[1]
    assert report.counts["test"]["all"] == 1


def test_counts_by_group_and_forms(tmp_path: Path) -> None:
    root = make_deliver(tmp_path, per_split={"train": 6, "val": 1, "test": 1})
    report = check_dataset("deliver", root, DELIVER)
    assert report.counts["train"]["weather=cloud"] == 2
    assert report.counts["train"]["case=eventlowres"] == 1
    assert report.counts["train"]["difficulty=hard"] == 1
    assert "test: 1 frames of all, published are 1897" in report.notes
    assert "test: 0 frames of case=lidarjitter, published are 99" in report.notes
    assert report.forms["rgb"] == {"64x64 RGBA, 8 bit": 8}
    assert report.forms["event"] == {"64x64 grey, 8 bit": 7, "32x32 grey, 8 bit": 1}
    assert "8 RGB images are 64x64 RGBA, 8 bit, published is 1042x1042" in report.notes
    assert "8 coloured LiDAR variants are not read" in report.notes
    present = {6, 12, 9, 3, 255}
    assert set(np.flatnonzero(report.pixels["train"])) == present
    assert report.pixels["train"].sum() == 6 * 64 * 64


def test_lists(tmp_path: Path) -> None:
    root = make_fmb(tmp_path)
    (root / "lists/train_easy_files.txt").write_text("00001.png\n")
    report = check_dataset("fmb", root, ("thermal",), root / "lists")
    assert report.faults == []
    assert "1 images are in no split, such as 00003" in report.notes
    (root / "lists/val_easy_files.txt").write_text("00001.png\n")
    report = check_dataset("fmb", root, ("thermal",), root / "lists")
    assert len(report.faults) == 1
    assert "00001.png is in" in report.faults[0]
    assert any("lists" in fault for fault in check_dataset("fmb", root, ()).faults)


def test_statistics_follow_the_rule_of_the_muses_tools(tmp_path: Path) -> None:
    root = make_muses(tmp_path, per_split={"train": 3, "val": 1, "test": 1})
    paths = sorted(root.glob("projected_to_rgb/lidar/train/**/*.npz"))
    for scale, path in zip((1, 2, 4), paths, strict=True):
        np.savez(path, scale * np.load(path)["arr_0"])
    images = [np.load(path)["arr_0"].reshape(-1, 3).astype(np.float64) for path in paths]
    means = np.stack([image.mean(0) for image in images])
    variance = means.var(0) + np.stack([image.var(0) for image in images]).mean(0)
    found = check_dataset("muses", root, ("lidar",)).statistics["lidar"]
    assert found.fields == ("range", "intensity", "height")
    assert found.mean == pytest.approx(means.mean(0))
    assert found.std == pytest.approx(np.sqrt(variance))
    assert found.low == pytest.approx(np.min(images, axis=(0, 1)))
    assert found.high == pytest.approx(np.max(images, axis=(0, 1)))


def test_sensors_that_show_nothing_are_noted(tmp_path: Path) -> None:
    """As of points that a wrong transform puts out of the picture."""
    root = make_folder(tmp_path, ("lidar",), per_split={"train": 2, "val": 1}, calibrated=True)
    calib = json.loads((root / "calib.json").read_text())
    calib["lidar"]["T_camera_lidar"][2][3] = -1e6  # behind the camera
    (root / "calib.json").write_text(json.dumps(calib))
    report = check_dataset("folder", root, ("lidar",))
    assert not report.faults
    assert "3 of 3 frames of lidar show nothing" in report.notes


def test_a_calibration_of_another_size_is_noted(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar",), per_split={"train": 1, "val": 1}, calibrated=True)
    calib = json.loads((root / "calib.json").read_text())
    for factor, noted in ((1.0, False), (1.25, True)):
        camera = calib["camera"]
        size = camera["width"], camera["height"]
        for axis in (0, 1):
            camera["K"][axis][2] = factor * size[axis] / 2
        (root / "calib.json").write_text(json.dumps(calib))
        notes = check_dataset("folder", root, ("lidar",)).notes
        found = [note for note in notes if "the principal point is at 62%, 62%" in note]
        assert len(found) == noted
        assert all(note.startswith(f"{root / 'calib.json'}: ") for note in found)


def test_labels_of_several_forms_are_noted(tmp_path: Path) -> None:
    """As a tool leaves them that makes files smaller: it stores 0 and 255 as a bit."""
    root = make_folder(tmp_path, (), per_split={"train": 2})
    path = root / "labels/train_0000.png"
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(path), np.where(label == 1, 255, 0), [cv2.IMWRITE_PNG_BILEVEL, 1])
    notes = check_dataset("folder", root, ()).notes
    expected = "labels are stored as grey, 1 bit and as grey, 8 bit: look whether the ids are"
    assert any(note.startswith(expected) for note in notes)


def test_names_in_subfolders(tmp_path: Path) -> None:
    root = make_folder(tmp_path, (), per_split={"train": 2})
    meta = json.loads((root / "meta.json").read_text())
    name, other = meta["splits"]["train"]
    for folder in ("images", "labels"):
        (root / folder / "town.1").mkdir()
        for old, new in ((name, "a.b"), (other, "unused")):
            (root / folder / f"{old}.png").rename(root / folder / f"town.1/{new}.png")
    meta["splits"]["train"], meta["subsets"] = ["town.1/a.b"], {}
    (root / "meta.json").write_text(json.dumps(meta))
    report = check_dataset("folder", root, ())
    assert not report.faults
    assert [n for n in report.notes if "split" in n] == [
        "1 images are in no split, such as town.1/unused"
    ]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_muses(tmp_path)
    assert run("--dataset", "muses", "--root", str(root)) == 0
    out = capsys.readouterr().out
    assert "1.4628, 7.5568" in out  # the published constants of range, beside what was found
    assert "faults: 0" in out
    for path in (root / "frame_camera").rglob("*.png"):
        path.write_bytes(b"")
    assert run("--dataset", "muses", "--root", str(root), "--sensors", "event") == 1
    assert "faults: 8" in capsys.readouterr().out


def test_words_in_brackets_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path, (), per_split={"train": 1})
    meta = json.loads((root / "meta.json").read_text())
    meta["subsets"]["route"] = dict.fromkeys(meta["splits"]["train"], "[/A]")
    meta["classes"][0]["name"] = "car [parked]"
    (root / "meta.json").write_text(json.dumps(meta))
    run("--dataset", "folder", "--root", str(root))
    said = capsys.readouterr().out
    assert "route=[/A]" in said
    assert "car [parked]" in said


def test_command_lists_so_many_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path, (), per_split={"train": 30, "val": 1, "test": 1})
    for path in (root / "labels").glob("train*.png"):
        path.unlink()
    argv = ("--dataset", "folder", "--root", str(root))
    assert run(*argv) == 1
    out = capsys.readouterr().out
    assert out.count("is missing") == 20
    assert "... and 10 more" in out
    assert run(*argv, "--all") == 1
    assert capsys.readouterr().out.count("is missing") == 30


def test_an_empty_report_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_dataset("deliver", tmp_path, ()).counts == Report().counts
    assert run("--dataset", "deliver", "--root", str(tmp_path)) == 1
    assert "neither img/" in capsys.readouterr().out


def test_labels_that_say_nothing_are_a_fault(tmp_path: Path) -> None:
    """Those of a test may be withheld."""
    root = make_fmb(tmp_path)
    for path in (root / "test/Label").iterdir():
        cv2.imwrite(str(path), np.zeros((60, 80), np.uint8))
    report = check_dataset("fmb", root, ("thermal",), root / "lists")
    assert report.faults == []
    (note,) = [note for note in report.notes if "no pixel of the split 'test' has a label" in note]
    assert "all are 255 or 0" in note
    for path in (root / "train/Label").iterdir():
        cv2.imwrite(str(path), np.zeros((60, 80), np.uint8))
    faults = check_dataset("fmb", root, ("thermal",), root / "lists").faults
    assert any("no pixel of the split 'train' has a label" in fault for fault in faults)


def test_frames_of_two_splits_are_named(tmp_path: Path) -> None:
    """Validation frames of FMB that were copied out of train/, not moved."""
    root = make_fmb(tmp_path)
    for top in ("Visible", "Infrared", "Label"):
        shutil.copytree(root / "train" / top, root / "val" / top)
    for path in (root / "val").glob("*/*"):
        if path.stem > "00002":
            path.unlink()
    (root / "test/Visible/00009.png").symlink_to(root / "val/Visible/00001.png")
    for top in ("Infrared", "Label"):
        shutil.copy(root / "val" / top / "00001.png", root / "test" / top / "00009.png")
    report = check_dataset("fmb", root, ("thermal",))
    (fault,) = report.faults
    assert fault.startswith("2 frames are in train and in val, such as ")
    assert fault.endswith("val/Visible/00001.png")
    assert any(note.startswith("1 frames are in val and in test") for note in report.notes)
