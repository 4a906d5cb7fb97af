# SPDX-License-Identifier: Apache-2.0
"""Whether the files of a frame show the same view: their sizes, and how EXIF turns them.

A message ends with what to do; of a thermal image of another size that is an entry of calib.json.
"""

import json
from pathlib import Path

from mmsam_ros.data.errors import DataError
from mmsam_ros.data.images import Turns
from mmsam_ros.sensors.planes import same_shape

Size = tuple[int, ...]  # (height, width), and what may follow
_TURNED = {
    2: "mirrored", 3: "turned by 180 degrees", 4: "mirrored top to bottom",
    5: "mirrored and turned", 6: "turned to the right", 7: "mirrored and turned",
    8: "turned to the left",
}  # fmt: skip
LABEL_ADVICE = "give the image that it was drawn on, or resize it with the nearest pixel"
_TURN = (
    "if the other files fit what an image viewer shows, turn the pixels (mogrify -auto-orient "
    "FILE), else remove the tag (exiftool -Orientation= FILE)"
)


def check_size(
    path: Path, shape: Size, image: Path, size: Size, turns: Turns, advice: str, part: str = ""
) -> None:
    """DataError with advice unless a file, or a part of it, has the size of the camera image."""
    (h, w, *_), (height, width, *_) = shape, size
    if (h, w) == (height, width):
        return
    if (w, h) == (height, width):
        tagged = next((file for file in (image, path) if turns.get(file, 1) > 4), None)
        advice = f"EXIF turns {tagged}: {_TURN}" if tagged else "turn one of them by 90 degrees"
    found = f"{part} is {w}x{h}".lstrip()
    raise DataError(f"{path}: {found}, but {image} is {width}x{height}; {advice}")


def check_turns(image: Path, turns: Turns, size: Size) -> None:
    """DataError where EXIF turns the camera image but not another file of its frame, or the
    reverse, and sizes do not tell for which of them labels, rasters and calibration were made.
    """
    for other, number in turns.items():
        numbers = turns[image], number
        unseen = any(n > 1 and (n < 5 or size[0] == size[1]) for n in numbers)
        if numbers[0] != number and unseen:
            file, rest = (image, other) if numbers[0] > 1 else (other, image)
            raise DataError(
                f"{file}: is {_TURNED[turns[file]]} by its EXIF tag, {rest} is not; {_TURN}"
            )


def thermal_advice(shape: Size, size: Size, calibrated: bool) -> str:
    """What to do about a thermal image of another size in a folder data set."""
    (h, w, *_), (height, width, *_) = shape, size
    if not same_shape(shape, size):
        return (
            "the sides have another ratio, so that the views differ: give calib.json the thermal "
            "camera's homography, or width, height, K and R_camera_thermal"
        )
    matrix = [[width / w, 0, 0], [0, height / h, 0], [0, 0, 1]]
    entry = f'"thermal": {json.dumps({"homography": matrix})}'
    if not calibrated:
        camera = json.dumps({"width": width, "height": height})
        entry = f'{{"camera": {camera}, {entry}}}'
    where = "add to" if calibrated else "write"
    return f"if both show the same view, {where} calib.json: {entry}"
