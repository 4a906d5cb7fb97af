# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""

from mmsam_ros._util import MmsamError


class WeightsError(MmsamError):
    """A weights file that cannot be read, verified or converted."""
