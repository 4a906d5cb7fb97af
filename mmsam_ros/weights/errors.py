# SPDX-License-Identifier: Apache-2.0
"""The error of `mmsam_ros.weights`."""

from mmsam_ros._util import MmsamError


class WeightsError(MmsamError):
    """A weights file that cannot be read, verified or converted."""
