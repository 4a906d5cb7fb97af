# SPDX-License-Identifier: Apache-2.0
"""Reading, converting, verifying and naming weights."""

from mmsam_ros.weights.errors import WeightsError
from mmsam_ros.weights.released import convert_released

__all__ = ["WeightsError", "convert_released"]
