# SPDX-License-Identifier: Apache-2.0
"""Persons and vehicles that have boxes or regions instead of dense labels: how much of them is
found, and what a sensor adds to it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.data.frames import LabelledFrame
from mmsam_ros.sensors import NO_LABEL

CLASSES = {"person": ("person", "rider"), "vehicle": ("car", "truck")}
BOXED = {"person": "person", "car": "vehicle"}  # bicycles' boxes are mostly their riders'
FOUND = 0.3  # share of an object's pixels that have its class
GROWN = 8  # pixels around a person's box that are not counted as outside
MIN_AREA = 200  # pixels of a region
NEAR = 100  # FLIR numbers; frames that are closer show the same street
DRAWS = 10_000  # of the bootstrap
MEASURES = (*(f"{name} {what}" for name in CLASSES for what in ("pixels", "recall")),
            "false person pixels", "false vehicle pixels")  # fmt: skip

Mask = NDArray[np.bool_]
Regions = Mapping[str, Sequence[Mask]]  # by a name of `CLASSES` a mask for each object; OTHER: one
OTHER = "not vehicle"  # what is labelled and no vehicle
Counts = NDArray[np.int64]  # (frames, measures, 2): found and all


def read_boxes(path: Path) -> dict[str, Regions]:
    """The boxes of each frame in a boxes.json."""
    found: dict[str, Regions] = {}
    for name, frame in json.loads(path.read_text())["frames"].items():
        width, height = frame["size"]
        regions: dict[str, list[Mask]] = {name: [] for name in CLASSES}
        for box in frame["boxes"]:
            left, top, right, bottom = (round(side) for side in box["xyxy"])
            mask = np.zeros((height, width), bool)
            mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
            if box["class"] in BOXED and mask.any():
                regions[BOXED[box["class"]]].append(mask)
        found[name] = regions
    return found


def regions_of(item: LabelledFrame, any_of: Mapping[str, Sequence[str]]) -> Regions:
    """Connected regions of the labels that mean nothing but vehicles."""
    assert item.label is not None
    meant = [set(names) <= set(CLASSES["vehicle"]) for names in any_of.values()]
    labelled = np.isin(item.label, np.flatnonzero(meant)).astype(np.uint8)
    _, parts, facts, _ = cv2.connectedComponentsWithStats(labelled)
    large = np.flatnonzero(facts[:, cv2.CC_STAT_AREA] >= MIN_AREA)
    other = (item.label != NO_LABEL) & (labelled == 0)
    return {"vehicle": [parts == i for i in large if i != 0], OTHER: [other]}


def count(labels: NDArray[np.uint8], ids: Mapping[str, int], regions: Regions) -> Counts:
    """(measures, 2) of one frame; `ids` are those of the network's classes."""
    rows = []
    for name, classes in CLASSES.items():
        own = np.isin(labels, [ids[each] for each in classes])
        pixels = [(int(own[mask].sum()), int(mask.sum())) for mask in regions.get(name, ())]
        rows.append((sum(hit for hit, _ in pixels), sum(size for _, size in pixels)))
        rows.append((sum(hit >= FOUND * size for hit, size in pixels), len(pixels)))
    rows.append((0, 0))
    if "person" in regions:
        inside = np.any([np.zeros(labels.shape, bool), *regions["person"]], axis=0)
        around = np.ones((2 * GROWN + 1, 2 * GROWN + 1), np.uint8)
        outside = cv2.dilate(inside.astype(np.uint8), around) == 0
        persons = np.isin(labels, [ids[each] for each in CLASSES["person"]])
        rows[-1] = (int((persons & outside).sum()), int(outside.sum()))
    vehicles = np.isin(labels, [ids[each] for each in CLASSES["vehicle"]])
    false = [(int((vehicles & mask).sum()), int(mask.sum())) for mask in regions.get(OTHER, ())]
    return np.array([*rows, *(false or [(0, 0)])], np.int64)


def shares(counts: Counts) -> dict[str, float]:
    """By measure, in percent; measures of which there is nothing are left out."""
    found = dict(zip(MEASURES, counts.sum(0).tolist(), strict=True))
    return {name: round(100 * hit / every, 2) for name, (hit, every) in found.items() if every}


def neighbours(names: Sequence[str]) -> list[int]:
    """The group of each frame: sorted names that end in numbers, near ones are of one group."""
    numbers = [int(name.rpartition("_")[2]) for name in names]
    return np.cumsum(np.diff(numbers, prepend=numbers[:1]) > NEAR).tolist()


def gain(before: Counts, after: Counts, groups: Sequence[int]) -> dict[str, tuple[float, ...]]:
    """By measure: the difference in percent and the ends of its 95 % interval, by a bootstrap over
    groups of frames.
    """
    members = np.eye(max(groups) + 1, dtype=np.int64)[list(groups)].T  # (groups, frames)
    drawn = np.random.default_rng(0).integers(len(members), size=(DRAWS, len(members)))
    differences: Any = 0
    for sign, counts in ((-1, before), (1, after)):
        of_group = np.einsum("gf,fmc->gmc", members, counts)
        sums = np.concatenate([of_group.sum(0)[None], of_group[drawn].sum(1)]).astype(float)
        differences = differences + sign * 100 * sums[..., 0] / np.maximum(sums[..., 1], 1)
    ends = np.percentile(differences[1:], (2.5, 97.5), axis=0)
    values = np.concatenate([differences[:1], ends]).round(2).T.tolist()
    there = counts.sum(0)[:, 1] > 0
    return {m: tuple(v) for m, v, some in zip(MEASURES, values, there, strict=True) if some}
