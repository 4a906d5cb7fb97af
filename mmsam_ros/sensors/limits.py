# SPDX-License-Identifier: Apache-2.0
"""How much a message or a file may ask for. What declares more is refused before anything is
allocated for it; `docs/security.md` lists the limits.
"""

from mmsam_ros.sensors.errors import SensorError

MAX_SIDE = 16384  # pixels
MAX_PIXELS = 2**26  # of an image: 8192 x 8192
MAX_SCANS = 100  # of a progressive JPEG, each of which passes over all pixels
MAX_POINT_STEP = 4096  # bytes of a point
MAX_COEFFICIENTS = 64  # of a CameraInfo's distortion
MAX_TEXT = 2000  # characters of a refusal, which may quote the message
MAX_NOTES = 1000  # different texts that are said once; a sender may vary them for ever


class SizeError(SensorError):
    """An image whose size is not allowed."""


def check_pixels(height: int, width: int) -> None:
    """SizeError unless an image may have this size."""
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise SizeError(
            f"size is {width}x{height}, expected sides of 1 to {MAX_SIDE} and at most {MAX_PIXELS} "
            "pixels"
        )


def shortened(text: str) -> str:
    """A text of one line and at most `MAX_TEXT` characters, of a longer one beginning and end:
    what it quotes was sent by somebody.
    """
    half = MAX_TEXT // 2 - 3
    text = text if len(text) <= MAX_TEXT else f"{text[:half]} ... {text[-half:]}"
    return "".join(letter if letter.isprintable() else "?" for letter in text)
