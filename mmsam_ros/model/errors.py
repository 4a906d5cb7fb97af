# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""

from __future__ import annotations

from mmsam_ros._util import MmsamError


class ModelError(MmsamError):
    """A configuration or an input that the network cannot take."""
