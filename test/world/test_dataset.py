# SPDX-License-Identifier: Apache-2.0
"""Data sets of the world: sound, alike in every layout, the same by any number of processes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.world_trees import CLASS_MAPS, id_map, make_world

from mmsam_ros.cli import synth
from mmsam_ros.data.check import check_dataset
from mmsam_ros.data.errors import DataError
from mmsam_ros.data.frames import Sample
from mmsam_ros.data.open import BENCHMARKS, open_frames
from mmsam_ros.sensors import scale_raster
from mmsam_ros.world import CLASSES, Vehicle, build_street, make_rig, world_seed
from mmsam_ros.world import Sample as WorldSample
from mmsam_ros.world.dataset import contrasts, is_hard, plan, render
from mmsam_ros.world.lidar import AIR, Cloud
from mmsam_ros.world.scene import CASES, WEATHERS

pytestmark = pytest.mark.slow
SIZE = (96, 72)
FRAMES = {"train": 4, "val": 2, "test": 2}
SENSORS = {
    "folder": ("lidar", "thermal"), "deliver": ("lidar",), "fmb": ("thermal",),
    "muses": ("lidar",),
}  # fmt: skip


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same scenes in all layouts."""
    top, scenes = tmp_path_factory.mktemp("synthetic"), plan(FRAMES, per_scene=2)
    render(top / "folder", scenes, make_rig(*SIZE), workers=2)
    make_world(top, scenes, SIZE)
    return {dataset: top / dataset for dataset in SENSORS}


def _frames(roots: dict[str, Path], dataset: str) -> dict[str, list[Sample]]:
    lists = roots[dataset] / "lists" if dataset == "fmb" else None
    found = {}
    for split in FRAMES:
        frames = open_frames(dataset, roots[dataset], split, SENSORS[dataset], lists or "")
        # names sort by weather in DeLiVER; the number of the frame is their last part
        order = sorted(range(len(frames)), key=lambda i: int(frames.records[i].name.split("_")[-1]))
        found[split] = [frames.sample(frames[i]) for i in order]
    return found


@pytest.mark.parametrize("dataset", SENSORS)
def test_the_check_finds_no_fault(roots: dict[str, Path], dataset: str) -> None:
    lists = roots[dataset] / "lists" if dataset == "fmb" else ""
    report = check_dataset(dataset, roots[dataset], SENSORS[dataset], lists)
    assert report.faults == []
    assert {split: counts["all"] for split, counts in report.counts.items()} == FRAMES
    assert set(report.forms) == {"rgb", "label", *SENSORS[dataset]}


@pytest.mark.parametrize("dataset", ["deliver", "fmb", "muses"])
def test_layouts_hold_the_same_pictures_and_labels_by_the_class_map(
    roots: dict[str, Path], dataset: str
) -> None:
    own, other = _frames(roots, "folder"), _frames(roots, dataset)
    table = id_map(dataset)
    for split in FRAMES:
        for ours, theirs in zip(own[split], other[split], strict=True):
            np.testing.assert_array_equal(ours["rgb"], theirs["rgb"])
            np.testing.assert_array_equal(table[ours["label"].numpy()], theirs["label"])


def test_points_and_rasters_agree_and_so_do_both_thermal_images(roots: dict[str, Path]) -> None:
    folder, muses, fmb = (_frames(roots, dataset) for dataset in ("folder", "muses", "fmb"))
    for ours, raster, heat in zip(folder["train"], muses["train"], fmb["train"], strict=True):
        found, raw = (s["planes"]["lidar"].permute(1, 2, 0).numpy() for s in (ours, raster))
        np.testing.assert_array_equal(found, scale_raster(raw, "lidar_gain"))
        assert (ours["planes"]["lidar"][0] > 0).float().mean() > 0.05
        # one is stretched to the frame's own contrast, the other between fixed temperatures
        own, fixed = (s["planes"]["thermal"][0].numpy() for s in (ours, heat))
        seen = (own > 3) & (own < 252) & (fixed > 3) & (fixed < 252)
        assert seen.mean() > 0.5
        assert np.corrcoef(own[seen], fixed[seen])[0, 1] > 0.998


def test_any_number_of_processes_writes_the_same_files(tmp_path: Path) -> None:
    scenes = plan({"train": 2, "test": 2}, per_scene=1)
    for workers in (1, 2):
        render(tmp_path / str(workers), scenes, make_rig(64, 48), workers=workers)
    first, second = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")}
        for name in ("1", "2")
    )
    assert len(first) == 4 * 4 + 2
    assert first == second


def test_every_class_has_a_word_in_every_layout() -> None:
    for dataset, words in CLASS_MAPS.items():
        assert set(words) == {info.topic for info in CLASSES}
        known = {info.name for info in BENCHMARKS[dataset].classes}
        assert {word for word in words.values() if word} <= known
        assert id_map(dataset)[len(CLASSES) :].min() == 255


def test_a_plan_has_every_weather_with_every_case() -> None:
    scenes = plan({"train": 200, "test": 8}, per_scene=4, first=7)
    train = [scene for scene in scenes if scene.split == "train"]
    assert len(train) == 50
    assert {(s.weather, s.case) for s in train} == {
        (weather, case) for weather in WEATHERS for case in CASES
    }
    assert len({scene.seed for scene in scenes}) == len(scenes) == 52
    numbers = [number for scene in scenes for number in scene.numbers]
    assert numbers == list(range(208))


def _sample(weather: str, case: str = "ordinary") -> WorldSample:
    vehicle = Vehicle(build_street(31, weather, case, 0.5), make_rig(256, 192))
    return next(vehicle.samples(1, 0.5))


def _one(weather: str, case: str = "ordinary") -> bool:
    return is_hard(_sample(weather, case))


def test_hard_is_measured_and_follows_what_the_camera_sees() -> None:
    """One and the same street: what hides it makes it hard, what spoils LiDAR does not."""
    assert not _one("sun")
    assert not _one("sun", "lidarjitter")
    assert not _one("sun", "thermallowres")
    assert _one("sun", "underexposure")
    assert _one("fog", "overexposure")


def test_echoes_of_fog_show_no_object() -> None:
    sample = _sample("fog")
    cloud = sample.cloud
    solid = cloud.label != AIR
    assert 0.01 < 1 - solid.mean() < 0.5
    kept = {f.name: getattr(cloud, f.name)[solid] for f in dataclasses.fields(cloud)}
    clean = dataclasses.replace(sample, cloud=Cloud(**kept))
    np.testing.assert_array_equal(contrasts(sample), contrasts(clean))


def test_contrast_grows_with_what_differs() -> None:
    bright, dim = (_sample("cloud", case) for case in ("ordinary", "underexposure"))
    before, after = contrasts(bright), contrasts(dim)
    assert before.shape == after.shape
    assert len(before) > 3
    assert np.median(after[:, 0]) < 0.5 * np.median(before[:, 0])
    np.testing.assert_array_equal(before[:, 1:], after[:, 1:])


def test_what_cannot_be_rendered_is_refused(tmp_path: Path) -> None:
    scenes = plan({"train": 1})
    with pytest.raises(DataError, match="exists"):
        render(tmp_path, scenes, make_rig(*SIZE))
    with pytest.raises(DataError, match="no frames"):
        render(tmp_path / "new", [], make_rig(*SIZE))
    with pytest.raises(DataError, match="31x20"):
        make_rig(31, 20)
    with pytest.raises(DataError, match="dev"):
        plan({"dev": 1})
    for seconds in (math.nan, math.inf, 0.0):
        with pytest.raises(DataError, match=f"seconds is {seconds}, expected a finite time"):
            build_street(world_seed("test", 0), seconds=seconds)
    assert not (tmp_path / "new").exists()


def test_a_scene_that_fails_ends_the_others_that_wait(tmp_path: Path) -> None:
    scenes = plan({"train": 10}, per_scene=1)
    scenes[0] = dataclasses.replace(scenes[0], weather="hail")
    with pytest.raises(DataError, match="hail"):
        render(tmp_path / "set", scenes, make_rig(64, 48), workers=1)
    assert len([*tmp_path.rglob("*.png")]) < 4 * 3, "of four files a frame"


class _Fatal(str):
    """A word that ends the process which receives it, as the kernel does for lack of memory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_a_process_that_is_killed_is_told(tmp_path: Path) -> None:
    scenes = plan({"train": 1})
    scenes[0] = dataclasses.replace(scenes[0], weather=_Fatal())
    with pytest.raises(DataError, match="lack of memory: give fewer --workers"):
        render(tmp_path / "set", scenes, make_rig(64, 48), workers=1)


def _arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    synth.add_arguments(parser)
    return parser.parse_args(list(words))


def test_the_command_writes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    args = _arguments("folder", str(out), "--frames", "train=2,test=1", "--size", "64x48")
    args.run(args)
    assert "train" in capsys.readouterr().out
    splits = json.loads((out / "meta.json").read_text())["splits"]
    assert [len(splits[split]) for split in ("train", "val", "test")] == [2, 0, 1]


@pytest.mark.parametrize("text", ["train", "train=1,train=2", "dev=3", "train=-1"])
def test_the_command_refuses_frames_it_cannot_read(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _arguments("folder", "somewhere", "--frames", text)
    assert "train=200" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--per-scene", "--workers"])
@pytest.mark.parametrize("number", ["0", "-2"])
def test_the_command_refuses_counts_below_one(
    option: str, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _arguments("folder", "somewhere", "--frames", "train=1", f"{option}={number}")
    assert f"found '{number}', expected a whole number of at least 1" in capsys.readouterr().err
