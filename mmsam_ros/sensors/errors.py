# SPDX-License-Identifier: Apache-2.0
"""The error of `mmsam_ros.sensors`."""

from mmsam_ros._util import MmsamError


class SensorError(MmsamError):
    """Unusable sensor data, calibration or class table; the message names the field."""
