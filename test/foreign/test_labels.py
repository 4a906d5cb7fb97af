# SPDX-License-Identifier: Apache-2.0
"""Label images as other tools write them: what a pixel's id is follows from the file's header."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.trees import make_deliver, make_fmb, make_folder

from mmsam_ros.cli.main import main
from mmsam_ros.data.check import check_dataset
from mmsam_ros.data.errors import DataError, DataWarning
from mmsam_ros.data.labels import read_label
from mmsam_ros.data.open import open_frames

IDS = np.array([[0, 1, 0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1, 1, 1, 1]], np.uint8)
COLOURS = [(128, 64, 128), (220, 20, 60), (0, 0, 142), (70, 70, 70)]
FOUR = (np.arange(18).reshape(2, 9) % 4).astype(np.uint8)
SIXTEEN = (np.arange(18).reshape(2, 9) % 16).astype(np.uint8)
GREY, PALETTE, GREY_ALPHA = 0, 3, 4


def png(values: np.ndarray, depth: int, colour: int, extra: bytes = b"") -> bytes:
    """A PNG file by its specification: `values` (h, w[, c]) of `depth` bits, no filter."""
    rows = values.reshape(len(values), -1)
    bits = (rows[..., None] >> np.arange(depth)[::-1]) & 1
    lines = [b"\0" + np.packbits(row.astype(np.uint8)).tobytes() for row in bits]
    size = struct.pack(">IIBBBBB", values.shape[1], len(values), depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", size) + extra + chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def palette(colours: Sequence[Sequence[int]]) -> bytes:
    return chunk(b"PLTE", bytes(np.array(colours, np.uint8).ravel()))


def pillow(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def with_alpha(values: np.ndarray, alpha: int) -> np.ndarray:
    return np.stack([values, np.full_like(values, alpha)], 2)


@pytest.mark.parametrize(
    ("ids", "content"),
    [
        (IDS, png(IDS, 1, GREY)),
        (FOUR, png(FOUR, 2, GREY)),
        (SIXTEEN, png(SIXTEEN, 4, GREY)),
        (SIXTEEN, png(SIXTEEN, 8, GREY)),
        (SIXTEEN, png(SIXTEEN.astype(np.uint16), 16, GREY)),
        (SIXTEEN, png(with_alpha(SIXTEEN, 255), 8, GREY_ALPHA)),
        (SIXTEEN, png(with_alpha(SIXTEEN, 0), 8, GREY_ALPHA)),  # transparent ones count as well
        (SIXTEEN, png(with_alpha(SIXTEEN.astype(np.uint16), 65535), 16, GREY_ALPHA)),
        (FOUR, png(FOUR, 8, GREY, chunk(b"tRNS", b"\0\0"))),
        (FOUR, png(FOUR, 2, GREY, chunk(b"gAMA", struct.pack(">I", 45455)))),
        (IDS, png(IDS, 1, PALETTE, palette(COLOURS[:2]))),
        (IDS, png(IDS, 1, PALETTE, palette([(0, 0, 0), (255, 255, 255)]))),
        (FOUR, png(FOUR, 2, PALETTE, palette(COLOURS))),
        (FOUR, png(FOUR, 4, PALETTE, palette(COLOURS))),
        (FOUR, png(FOUR, 8, PALETTE, palette(COLOURS) + chunk(b"tRNS", b"\0"))),
        (SIXTEEN, png(SIXTEEN, 8, PALETTE, palette([(i, i, i) for i in range(256)]))),
        (SIXTEEN, png(SIXTEEN, 8, PALETTE, palette([(60, 60, 60)] * 16))),  # one colour for all
        (FOUR, png(FOUR, 8, PALETTE, palette([(64 * i,) * 3 for i in range(4)]))),
        (SIXTEEN, pillow(Image.fromarray(SIXTEEN), "TIFF")),
        (SIXTEEN, pillow(Image.fromarray(SIXTEEN.astype(np.uint16)), "TIFF")),
        (SIXTEEN, pillow(Image.fromarray(SIXTEEN), "TIFF", compression="tiff_lzw")),
        (SIXTEEN, pillow(Image.fromarray(SIXTEEN), "TIFF", compression="tiff_adobe_deflate")),
        (SIXTEEN, pillow(Image.fromarray(SIXTEEN), "TIFF", compression="packbits")),
        (SIXTEEN, pillow(Image.fromarray(SIXTEEN), "PNG", optimize=True)),
    ],
)  # fmt: skip
def test_every_form_gives_its_ids(tmp_path: Path, ids: np.ndarray, content: bytes) -> None:
    path = tmp_path / "label.png"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_label(path, 16), ids)
    path.write_bytes(content)
    one_lower = np.where(ids == 0, 255, ids - 1)
    np.testing.assert_array_equal(read_label(path, 15, first=1), one_lower)
    np.testing.assert_array_equal(read_label(path, 15, first=1, red=True), one_lower)


def test_255_is_no_label_in_a_palette_and_in_16_bit(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 255]], np.uint8)
    path = tmp_path / "label.png"
    for content in (
        png(ids, 8, PALETTE, palette([*COLOURS[:2], *[(9, 9, 9)] * 253, (224, 224, 192)])),
        png(ids.astype(np.uint16), 16, GREY),
    ):
        path.write_bytes(content)
        assert read_label(path, 2).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pillow(Image.fromarray(FOUR), "JPEG"), "label is JPEG, whose compression changes ids;"),
        (pillow(Image.fromarray(FOUR), "BMP"), "label is BMP; export the labels as 8-bit PNG"),
        (pillow(Image.fromarray(FOUR), "TIFF", compression="jpeg"), "jpeg, whose compression chan"),
        (pillow(Image.fromarray(FOUR), "WEBP"), "label is WEBP, whose compression changes ids;"),
        (pillow(Image.fromarray(np.dstack([FOUR] * 3)), "PNG"), "label is RGB, expected one chan"),
        (pillow(Image.fromarray(np.dstack([FOUR] * 4)), "PNG"), "label is RGBA, expected one chan"),
        (png(np.full((2, 2), 300, np.uint16), 16, GREY), "uint16 with values to 300, expected ids"),
        (pillow(Image.fromarray(FOUR.astype(np.float32)), "TIFF"), "label is float32 with values"),
        (pillow(Image.fromarray(IDS * 255).convert("1"), "TIFF"), "label is TIFF of 1 bit"),
        # as a PNG optimiser leaves ids 3, 0, 7: numbered anew by how often they come
        (png(FOUR % 3, 2, PALETTE, palette([(3,) * 3, (0,) * 3, (7,) * 3])),
         "index 0 is shown as 3, and both could be ids"),
        (png(FOUR + 14, 8, PALETTE, palette(COLOURS * 5)), "label values 16, 17, expected 0..15"),
        (b"", "is empty"),
        (png(FOUR, 8, GREY)[:-20], "is broken, expected a whole PNG"),
    ],
)  # fmt: skip
def test_what_cannot_be_ids_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "label.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_label(path, 16)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_palette_of_red_ids_is_refused_in_deliver(tmp_path: Path) -> None:
    """The raw labels hold the id in the red channel; an optimiser makes a palette of them."""
    path = tmp_path / "label.png"
    path.write_bytes(png(FOUR % 3, 2, PALETTE, palette([(13, 0, 0), (7, 0, 0), (10, 0, 0)])))
    with pytest.raises(DataError, match="index 0 is shown as 13, and both could be ids"):
        read_label(path, 25, first=1, red=True)
    # colours of a palette that other tools draw with are none
    path.write_bytes(
        png(FOUR[:, :3] % 2 * 2, 8, PALETTE, palette([(0, 0, 0), (128, 0, 0), (0, 128, 0)]))
    )
    assert set(np.unique(read_label(path, 25, first=1, red=True))) == {1, 255}


XMP = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("indexed", [False, True])
def test_turned_labels(tmp_path: Path, form: str, indexed: bool) -> None:
    """The tag of EXIF is obeyed, of labels with and without a palette; that of XMP is not."""
    image = Image.fromarray(FOUR)
    if indexed:
        image.putpalette([value for colour in COLOURS for value in colour])
    tag, note = Image.Exif(), PngInfo()
    tag[0x0112] = 6  # the first row is shown at the right
    note.add_itxt("XML:com.adobe.xmp", XMP)
    by_xmp = {"pnginfo": note} if form == "PNG" else {"tiffinfo": {700: XMP.encode()}}
    path = tmp_path / "label.png"
    for options, expected in (({"exif": tag}, np.rot90(FOUR, -1)), (by_xmp, FOUR)):
        path.write_bytes(pillow(image, form, **options))
        np.testing.assert_array_equal(read_label(path, 4), expected)


@pytest.mark.parametrize("packing", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_damaged_tiffs(tmp_path: Path, packing: str) -> None:
    """OpenCV reads what it can of them, and some other ids after that."""
    rng, path = np.random.default_rng(0), tmp_path / "label.tif"
    ids = np.kron(rng.integers(0, 5, (60, 80)), np.ones((8, 8), int)).astype(np.uint8)
    data = pillow(Image.fromarray(ids), "TIFF", compression=packing)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_label(path, 5), ids)
    for share in (0.3, 0.5, 0.7):
        at = int(share * len(data))
        path.write_bytes(data[:at] + bytes(40) + data[at + 40 :])
        with pytest.raises(DataError, match=r"label\.tif: is broken, expected a whole PNG"):
            read_label(path, 256)


def test_palette_labels_of_a_folder(shared: Path) -> None:
    """An indexed PNG counts by its indices; the folder is read like any other."""
    root = shared / "cases/palette_labels"
    if not root.is_dir():
        pytest.skip("the small inputs are not beside the repository (../shared/cases)")
    frames = open_frames("folder", root, "train", ())
    label = frames[0].label
    assert label is not None
    indices = np.asarray(Image.open(root / "labels/a.png"))
    np.testing.assert_array_equal(label, indices)
    assert not [f for f in check_dataset("folder", root, ()).faults if "label" in f]


def test_one_bit_labels_of_a_folder(tmp_path: Path) -> None:
    """Class 1 of a two-class label is not 255, no label."""
    root = make_folder(tmp_path, (), per_split={"train": 1})
    (path,) = (root / "labels").glob("*.png")
    ids = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == 1).astype(np.uint8)
    path.write_bytes(png(ids, 1, GREY))
    np.testing.assert_array_equal(open_frames("folder", root, "train", ())[0].label, ids)
    report = check_dataset("folder", root, ())
    assert set(np.flatnonzero(report.pixels["train"])) == {0, 1}


def reduce(path: Path) -> None:
    """What other code makes of a label once: values less one, 255 for no label."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    values = image if image.ndim == 2 else image[..., 2]
    cv2.imwrite(str(path), np.where(values == 0, 255, values - 1).astype(np.uint8))


@pytest.mark.parametrize("dataset", ["deliver", "fmb"])
def test_labels_that_are_reduced_already(
    tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lists = made(dataset, tmp_path)
    assert check_dataset(dataset, root, (), lists).faults == []
    open_frames(dataset, root, "train", (), lists)
    for path in labels_of(dataset, root):
        reduce(path)
    faults = check_dataset(dataset, root, (), lists).faults
    assert [("reduced by one already" in f, "split" in f) for f in faults] == [(True, True)] * 3
    top = {"deliver": 25, "fmb": 14}[dataset]
    assert f"4 of 4 files have 255 and no {top}; " in faults[0]
    assert f"expected values 1..{top} and 0 for no label" in faults[0]
    for split in ("train", "val", "test"):
        with pytest.raises(DataError, match="look reduced by one already"):
            open_frames(dataset, root, split, (), lists)
    argv = ["--dataset", dataset, "--root", str(root), *(["--lists", lists] if lists else [])]
    assert main(["data", "check", *argv]) == 1
    assert "reduced by one already" in capsys.readouterr().out


def test_reduced_labels_without_any_unlabelled_pixel(tmp_path: Path) -> None:
    """Then 255 is no mark. Street signs do not fill half of most pictures, but of some."""
    root = make_deliver(tmp_path, per_split={"train": 2})
    paths = labels_of("deliver", root)
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:-2]  # less the unlabelled strip
        cv2.imwrite(str(path), image)
    for path in root.rglob("*_rgb_front.png"):
        cv2.imwrite(str(path), cv2.imread(str(path))[:-2])
    open_frames("deliver", root, "train", ())
    for path in paths:
        reduce(path)
    with pytest.warns(DataWarning, match=r"Building, Road, Vegetation, Sky have .* higher"):
        open_frames("deliver", root, "train", ())
    report = check_dataset("deliver", root, ())
    assert [note for note in report.notes if "look reduced by one already" in note]
    assert not [fault for fault in report.faults if "look reduced" in fault]


def test_every_value_but_the_highest_is_a_mark(tmp_path: Path) -> None:
    root, lists = made("fmb", tmp_path)
    values = (np.arange(60 * 80).reshape(60, 80) % 14).astype(np.uint8)
    for path in labels_of("fmb", root):
        cv2.imwrite(str(path), values)
    with pytest.warns(DataWarning, match="every value from 0 to 13 occurs and 14 never"):
        open_frames("fmb", root, "val", (), lists)
    values[0] = 255
    cv2.imwrite(str(root / "train/Label/00002.png"), values)
    with pytest.raises(DataError, match=r"1 of 4 files have 255 and no 14; 0 .*; every"):
        open_frames("fmb", root, "train", (), lists)
    cv2.imwrite(str(root / "train/Label/00002.png"), np.maximum(values, 1))
    # 14 is there: these are raw ones, in which somebody marks with 255 what shall not count
    cv2.imwrite(str(root / "train/Label/00001.png"), np.full((60, 80), 14, np.uint8))
    with pytest.warns(DataWarning, match=r"00002.png: .* \(1 of 4 files have 255 and no 14\)"):
        open_frames("fmb", root, "train", (), lists)


# rows of the 60 in a picture by value; 1, 3, 6 and 7 are road, building, vegetation and sky
STREET, REDUCED = {7: 20, 3: 15, 6: 10, 14: 5, 1: 10}, {6: 20, 2: 15, 5: 10, 0: 14, 255: 1}
NOTHING = {0: 60}


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ([STREET], ""),
        ([STREET, {7: 20, 3: 15, 6: 10, 1: 15}], ""),
        ([NOTHING], ""),  # a test split whose labels are withheld so
        ([NOTHING, NOTHING, {0: 55, 7: 2, 3: 2, 1: 1}], ""),  # a few strokes
        ([STREET, NOTHING], ""),
        ([{**STREET, 0: 1, 255: 1}], ""),
        ([{7: 20, 3: 15, 6: 10, 1: 14, 255: 1}], "warned"),  # 255 for what shall not count
        ([{2: 40, 6: 20}], "warned"),  # a square with trees
        ([{8: 25, 2: 25, 5: 10}], "warned"),  # a crowd
        ([REDUCED], "refused"),
        ([REDUCED, {6: 20, 2: 15, 5: 10, 0: 15}], "refused"),
        ([STREET, REDUCED], "refused"),  # half of the files
        ([STREET, STREET, STREET, REDUCED], "refused"),
        ([{0: 60 - 14} | dict.fromkeys((*range(1, 14), 255), 1)], "refused"),
    ],
)
def test_which_labels_look_reduced(
    tmp_path: Path, rows: list[dict[int, int]], verdict: str, recwarn: pytest.WarningsRecorder
) -> None:
    root = make_fmb(tmp_path, per_split={"test": len(rows)})
    for path, counts in zip(labels_of("fmb", root), rows, strict=True):
        column = np.repeat(np.array(list(counts), np.uint8), list(counts.values()))
        cv2.imwrite(str(path), np.repeat(column[:, None], 80, 1))
    warnings.simplefilter("always", DataWarning)
    if verdict == "refused":
        with pytest.raises(DataError, match=r"look reduced .* give them in the layout of own data"):
            open_frames("fmb", root, "test", ())
    else:
        open_frames("fmb", root, "test", ())
    assert [str(w.message) for w in recwarn if "look reduced" in str(w.message)] != [] or (
        verdict != "warned"
    )
    assert verdict == "warned" or not len(recwarn)


def test_raw_labels_in_the_flat_layout(tmp_path: Path) -> None:
    """The reverse: that layout has reduced labels."""
    root = make_deliver(tmp_path, "flat", per_split={"train": 2})
    open_frames("deliver", root, "train", ())
    paths = sorted(root.rglob("*_semantic_front.png"))
    for path in paths:
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(values == 255, 0, values + 1).astype(np.uint8))
    with pytest.warns(DataWarning, match=r"look not reduced by one yet .* expected values 0..24"):
        open_frames("deliver", root, "train", ())
    values[:2] = 25
    for path in paths:
        cv2.imwrite(str(path), values + 1 - (values == 25))
    with pytest.raises(DataError, match=r"2 of 2 files have 25 and no 255; .* one lower"):
        open_frames("deliver", root, "train", ())
    faults = check_dataset("deliver", root, ()).faults
    assert [fault for fault in faults if "not reduced by one yet" in fault]


def made(dataset: str, root: Path) -> tuple[Path, str]:
    """A small tree, and the folder of its lists."""
    if dataset == "deliver":
        return make_deliver(root), ""
    return make_fmb(root), str(root / "lists")


def labels_of(dataset: str, root: Path) -> list[Path]:
    pattern = {"deliver": "*_semantic_front.png", "fmb": "Label/*.png"}[dataset]
    return sorted(root.rglob(pattern))
