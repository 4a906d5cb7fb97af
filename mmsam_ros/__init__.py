# SPDX-License-Identifier: Apache-2.0
"""Camera, LiDAR and thermal in, labelled masks out: the MM SAM-adapter as a ROS 2 package."""

__version__ = "0.1.0"
