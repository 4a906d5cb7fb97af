# SPDX-License-Identifier: Apache-2.0
"""The error of `mmsam_ros.inference`."""

from mmsam_ros._util import MmsamError


class InferenceError(MmsamError):
    """A frame or device that these weights cannot run on; `sensor` is the one at fault, if any."""

    def __init__(self, message: str, sensor: str = "") -> None:
        super().__init__(f"{sensor}: {message}" if sensor else message)
        self.sensor = sensor
