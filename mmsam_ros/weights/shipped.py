# SPDX-License-Identifier: Apache-2.0
"""Files that come with the package: in a checkout beside it, else in its installed share folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mmsam_ros.weights.errors import WeightsError

DEFAULT = "tiny_synthetic.safetensors"


def package_folder(name: str) -> Path | None:
    """`config/train`, `models` and the like; None where the package came without."""
    shares = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    places = [
        Path(__file__).parents[2],
        *(Path(prefix) / "share" / "mmsam_ros" for prefix in shares if prefix),
    ]
    return next((place / name for place in places if (place / name).is_dir()), None)


def default_weights() -> Path:
    """The weights that are taken where none are named: trained on synthetic scenes, for trying.

    Raises:
        WeightsError: the package came without them.
    """
    folder = package_folder("models")
    if folder is None or not (folder / DEFAULT).is_file():
        raise WeightsError(
            f"weights: none named, and {DEFAULT} is not among the package's models; make some "
            "with 'mmsam weights convert FILE --setting ...'"
        )
    return folder / DEFAULT
