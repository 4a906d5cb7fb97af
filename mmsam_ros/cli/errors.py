# SPDX-License-Identifier: Apache-2.0
"""Which errors are the user's to mend."""

from __future__ import annotations

import sys


class CliError(ValueError):
    """A wrong argument, or a step of a verb that did not succeed."""


# The rooms are imported by the verbs that need them, so only a loaded room can have raised.
_ROOM_ERRORS = (
    ("mmsam_ros.sensors.errors", "SensorError"),
    ("mmsam_ros.model.errors", "ModelError"),
    ("mmsam_ros.weights.errors", "WeightsError"),
    ("mmsam_ros.inference.errors", "InferenceError"),
    ("mmsam_ros.data.errors", "DataError"),
    ("mmsam_ros.training.errors", "TrainingError"),
    ("mmsam_ros.ros.errors", "RosError"),
)


def user_errors() -> tuple[type[Exception], ...]:
    """The error classes of all rooms loaded so far, and this room's."""
    loaded = [
        getattr(sys.modules[module], name) for module, name in _ROOM_ERRORS if module in sys.modules
    ]
    return (CliError, OSError, *loaded)
