# SPDX-License-Identifier: Apache-2.0
"""Reports in a browser: the pictures are there, and they are the masks."""

from __future__ import annotations

import base64
import importlib
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.browser import screenshot
from support.drives import label_bag, write_drive
from support.networks import random_network, spec_of
from support.trees import make_deliver

from mmsam_ros.cli.main import main
from mmsam_ros.sensors import SYNTHETIC_CLASSES
from mmsam_ros.weights import save_model


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_report_of_a_labelled_bag(drive: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert label_bag(drive, out, weights) == 0
    pictures = jpegs(out / "report.html")
    assert len(pictures) == 5
    shown = screenshot(out / "report.html", tmp_path / "shown.png")
    assert similarity(shown, pictures[0], range(440, 561, 2)) > 0.9


@pytest.mark.slow
def test_the_report_of_an_evaluation(tmp_path: Path) -> None:
    root = make_deliver(tmp_path / "data", size=(64, 96), per_split={"test": 2})
    spec = spec_of("deliver_rgb_lidar", image_size=(64, 64))
    weights, out = tmp_path / "w.safetensors", tmp_path / "out"
    save_model(weights, random_network(spec), spec)
    command = ["eval", "--weights", str(weights), "--root", str(root), "--device", "cpu"]
    assert main([*command, "--workers", "0", "--out", str(out)]) == 0
    pictures = jpegs(out / "report.html")
    shown = screenshot(out / "report.html", tmp_path / "shown.png", (1200, 4000))
    for picture in pictures[:4]:  # camera, LiDAR, truth, prediction
        assert similarity(shown, picture, range(316, 325)) > 0.8


@pytest.mark.slow
def test_the_page_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pictures are files beside it."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples/demo"))
    drive, report = map(importlib.import_module, ("drive", "report"))
    bag = write_drive(tmp_path)
    rng = np.random.default_rng(5)
    masks = {
        when: rng.integers(0, 3, frame.size, np.uint8) for when, frame in drive.read_frames(bag)
    }  # fmt: skip
    facts, summary = {"recipe": "randomised"}, {"camera_frames": len(masks)}
    written = report.write_report(tmp_path, bag, masks, SYNTHETIC_CLASSES, facts, summary)
    assert written
    first = np.asarray(cv2.imread(str(written[0]))[..., ::-1], np.uint8)
    shown = screenshot(tmp_path / "index.html", tmp_path / "shown.png", (1200, 3000))
    assert similarity(shown, first, range(1060, 1113, 4)) > 0.9


def jpegs(page: Path) -> list[NDArray[np.uint8]]:
    """The pictures (H, W, 3) that a page holds, rgb."""
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page.read_text())
    decoded = [
        cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
        for text in found
    ]
    return [np.asarray(picture[..., ::-1], np.uint8) for picture in decoded if picture is not None]


def similarity(page: NDArray[np.uint8], picture: NDArray[np.uint8], widths: range) -> float:
    """Correlation of a picture with the place of the page where it fits best, of these widths.

    The width is that of the best fit on a page of half the size, or a neighbour.
    """

    def fit(page: NDArray[np.uint8], width: int) -> float:
        height = round(picture.shape[0] * width / picture.shape[1])
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        return float(cv2.matchTemplate(page, small, cv2.TM_CCOEFF_NORMED).max())

    half = np.asarray(cv2.resize(page, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    rough = [fit(half, width // 2) for width in widths]
    best = int(np.argmax(rough))
    return max(fit(page, width) for width in widths[max(best - 1, 0) : best + 2])
