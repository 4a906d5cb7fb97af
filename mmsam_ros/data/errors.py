# SPDX-License-Identifier: Apache-2.0
"""The data room's error."""

from __future__ import annotations

from mmsam_ros._util import MmsamError


class DataError(MmsamError):
    """A data set, an option of the synthetic world or an output folder cannot be used; says why."""
