# SPDX-License-Identifier: Apache-2.0
"""The example segments an image file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from mmsam_ros.inference import Segmenter
from mmsam_ros.sensors import Frame
from mmsam_ros.weights import default_weights


def run(root: Path, *args: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "examples/segment_image.py"), *map(str, args)]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_it_prints_what_the_segmenter_finds_and_draws_it(root: Path, tmp_path: Path) -> None:
    rgb = np.full((90, 120, 3), (120, 170, 230), np.uint8)  # sky
    rgb[45:] = (90, 90, 95)  # road
    cv2.imwrite(str(tmp_path / "street.png"), rgb[..., ::-1])
    done = run(root, tmp_path / "street.png", tmp_path / "overlay.png")
    assert done.returncode == 0, done.stderr

    segmenter = Segmenter.load(default_weights())
    labels = segmenter(Frame(rgb, {})).labels
    printed = dict(re.findall(r"^(.+): ([\d.]+)%$", done.stdout, re.MULTILINE))
    expected = {c.name: f"{100 * (labels == c.id).mean():.1f}" for c in segmenter.spec.classes}
    assert printed == expected
    drawn = cv2.imread(str(tmp_path / "overlay.png"))
    assert drawn is not None
    assert drawn.shape == rgb.shape
    assert (drawn != rgb[..., ::-1]).any()


def test_what_is_no_image_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    done = run(root, tmp_path / "text.jpg", tmp_path / "overlay.png")
    assert done.returncode == 1
    assert "text.jpg: not an image" in done.stderr
