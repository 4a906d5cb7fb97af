# SPDX-License-Identifier: Apache-2.0
"""What commands on recordings have in common. Needs neither ROS nor torch."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmsam_ros.ros.errors import RosError
from mmsam_ros.ros.parameter_files import read_given

# of a labelled bag, besides the masks
OUTPUTS = ("confidence", "color", "overlay", "overlays", "points", "labelled_points")
CLOUDS = OUTPUTS[-2:]
_BESIDE = "calibration.yaml"  # in the bag's folder, as the launch file finds it


class Log:
    """Says lines as a node's logger does, and keeps them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def get_logger(self) -> "Log":
        """The logger, as a node gives it."""
        return self

    def info(self, text: str) -> None:
        self._say(f"note: {text}")

    def warning(self, text: str) -> None:
        self._say(f"warning: {text}")

    def _say(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)
            print(f"mmsam: {line}", file=sys.stderr)


def given_parameters(
    bag: Path, files: Sequence[Path], assignments: Sequence[str], note: Callable[[str], Any]
) -> dict[str, Any]:
    """The given parameter values, by name. A calibration file beside the bag is read after `files`,
    as by the launch file.
    """
    beside = (bag if bag.is_dir() else bag.parent) / _BESIDE
    if beside.is_file() and beside not in files:
        note(f"calibration: {beside}, found beside the bag")
        files = [*files, beside]
    return read_given(files, assignments)


def check_target(target: Path, source: Path) -> None:
    """RosError unless a new bag can be made there without touching the recording."""
    if os.path.lexists(target):  # a link that leads nowhere cannot be replaced by a folder
        raise RosError(f"{target} exists, expected a new folder for the labelled bag")
    whole = source.is_dir() or (source.parent / "metadata.yaml").is_file()  # of a folder's files
    recording = source if source.is_dir() else source.parent
    if whole and recording.resolve() in target.resolve().parents:
        raise RosError(
            f"{target} is in the recording, which stays as it is; expected another place"
        )
