# SPDX-License-Identifier: Apache-2.0
"""A data set of real 16-bit counts with the limits of another camera."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmsam_ros.cli.main import main
from mmsam_ros.data.check import check_dataset
from mmsam_ros.data.open import open_frames
from mmsam_ros.training.config import TrainingError
from mmsam_ros.training.configure import load_config
from mmsam_ros.training.start import build


@pytest.fixture
def data(shared: Path, tmp_path: Path) -> Path:
    case = shared / "cases/thermal16_docs_limits"
    if not case.is_dir():
        pytest.skip("the case is not among the reference data")
    return Path(shutil.copytree(case, tmp_path / "data"))


def with_meta(root: Path, **changes: object) -> None:
    """Other values in meta.json; None leaves a key out."""
    meta = json.loads((root / "meta.json").read_text()) | changes
    kept = {key: value for key, value in meta.items() if value is not None}
    (root / "meta.json").write_text(json.dumps(kept))


def test_limits_that_clip_everything_are_a_fault(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fault,) = check_dataset("folder", data, ("thermal",)).faults
    assert fault.startswith("3 of 3 frames of thermal: 100% of the image")
    assert "limits 26000 and 31500" in fault
    assert "frame_gain" in fault
    assert main(["data", "check", "--dataset", "folder", "--root", str(data)]) == 1
    assert "26000" in "".join(capsys.readouterr())


def test_they_are_an_error_at_the_start_of_a_training(data: Path) -> None:
    frames = open_frames("folder", data, "train", ("thermal",))
    config = load_config(
        [
            "--dataset=folder", "--sensors=[thermal]", "--model.preset=nano",
            "--model.image_size=[64, 96]", "--augment.crop=[64, 96]", "--start.sam=scratch",
            "--start.convnext=scratch",
        ]
    )  # fmt: skip
    with pytest.raises(TrainingError, match=r"thermal: 1 of 1 frames .*26000 and 31500"):
        build(config, frames)


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": [2600, 7800]},
        {"limits": None, "encodings": {"thermal": "frame_gain"}},
    ],
)
def test_limits_of_this_camera_and_frame_gain_are_right(
    data: Path, changes: dict[str, object]
) -> None:
    with_meta(data, **changes)
    assert check_dataset("folder", data, ("thermal",)).faults == []
