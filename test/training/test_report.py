# SPDX-License-Identifier: Apache-2.0
"""What `mmsam eval` leaves: tables, files, and a submission that is checked."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluations import random_weights
from support.trees import make_deliver, make_muses

from mmsam_ros.cli.main import main
from mmsam_ros.data.muses_projection import describe_projection
from mmsam_ros.data.open import BENCHMARKS
from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.evaluate import EvalConfig, Evaluation
from mmsam_ros.training.metrics import SubsetMatrices
from mmsam_ros.training.report import Examples, Submission, check_submission, results
from mmsam_ros.weights import file_sha256, load_model, registry, save_model


class Page(HTMLParser):
    """Text and images of a page; fails where a tag is left open."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.images: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_deliver_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_deliver(tmp_path / "data", size=(64, 64), per_split={"test": 4})
    path = random_weights(tmp_path, "deliver_rgb_lidar", (64, 64))
    out = tmp_path / "out"
    command = ["eval", "--weights", path, "--root", str(root), "--device", "cpu", "--out", str(out)]
    assert main(command) == 0  # the kind follows from the classes
    results = json.loads((out / "results.json").read_text())
    scores = results["scores"]["all"]
    # the numbers are those of the confusion matrix
    matrix = np.array(results["confusion"], float)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    iou = 100 * matrix.diagonal() / np.maximum(union, 1)
    assert scores["miou"] == pytest.approx(iou.mean())
    present = matrix.sum(1) > 0
    assert scores["miou_present"] == pytest.approx(iou[present].mean())
    assert scores["frames"] == results["count"] == len(results["frames"]) == 4
    assert results["geometry"]["mode"] == "resize"
    assert len(results["weights_sha256"]) == 64
    screen = capsys.readouterr().out
    for text in (screen, (out / "results.md").read_text()):
        assert f"{scores['miou']:.2f}" in text
        assert "57.14" not in text
        assert "test: 4 frames of all, published are 1897: no published numbers" in text
        assert "the network's size is (64, 64), published is (1024, 1024)" in text
    page = Page()
    page.feed((out / "report.html").read_text())
    assert page.open == []
    assert f"{scores['miou_present']:.2f}" in page.words
    # 2 worst and 2 best of 4 frames, each camera, LiDAR, truth, prediction
    assert len(page.images) == 16
    assert all(image.startswith("data:image/jpeg;base64,") for image in page.images)
    worst = min(results["frames"], key=results["frames"].get)
    assert any(f"worst: {worst}" in word for word in page.words)


def test_weights_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = make_deliver(tmp_path / "data", size=(64, 64), per_split={"test": 1})
    path = random_weights(tmp_path, "deliver_rgb_lidar", (64, 64))
    registry.register(Path(path), "mine", "MIT")
    registry.fetch("mine")
    words = ["eval", "--weights", "mine", "--root", str(root), "--device", "cpu", "--workers", "0"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["weights_sha256"] == file_sha256(path)


def test_the_terminal_gets_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 25 classes and some thirty groups: what 80 columns and one screen hold."""
    root = make_deliver(tmp_path / "data", size=(64, 64), per_split={"test": 30})
    path = random_weights(tmp_path, "deliver_rgb_lidar", (64, 64))
    command = ["eval", "--weights", path, "--root", str(root), "--device", "cpu"]
    assert main([*command, "--geometry", "native"]) == 0
    screen = capsys.readouterr().out
    assert screen.isascii()
    assert "\x1b" not in screen
    lines = screen.splitlines()
    assert len(lines) < 45
    assert max(len(line) for line in lines if not line.startswith(("weights: ", "note: "))) <= 80
    for group in ("all", "weather=fog", "case=eventlowres", "difficulty=hard"):
        assert any(line.split()[0] == group for line in lines)
    assert "Pedestrian" in screen
    assert lines[-1] == "every number of every subset: --out DIR"


def test_published_numbers_stand_beside_the_whole_test_set(tmp_path: Path) -> None:
    """As many frames of every group as are published; what they show does not matter here."""
    root = make_deliver(tmp_path / "data", size=(64, 64), per_split={"test": 1})
    path = random_weights(tmp_path, "deliver_rgb_lidar", (1024, 1024))
    evaluation = Evaluation(EvalConfig(path, str(root), device="cpu"))
    (record,) = evaluation.frames.records
    words: dict[str, list[str]] = {}
    for group, count in BENCHMARKS["deliver"].counts["test"].items():
        key, _, word = group.partition("=")
        words.setdefault(key, []).extend([word] * count)
    records = [
        dataclasses.replace(
            record, subsets=dict(zip(("weather", "case", "difficulty"), values, strict=True))
        )
        for values in zip(words["weather"], words["case"], words["difficulty"], strict=True)
    ]
    evaluation.frames = dataclasses.replace(evaluation.frames, records=tuple(records))
    matrices = SubsetMatrices(25)
    found = results(evaluation, matrices, Examples(evaluation))
    assert found["notes"] == []
    numbers = {row["method"]: row["miou"]["all"] for row in found["published"]}
    assert numbers["MM SAM-adapter"] == 57.14  # val has 61.89
    evaluation.frames = dataclasses.replace(evaluation.frames, records=tuple(records[1:]))
    found = results(evaluation, matrices, Examples(evaluation))
    assert found["published"] == []
    assert found["notes"][0].startswith("test: 1896 frames of all, published are 1897")


def test_numbers_of_other_conditions_are_not_compared(tmp_path: Path) -> None:
    root = make_deliver(tmp_path / "data", size=(64, 64), per_split={"test": 2})
    path = random_weights(tmp_path, "deliver_rgb_lidar", (64, 64))
    command = ["eval", "--weights", path, "--root", str(root), "--device", "cpu"]
    for i, more in enumerate(
        (
            ["--geometry", "native"],
            ["--drop", "lidar"],
            ["--corrupt", "noise"],
            ["--limit", "1"],
            ["--tta", "flip"],
        )
    ):
        out = tmp_path / str(i)
        assert main([*command, "--out", str(out), *more]) == 0
        results = json.loads((out / "results.json").read_text())
        assert results["published"] == []
        assert "57.14" not in (out / "results.md").read_text()


def test_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_muses(tmp_path / "data", size=(64, 96), per_split={"test": 3, "val": 1})
    path = random_weights(tmp_path, "muses_rgb_event", (64, 96))
    out = tmp_path / "out"
    (root / "projected_to_rgb/projection.json").write_text('{"parity": true}')
    command = ["eval", "--weights", path, "--root", str(root), "--device", "cpu"]
    assert main(command) == 2
    assert "withheld, only --submission works without them" in capsys.readouterr().err
    assert main([*command, "--submission", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "rasters: as the official tool makes them, points of 2 x 2 pixels" in said
    assert "3 frames (incomplete: the test set has 750); labels are withheld" in said
    for wrong in (["--limit", "1"], ["--split", "val"]):
        assert main([*command, "--submission", "--out", str(out), *wrong]) == 2
        assert "--submission takes the whole split test" in capsys.readouterr().err
    with zipfile.ZipFile(out / "labelTrainIds.zip") as archive:
        names = archive.namelist()
        assert names == [f"labelTrainIds/REC000{i}_frame_00010{i}.png" for i in (1, 2, 3)]
        image = cv2.imdecode(np.frombuffer(archive.read(names[0]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (64, 96)
    assert image.dtype == np.uint8
    assert image.max() <= 18


def test_rasters_of_another_projection_than_the_training_s_are_doubted(tmp_path: Path) -> None:
    root = make_muses(tmp_path / "data", size=(64, 96), per_split={"val": 1})
    path = random_weights(tmp_path, "muses_rgb_event", (64, 96))
    model, spec = load_model(path)
    options = root / "projected_to_rgb/projection.json"
    for trained, found, doubted in (
        ('{"parity": true}', '{"parity": true}', False),
        ('{"parity": true}', '{"parity": false}', True),
        ('{"parity": false}', '{"parity": false, "motion_compensation": true}', True),
        ('{"parity": true, "motion_compensation": true}', '{"parity": true}', True),
    ):
        options.write_text(trained)
        data = f"muses, 3 frames of train; {describe_projection(options.parent)}"
        origin = dataclasses.replace(spec.provenance, data=data)
        save_model(tmp_path / "w.safetensors", model, dataclasses.replace(spec, provenance=origin))
        options.write_text(found)
        config = EvalConfig(str(tmp_path / "w.safetensors"), str(root), "val", device="cpu")
        doubts = Evaluation(config).doubts()
        assert [f"trained on {data}" in doubt for doubt in doubts].count(True) == doubted


def test_faults_of_a_submission_are_found(tmp_path: Path) -> None:
    def png(array: np.ndarray) -> bytes:
        return cv2.imencode(".png", array)[1].tobytes()

    good = np.zeros((4, 6), np.uint8)
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labelTrainIds/REC0001_frame_000001.png", png(good))
        archive.writestr("labelTrainIds/REC0002_frame_000001.png", png(good + 19))
        archive.writestr("labelTrainIds/REC0003_frame_000001.png", png(good.T))
        archive.writestr(
            "labelTrainIds/REC0004_frame_000001.png", png(np.zeros((4, 6, 3), np.uint8))
        )
        archive.writestr("labelTrainIds/REC0005_frame_000001.png", b"no image")
        archive.writestr("labelTrainIds/REC9_frame_1.png", png(good))
        archive.writestr("labelTrainIds/REC0007_frame_000001.png", png(good))
    sizes = {f"REC000{i}_frame_000001": (4, 6) for i in range(1, 7)}
    faults = "\n".join(check_submission(path, sizes, 19))
    for fault in (
        "REC9_frame_1.png is no frame", "REC0006_frame_000001.png is missing",
        "REC0007_frame_000001.png is no frame", "REC0002_frame_000001.png has the id 19",
        "REC0003_frame_000001.png is uint8 (6, 4)", "REC0004_frame_000001.png is uint8 (4, 6, 3)",
        "REC0005_frame_000001.png is no image",
    ):  # fmt: skip
        assert fault in faults
    assert "REC0001" not in faults
    (fault,) = check_submission(path, {"REC9_frame_1": (4, 6)}, 19)[:1]
    assert fault == (
        "labelTrainIds/REC9_frame_1.png: expected labelTrainIds/REC####_frame_######.png"
    )


def test_an_invalid_submission_is_not_left_behind(tmp_path: Path) -> None:
    submission = Submission(tmp_path, 19)
    assert cv2.imwrite(str(tmp_path / "labelTrainIds/other.png"), np.zeros((4, 6), np.uint8))
    with pytest.raises(TrainingError, match=r"not written, 1 faults: .*other\.png"):
        submission.close()
    assert not list(tmp_path.glob("*zip*"))
