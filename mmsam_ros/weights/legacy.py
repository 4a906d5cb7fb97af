# SPDX-License-Identifier: Apache-2.0
"""Weights files written by earlier versions, in today's form; nothing else knows the old one."""

from __future__ import annotations

from typing import Any

from mmsam_ros._util import require
from mmsam_ros.model.config import PATCH_SIZE
from mmsam_ros.weights.errors import WeightsError


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a file, by key, as it would be written today.

    Raises:
        WeightsError: the file uses what no version reads any more; says what.
    """
    config = values["config"]
    encoder = config.get("encoder") if isinstance(config, dict) else None
    if not isinstance(encoder, dict) or "patch_size" not in encoder:
        return values
    size = encoder["patch_size"]
    expected = str(PATCH_SIZE)
    require(size == PATCH_SIZE, "config.encoder.patch_size", size, expected, WeightsError)
    encoder = {key: value for key, value in encoder.items() if key != "patch_size"}
    return {**values, "config": {**config, "encoder": encoder}}
