# SPDX-License-Identifier: Apache-2.0
"""Training on several data sets with classes and sensors of their own."""

from __future__ import annotations

import itertools
import json
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SENSORS, Interrupt, Job, finish, options, start
from support.trees import make_folder

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.folder_writer import FolderWriter
from mmsam_ros.data.open import open_frames
from mmsam_ros.sensors import class_table
from mmsam_ros.training.config import (
    BatchConfig,
    DataConfig,
    MixConfig,
    ScheduleConfig,
    TrainConfig,
    TrainingError,
)
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.evaluate import EvalConfig, Evaluation
from mmsam_ros.training.loader import Batch, Draw, FrameSampler, TrainingFrames, make_loader
from mmsam_ros.training.loop import train
from mmsam_ros.training.start import build, open_mix, resize_norms
from mmsam_ros.weights import load_model, save_model

ANY_OF = {"ground": ("road",), "thing": ("car", "person")}


def make_streets(root: Path, frames: int = 3) -> Path:
    """Of the camera alone: `ground` is road, `thing` a car or a person, `sky` the sky."""
    classes = class_table(("sky", 0, 0, 0), ("ground", 1, 1, 1), ("thing", 2, 2, 2))
    writer = FolderWriter(root, classes, {}, any_of=ANY_OF)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(frames):
            label = np.repeat(np.repeat(rng.integers(0, 3, (4, 6)), 16, 0), 16, 1).astype(np.uint8)
            rgb = (80 * label[..., None] + rng.integers(0, 9, (64, 96, 3))).astype(np.uint8)
            writer.add(split, f"{split}{i}", rgb, label, {})
    writer.finish()
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path / "data", SENSORS)
    make_streets(tmp_path / "streets")
    return tmp_path


def mixed(folder: Path, *more: str) -> list[str]:
    return options(folder, f"--data.mix.streets.root={folder / 'streets'}", *more)


def draws(weights: tuple[float, ...], sizes: tuple[int, ...], start: int = 0) -> list[Draw]:
    first, *others = weights
    mix = {f"set{i}": MixConfig("", weight=weight) for i, weight in enumerate(others)}
    config = TrainConfig(
        "folder", ("lidar",), seed=5, batch=BatchConfig(4, 4), schedule=ScheduleConfig(epochs=6),
        data=DataConfig(weight=first, mix=mix),
    )  # fmt: skip
    sampler = FrameSampler(sizes[0], config, start=start, others=sizes[1:])
    return list(itertools.chain(*sampler))


def test_data_sets_come_in_their_proportions_and_frames_equally_often() -> None:
    found = draws((1, 2, 0.2), (20, 4, 8))  # an epoch of 32: 10, 20, 2
    assert len(found) == 6 * 32
    for epoch in range(6):
        kinds = Counter(kind for _, _, kind in found[32 * epoch : 32 * epoch + 32])
        assert kinds == {0: 10, 1: 20, 2: 2}
    assert len(set(found)) == len(found), "a frame was drawn twice with one augmentation"
    times = Counter((kind, index) for _, index, kind in found)
    assert {times[0, i] for i in range(20)} == {3}
    assert {times[1, i] for i in range(4)} == {30}
    assert {times[2, i] for i in range(8)} == {1, 2}
    mixed_steps = [{k for *_, k in found[i : i + 4]} for i in range(0, len(found), 4)]
    assert sum(len(kinds) > 1 for kinds in mixed_steps) > 0.7 * len(mixed_steps)


def test_a_start_within_a_run_reads_the_rest_of_the_mix() -> None:
    assert draws((1, 1), (7, 5), start=4) == draws((1, 1), (7, 5))[16:]


def test_a_data_set_without_weight_is_not_trained_on() -> None:
    found = draws((0, 1), (9, 8))
    assert {kind for *_, kind in found} == {1}
    assert len(found) == 6 * 8
    with pytest.raises(TrainingError, match=r"weight: found 0.*a share above 0, here or in mix"):
        draws((0, 0), (9, 8))


def test_a_batch_holds_labels_and_sensors_of_each_set(folder: Path) -> None:
    config = load_config(mixed(folder, "--batch.effective=6", "--batch.per_device=6"))
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    others = tuple(open_mix(config, "train").values())
    _, spec = build(config, frames, others)
    assert spec.provenance.data == "folder, 4 frames of train + folder, 3 frames of train"
    dataset = TrainingFrames(frames, spec, config, others)
    assert [info.name for info in spec.classes] == ["sky", "road", "car", "person"]
    # 4 is car or person
    assert dataset.codes.sets == ((2, 3),)
    sampler = FrameSampler(4, config, others=[3])
    batch = next(make_loader(dataset, sampler))
    own = {record.name for record in frames.records}
    given = torch.tensor([name in own for name in batch.names])
    assert 0 < given.sum() < 6
    assert torch.equal(batch.present["lidar"], given)
    assert torch.equal(batch.present["thermal"], given)
    assert not batch.inputs["lidar"][~given].any()
    for name, label in zip(batch.names, batch.label, strict=True):
        assert set(label.unique().tolist()) - {255} <= ({0, 1, 2, 3} if name in own else {0, 1, 4})
    for name, image in zip(batch.names, batch.label, strict=True):
        if name not in own:
            record = next(r for r in others[0].records if r.name == name)
            label = torch.from_numpy(others[0].read(record).label)
            assert torch.equal(image == 4, label == 2)


def test_a_mix_goes_on_to_the_same_losses(folder: Path) -> None:
    more = ("--modality_dropout=0.3", "--augment.flip=0.5", "--augment.scale=[0.5, 2.0]",
            "--batch.effective=2", "--batch.per_device=1")  # fmt: skip

    def losses(run: Path) -> dict[int, float]:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes
    whole = train(load_config(mixed(folder, *more)))
    torch.set_num_threads(threads)
    expected = losses(whole)
    assert list(expected) == [1, 2, 3, 4, 5, 6]
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    scores = [line["miou"] for line in lines if "miou" in line][-1]
    assert {"all", "streets: all"} <= scores.keys()

    out = folder / "interrupted"
    arguments = mixed(folder, *more, f"--out={out}", "--data.workers=2")
    stopped = Job(["train", *arguments], Interrupt(4, signal.SIGTERM))
    resumed = Job(["train", "--resume", str(out), *arguments])
    status, said = finish(start(folder, [stopped, resumed]))
    assert status == 0, said
    assert losses(out) == expected
    ours, theirs = (load_model(run / "last.safetensors")[0].state_dict() for run in (out, whole))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_what_does_not_fit_the_run_is_named(folder: Path) -> None:
    meta = json.loads((folder / "streets/meta.json").read_text())
    (folder / "streets/meta.json").write_text(json.dumps({**meta, "any_of": {"ground": ["rod"]}}))
    with pytest.raises(TrainingError, match=r"streets.*'ground' means 'rod'.*did you mean 'road'"):
        train(load_config(mixed(folder)))
    make_folder(folder / "other", ["thermal"], encodings={"thermal": "mono8"})
    with pytest.raises(TrainingError, match=r"thermal: the weights read mono16.*has mono8"):
        train(load_config(options(folder, f"--data.mix.other.root={folder / 'other'}")))
    alone = ("--sensors=[]", "--model.inputs=rgb", f"--data.root={folder / 'streets'}")
    with pytest.raises(TrainingError, match=r"start.weights: found '', expected weights that have"):
        train(load_config(options(folder, "--model.combine.absent=empty",
                                  "--model.combine.gate=false", *alone)))  # fmt: skip


def test_classes_are_scored_as_the_data_set_has_them(folder: Path) -> None:
    config = load_config(mixed(folder))
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    model, spec = build(config, frames, [*open_mix(config, "train").values()])
    save_model(folder / "weights.safetensors", model, spec)
    given = EvalConfig(
        str(folder / "weights.safetensors"), str(folder / "streets"), "val", drop=SENSORS
    )
    evaluation = Evaluation(given)
    assert evaluation.names == ("sky", "ground", "thing")
    scores = evaluation.run().scores(evaluation.names)["all"]
    groups = np.array([0, 1, 2, 2])  # sky, road, car and person
    hit, union = np.zeros(3), np.zeros(3)
    for i in range(len(evaluation.frames)):
        item = evaluation.frames[i]
        found = groups[evaluation.predict(item)[0].numpy()]
        for k in range(3):
            hit[k] += ((found == k) & (item.label == k)).sum()
            union[k] += ((found == k) | (item.label == k)).sum()
    assert scores.miou == pytest.approx(100 * (hit / union).mean())


def test_weights_start_a_network_of_another_size(folder: Path) -> None:
    """A ramp along the rows stays one, so does a constant; all else is the same."""
    config = load_config(options(folder))
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    model, spec = build(config, frames)
    path = folder / "weights.safetensors"
    save_model(path, model, spec)
    sizes = ("--model.image_size=[128, 192]", "--augment.crop=[128, 192]")
    larger, found = build(load_config(options(folder, *sizes, f"--start.weights={path}")), frames)
    assert found.geometry.size == (128, 192)
    before, after = model.state_dict(), larger.state_dict()
    resized = {name for name in before if before[name].shape != after[name].shape}
    assert {name.split("cross.")[-1] for name in resized} == {"norm.weight", "norm.bias"}
    assert all(torch.equal(before[name], after[name]) for name in before if name not in resized)
    name = "prior.fusion.lidar.1.cross.norm.weight"
    ramp = torch.arange(8.0)[:, None].expand(8, 12).flatten()  # level 1 has an eighth of 64x96
    wide = resize_norms({name: ramp}, (64, 96), (128, 192))[name].view(16, 24)
    rows = [0, *(i / 2 - 0.25 for i in range(1, 15)), 7]
    torch.testing.assert_close(wide, torch.tensor(rows)[:, None].expand(16, 24))


def test_intensity_is_read_as_the_data_set_of_root_has_it(folder: Path) -> None:
    """`lidar_gain` makes 100 of the 90th percentile, and the network divides by 50."""
    make_folder(folder / "gain", SENSORS, encodings={"lidar": "lidar_gain"})
    config = load_config(
        options(folder, f"--data.root={folder / 'gain'}", f"--data.mix.own.root={folder / 'data'}")
    )
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    others = tuple(open_mix(config, "train").values())
    _, spec = build(config, frames, others)
    dataset = TrainingFrames(frames, spec, config, others)
    for kind in (0, 1):
        batch = dataset[[(0, 0, kind), (0, 1, kind)]]
        assert isinstance(batch, Batch)
        for planes in batch.inputs["lidar"]:
            intensity = planes[1][planes[0] > 0]
            assert np.percentile(intensity[intensity > 0], 90) == pytest.approx(2.0, rel=0.02)
    with pytest.raises(TrainingError, match=r"gain.*lidar is lidar_gain.*expected muses_raw"):
        train(load_config(options(folder, f"--data.mix.gain.root={folder / 'gain'}")))


def test_a_weight_too_small_for_a_frame_is_refused() -> None:
    text = r"data.mix.set0.weight: found 0.01, .* 30 frames of an epoch, expected 0 or at least"
    with pytest.raises(TrainingError, match=text):
        draws((1, 0.01), (20, 10))
    assert {kind for *_, kind in draws((1, 0.04), (20, 10))} == {0, 1}


def test_weights_do_not_tell_of_data_that_was_not_trained_on(folder: Path) -> None:
    config = load_config(mixed(folder, "--data.mix.streets.weight=0"))
    frames = open_frames("folder", config.data.root, "train", SENSORS)
    _, spec = build(config, frames, [*open_mix(config, "train").values()])
    assert spec.provenance.data == "folder, 4 frames of train"
    shares = ("--data.weight=0", "--data.mix.other.root", str(folder / "data"))
    config = load_config(options(folder, *shares))
    _, spec = build(config, frames, [*open_mix(config, "train").values()])
    assert spec.provenance.data == "folder, 4 frames of train"
    assert spec.seen.keys() == set(SENSORS)


def test_frames_that_are_trained_on_are_not_validated_on(folder: Path) -> None:
    again = folder / "again"
    again.mkdir()
    for path in (folder / "data").iterdir():
        (again / path.name).symlink_to(path)
    meta = json.loads((folder / "data/meta.json").read_text())
    names = meta["splits"]
    swapped = meta | {"splits": names | {"train": names["val"], "val": names["train"]}}
    (again / "meta.json").unlink()
    (again / "meta.json").write_text(json.dumps(swapped))
    text = r"2 of 2 frames of val are trained on as well, such as .*data/images/val_0000.png"
    with pytest.raises(DataError, match=text):
        train(load_config(options(folder, f"--data.mix.again.root={again}")))
