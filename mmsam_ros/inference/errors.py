# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""

from __future__ import annotations

from mmsam_ros._util import MmsamError


class InferenceError(MmsamError):
    """A frame or a device that these weights cannot run on; `source` names the sensor, if one."""

    def __init__(self, message: str, source: str = "") -> None:
        super().__init__(f"{source}: {message}" if source else message)
        self.source = source
