# SPDX-License-Identifier: Apache-2.0
"""The commands of the example's README, with fewer frames and one epoch."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import cv2
import pytest

from mmsam_ros.cli.main import main

pytestmark = pytest.mark.slow
FRAMES = "train=200,val=20,test=20"


def test_the_commands_of_the_readme(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("examples", "models"):
        (tmp_path / folder).symlink_to(root / folder)
    monkeypatch.chdir(tmp_path)
    readme = (root / "examples/train_on_a_folder/README.md").read_text()
    commands = re.findall(r"^mmsam (.+)$", readme, re.MULTILINE)
    assert [command.split()[0] for command in commands] == [
        "synth", "data", "train", "eval", "predict"
    ]  # fmt: skip
    for command in commands:
        words = shlex.split(command.replace(FRAMES, "train=8,val=4,test=4"))
        if words[0] == "train":
            words += ["--schedule.epochs=1", "--schedule.warmup_epochs=0", "--data.workers=0"]
        assert main(words) == 0, command
    assert (tmp_path / "out/folder/scores/report.html").is_file()
    labels = sorted((tmp_path / "out/folder/masks").glob("*_labels.png"))
    assert len(labels) == 16
    mask = cv2.imread(str(labels[0]), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert mask.shape == (192, 256)
    assert mask.max() < 14  # the synthetic world's classes
