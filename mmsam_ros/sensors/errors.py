# SPDX-License-Identifier: Apache-2.0
"""The one error that this room raises."""

from __future__ import annotations

from mmsam_ros._util import MmsamError


class SensorError(MmsamError):
    """Unusable sensor data, calibration or class table; the message names the field."""
