# SPDX-License-Identifier: Apache-2.0
"""What the code knows about a public data set; each has its own module."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mmsam_ros.data.frames import FrameSet
from mmsam_ros.sensors import ClassInfo, Modality

Size = tuple[int, int]
Scan = Callable[[Path, str, Sequence[str], Path | None], FrameSet]


@dataclass(frozen=True)
class Published:
    """A method's published row: mIoU in percent by subset; absent classes count 0."""

    method: str
    split: str
    sensors: tuple[str, ...]
    miou: Mapping[str, float]
    table: str


@dataclass(frozen=True)
class Protocol:
    """How the published numbers read a frame."""

    mode: Literal["resize", "pad", "slide"]  # as in the geometry of a weights file
    pad_raw: bool = False  # with raw zeros before normalising, not with zeros afterwards
    score_on_canvas: bool = False  # labels are brought to the network's size and scored there


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A data set with its layout on disk, its classes and its published numbers."""

    name: str  # the word for `--dataset`
    scan: Scan  # the frames of a split; their files are not opened
    classes: tuple[ClassInfo, ...] = ()  # empty where meta.json has them
    modalities: Mapping[str, Modality] = field(default_factory=dict)  # by sensor; empty likewise
    sensors: Callable[[Path], tuple[str, ...]] | None = None  # that a tree on disk has
    image_size: str = ""  # of the published images, as WIDTHxHEIGHT
    network_size: Size = (1024, 1024)  # (height, width) of the published network
    mode: Literal["resize", "pad", "slide"] = "pad"  # how training and node read a frame
    stride: Size | None = None  # of the windows of the mode `slide`, at `network_size`
    protocol: Protocol | None = None  # of the published numbers; None: as the weights' geometry
    pooled_frames: int = 0  # that a batch norm saw at once in the published training
    rasters: str = ""  # how the published ones were made, as `FrameSet.rasters`
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by split and group
    published: tuple[Published, ...] = ()
    # what a user should know about a tree on disk, given the names of its frames
    notes: Callable[[Path, set[str]], list[str]] | None = None

    def known_sensors(self, root: Path) -> tuple[str, ...]:
        """The sensors besides the camera that the data set below `root` has."""
        return self.sensors(root) if self.sensors else tuple(self.modalities)

    def published_rows(self, split: str, sensors: Sequence[str]) -> list[Published]:
        """What is published for exactly this split and set of sensors; best last."""
        rows = [r for r in self.published if (r.split, set(r.sensors)) == (split, set(sensors))]
        return sorted(rows, key=lambda row: row.miou["all"])

    def count_notes(self, split: str, counts: Mapping[str, int]) -> list[str]:
        """Differences between a split's numbers of frames, by group, and the published ones."""
        known = {group.partition("=")[0] for group in counts}  # FMB has no difficulty without lists
        return [
            f"{split}: {counts.get(group, 0)} frames of {group}, published are {published}"
            for group, published in self.counts.get(split, {}).items()
            if group.partition("=")[0] in known and counts.get(group, 0) != published
        ]


def published_table(
    table: str, split: str, columns: Sequence[str],
    parts: Mapping[tuple[str, ...], Mapping[str, tuple[float, ...]]],
) -> Iterator[Published]:  # fmt: skip
    """Rows of one published table: by sensors, by method; a row may leave out the last columns."""
    for sensors, rows in parts.items():
        for method, values in rows.items():
            miou = dict(zip(columns, values, strict=False))
            yield Published(method, split, sensors, miou, table)


def unused_images(found: set[str], names: set[str]) -> list[str]:
    """A note of the images that no split names."""
    unused = found - names
    return [f"{len(unused)} images are in no split, such as {min(unused)}"] if unused else []
