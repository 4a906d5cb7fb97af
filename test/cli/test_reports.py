# SPDX-License-Identifier: Apache-2.0
"""Reports in a browser: the pictures are there, and they are the masks."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from support.browser import screenshot
from support.drives import write_drive, write_weights

from mmsam_ros.cli.main import main


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_report_of_a_labelled_bag(tmp_path: Path) -> None:
    bag, weights, out = write_drive(tmp_path), write_weights(tmp_path), tmp_path / "out"
    command = ["label-bag", str(bag), str(out), "-p", f"weights:={weights}", "-p", "device:=cpu"]
    assert main(command) == 0
    text = (out / "report.html").read_text()
    jpegs = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(jpegs) == 5
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(jpegs[0]), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    shown = screenshot(out / "report.html", tmp_path / "shown.png")
    assert similarity(shown, np.asarray(picture[..., ::-1], np.uint8)) > 0.9


def similarity(page: NDArray[np.uint8], picture: NDArray[np.uint8]) -> float:
    """Correlation of a picture with the place of the page where it fits best, of 440 to 560
    pixels in width.
    """
    best = -1.0
    for width in range(440, 561, 2):
        height = round(picture.shape[0] * width / picture.shape[1])
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        found = cv2.matchTemplate(page[: 3 * height], small, cv2.TM_CCOEFF_NORMED)
        best = max(best, float(found.max()))
    return best
