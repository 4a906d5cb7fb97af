# SPDX-License-Identifier: Apache-2.0
"""What verbs print, on a terminal of 80 columns and in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmsam_ros.cli.output import print_paragraph, print_table, progress
from mmsam_ros.cli.video import Video

HEADER, ROWS = ["class", "IoU, %"], [["a [b]", "1"], ["c" * 90, "10.25"]]


def test_a_pipe_gets_a_row_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("reading") as advance:
        advance(1, 2)
    print_table(HEADER, ROWS, "Scores")
    said = capsys.readouterr()
    name = "c" * 90
    assert said.out == f"Scores\n{'class':90}  IoU, %\n{'a [b]':90}  1\n{name}  10.25\n"
    assert said.err == ""


def test_a_pipe_gets_a_line_of_progress_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with progress("reading", quiet=quiet, seconds=0) as advance:
            advance(1, 3)
            advance(2, 3)
            advance(3, 3)
        said = capsys.readouterr()
        assert said.out == ""
        lines = [line.partition(" left ")[::2] for line in said.err.splitlines()]
        assert [text for text, _ in lines] == ([] if quiet else ["reading 1/3", "reading 2/3"])
        assert all(re.fullmatch(r"\d+:\d\d:\d\d", left) for _, left in lines)


def test_paragraphs_are_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"class-{i} {i}.5" for i in range(40)]
    print_paragraph(", ".join(words))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines) == ", ".join(words)


def test_a_terminal_of_80_columns(root: Path) -> None:
    """Long cells are folded, also where the locale has no more than ASCII."""
    ours, theirs = pty.openpty()
    code = "from test_output import *; print_table(HEADER, ROWS, 'Scores')"
    path = os.pathsep.join([str(root), str(Path(__file__).parent)])
    environment = {"PYTHONPATH": path, "COLUMNS": "80", "TERM": "xterm", "LC_ALL": "C"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env=environment)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the other side is closed
        pass
    assert process.wait() == 0
    os.close(ours)
    text = re.sub(rb"\x1b\[[\d;]*m", b"", said).decode("ascii")
    lines = text.replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 80
    assert text.replace("Scores", "").replace("class", "").count("c") == 90


@pytest.mark.parametrize("rate", [1e9, 66.1234, 89.973, 119.88, 2e-4, 10.0])
def test_a_video_of_any_rate(tmp_path: Path, rate: float) -> None:
    """Of a single image the rate is not known; MPEG-4 has no time base for most others."""
    with Video(tmp_path / "v.mp4", rate) as video:
        video.add(np.zeros((32, 48, 3), np.uint8))
    assert cv2.VideoCapture(str(tmp_path / "v.mp4")).read()[0]
