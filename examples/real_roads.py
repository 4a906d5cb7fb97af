# SPDX-License-Identifier: Apache-2.0
"""Make folder data sets out of gathered pictures of real roads, for `mmsam train --config road_rgb`
and then `--config road`.

python examples/real_roads.py REAL_ROADS OUT

REAL_ROADS has CamVid, IDD-Lite, RoadScene (camera and thermal), a drive of KITTI (camera and LiDAR)
and labels of other networks ("pseudo"). OUT gets camvid, idd, idd_pseudo, roadscene and kitti. A
label means a set of the classes of mmsam's synthetic world; where a pseudo label says more than
the true one, it narrows the set. What no label says is left out (255).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.folder_writer import FolderWriter, write_png
from mmsam_ros.sensors import SYNTHETIC_CLASSES, class_table, palette

NAMES = [info.name for info in SYNTHETIC_CLASSES]
ANY = (1 << len(NAMES)) - 1  # every class is possible
Sets = NDArray[np.uint16]  # of each pixel the classes that it may be, as bits

CAMVID = {
    "sky": (0, "sky"), "building": (1, "building"), "pole": (2, "pole"),
    "road or mark": (3, "road", "lane mark"), "pavement": (4, "sidewalk"),
    "tree": (5, "vegetation", "terrain"), "sign": (6, "traffic sign"),
    "car or truck": (8, "car", "truck"), "pedestrian": (9, "person"),
    "bicyclist": (10, "rider", "bicycle"),
}  # fmt: skip
IDD = {
    "drivable": (0, "road", "lane mark"), "non-drivable": (1, "sidewalk", "terrain"),
    "living things": (2, "person", "rider"), "vehicles": (3, "car", "truck", "bicycle"),
    "roadside objects": (4, "pole", "traffic sign"), "far objects": (5, "building", "vegetation"),
    "sky": (6, "sky"),
}  # fmt: skip
ROADSIDE = 4  # in training only where a pseudo label agrees: it has walls, fences and curbs as well
PSEUDO_ROAD = {1: ("road",), 3: ("lane mark",)}
CITYSCAPES = {
    0: ("road", "lane mark"), 1: ("sidewalk",), 2: ("building",), 5: ("pole",),
    7: ("traffic sign",), 8: ("vegetation", "terrain"), 9: ("terrain",), 10: ("sky",),
    11: ("person", "rider"), 12: ("rider",), 13: ("car", "truck"), 14: ("car", "truck"),
    15: ("car", "truck"), 17: ("bicycle", "rider"), 18: ("bicycle", "rider"),
}  # fmt: skip
BOXES = {"person": ("person", "rider"), "car": ("car", "truck"), "bicycle": ("bicycle", "rider")}
PEOPLE = ("person", "rider")
BOX_CORE = 0.4  # share of a box's sides, in its middle, that is its class
BOX_RIM = 6  # pixels around the boxes of which nothing is said


def bits(names: Sequence[str]) -> int:
    """A set of classes as one number."""
    return sum(1 << NAMES.index(name) for name in names)


def true_sets(label: NDArray[np.uint8], classes: Mapping[str, tuple[int | str, ...]]) -> Sets:
    """The sets that a data set's own label image means."""
    table = np.full(256, ANY, np.uint16)
    for value, *names in classes.values():
        table[int(value)] = bits([str(name) for name in names])
    return table[label]


def pseudo_sets(root: Path, name: str) -> Sets:
    """The sets that the pseudo labels of a frame mean; where two contradict each other, any."""
    sets = None
    for kind, meaning in (("road", PSEUDO_ROAD), ("cityscapes", CITYSCAPES)):
        path = root / kind / f"{name}.png"
        if path.is_file():
            table = np.full(256, ANY, np.uint16)
            for value, names in meaning.items():
                table[value] = bits(names)
            found = table[read(path)]
            sets = found if sets is None else sets & found
    assert sets is not None, f"{root}: no pseudo label of {name}"
    return np.where(sets == 0, np.uint16(ANY), sets)


def narrowed(sets: Sets, more: Sets) -> Sets:
    """Sets that another label narrows, except where the two contradict each other."""
    return np.where(sets & more, sets & more, sets)


def read(path: Path) -> NDArray[np.uint8]:
    """An image of one channel."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    assert image.ndim == 2, path
    return image.astype(np.uint8)


class Writer:
    """A folder data set whose label images have a value for each set of classes that occurs."""

    def __init__(self, root: Path, own: Mapping[str, tuple[int | str, ...]] | None = None) -> None:
        self.root, self.frames = root, list[tuple[str, str, dict[str, str]]]()
        self.classes = {name: tuple(map(str, names)) for name, (_, *names) in (own or {}).items()}
        self.narrower = "only " if own else ""
        self.values = {bits(names): i for i, names in enumerate(self.classes.values())}

    def add(self, split: str, name: str, image: Path, sets: Sets | None, **subsets: str) -> None:
        """A frame: its image is copied, its sets become a label image."""
        (self.root / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, self.root / "images" / f"{name}{image.suffix}")
        if sets is not None:
            label = np.full(sets.shape, 255, np.uint8)
            for number in map(int, np.unique(sets)):
                if number != ANY:
                    label[sets == number] = self._value(number)
            write_png(self.root / "labels" / f"{name}.png", label)
        self.frames.append((split, name, subsets))

    def _value(self, number: int) -> int:
        if number not in self.values:
            names = tuple(name for i, name in enumerate(NAMES) if number >> i & 1)
            others = [name for name in NAMES if name not in names]
            said = f"not {' or '.join(others)}" if len(others) < len(names) else " or ".join(names)
            self.values[number] = len(self.classes)
            self.classes[self.narrower + said] = names
        return self.values[number]

    def finish(self, encodings: Mapping[str, str], **more: Any) -> None:
        """Write meta.json."""
        colours = palette(SYNTHETIC_CLASSES)
        rows: list[tuple[str, int, int, int]] = []
        for name, names in self.classes.items():
            r, g, b = colours[[NAMES.index(one) for one in names]].mean(0).astype(int).tolist()
            rows.append((name, r, g, b))
        writer = FolderWriter(self.root, class_table(*rows), encodings, any_of=self.classes, **more)
        for split, name, subsets in self.frames:
            writer.list_frame(split, name, subsets)
        writer.finish()
        counts = {s: sum(of == s for of, _, _ in self.frames) for s in ("train", "val", "test")}
        print(f"{self.root}: {counts}, classes {', '.join(self.classes)}")


def camvid(data: Path, out: Path) -> None:
    """Sequence 0001TP is `val`, the others `train`."""
    writer, folder = Writer(out, CAMVID), data / "camvid"
    for name, about in json.loads((folder / "sequences.json").read_text()).items():
        split = "val" if about["sequence"] == "0001TP" else "train"
        sets = true_sets(read(folder / "labels" / f"{name}.png"), CAMVID)
        if split == "train":
            sets = narrowed(sets, pseudo_sets(data / "pseudo/camvid", name))
        writer.add(split, name, folder / "images" / f"{name}.jpg", sets)
    writer.finish({})


def idd(data: Path, out: Path) -> None:
    """`val` has the true labels as they are."""
    writer, folder = Writer(out, IDD), data / "idd_lite"
    for path in sorted((folder / "labels").rglob("*.png")):
        split, drive, frame = path.relative_to(folder / "labels").with_suffix("").parts
        label = read(path)
        sets = true_sets(label, IDD)
        if split == "train":
            sets = narrowed(sets, pseudo_sets(data / "pseudo/idd_lite", f"{split}/{drive}/{frame}"))
            sets[(label == ROADSIDE) & (sets == bits(("pole", "traffic sign")))] = ANY
        image = folder / "images" / split / drive / f"{frame}.jpg"
        writer.add(split, f"{drive}_{frame}", image, sets)
    writer.finish({})


def idd_pseudo(data: Path, out: Path) -> None:
    """The frames of IDD-Lite without true labels."""
    writer, folder = Writer(out), data / "idd_lite/images/test"
    for path in sorted(folder.rglob("*.jpg")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        sets = pseudo_sets(data / "pseudo/idd_lite", f"test/{name}")
        writer.add("train", name.replace("/", "_"), path, sets)
    writer.finish({})


def roadscene(data: Path, out: Path) -> None:
    """Night frames up to FLIR_06282 are `test`, without labels. Boxes say what their middle is, and
    that nobody is outside: a person far away, without a box, covers few pixels.
    """
    writer, folder = Writer(out), data / "roadscene"
    boxed = json.loads((data / "boxes/boxes.json").read_text())["frames"]
    for name, about in json.loads((folder / "index.json").read_text()).items():
        held_out = about["light"] == "night" and name <= "FLIR_06282"
        sets = pseudo_sets(data / "pseudo/roadscene", name)
        if name in boxed:
            sets = with_boxes(sets, boxed[name]["boxes"])
        split = "test" if held_out else "train"
        image = folder / "rgb" / f"{name}.jpg"
        writer.add(split, name, image, None if held_out else sets, light=about["light"])
        write_png(out / "thermal" / f"{name}.png", read(folder / "thermal" / f"{name}.png"))
    writer.finish({"thermal": "frame_gain"})


def with_boxes(sets: Sets, boxes: Sequence[Mapping[str, Any]]) -> Sets:
    """Sets narrowed by the boxes of a frame in boxes.json."""
    cores, outside = sets.copy(), np.ones(sets.shape, bool)
    for box in boxes:
        left, top, right, bottom = box["xyxy"]
        x, y = (left + right) / 2, (top + bottom) / 2
        w, h = BOX_CORE * (right - left) / 2, BOX_CORE * (bottom - top) / 2
        core = cores[round(y - h) : round(y + h) + 1, round(x - w) : round(x + w) + 1]
        core[...] = bits(BOXES[box["class"]])
        if box["class"] != "car":
            rows = slice(max(0, round(top) - BOX_RIM), round(bottom) + BOX_RIM)
            outside[rows, max(0, round(left) - BOX_RIM) : round(right) + BOX_RIM] = False
    nobody = np.uint16(ANY & ~bits(PEOPLE))
    return np.where(outside, narrowed(cores, np.full_like(cores, nobody)), cores)


def kitti(data: Path, out: Path) -> None:
    """Clouds are points; their intensity (0 to 1) is read free of its unit."""
    writer, folder = Writer(out), data / "kitti_drive"
    (out / "lidar").mkdir(parents=True, exist_ok=True)
    for path in sorted((folder / "images").iterdir()):
        writer.add("train", path.stem, path, pseudo_sets(data / "pseudo/kitti_drive", path.stem))
        cloud = np.load(folder / "clouds" / f"{path.stem}.npz")
        points = np.column_stack([cloud["xyz"], cloud["intensity"]])
        np.save(out / "lidar" / f"{path.stem}.npy", points.astype(np.float32))
    given = json.loads((folder / "calibration.json").read_text())
    width, height = given["image_size"]
    camera = {"width": width, "height": height, "K": given["K"], "D": [], "model": "plumb_bob"}
    pose = {"T_camera_lidar": given["T_camera_lidar"]}
    writer.finish(
        {"lidar": "lidar_gain"}, calibration={"camera": camera, "lidar": pose}, point_size=3
    )


if __name__ == "__main__":
    DATA, OUT = map(Path, sys.argv[1:])
    for convert in (camvid, idd, idd_pseudo, roadscene, kitti):
        convert(DATA, OUT / convert.__name__)
