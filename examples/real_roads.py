# SPDX-License-Identifier: Apache-2.0
"""Make folder data sets out of gathered pictures of real roads, for `mmsam train --config road_rgb`
and then `--config road`.

python examples/real_roads.py REAL_ROADS OUT

REAL_ROADS has CamVid, IDD-Lite, RoadScene (camera and thermal), a drive of KITTI (camera and LiDAR)
and labels of other networks ("pseudo"). OUT gets camvid, idd, idd_pseudo, roadscene (its days),
roadscene_night and kitti. A label means a set of the classes of mmsam's synthetic world; where a
pseudo label says more than the true one, it narrows the set. What no label says is left out (255).
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

NIGHT_BOXES = Path(__file__).with_name("night_boxes.json")
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
CORES = {"person": 0.4, "car": 0.6, "bicycle": 0.4}  # share of a box's sides that is its middle
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


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text())


def read(path: Path) -> NDArray[np.uint8]:
    """An image of one channel of 8 bits."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, path
    assert (image.ndim, image.dtype) == (2, np.uint8), f"{path}: {image.dtype} {image.shape}"
    return np.asarray(image, np.uint8)


class Writer:
    """A folder data set whose label images have a value for each set of classes that occurs."""

    def __init__(self, root: Path, own: Mapping[str, tuple[int | str, ...]] | None = None) -> None:
        self.root, self.frames = root, list[tuple[str, str]]()
        self.classes = {name: tuple(map(str, names)) for name, (_, *names) in (own or {}).items()}
        self.narrower = "only " if own else ""
        self.values = {bits(names): i for i, names in enumerate(self.classes.values())}

    def add(self, split: str, name: str, image: Path, sets: Sets | None) -> None:
        """A frame: its image is copied, its sets become a label image."""
        (self.root / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image, self.root / "images" / f"{name}{image.suffix}")
        if sets is not None:
            label = np.full(sets.shape, 255, np.uint8)
            for number in map(int, np.unique(sets)):
                if number != ANY:
                    label[sets == number] = self._value(number)
            write_png(self.root / "labels" / f"{name}.png", label)
        self.frames.append((split, name))

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
        for split, name in self.frames:
            writer.list_frame(split, name, {})
        writer.finish()
        counts = {s: sum(of == s for of, _ in self.frames) for s in ("train", "val", "test")}
        print(f"{self.root}: {counts}, classes {', '.join(self.classes)}")


def camvid(data: Path, out: Path) -> None:
    """Sequence 0001TP is `val`, the others `train`."""
    writer, folder = Writer(out, CAMVID), data / "camvid"
    for name, about in read_json(folder / "sequences.json").items():
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


def roadscene(data: Path, out: Path, light: str = "day") -> None:
    """The pairs of the day, or of the night, of which those up to FLIR_06282 are `test`, without
    labels. Boxes say more than the pseudo labels.
    """
    writer, folder, night = Writer(out), data / "roadscene", light == "night"
    files = (data / "boxes/boxes.json", NIGHT_BOXES)
    boxed = {name: f["boxes"] for file in files for name, f in read_json(file)["frames"].items()}
    index = read_json(folder / "index.json")
    for name in (name for name, about in index.items() if about["light"] == light):
        thermal, sets = read(folder / "thermal" / f"{name}.png"), None
        if not night or name > "FLIR_06282":
            sets = pseudo_sets(data / "pseudo/roadscene", name)
            if name in boxed:
                sets = with_boxes(sets, boxed[name], thermal if night else None)
        split = "test" if sets is None else "train"
        writer.add(split, name, folder / "rgb" / f"{name}.jpg", sets)
        write_png(out / "thermal" / f"{name}.png", thermal)
    writer.finish({"thermal": "frame_gain"})


def roadscene_night(data: Path, out: Path) -> None:
    """The pairs of the night, with persons and cars in the boxes of boxes.json and our own."""
    roadscene(data, out, "night")


def with_boxes(
    sets: Sets, boxes: Sequence[Mapping[str, Any]], thermal: NDArray[np.uint8] | None
) -> Sets:
    """Sets narrowed by all boxes of persons, cars and bicycles in a frame: their middles are these;
    with the thermal image of a night, which people are warmer than, all warm pixels of a person's
    box. Nobody is outside: a person far away, without a box, covers few pixels.
    """
    found, outside = sets.copy(), np.ones(sets.shape, bool)
    for box in sorted(boxes, key=lambda box: str(box["class"]) == "person"):  # persons in front
        if box["class"] == "person" and thermal is not None:
            inside = window(box["xyxy"])
            around = thermal[window(box["xyxy"], BOX_RIM)]
            warm, _ = cv2.threshold(around, 0, 255, cv2.THRESH_OTSU)
            found[inside][thermal[inside] > warm] = bits(BOXES["person"])
        else:
            core = window(shrunk(box["xyxy"], CORES[box["class"]]))
            found[core] = bits(BOXES[box["class"]])
        if box["class"] != "car":
            outside[window(box["xyxy"], BOX_RIM)] = False
    nobody = np.full_like(found, ANY & ~bits(PEOPLE))
    return np.where(outside, narrowed(found, nobody), found)


def window(xyxy: Sequence[float], rim: int = 0) -> tuple[slice, slice]:
    """Rows and columns of a box and `rim` pixels around it."""
    left, top, right, bottom = map(round, xyxy)
    rows = slice(max(0, top - rim), max(bottom, top + 1) + rim)
    return rows, slice(max(0, left - rim), max(right, left + 1) + rim)


def shrunk(xyxy: Sequence[float], share: float) -> tuple[float, float, float, float]:
    """The middle of a box, with this share of its sides."""
    left, top, right, bottom = xyxy
    dx, dy = ((1 - share) / 2 * side for side in (right - left, bottom - top))
    return left + dx, top + dy, right - dx, bottom - dy


def kitti(data: Path, out: Path) -> None:
    """Clouds are points; their intensity (0 to 1) is read free of its unit."""
    writer, folder = Writer(out), data / "kitti_drive"
    (out / "lidar").mkdir(parents=True, exist_ok=True)
    for path in sorted((folder / "images").iterdir()):
        writer.add("train", path.stem, path, pseudo_sets(data / "pseudo/kitti_drive", path.stem))
        cloud = np.load(folder / "clouds" / f"{path.stem}.npz")
        points = np.column_stack([cloud["xyz"], cloud["intensity"]])
        np.save(out / "lidar" / f"{path.stem}.npy", points.astype(np.float32))
    given = read_json(folder / "calibration.json")
    width, height = given["image_size"]
    camera = {"width": width, "height": height, "K": given["K"], "D": [], "model": "plumb_bob"}
    pose = {"T_camera_lidar": given["T_camera_lidar"]}
    writer.finish(
        {"lidar": "lidar_gain"}, calibration={"camera": camera, "lidar": pose}, point_size=3
    )


if __name__ == "__main__":
    DATA, OUT = map(Path, sys.argv[1:])
    for convert in (camvid, idd, idd_pseudo, roadscene, roadscene_night, kitti):
        convert(DATA, OUT / convert.__name__)
