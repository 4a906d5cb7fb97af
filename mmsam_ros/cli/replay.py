# SPDX-License-Identifier: Apache-2.0
"""`mmsam replay`: plays a recording into ROS 2."""

from mmsam_ros.ros.replay import add_arguments
from mmsam_ros.ros.replay import play as run

__all__ = ["add_arguments", "run"]
