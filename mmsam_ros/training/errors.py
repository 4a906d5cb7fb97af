# SPDX-License-Identifier: Apache-2.0
"""The error of this room."""

from mmsam_ros._util import MmsamError


class TrainingError(MmsamError):
    """A configuration, a run folder or a machine that training or evaluation cannot go on with."""
