# SPDX-License-Identifier: Apache-2.0
"""Images of data sets with an EXIF tag of orientation: turned as viewers show them, or refused."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.trees import make_folder, sample, stored

from mmsam_ros.data.check import check_dataset
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.images import read_image
from mmsam_ros.data.open import open_frames


def turn(path: Path, number: int) -> None:
    """Store the pixels so that a viewer, which obeys the tag, shows them as they were."""
    image = Image.open(path)
    image.load()
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    tag = Image.Exif()
    tag[0x0112] = number
    image.transpose(back[number]).save(path, exif=tag)


SCENE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("form", ["png", "jpg", "tif"])
def test_every_number_of_exif(tmp_path: Path, form: str, number: int) -> None:
    """Of every format, as Pillow turns it; the decoder's own pixels are left as they are."""
    tag, path = Image.Exif(), tmp_path / f"a.{form}"
    tag[0x0112] = number
    Image.fromarray(SCENE).save(path, exif=tag)
    turns: dict[Path, int] = {}
    found = read_image(path, turns)
    assert turns == {path: number}
    plain = np.asarray(Image.open(path)) if form != "tif" else SCENE
    if form == "jpg":
        stored = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        plain = stored[..., ::-1]
    plain = Image.fromarray(np.ascontiguousarray(plain))
    plain.getexif()[0x0112] = number
    np.testing.assert_array_equal(found, np.asarray(ImageOps.exif_transpose(plain)))


def jpeg_with(segment: bytes) -> bytes:
    """A JPEG of 24x16 with a segment APP1."""
    data = cv2.imencode(".jpg", SCENE)[1].tobytes()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def exif(kind: int, count: int, value: bytes, *more: bytes) -> bytes:
    """A segment with the tag of orientation alone, as a value of some type."""
    tag = struct.pack("<HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
    return b"".join((b"Exif\0\0II*\0\x08\0\0\0\x01\0", tag, bytes(4), *more))


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><r:D tiff:Orientation="6"/></x:xmpmeta>'
SEGMENTS = {
    "short": (exif(3, 1, b"\6"), 6),
    "long": (exif(4, 1, b"\6"), 6),
    "byte": (exif(1, 1, b"\6"), 1),
    "ascii": (exif(2, 2, b"6"), 1),
    "undefined": (exif(7, 1, b"\6"), 1),
    "float": (exif(11, 1, struct.pack("<f", 6)), 1),
    "NaN": (exif(11, 1, struct.pack("<f", np.nan)), 1),
    "fraction": (exif(5, 1, struct.pack("<I", 26), struct.pack("<II", 6, 1)), 1),
    "n/0": (exif(5, 1, struct.pack("<I", 26), struct.pack("<II", 6, 0)), 1),
    "none": (exif(3, 0, b""), 1),
    "0": (exif(3, 1, b"\0"), 1),
    "9": (exif(3, 1, b"\x09"), 1),
    "negative": (exif(9, 1, struct.pack("<i", -6)), 1),
    "no TIFF": (b"Exif\0\0XX", 1),
    "empty": (b"Exif\0\0", 1),
    "XMP": (XMP, 1),
}


@pytest.mark.parametrize("case", sorted(SEGMENTS))
def test_odd_tags_of_exif(tmp_path: Path, case: str) -> None:
    """What is no whole number from 1 to 8 in EXIF itself turns nothing, and is noted as such."""
    segment, number = SEGMENTS[case]
    path, turns = tmp_path / "a.jpg", dict[Path, int]()
    path.write_bytes(jpeg_with(segment))
    assert read_image(path, turns).shape == ((24, 16, 3) if number > 4 else (16, 24, 3))
    assert turns == {path: number}


@pytest.mark.parametrize("number", [5, 6, 7, 8])
def test_an_image_is_turned_as_viewers_show_it(tmp_path: Path, number: int) -> None:
    root = make_folder(tmp_path, ("thermal",), per_split={"val": 1})
    expected = sample(open_frames("folder", root, "val", ("thermal",)))
    for names in (["images"], ["images", "labels"], ["images", "labels", "thermal"]):
        fresh = make_folder(tmp_path / "-".join(names), ("thermal",), per_split={"val": 1})
        for name in names:
            turn(fresh / name / "val_0000.png", number)
        found = sample(open_frames("folder", fresh, "val", ("thermal",)))
        assert torch.equal(found["rgb"], expected["rgb"])
        assert torch.equal(found["label"], expected["label"])
        assert torch.equal(found["planes"]["thermal"], expected["planes"]["thermal"])
        assert check_dataset("folder", fresh, ("thermal",)).faults == []


@pytest.mark.parametrize("number", [2, 3, 4])
def test_a_turn_that_sizes_do_not_show(tmp_path: Path, number: int) -> None:
    root = make_folder(tmp_path, (), per_split={"val": 1})
    image, label = root / "images/val_0000.png", root / "labels/val_0000.png"
    expected = sample(open_frames("folder", root, "val", ()))
    turn(image, number)
    frames = open_frames("folder", root, "val", ())
    for path, other in ((image, label), (label, image)):
        with pytest.raises(DataError) as caught:
            frames[0]
        for text in (f"{path}: is ", "by its EXIF tag", f"{other} is not", "mogrify -auto-orient"):
            assert text in str(caught.value)
        assert len(check_dataset("folder", root, ()).faults) == 1
        turn(label if path == image else image, number)
        if path == image:  # now all are turned
            assert torch.equal(sample(frames)["rgb"], expected["rgb"])
            assert torch.equal(sample(frames)["label"], expected["label"])
            make_folder(tmp_path / "again", (), per_split={"val": 1})
            image.write_bytes((tmp_path / "again/images/val_0000.png").read_bytes())
        else:
            break


def test_labels_of_the_pixels_as_they_are_stored(tmp_path: Path) -> None:
    root = make_folder(tmp_path, (), per_split={"val": 1})
    image, label = root / "images/val_0000.png", root / "labels/val_0000.png"
    turn(image, 6)
    cv2.imwrite(str(label), np.rot90(stored(label)))  # as the image's pixels lie, without a tag
    with pytest.raises(DataError) as caught:
        open_frames("folder", root, "val", ())[0]
    for text in (
        f"{label}: is 64x96, but {image} is 96x64",
        "EXIF turns",
        "exiftool -Orientation=",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_every_form_s_tag_is_obeyed(tmp_path: Path, form: str) -> None:
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = 255
    tag = Image.Exif()
    tag[0x0112] = 8  # the first row is shown at the left, from the bottom up
    path = tmp_path / "picture"
    Image.fromarray(picture).save(path, form, exif=tag)
    found = read_image(path)
    assert found.shape == (32, 16, 3)
    assert (found[18:] > 200).all()
    assert (found[:14] < 50).all()
