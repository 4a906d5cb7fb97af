# SPDX-License-Identifier: Apache-2.0
"""An MP4 file of pictures."""

import errno
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from mmsam_ros.cli.arguments import CliError

_CODEC = "mp4v"  # OpenCV's own; wheels have no H.264
_RATES = (0.1, 240.0)  # Hz


class Video:
    """Pictures are added in order; there is no file before the first one. The context finishes the
    file; OSError if it is not whole then.
    """

    def __init__(self, path: Path, rate: float) -> None:
        # FFmpeg's MPEG-4 refuses more decimals, and the rate of a single image
        self._path, self._rate = path, round(min(max(rate, _RATES[0]), _RATES[1]), 1)
        self._writer: cv2.VideoWriter | None = None
        self._size, self._count = (0, 0), 0

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Add a picture, rgb8; all get the size of the first one. CliError if that fails."""
        if self._writer is None:
            height, width = picture.shape[:2]
            self._size = (width + width % 2, height + height % 2)
            codec = cv2.VideoWriter.fourcc(*_CODEC)
            self._writer = cv2.VideoWriter(str(self._path), codec, self._rate, self._size)
            if not self._writer.isOpened():
                raise CliError(f"{self._path}: OpenCV cannot write this video ({_CODEC})")
        if picture.shape[1::-1] != self._size:
            picture = np.asarray(cv2.resize(picture, self._size), np.uint8)
        self._writer.write(picture[..., ::-1])
        self._count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is None:
            return
        self._writer.release()
        if kind is None:  # OpenCV says nothing of a full disk
            found = cv2.VideoCapture(str(self._path)).get(cv2.CAP_PROP_FRAME_COUNT)
            if found != self._count:
                text = f"the video lacks some of {self._count} pictures; is the disk full?"
                raise OSError(errno.EIO, text, str(self._path))
