# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' published facts, and that the registry is all that the verbs know of them."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.trees import make_folder

from mmsam_ros.cli.main import main
from mmsam_ros.data import SPLITS, deliver, fmb, folder, muses
from mmsam_ros.data.benchmark import Benchmark, Published
from mmsam_ros.data.check import check_dataset, count_notes
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import FrameSet
from mmsam_ros.data.open import BENCHMARKS, find_benchmark, open_frames
from mmsam_ros.sensors import ENCODINGS, SYNTHETIC_CLASSES, topic_names

PUBLIC = ("deliver", "fmb", "muses")

# Name and colour as the data sets publish them, in the order of the training ids.
CITYSCAPES = """
road 128,64,128 · sidewalk 244,35,232 · building 70,70,70 · wall 102,102,156 · fence 190,153,153 ·
pole 153,153,153 · traffic light 250,170,30 · traffic sign 220,220,0 · vegetation 107,142,35 ·
terrain 152,251,152 · sky 70,130,180 · person 220,20,60 · rider 255,0,0 · car 0,0,142 ·
truck 0,0,70 · bus 0,60,100 · train 0,80,100 · motorcycle 0,0,230 · bicycle 119,11,32
"""
DELIVER = """
Building 70,70,70 · Fence 100,40,40 · Other 55,90,80 · Pedestrian 220,20,60 · Pole 153,153,153 ·
RoadLine 157,234,50 · Road 128,64,128 · SideWalk 244,35,232 · Vegetation 107,142,35 ·
Cars 0,0,142 · Wall 102,102,156 · TrafficSign 220,220,0 · Sky 70,130,180 · Ground 81,0,81 ·
Bridge 150,100,100 · RailTrack 230,150,140 · GroundRail 180,165,180 · TrafficLight 250,170,30 ·
Static 110,190,160 · Dynamic 170,120,50 · Water 45,60,150 · Terrain 145,170,100 ·
TwoWheeler 0,0,230 · Bus 0,60,100 · Truck 0,0,70
"""
FMB = """
Road 179,228,228 · Sidewalk 181,57,133 · Building 67,162,177 · Traffic Light 200,178,50 ·
Traffic Sign 132,45,199 · Vegetation 66,172,84 · Sky 179,73,79 · Person 76,99,166 ·
Car 66,121,253 · Truck 137,165,91 · Bus 155,97,152 · Motorcycle 105,153,140 ·
Bicycle 222,215,158 · Pole 135,113,90
"""
# data set, split, sensor (- for none), table; method; mIoU of each column
ROWS = """
deliver test depth T4; CMNeXt; 53.87 54.07 49.66
deliver test depth T4; GeminiFusion; 54.98 55.07 53.00
deliver test depth T4; RoadFormer+; 55.95 56.12 52.39
deliver test depth T4; MM SAM-adapter; 57.35 57.62 53.35
deliver test lidar T4; CMNeXt; 51.32 51.97 39.29
deliver test lidar T4; GeminiFusion; 50.57 51.07 40.93
deliver test lidar T4; RoadFormer+; 54.56 55.41 40.26
deliver test lidar T4; MM SAM-adapter; 57.14 57.75 45.46
deliver test event T4; CMNeXt; 50.81 51.56 37.08
deliver test event T4; GeminiFusion; 51.71 52.32 40.27
deliver test event T4; RoadFormer+; 54.10 54.80 41.98
deliver test event T4; MM SAM-adapter; 55.70 56.29 44.67
deliver test - T9; SAM; 53.32 54.28 35.57
deliver test - T9; SAM adapter; 55.98 57.07 37.93
deliver val depth T7; MM SAM-adapter; 69.60
deliver val lidar T7; MM SAM-adapter; 61.89
deliver val event T7; MM SAM-adapter; 60.74
fmb test thermal T5; CMNeXt; 61.66 64.81 56.85
fmb test thermal T5; GeminiFusion; 64.75 68.05 61.03
fmb test thermal T5; RoadFormer+; 64.57 66.31 61.79
fmb test thermal T5; MM SAM-adapter; 66.10 68.45 62.59
fmb test thermal its paper; StitchFusion-B3; 64.85
fmb test thermal its paper; SHIFNet; 67.80
muses test lidar T6; CMNeXt; 72.36 75.42 64.27 72.81 59.98 72.48 71.92
muses test lidar T6; GeminiFusion; 74.22 75.90 67.67 74.79 62.95 73.30 74.16
muses test lidar T6; RoadFormer+; 80.38 82.56 74.51 79.39 69.64 80.69 79.49
muses test lidar T6; MM SAM-adapter; 81.07 83.34 74.97 80.82 74.12 80.00 80.85
muses test event T6; CMNeXt; 70.49 74.02 60.72 71.24 60.91 68.78 70.54
muses test event T6; GeminiFusion; 68.62 72.04 58.19 70.40 60.53 65.27 68.87
muses test event T6; RoadFormer+; 77.70 80.62 69.02 78.44 69.29 76.40 77.70
muses test event T6; MM SAM-adapter; 79.92 83.39 72.38 81.52 68.97 78.92 78.72
muses test - leaderboard; GtA; 82.39
"""
DIFFICULTY = ("all", "difficulty=easy", "difficulty=hard")
COLUMNS = {
    "deliver": DIFFICULTY,
    "fmb": DIFFICULTY,
    "muses": ("all", "time=day", "time=night", "weather=clear", "weather=fog", "weather=rain",
              "weather=snow"),
}  # fmt: skip


def table(text: str) -> list[tuple[str, tuple[int, ...]]]:
    rows = (part.strip().rsplit(" ", 1) for part in text.replace("\n", " ").split("·"))
    return [(name, tuple(int(v) for v in rgb.split(","))) for name, rgb in rows]


def every_row() -> list[tuple[str, Published]]:
    return [(name, row) for name in BENCHMARKS for row in BENCHMARKS[name].published]


def test_the_registry() -> None:
    assert list(BENCHMARKS) == ["deliver", "fmb", "muses", "folder"]
    for name, module in zip(BENCHMARKS, (deliver, fmb, muses, folder), strict=True):
        assert find_benchmark(name) is BENCHMARKS[name] is module.BENCHMARK
        assert BENCHMARKS[name].name == name
    with pytest.raises(DataError, match="dataset: unknown 'muse'; did you mean 'muses'"):
        find_benchmark("muse")
    with pytest.raises(DataError, match="unknown 'kitti'; known: deliver, fmb, folder, muses"):
        find_benchmark("kitti")


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [("deliver", DELIVER, 25), ("fmb", FMB, 14), ("muses", CITYSCAPES, 19)],
)
def test_class_tables(name: str, text: str, count: int) -> None:
    classes = BENCHMARKS[name].classes
    assert len(classes) == count
    assert [info.id for info in classes] == list(range(count))
    assert [(info.name, info.rgb) for info in classes] == table(text)
    topics = topic_names(classes)
    assert len(set(topics)) == count
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", topic) for topic in topics)


def test_the_synthetic_world_has_cityscapes_colours() -> None:
    cityscapes = {info.name: info.rgb for info in BENCHMARKS["muses"].classes}
    assert all(info.rgb == cityscapes[info.name] for info in SYNTHETIC_CLASSES[:-1])


def test_every_published_row() -> None:
    found = []
    for name, row in every_row():
        where = re.split("[,;]", row.table)[0]
        values = " ".join(f"{value:.2f}" for value in row.miou.values())
        sensors = "+".join(row.sensors) or "-"
        found.append(f"{name} {row.split} {sensors} {where}; {row.method}; {values}")
        assert tuple(row.miou) == COLUMNS[name][: len(row.miou)]
    assert found == ROWS.strip().splitlines()
    chosen = {row.method for _, row in every_row() if "epoch chosen on the test set" in row.table}
    assert chosen == {"StitchFusion-B3", "SHIFNet"}


def test_a_whole_lies_between_its_parts() -> None:
    """Within a point, as a mean over classes may leave them: a wrong digit stands out."""
    for _, row in every_row():
        for key in {group.partition("=")[0] for group in row.miou} - {"all"}:
            parts = [value for group, value in row.miou.items() if group.startswith(key)]
            assert min(parts) - 1 < row.miou["all"] < max(parts) + 1, row


def test_rows_stand_beside_their_own_split_and_sensors_alone() -> None:
    benchmark = BENCHMARKS["deliver"]
    rows = benchmark.published_rows("test", ("lidar",))
    assert [row.method for row in rows] == [
        "GeminiFusion", "CMNeXt", "RoadFormer+", "MM SAM-adapter",
    ]  # fmt: skip
    assert rows[-1].miou["all"] == 57.14  # val has 61.89
    assert [row.miou["all"] for row in benchmark.published_rows("val", ("lidar",))] == [61.89]
    assert [row.method for row in benchmark.published_rows("test", ())] == ["SAM", "SAM adapter"]
    assert benchmark.published_rows("test", ("lidar", "event")) == []
    assert benchmark.published_rows("train", ("lidar",)) == []
    assert BENCHMARKS["fmb"].published_rows("test", ["thermal"])[-1].method == "SHIFNet"
    assert BENCHMARKS["folder"].published_rows("test", ()) == []
    two = Published("both", "test", ("lidar", "event"), {"all": 1.0}, "")
    toy = dataclasses.replace(benchmark, published=(two,))
    assert toy.published_rows("test", ("event", "lidar")) == [two], "the order does not matter"


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("deliver", {"train": 3983, "val": 2005, "test": 1897}),
        ("fmb", {"train": 1060, "val": 160, "test": 280}),
        ("muses", {"train": 1500, "val": 250, "test": 750}),
    ],
)
def test_published_counts_add_up(name: str, counts: dict[str, int]) -> None:
    published = BENCHMARKS[name].counts
    assert {split: groups["all"] for split, groups in published.items()} == counts
    for split, groups in published.items():
        for key, parts in itertools.groupby(groups, lambda group: group.partition("=")[0]):
            assert sum(groups[part] for part in parts) == counts[split], (split, key)
        assert BENCHMARKS[name].count_notes(split, groups) == []
    # what is published by group has its number of frames
    for row in BENCHMARKS[name].published:
        assert set(row.miou) <= set(published[row.split])


def test_counts_that_differ_are_noted() -> None:
    benchmark = BENCHMARKS["fmb"]
    assert benchmark.count_notes(
        "val", {"all": 159, "difficulty=easy": 79, "difficulty=hard": 80}
    ) == [
        "val: 159 frames of all, published are 160",
        "val: 79 frames of difficulty=easy, published are 80",
    ]
    assert benchmark.count_notes("val", {"all": 160, "difficulty=hard": 160}) == [
        "val: 0 frames of difficulty=easy, published are 80",
        "val: 160 frames of difficulty=hard, published are 80",
    ]
    assert benchmark.count_notes("val", {"all": 160}) == [], "without lists nobody knows"
    assert BENCHMARKS["folder"].count_notes("val", {"all": 3}) == []


@pytest.mark.parametrize(
    ("name", "size", "mode", "stride", "image"),
    [
        ("deliver", (1024, 1024), "pad", None, "1042x1042"),
        ("fmb", (800, 800), "pad", None, "800x600"),
        ("muses", (1024, 1024), "slide", (640, 640), "1920x1080"),
        ("folder", (1024, 1024), "pad", None, ""),
    ],
)
def test_geometry(
    name: str, size: tuple[int, int], mode: str, stride: tuple[int, int] | None, image: str
) -> None:
    benchmark = BENCHMARKS[name]
    assert (benchmark.network_size, benchmark.mode) == (size, mode)
    assert (benchmark.stride, benchmark.image_size) == (stride, image)


def test_protocols() -> None:
    found = {name: BENCHMARKS[name].protocol for name in BENCHMARKS}
    assert {
        name: (protocol.mode, protocol.pad_raw, protocol.score_on_canvas)
        for name, protocol in found.items()
        if protocol
    } == {
        "deliver": ("resize", False, True),
        "fmb": ("pad", True, False),
        "muses": ("slide", False, False),
    }
    assert found["folder"] is None


def test_modalities() -> None:
    byte = pytest.approx((1 / 255,) * 3)
    read = {
        (name, sensor): modality
        for name in PUBLIC
        for sensor, modality in BENCHMARKS[name].modalities.items()
    }
    assert {key: modality.encoding for key, modality in read.items()} == {
        ("deliver", "depth"): "png8", ("deliver", "event"): "png8", ("deliver", "lidar"): "png8",
        ("fmb", "thermal"): "mono8",
        ("muses", "lidar"): "muses_raw", ("muses", "event"): "event_counts",
    }  # fmt: skip
    for (name, sensor), modality in read.items():
        assert modality.encoding in ENCODINGS[sensor]
        if name != "muses":
            assert (modality.scale, modality.mean, modality.std) == (byte, (0, 0, 0), (1, 1, 1))
            assert modality.point_size == 1
    lidar, event = read["muses", "lidar"], read["muses", "event"]
    assert lidar.fields == ("range", "intensity", "height")
    assert event.fields == ("positive", "negative", "zero")
    assert lidar.scale == event.scale == (1, 1, 1)
    assert lidar.mean == (1.4628459, 1.8271197, 0.07808967)
    assert lidar.std == (7.55678107, 9.85001751, 0.67012253)
    assert event.mean == (0.08768561, 0.08779435, 0.0)
    assert event.std == (0.4479273728, 0.4006636355, 1.0)
    assert lidar.point_size == event.point_size == 2


def test_known_sensors(tmp_path: Path) -> None:
    assert BENCHMARKS["deliver"].known_sensors(tmp_path) == ("depth", "event", "lidar")
    assert BENCHMARKS["fmb"].known_sensors(tmp_path) == ("thermal",)
    assert BENCHMARKS["muses"].known_sensors(tmp_path) == ("lidar", "event")
    root = make_folder(tmp_path, ("thermal", "lidar"), per_split={"val": 1})
    assert BENCHMARKS["folder"].known_sensors(root) == ("thermal", "lidar")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    """A benchmark more, of a folder's layout."""

    def scan(root: Path, split: str, sensors: Sequence[str], lists: Path | None) -> FrameSet:
        frames = folder.scan(root, split, sensors, lists)
        return dataclasses.replace(frames, dataset="toy")

    benchmark = dataclasses.replace(
        folder.BENCHMARK, name="toy", scan=scan, image_size="97x64", counts={"val": {"all": 9}},
        notes=lambda root, names: [f"{len(names)} toys in {root.name}"],
    )  # fmt: skip
    monkeypatch.setitem(BENCHMARKS, "toy", benchmark)
    return benchmark


def test_a_benchmark_in_the_registry_is_one_for_every_verb(
    toy: Benchmark, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder(tmp_path / "box", ("lidar",), per_split=dict.fromkeys(SPLITS, 2))
    frames = open_frames("toy", root, "val", ("lidar",))
    assert (frames.dataset, len(frames)) == ("toy", 2)
    assert count_notes(frames) == ["val: 2 frames of all, published are 9"]
    with pytest.raises(DataError, match="sensors of toy: unknown 'ldar'; did you mean 'lidar'"):
        open_frames("toy", root, "val", ("ldar",))
    report = check_dataset("toy", root, ("lidar",))
    assert report.faults == []
    assert set(report.notes) >= {
        "val: 2 frames of all, published are 9", "6 toys in box",
        "6 RGB images are 96x64 RGB, 8 bit, published is 97x64",
    }  # fmt: skip
    assert main(["data", "check", "--dataset", "toy", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "lidar: 6 of" in printed
    assert "6 toys in box" in printed
