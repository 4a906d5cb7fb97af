# SPDX-License-Identifier: Apache-2.0
"""Files that come with the package: in a checkout beside it, else in its installed share folder."""

import os
import sys
from pathlib import Path

from mmsam_ros.weights.errors import WeightsError

DEFAULT = "tiny_synthetic.safetensors"


def package_file(name: str) -> Path | None:
    """A file or folder such as `config/train`, by its place in the package's share folder; None
    where the package came without.
    """
    shares = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    installed = [Path(prefix) / "share" / "mmsam_ros" for prefix in shares if prefix]
    places = (place / name for place in (Path(__file__).parents[2], *installed))
    return next((place for place in places if place.exists()), None)


def default_weights() -> Path:
    """The weights that are taken where none are named: trained on synthetic scenes, for evaluation.

    WeightsError where the package came without them.
    """
    path = package_file(f"models/{DEFAULT}")
    if path is None:
        raise WeightsError(
            f"weights: none named, and {DEFAULT} is not among the package's models; make some "
            "with 'mmsam weights convert'"
        )
    return path
