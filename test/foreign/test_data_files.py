# SPDX-License-Identifier: Apache-2.0
"""Files of data sets as other systems and tools leave them: names, text, sizes, damage."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.trees import make_deliver, make_fmb, make_folder, make_muses, sample, stored

from mmsam_ros.cli.main import main
from mmsam_ros.data.check import check_dataset
from mmsam_ros.data.errors import DataError, DataWarning
from mmsam_ros.data.open import open_frames

TREES: list[tuple[str, Callable[[Path], Path], tuple[str, ...]]] = [
    ("deliver", make_deliver, ("lidar",)),
    ("fmb", make_fmb, ("thermal",)),
    ("muses", make_muses, ("lidar",)),
    ("folder", make_folder, ("thermal",)),
]


def lists_of(dataset: str, root: Path) -> str:
    return str(root / "lists") if dataset == "fmb" else ""


@pytest.mark.parametrize(("dataset", "make", "sensors"), TREES)
def test_hidden_names_are_skipped(
    tmp_path: Path, dataset: str, make: Callable[[Path], Path], sensors: tuple[str, ...]
) -> None:
    """macOS writes ._NAME beside each file on other disks, and .DS_Store; Windows Thumbs.db."""
    root = make(tmp_path)
    lists = lists_of(dataset, root)
    before = check_dataset(dataset, root, sensors, lists)
    for path in [p for p in root.rglob("*") if p.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    for folder in [p for p in root.rglob("*") if p.is_dir()]:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"\0")
    after = check_dataset(dataset, root, sensors, lists)
    assert (after.faults, after.counts, after.notes) == ([], before.counts, before.notes)


TEXTS = [
    pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), id="UTF-8 with a mark"),
    pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CRLF"),
    pytest.param(lambda text: text.replace("\n", "\r\n").encode("utf-16"), id="UTF-16"),
    pytest.param(lambda text: b"\xfe\xff" + text.encode("utf-16-be"), id="UTF-16, big-endian"),
    pytest.param(lambda text: text.encode("utf-32"), id="UTF-32"),
]


@pytest.mark.parametrize("encode", TEXTS)
def test_text_files(tmp_path: Path, encode: Callable[[str], bytes]) -> None:
    root = make_folder(tmp_path / "folder", ("lidar",), calibrated=True)
    meta = json.loads((root / "meta.json").read_text())
    meta["classes"][0]["name"] = "Gehölz"
    (root / "meta.json").write_bytes(encode(json.dumps(meta, indent=1, ensure_ascii=False)))
    (root / "calib.json").write_bytes(encode((root / "calib.json").read_text()))
    frames = open_frames("folder", root, "val", ("lidar",))
    assert frames.classes[0].name == "Gehölz"
    assert frames.calibration is not None

    root = make_fmb(tmp_path / "fmb")
    for path in (root / "lists").iterdir():
        path.write_bytes(encode(path.read_text()))
    found = open_frames("fmb", root, "train", (), root / "lists")
    assert [record.name for record in found.records] == ["00001", "00002", "00003", "00004"]


def test_text_in_another_encoding_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ())
    text = (root / "meta.json").read_text().replace("road", "Straße")
    (root / "meta.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"meta.json: .*, expected text in UTF-8"):
        open_frames("folder", root, "val", ())


def given_twice(text: str, key: str) -> str:
    """JSON with a key in its first object once more, as its last."""
    assert f'"{key}":' in text
    return f'{text.rstrip()[:-1]}, "{key}": []}}'


SPLIT = '"train_0000"'  # a frame's name in meta.json
JSON = [
    ("meta.json", lambda text: given_twice(text, "splits"), "key 'splits' is given twice"),
    ("meta.json", lambda text: text.replace('"train": [', '"train": [], "train": ['),
     "key 'train' is given twice"),
    ("meta.json", lambda text: text.replace('"id": 0', '"id": 3, "id": 0'), "key 'id' is given tw"),
    ("calib.json", lambda text: given_twice(text, "camera"), "key 'camera' is given twice"),
    ("calib.json", lambda text: "[" * 200_000, "maximum recursion depth exceeded"),
    ("meta.json", lambda text: '{"a":' * 200_000, "maximum recursion depth exceeded"),
    ("meta.json", lambda text: text.replace(SPLIT, '"\\ud800"'), "surrogates not allowed"),
    ("meta.json", lambda text: text.replace('"name": "', '"name": "\\udc00'), "surrogates not all"),
    *(
        ("meta.json", lambda text, name=name: text.replace(SPLIT, json.dumps(name)),
         f"splits.train: found {name!r}, expected names of files without suffix")
        for name in ("", ".", "..", "a\0", "/etc/hosts", "../images/val_0000", "a//b", "a/")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "change", "message"), JSON)
def test_what_json_may_not_say(
    tmp_path: Path, file: str, change: Callable[[str], str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One line that names the file, from every verb that reads it."""
    root = make_folder(tmp_path, ("thermal",), per_split={"train": 1}, calibrated=True)
    path = root / file
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    with pytest.raises(DataError) as caught:
        open_frames("folder", root, "train", ())
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert main(["data", "check", "--dataset", "folder", "--root", str(root)]) != 0
    assert message in "".join(capsys.readouterr())


@pytest.mark.parametrize("kind", ["folder", "link", "empty"])
def test_a_calibration_that_is_no_file(tmp_path: Path, kind: str) -> None:
    """Without calib.json thermal images would be taken to show the camera's view."""
    root = make_folder(tmp_path, ("thermal",), per_split={"val": 1})
    path = root / "calib.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(root / "elsewhere.json")
    else:
        path.touch()
    with pytest.raises(DataError, match=r"calib.json: (cannot be read|is missing|Expecting value)"):
        open_frames("folder", root, "val", ("thermal",))


@pytest.mark.parametrize(
    "suffix", [".jpg", ".JPG", ".jpeg", ".JPEG", ".tif", ".tiff", ".TIFF", ".PNG"]
)
def test_images_with_other_suffixes(tmp_path: Path, suffix: str) -> None:
    root = make_folder(tmp_path, ("thermal",))
    path = root / "images/val_0000.png"
    image = Image.open(path)
    image.load()
    path.unlink()
    image.save(path.with_suffix(suffix))
    thermal = root / "thermal/val_0000.png"
    if "j" not in suffix.lower():  # counts of 16 bit
        Image.open(thermal).save(thermal.with_suffix(suffix))
        thermal.unlink()
    frames = open_frames("folder", root, "val", ("thermal",))
    assert frames.records[0].image == path.with_suffix(suffix)
    difference = np.abs(frames[0].frame.rgb.astype(int) - np.asarray(image))
    assert difference.mean() < (12 if "j" in suffix.lower() else 1e-9)
    assert not [n for n in check_dataset("folder", root, ()).notes if "in no split" in n]


@pytest.mark.parametrize(("dataset", "make", "sensors"), TREES)
def test_suffixes_in_capitals(
    tmp_path: Path, dataset: str, make: Callable[[Path], Path], sensors: tuple[str, ...]
) -> None:
    root = make(tmp_path)
    lists = lists_of(dataset, root)
    before = check_dataset(dataset, root, sensors, lists)
    for path in [p for p in root.rglob("*.*") if p.suffix in (".png", ".npz", ".npy")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    after = check_dataset(dataset, root, sensors, lists)
    assert (after.faults, after.counts) == ([], before.counts)
    assert {s: (pixels > 0).sum() for s, pixels in after.pixels.items()} == {
        s: (pixels > 0).sum() for s, pixels in before.pixels.items()
    }


@pytest.mark.parametrize(
    ("dataset", "make", "sensors", "place"),
    [
        ("folder", make_folder, ("thermal",), "images/val_0000"),
        ("folder", make_folder, ("thermal",), "thermal/val_0000"),
        ("folder", make_folder, ("thermal",), "labels/val_0000"),
        ("fmb", make_fmb, ("thermal",), "train/Infrared/00005"),
    ],
)
def test_two_partners_of_one_name_are_both_named(
    tmp_path: Path, dataset: str, make: Callable[[Path], Path], sensors: tuple[str, ...], place: str
) -> None:
    root = make(tmp_path)
    (root / f"{place}.JPG").touch()
    with pytest.raises(DataError) as caught:
        open_frames(dataset, root, "val", sensors, lists_of(dataset, root))
    for name in (f"{place}.png", f"{place}.JPG"):
        assert Path(name).name in str(caught.value)
    assert "expected one of them" in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "there"),
    [
        ("lidar/val_0000.npz", "val_0000.bin"),
        ("labels/val_0000.png", "val_0000.bmp"),
        ("images/val_0000.png", "Val_0000.png"),
        ("labels/val_0000.png", "VAL_0000.PNG"),
    ],
)
def test_what_lies_beside_a_missing_file_is_named(tmp_path: Path, missing: str, there: str) -> None:
    root = make_folder(tmp_path, ("lidar",))
    path = root / missing
    path.rename(path.with_name(there))
    with pytest.raises(DataError, match=rf"{path.name}: is missing .*; found {there}$"):
        open_frames("folder", root, "val", ("lidar",))
    assert f"{path}: is missing; found {there}" in check_dataset("folder", root, ("lidar",)).faults


def test_names_with_a_suffix_in_splits(tmp_path: Path) -> None:
    root = make_folder(tmp_path, (), per_split={"val": 1})
    text = (root / "meta.json").read_text()
    (root / "meta.json").write_text(text.replace("val_0000", "val_0000.png"))
    (fault,) = check_dataset("folder", root, ()).faults
    assert fault == f"{root}/images/val_0000.png.png: is missing; found val_0000.png"


def test_names_with_umlauts_from_a_mac(tmp_path: Path) -> None:
    """It writes a letter and its accent apart; JSON has them as one character."""
    root = make_folder(tmp_path / "Käfer und Bär", ("thermal",), per_split={"train": 1})
    name = "Größe 1"
    for path in list(root.rglob("train_0000.*")):
        path.rename(path.with_name(unicodedata.normalize("NFD", name) + path.suffix))
    text = (root / "meta.json").read_text().replace("train_0000", name)
    (root / "meta.json").write_text(text, encoding="utf-8")
    report = check_dataset("folder", root, ("thermal",))
    assert report.faults == []
    assert not [note for note in report.notes if "in no split" in note]


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibrated", [False, True])
def test_thermal_of_another_size_comes_with_its_calibration(
    tmp_path: Path, calibrated: bool
) -> None:
    """What the message says to write is taken as it is."""
    root = make_folder(tmp_path, ("thermal", "lidar"), per_split={"val": 1}, calibrated=calibrated)
    calib = root / "calib.json"
    if calibrated:
        content = json.loads(calib.read_text())
        del content["thermal"]
        calib.write_text(json.dumps(content))
    full = np.linspace(26000, 31000, 32 * 48).reshape(32, 48).astype(np.uint16)
    cv2.imwrite(str(root / "thermal/val_0000.png"), full)
    with pytest.raises(DataError, match=r"thermal/val_0000.png: is 48x32, but .* 96x64; if") as e:
        open_frames("folder", root, "val", ("thermal",))[0]
    entry = str(e.value).partition("calib.json: ")[2]
    content = json.loads(calib.read_text()) | json.loads(f"{{{entry}}}") if calibrated else (
        json.loads(entry)
    )  # fmt: skip
    calib.write_text(json.dumps(content))
    found = sample(open_frames("folder", root, "val", ("thermal",)))["planes"]["thermal"]
    scaled = 255 * (full.astype(np.float32) - 26000) / 5500
    expected = cv2.resize(scaled, (96, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(found[0, 1:-1, 1:-1], expected[1:-1, 1:-1], atol=0.5)
    # the same calibration is for images of this size
    cv2.imwrite(str(root / "images/val_0000.png"), np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(DataError, match=r"calib.json: camera is 96x64, but .* is 48x32; calib"):
        open_frames("folder", root, "val", ("thermal",))[0]


def test_thermal_of_another_shape_shows_another_view(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("thermal",), per_split={"val": 1})
    cv2.imwrite(str(root / "thermal/val_0000.png"), np.zeros((48, 48), np.uint16))
    with pytest.raises(DataError, match=r"is 48x48, but .* give calib.json the thermal camera's h"):
        open_frames("folder", root, "val", ("thermal",))[0]


def test_a_calibration_without_intrinsics_is_for_homographies_alone(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("lidar",), per_split={"val": 1}, calibrated=True)
    content = json.loads((root / "calib.json").read_text())
    content["camera"] = {"width": 96, "height": 64}
    (root / "calib.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"calib.json: camera: key 'K' is missing"):
        open_frames("folder", root, "val", ("lidar",))


def test_labels_of_another_size(tmp_path: Path) -> None:
    root = make_folder(tmp_path, (), per_split={"val": 1})
    cv2.imwrite(str(root / "labels/val_0000.png"), np.zeros((32, 48), np.uint8))
    (fault,) = check_dataset("folder", root, ()).faults
    assert "labels/val_0000.png: is 48x32, but" in fault
    assert "give the image that it was drawn on, or resize it with the nearest pixel" in fault


def test_images_of_several_sizes(tmp_path: Path) -> None:
    root = make_folder(tmp_path, (), per_split={"train": 2})
    for folder in ("images", "labels"):
        path = root / folder / "train_0001.png"
        cv2.imwrite(str(path), stored(path)[:40, :50])
    report = check_dataset("folder", root, ())
    assert report.faults == []
    assert report.forms["rgb"] == {"96x64 RGB, 8 bit": 1, "50x40 RGB, 8 bit": 1}


# --- grey images in colour ----------------------------------------------------------------------


def test_uneven_infrared_is_averaged_and_said_once(tmp_path: Path) -> None:
    root = make_fmb(tmp_path, per_split={"train": 2, "val": 1, "test": 1})
    for path in (root / "train/Infrared").iterdir():
        grey = stored(path)
        cv2.imwrite(str(path), np.dstack([grey + 6, grey, grey + 30]))
    frames = open_frames("fmb", root, "train", ("thermal",), root / "lists")
    with pytest.warns(DataWarning) as said:
        images = [frames[i].frame.sensors["thermal"].data for i in range(2)]
    assert len({str(warning.message) for warning in said}) == 1  # which Python shows once
    assert images[0].dtype == np.uint8
    np.testing.assert_array_equal(
        images[0], stored(frames.records[0].sensors["thermal"])[..., 1] + 12
    )
    with pytest.warns(DataWarning):
        report = check_dataset("fmb", root, ("thermal",), root / "lists")
    assert report.faults == []
    (note,) = [note for note in report.notes if "their mean is read" in note]
    assert note.startswith("3 of 4 thermal images have channels that differ, such as")


def test_coloured_thermal_pictures_of_a_folder_are_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path, ("thermal",), encodings={"thermal": "mono8"}, per_split={"val": 1})
    path = root / "thermal/val_0000.png"
    grey = stored(path)
    cv2.imwrite(str(path), cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO))
    frames = open_frames("folder", root, "val", ("thermal",))
    with pytest.raises(DataError, match=r"mono8 image has colours .* export the camera's counts"):
        frames[0]
    cv2.imwrite(str(path), np.dstack([grey, grey + 2, grey + 1]))  # as a JPEG's channels differ
    with pytest.warns(DataWarning, match="their mean is read"):
        data = frames[0].frame.sensors["thermal"].data
    np.testing.assert_array_equal(data, grey + 1)


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["images", "labels", "thermal"])
@pytest.mark.parametrize("left", [0, 1, 40, -1])
def test_empty_and_cut_files_are_named(tmp_path: Path, folder: str, left: int) -> None:
    root = make_folder(tmp_path, ("thermal",), per_split={"train": 2})
    path = root / folder / "train_0001.png"
    path.write_bytes(path.read_bytes()[:left])
    (fault,) = check_dataset("folder", root, ("thermal",)).faults
    expected = f"{path}: is broken, expected a whole PNG, JPEG or TIFF image"
    assert fault == (expected if left else f"{expected}; it is empty")


def test_more_pixels_than_a_decoder_takes(tmp_path: Path) -> None:
    """The header alone says so; nothing is decoded."""
    root = make_folder(tmp_path, (), per_split={"train": 1})
    path = root / "images/train_0000.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (1 << 20).to_bytes(4, "big") * 2
    path.write_bytes(content)
    (fault,) = check_dataset("folder", root, ()).faults
    assert fault.startswith(f"{path}: size is 1048576x1048576, expected sides of 1 to 16384")


def test_links_that_lead_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path, (), per_split={"train": 2})
    (root / "images/loop").symlink_to(root / "images", target_is_directory=True)
    (root / "images/again").symlink_to(root / "images/again")
    assert check_dataset("folder", root, ()).faults == []
    path = root / "images/train_0000.png"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DataError, match=f"{path}: is missing"):
        open_frames("folder", root, "train", ())
    assert main(["data", "check", "--dataset", "folder", "--root", str(root)]) == 1
    assert f"{path}: cannot be read (Too many levels of symbolic links)" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    root = make_deliver(tmp_path)
    folder = next(root.glob("img/*/train"))
    folder.chmod(0)
    try:
        with pytest.raises(DataError, match=rf"{folder}: cannot be listed \(Permission denied\)"):
            open_frames("deliver", root, "train", ())
    finally:
        folder.chmod(0o755)
