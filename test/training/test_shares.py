# SPDX-License-Identifier: Apache-2.0
"""Frames that several processes read or evaluate: the sums are exact, every frame counts once."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from evaluations import prepared
from runs import Job, finish, start
from support.trees import make_fmb

from mmsam_ros.data.errors import DataError, DataWarning
from mmsam_ros.data.frames import LabelledFrame
from mmsam_ros.data.open import open_frames
from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.devices import join_processes
from mmsam_ros.training.evaluate import Evaluation
from mmsam_ros.training.loader import read_frames

NAMES = {"deliver": ("motionblur", "lidarjitter"), "fmb": (), "folder": ("noise",)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shares")


@pytest.mark.parametrize("kind", NAMES)
def test_loading_processes_change_nothing(folder: Path, kind: str) -> None:
    """The same integers, of degraded frames as well; each frame is read once, and not here."""
    found = []
    for workers in (0, 2):
        evaluation = Evaluation(prepared(folder, kind, corrupt=NAMES[kind], workers=workers))
        read, before = folder / f"{kind}_{workers}", evaluation.frames.change

        def noted(item: LabelledFrame, read: Path = read, before: Any = before) -> LabelledFrame:
            with read.open("a") as file:
                file.write(f"{item.record.name} {os.getpid()}\n")
            return before(item)

        evaluation.frames = dataclasses.replace(evaluation.frames, change=noted)
        seen: list[str] = []
        matrices = evaluation.run(lambda result, seen=seen: seen.append(result.item.record.name))
        found.append(matrices)
        lines = [line.split() for line in read.read_text().splitlines()]
        names = [record.name for record in evaluation.frames.records]
        assert seen == names
        assert Counter(name for name, _ in lines) == Counter(names)
        assert (str(os.getpid()) in {pid for _, pid in lines}) == (workers == 0)
    assert torch.equal(found[0]._matrices, found[1]._matrices)
    assert torch.equal(found[0]._frames, found[1]._frames)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_and_warnings_of_loading_processes_arrive(tmp_path: Path, workers: int) -> None:
    root = make_fmb(tmp_path, per_split={"test": 4})
    frames = open_frames("fmb", root, "test", ("thermal",), root / "lists")
    path = frames.records[2].sensors["thermal"]
    uneven = np.dstack([np.full((60, 80), grey, np.uint8) for grey in (100, 101, 102)])
    cv2.imwrite(str(path), uneven)
    frames.records[3].image.write_bytes(b"no image")
    read = read_frames(frames, range(4), workers)
    assert [next(read).record.name for _ in range(2)] == [r.name for r in frames.records[:2]]
    with pytest.warns(DataWarning, match="channels that differ"):
        next(read)
    with pytest.raises(DataError, match=rf"{frames.records[3].image}: is broken"):
        next(read)


@pytest.mark.distributed
def test_processes_of_torchrun_evaluate_as_one(folder: Path) -> None:
    """DeLiVER's groups, of a count that two do not divide, and MUSES' submission."""
    config = {kind: prepared(folder, kind) for kind in ("deliver", "muses")}

    def jobs(name: str) -> list[Job]:
        common = ["--device", "cpu", "--workers", "1"]
        words = [
            ["--weights", config[kind].weights, "--root", config[kind].root, *more, *common,
             "--out", str(folder / name / kind)]
            for kind, more in (
                ("deliver", ["--split", "train", "--limit", "3", "--tta", "flip"]),
                ("muses", ["--submission"]),
            )
        ]  # fmt: skip
        return [Job(["mmsam", "eval", *some]) for some in words]

    said = []
    for name, processes in (("one", 0), ("two", 2)):
        status, text = finish(start(folder, jobs(name), processes))
        assert status == 0, text
        said.append(text)
    assert said[1].count("results.json, results.md, report.html") == 2, "the first process writes"
    for kind in config:
        one, two = (
            json.loads((folder / name / kind / "results.json").read_text())
            for name in ("one", "two")
        )
        assert two.pop("environment")["world_size"] == 2
        assert one.pop("environment")["world_size"] == 1
        assert list(one["frames"]) == list(two["frames"]), "in the same order"
        assert one == two
    pages = [(folder / n / "deliver/report.html").read_text() for n in ("one", "two")]
    assert pages[0].count("data:image/jpeg") == pages[1].count("data:image/jpeg") > 0
    archives = [zipfile.ZipFile(folder / n / "muses/labelTrainIds.zip") for n in ("one", "two")]
    names = archives[0].namelist()
    assert names == archives[1].namelist()
    assert len(names) == 2
    assert all(archives[0].read(name) == archives[1].read(name) for name in names)


def test_a_process_of_several_takes_no_single_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    join_processes("cuda:1")  # alone: as `Segmenter.load` takes it
    launched = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "1"}
    for key, value in launched.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(TrainingError, match="device: found 'cuda:1', expected cuda: each of 2"):
        join_processes("cuda:1")
