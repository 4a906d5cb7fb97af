# SPDX-License-Identifier: Apache-2.0
"""The error of `mmsam_ros.ros`."""

from mmsam_ros._util import MmsamError


class RosError(MmsamError):
    """A topic, message, bag or parameter is not what the ROS side needs.

    `reason` is the short word under which a refused message is counted.
    """

    def __init__(self, message: str, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason
